"""One optimizer step seen from inside: what is drawn, what the network is given, what moves. On the digits' domain."""

import functools

import pytest
import torch

from core.checkpoint import read_checkpoint
from core.config import compose_config
from core.contracts import Batch
from core.data import SampleStream, collate
from core.draws import StepRandom
from core.rundir import RunDirectory
from core.schema import strict
from core.trainer import NonFiniteError, Trainer, TrainerConfig, pick_device
from image.train import ImageConfig, build_domain

BATCH = 8
TINY = [
    "trainer.steps=20",
    f"trainer.batch_size={BATCH}",
    "backbone.depth=2",
    "backbone.hidden_size=16",
    "backbone.num_heads=2",
    "alignment.pairs=[[1,2]]",
    "evaluation=none",
    "device=cpu",
]


@pytest.fixture
def make(tmp_path):
    """A trainer of a tiny run."""

    def make(*overrides):
        values = compose_config("image.conf", "train", [*TINY, f"runs_dir={tmp_path}", *overrides])
        config = strict(ImageConfig, values)
        cpu = torch.device("cpu")
        run = RunDirectory.create(config.runs_dir, "image", config.name)
        return Trainer(config, build_domain(config, cpu, evaluate=False), run, cpu)

    return make


def batch_of(trainer, step=0):
    """The batch of a step."""
    stream = SampleStream(trainer.domain.dataset, trainer.config.seed)
    return collate([stream[position] for position in range(step * BATCH, (step + 1) * BATCH)])


