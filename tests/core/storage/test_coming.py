"""Networks that are built without weights get those of a file, and are else what they always are."""

import torch
from torch import nn

from core.alignment.teacher import Teacher
from core.draws import seeded_weights
from core.storage.coming import first_weights, give_memory, same_without_weights, weights_expected, without_weights
from core.storage.weights import load_into
from core.train.ema import EMA, EMAConfig
from image.backbone import SiTConfig


def build():
    return SiTConfig(depth=3, hidden_size=24, num_heads=2, rope=True).build((4, 8, 8), 10)


def drawn():
    with seeded_weights(3, "weights"):
        return build()


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


def test_a_network_without_weights_is_the_drawn_one_once_it_has_them():
    """Tables that no file holds (the angles of rope) are there from the beginning, and nothing is drawn."""
    original, state = drawn(), torch.random.get_rng_state()
    with without_weights():
        network = build()
    assert all(each.is_meta for each in network.parameters())
    assert not any(each.is_meta for each in network.buffers()) and "angles" not in network.state_dict()
    assert torch.equal(torch.random.get_rng_state(), state)
    give_memory(network, "cpu")
    load_into(network, original.state_dict(), "a file")
    assert all(each.requires_grad for each in network.parameters())
    assert same(dict(network.named_buffers()), dict(original.named_buffers()))
    x, t, label = torch.randn(2, 4, 8, 8), torch.rand(2), torch.tensor([1, 9])
    assert torch.equal(network(x, t, label), original(x, t, label))
    assert not nn.Linear(2, 2).weight.is_meta, "outside all is as before"


def test_tied_weights_stay_tied():
    with without_weights():
        model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        model[1].weight = model[0].weight
    give_memory(model, "cpu")
    assert model[1].weight is model[0].weight and model[0].bias is not model[1].bias


def test_first_weights_are_those_of_the_seed_unless_a_checkpoint_has_them():
    with first_weights(3):
        network = build()
    assert same(network.state_dict(), drawn().state_dict())
    with weights_expected(), first_weights(3):
        network = build()
    assert all(each.is_meta for each in network.parameters())
    with weights_expected(False), first_weights(3):
        assert same(build().state_dict(), drawn().state_dict())


def test_teacher_and_average_of_an_empty_network_are_filled_by_a_checkpoint():
    with without_weights():
        network = build()
    give_memory(network, "cpu")
    teacher = Teacher(network, [2], memo=same_without_weights(network))
    ema = EMA(network, EMAConfig([0.9, 0.5]), teacher.model, filled=False)
    saved = {name: {key: torch.randn_like(value) for key, value in drawn().state_dict().items()} for name in ema.names}
    ema.load_state_dicts(saved)
    averages = ema.state_dicts()
    averaged = set(ema.averaged)
    for name, group in saved.items():
        assert all(torch.equal(averages[name][key], value) for key, value in group.items() if key in averaged)
    assert len(teacher.model.blocks) == 2 and not any(each.requires_grad for each in teacher.model.parameters())
    assert all(torch.equal(each, saved["ema"][name]) for name, each in teacher.model.named_parameters())
    own = {each.data_ptr() for each in network.parameters()}
    assert not own & {each.data_ptr() for each in teacher.model.parameters()}
