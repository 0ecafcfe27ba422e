"""What LayerSync maximises beside the cosine, a strong side that is handed in, and a range of flow times."""

import pickle

import pytest
import torch
import torch.nn.functional as F  # noqa: N812, the customary name

from layersync import TIME_WEIGHTS, LayerSync, TimeRange
from layersync.tokens import token_closeness
from tests.core.stand_in import media, transformer
from tests.rows import every_row


def run(model, **options):
    """LayerSync of blocks 2 and 4 after a forward pass, and the tokens of both sides."""
    sync = LayerSync(model, [(2, 4)], weight=1.0, **options)
    kept = {}
    handles = [
        model.blocks[number - 1].register_forward_hook(
            lambda module, inputs, output, n=number: kept.update({n: output})
        )
        for number in (2, 4)
    ]
    model(media())
    for handle in handles:
        handle.remove()
    return sync, kept[2], kept[4]


def test_l2_is_the_squared_distance_of_normalised_tokens():
    sync, weak, strong = run(transformer(), similarity="l2")
    distance = (F.normalize(weak, dim=-1) - F.normalize(strong.detach(), dim=-1)).square().sum(-1).mean()
    terms = sync.terms()
    torch.testing.assert_close(terms.loss, distance)
    torch.testing.assert_close(terms.loss, 2 - 2 * terms.similarity["2->4"])
    wanted = torch.autograd.grad(distance, weak, retain_graph=True)[0]
    torch.testing.assert_close(torch.autograd.grad(terms.loss, weak)[0], wanted)


def test_smooth_l1_is_quadratic_up_to_beta_and_of_tokens_as_they_are():
    sync, weak, strong = run(transformer(), similarity="smooth_l1", beta=0.3)
    error = (weak - strong).abs()
    assert (error < 0.3).any() and (error > 0.3).any()
    terms = sync.terms()
    torch.testing.assert_close(terms.loss, torch.where(error < 0.3, error.square() / 0.6, error - 0.15).mean())
    torch.testing.assert_close(terms.similarity["2->4"], F.cosine_similarity(weak, strong, dim=-1).mean())


@every_row("similarity", ["l2", "smooth_l1"])
def test_padding_does_not_count(similarity):
    sync, weak, strong = run(transformer(), similarity=similarity)
    mask = torch.tensor([[True] * 4, [True, True, False, False], [False, True, True, True]])
    rows = [(a[real], b[real]) for a, b, real in zip(weak, strong, mask, strict=True)]
    each = torch.stack([-token_closeness(a, b, similarity)[0].mean() for a, b in rows])
    torch.testing.assert_close(sync(mask=mask), each.mean())


def test_a_strong_side_that_is_handed_in_takes_the_place_of_the_models_own():
    model = transformer()
    sync, weak, strong = run(model)
    other = torch.randn(strong.shape, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(sync(strong={4: other}), -F.cosine_similarity(weak, other, dim=-1).mean())
    model(media())
    own = sync()
    model(media())
    assert torch.equal(sync(strong={4: strong}), own)
    model(media())
    with pytest.raises(ValueError, match=r"strong holds tokens of \[2\]; needed: of \[4\]"):
        sync(strong={2: other})
    model(media())
    with pytest.raises(RuntimeError, match="both must see the same batch, tokens and width"):
        sync(strong={4: other[:, :-1]})


def test_a_range_of_times_gives_nothing_outside_and_what_it_was_inside():
    weight = TimeRange(0.2, 0.8, TIME_WEIGHTS["towards_data"])
    t = torch.tensor([0.0, 0.19, 0.2, 0.5, 0.8, 0.81, 1.0])
    torch.testing.assert_close(weight(t), torch.tensor([0.0, 0.0, 0.4, 1.0, 1.6, 0.0, 0.0]))
    assert pickle.loads(pickle.dumps(weight)) == weight
    sync, weak, _ = run(transformer(), time_weight=TimeRange(0.2, 0.8))
    rows = torch.linspace(0.1, 0.5, len(weak))
    (gradient,) = torch.autograd.grad(sync(t=rows), weak)
    assert [bool(each.any()) for each in gradient] == [0.2 <= each <= 0.8 for each in rows.tolist()]


@every_row(
    ("options", "message"),
    [
        ({"similarity": "dot"}, "similarity is 'dot'; allowed: cosine, l2, smooth_l1"),
        ({"beta": 0}, "beta is 0; it must be above 0"),
        (
            {"similarity": "l2", "neighbour_frames": 1},
            "similarity is 'l2', but neighbour_frames is 1; .*: cosine",
        ),
    ],
)
def test_what_is_no_similarity_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LayerSync(transformer(), [(2, 4)], **options)


@every_row(("low", "high"), [(0.8, 0.2), (-0.1, 1), (0, 1.1), (0.5, 0.5)])
def test_what_is_no_range_is_refused(low, high):
    with pytest.raises(ValueError, match=r"time_range is .*needed: 0 <= low < high <= 1"):
        TimeRange(low, high)