def opened(trainer):
    """The trainer with every weight random, so that no gate is shut."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return trainer


# --- what a step draws and uses


def test_every_step_has_its_own_draws_for_the_global_batch_and_its_own_rate(make, monkeypatch):
    trainer = make("optimizer.warmup_steps=2", "seed=3")
    drawn, rates = [], []
    loss, step = trainer.loss, trainer.optimizer.step

    def seen_loss(batch, random, number):
        drawn.append((random.seed, random.step, random.global_rows, random.first_row, number, trainer.model.training))
        return loss(batch, random, number)

    trainer.loss = seen_loss
    monkeypatch.setattr(trainer.optimizer, "step", lambda lr: rates.append(lr) or step(lr))
    for number in range(4):
        trainer.model.eval()
        trainer.update(batch_of(trainer, number))
    assert drawn == [(3, number, BATCH, 0, number, True) for number in range(4)]
    assert rates == [trainer.config.optimizer.lr_at(number, 20) for number in range(4)]
    assert trainer.step == 4


def test_the_average_follows_each_step(make):
    trainer = make("ema.decay=0.75")
    name = "y_embedder.embedding_table.weight"
    opened(trainer)
    before = trainer.ema.state_dict()[name].clone()
    trainer.update(batch_of(trainer))
    weights = trainer.model.state_dict()[name]
    torch.testing.assert_close(trainer.ema.state_dict()[name], 0.75 * before + 0.25 * weights)


def test_the_network_gets_labels_of_which_a_share_is_null(make):
    trainer = make("conditioning.drop=0.5")
    given = []
    trainer.model.register_forward_pre_hook(lambda module, inputs: given.append(inputs))
    batch = batch_of(trainer)
    trainer.update(batch)
    x, t, condition, mask = given[0]
    random = StepRandom(0, 0, global_rows=BATCH)
    assert torch.equal(condition, trainer.domain.conditioning.drop(batch.condition, random))
    assert 0 < (condition == 10).sum() < BATCH
    noise = random.normal("noise", tuple(batch.media.shape))
    assert torch.equal(t, random.uniform("time", (BATCH,)))
    at = t[:, None, None, None]
    torch.testing.assert_close(x, at * batch.media + (1 - at) * noise)
    assert mask is None


def test_the_loss_is_flow_matching_plus_the_weighted_alignment(make):
    trainer = opened(make("alignment.weight=0.5"))
    losses = trainer.loss(batch_of(trainer), StepRandom(0, 0, global_rows=BATCH), 0)
    assert losses.flow.shape == (BATCH,)
    expected = losses.flow.mean() - 0.5 * losses.similarity["1->2"]
    torch.testing.assert_close(losses.total.detach(), expected)
    assert abs(losses.similarity["1->2"]) < 0.98


def test_a_time_for_each_token(make):
    trainer = make("objective.time_per=token")
    times = []
    trainer.model.register_forward_pre_hook(lambda module, inputs: times.append(inputs[1]))
    trainer.update(batch_of(trainer))
    assert times[0].shape == (BATCH, trainer.model.num_tokens)
    assert times[0].std(1).min() > 0.05


def test_masked_tokens_count_neither_in_the_loss_nor_in_the_alignment(make):
    trainer = opened(make())
    whole = batch_of(trainer)
    mask = torch.ones(BATCH, trainer.model.num_tokens, dtype=torch.bool)
    mask[:, -1] = False
    outcomes = []
    for filling in (0.0, 5.0):
        hidden = trainer.model.expand(mask, whole.media).expand_as(whole.media)
        batch = Batch(torch.where(hidden, whole.media, filling), whole.condition, whole.index, mask)
        outcomes.append(trainer.loss(batch, StepRandom(0, 0, global_rows=BATCH), 0))
    assert torch.equal(outcomes[0].flow, outcomes[1].flow)
    assert torch.equal(outcomes[0].total, outcomes[1].total)
    assert torch.equal(outcomes[0].similarity["1->2"], outcomes[1].similarity["1->2"])
    unmasked = trainer.loss(whole, StepRandom(0, 0, global_rows=BATCH), 0)
    assert not torch.equal(unmasked.flow, outcomes[0].flow)


def test_bf16_runs_the_network_and_keeps_losses_weights_and_average_in_single(make):
    single, half = opened(make()), opened(make("trainer.precision=bf16"))
    kinds = []
    half.model.blocks[0].mlp.register_forward_hook(lambda module, inputs, out: kinds.append(out.dtype))
    results = [trainer.update(batch_of(trainer)) for trainer in (single, half)]
    assert kinds == [torch.bfloat16]
    (losses, norm), (rough, rough_norm) = results
    assert rough.total.dtype == rough.flow.dtype == torch.float32
    assert {value.dtype for value in half.model.state_dict().values()} == {torch.float32}
    assert {value.dtype for value in half.ema.state_dict().values()} == {torch.float32}
    torch.testing.assert_close(rough.total, losses.total, atol=0.02, rtol=0)
    torch.testing.assert_close(rough_norm, norm, atol=0, rtol=0.1)
    assert not torch.equal(rough.flow, losses.flow)


def test_a_compiled_run_is_listened_to_and_equals_the_plain_one(make, monkeypatch):
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    plain, compiled = opened(make()), opened(make("trainer.compile=true"))
    for number in range(2):
        a, b = (trainer.update(batch_of(trainer, number))[0] for trainer in (plain, compiled))
        torch.testing.assert_close(a.total, b.total)
        torch.testing.assert_close(a.similarity, b.similarity)
    assert isinstance(compiled.loss.network, torch._dynamo.OptimizedModule)
    assert compiled.model.state_dict().keys() == plain.model.state_dict().keys()
    torch.testing.assert_close(compiled.model.state_dict(), plain.model.state_dict(), atol=1e-5, rtol=1e-4)


def test_sampling_leaves_training_as_it_was(make):
    plain, sampling = make(), make()
    for number in range(3):
        a = plain.update(batch_of(plain, number))[0]
        b = sampling.update(batch_of(sampling, number))[0]
        sampling.preview()
        assert torch.equal(a.total, b.total)
    assert sampling.model.training


# --- what is not finite


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_nothing_moves_when_a_loss_or_gradient_is_not_finite(make, where):
    trainer = opened(make())
    trainer.update(batch_of(trainer))
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    average = {name: value.clone() for name, value in trainer.ema.state_dict().items()}
    moments = {name: value.clone() for name, value in trainer.optimizer.state_dict().items()}
    batch = batch_of(trainer, 1)
    if where == "loss":
        batch.media[2] = torch.inf
    else:
        trainer.model.final_layer.linear.weight.register_hook(lambda gradient: gradient * torch.nan)
    with pytest.raises(NonFiniteError, match=r"step 2: loss .*gradient norm .*Nothing was updated"):
        trainer.update(batch)
    assert trainer.step == 1
    for state, saved in ((trainer.model, before), (trainer.ema, average), (trainer.optimizer, moments)):
        assert all(torch.equal(value, saved[name]) for name, value in state.state_dict().items())
    assert all(parameter.grad is None for parameter in trainer.model.parameters())


# --- checkpoints


def test_a_step_is_saved_once_and_step_zero_never(make, monkeypatch):
    trainer = make()
    trainer.save()
    assert trainer.store.latest() is None
    trainer.update(batch_of(trainer))
    trainer.save()
    monkeypatch.setattr(trainer.store, "save", lambda *args: pytest.fail("saved again"))
    trainer.save()


def test_a_resumed_trainer_is_the_trainer_that_saved(make):
    first = make()
    for number in range(3):
        first.update(batch_of(first, number))
    first.seconds = 12.5
    first.save()
    second = opened(make())
    second.resume()
    assert (second.step, second.seconds) == (3, 12.5)
    saved = read_checkpoint(second.store.latest())
    for group, state in (("model", second.model), ("ema", second.ema), ("optimizer", second.optimizer)):
        assert saved.groups[group].keys() == state.state_dict().keys()
        assert all(torch.equal(saved.groups[group][name], value) for name, value in state.state_dict().items())


def test_without_a_checkpoint_a_trainer_starts_at_zero(make):
    trainer = make()
    trainer.resume()
    assert trainer.step == 0


# --- options


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 0}, "trainer.steps is 0; it must be at least 1"),
        ({"batch_size": -4}, "trainer.batch_size is -4"),
        ({"log_every": 0}, "trainer.log_every is 0"),
        ({"keep_checkpoints": 0}, "trainer.keep_checkpoints is 0"),
        ({"preview_every": -1}, "trainer.preview_every is -1; it must not be negative"),
        ({"num_workers": -1}, "trainer.num_workers is -1"),
    ],
)
def test_configs_refuse_values(values, message):
    with pytest.raises(ValueError, match=message):
        TrainerConfig(**{"steps": 1, "batch_size": 1, **values})


def test_devices_are_picked_by_name(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == pick_device("cpu") == torch.device("cpu")
    with pytest.raises(ValueError, match="device is 'cuda:0', but PyTorch sees no CUDA device"):
        pick_device("cuda:0")
    with pytest.raises(ValueError, match="device is 'gpu'; allowed: auto, cpu, cuda"):
        pick_device("gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("auto").type == "cuda"
