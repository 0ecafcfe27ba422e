"""LayerSync towards neighbouring frames, against the sum written out frame by frame."""

import math

import pytest
import torch
from torch.nn.functional import cosine_similarity

from layersync import TIME_WEIGHTS, LayerSync
from tests.core.stand_in import transformer
from tests.layersync.played import close, played, tokens_like, two_sides
from tests.rows import every_row

FRAMED = {"token_dim": (1, 2)}


def by_hand(weak, strong, reach, decay, real=None, weigh=None):
    """-mean over samples of the mean over real tokens of the cosine and of those with neighbours, of weight 1."""
    batch, frames, places, _ = weak.shape
    real = torch.ones(batch, frames, places, dtype=torch.bool) if real is None else real
    losses = []
    for b in range(batch):
        terms = []
        for f in range(frames):
            for n in range(places):
                if not real[b, f, n]:
                    continue
                term = cosine_similarity(weak[b, f, n], strong[b, f, n], dim=0)
                for k in range(frames):
                    if 0 < abs(k - f) <= reach and real[b, k, n]:
                        near = cosine_similarity(weak[b, f, n], strong[b, k, n], dim=0)
                        term = term + math.exp(-abs(k - f) / decay) * near
                terms.append(term * (1.0 if weigh is None else weigh[b]))
        losses.append(-torch.stack(terms).mean())
    return torch.stack(losses).mean()


@every_row(("reach", "decay"), [(1, 1.0), (2, 0.5), (9, 3.0)])
def test_it_is_the_sum_written_out(reach, decay):
    weak, strong = two_sides(2, 4, 3, 5)
    options = {"neighbour_frames": reach, "neighbour_decay": decay, **FRAMED}
    terms = played([(1, 2)], weak, strong, weight=0.5, **options).terms()
    close(terms.loss, 0.5 * by_hand(weak, strong, reach, decay))
    close(terms.similarity["1->2"], cosine_similarity(weak, strong, dim=-1).mean())
    close(-(terms.similarity["1->2"] + terms.values["neighbours/1->2"]), terms.loss / 0.5)


def test_padded_frames_are_nobodys_neighbours():
    weak, strong = two_sides(3, 4, 2, 5)
    real = (torch.arange(4) < torch.tensor([[2], [4], [3]]))[:, :, None].expand(3, 4, 2)
    spoilt = [each.masked_fill(~real[..., None], math.nan) for each in (weak, strong)]
    expected = by_hand(weak, strong, 1, 1.0, real)
    for mask in (real, real.flatten(1)):
        sync = played([(1, 2)], *spoilt, weight=1.0, neighbour_frames=1, **FRAMED)
        loss = sync(mask=mask)
        close(loss, expected)
        loss.backward()
        gradient = sync.model.blocks[0].tokens.grad
        assert gradient.isfinite().all() and (gradient[~real] == 0).all() and (gradient[real] != 0).any()


def test_time_weighs_the_neighbours_too():
    weak, strong = two_sides(2, 4, 3, 5)
    t = torch.tensor([0.2, 0.9])
    sync = played([(1, 2)], weak, strong, weight=1.0, time_weight="towards_data", neighbour_frames=1, **FRAMED)
    close(sync(t=t), by_hand(weak, strong, 1, 1.0, weigh=TIME_WEIGHTS["towards_data"](t)))


def test_none_is_what_it_was_to_the_bit():
    weak, strong = two_sides(2, 4, 3, 5)
    plain = played([(1, 2)], weak, strong, **FRAMED)
    without = played([(1, 2)], weak, strong, neighbour_frames=0, neighbour_decay=0.1, **FRAMED)
    losses = [sync.terms() for sync in (plain, without)]
    for terms in losses:
        terms.loss.backward()
    assert torch.equal(losses[0].loss, losses[1].loss) and losses[1].values == {}
    gradients = [sync.model.blocks[0].tokens.grad for sync in (plain, without)]
    assert torch.equal(*gradients)


def test_a_single_frame_has_no_neighbours():
    weak, strong = two_sides(2, 1, 3, 5)
    assert torch.equal(
        played([(1, 2)], weak, strong, neighbour_frames=2, **FRAMED)(), played([(1, 2)], weak, strong, **FRAMED)()
    )


@every_row("stop", [True, False])
def test_the_strong_side_learns_only_where_it_is_asked_to(stop):
    sync = played([(1, 2)], *two_sides(2, 4, 3, 5), neighbour_frames=1, stop_gradient=stop, **FRAMED)
    sync().backward()
    assert (sync.model.blocks[1].tokens.grad is None) == stop


def test_tokens_in_a_row_get_their_frames_from_a_function():
    weak, strong = two_sides(2, 12, 5)
    rows = played([(1, 2)], weak, strong, neighbour_frames=1, tokens=lambda x: x.unflatten(1, (4, 3)))
    framed = played([(1, 2)], weak.unflatten(1, (4, 3)), strong.unflatten(1, (4, 3)), neighbour_frames=1, **FRAMED)
    assert torch.equal(rows(), framed())
    with pytest.raises(
        ValueError, match=r"neighbour_frames is 1, but .* pair 1->2 are \(2, 12, 5\), without an axis of"
    ):
        played([(1, 2)], weak, strong, neighbour_frames=1)()


def test_fused_it_is_the_same():
    weak, strong = two_sides(2, 4, 3, 5)
    plain, fused = (played([(1, 2)], weak, strong, neighbour_frames=2, **FRAMED) for _ in range(2))
    fused.compile(backend="eager")
    close(fused(), plain())


def test_low_precision_is_summed_in_float32():
    weak, strong = (tokens_like(2, 4, 3, 5, seed=seed).bfloat16() for seed in (0, 1))
    loss = played([(1, 2)], weak, strong, weight=1.0, neighbour_frames=1, **FRAMED)()
    assert loss.dtype == torch.float32
    close(loss, by_hand(weak.float(), strong.float(), 1, 1.0))


@every_row(
    ("options", "message"),
    [
        ({"neighbour_frames": -1}, r"^neighbour_frames is -1; needed: a number of frames from 0"),
        ({"neighbour_frames": True}, r"^neighbour_frames is True"),
        ({"neighbour_frames": 1.5}, r"^neighbour_frames is 1\.5"),
        ({"neighbour_decay": 0}, r"^neighbour_decay is 0; it must be above 0 and finite"),
        ({"neighbour_decay": math.inf}, r"^neighbour_decay is inf"),
    ],
)
def test_what_is_no_neighbourhood_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LayerSync(transformer(), [(2, 4)], **options)
