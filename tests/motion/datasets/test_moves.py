"""The moves as a data set: a clip is a function of its split and row, padded after its end, with its own captions."""

import numpy as np
import pytest
import torch

from core.latents.cache import LastAxisMasks
from motion.body.physics import measures
from motion.body.skeleton import T2M
from motion.datasets.moves import MovesConfig
from motion.moves.actions import CLASSES
from tests.rows import every_row


@pytest.fixture(scope="module")
def moves():
    return MovesConfig(frames=60, num_clips=140).build(LastAxisMasks(60, 4))


def joints_of(moves):
    """Joints (n, F, 22, 3) and which frames are real."""
    real = torch.arange(60) < moves.lengths[:, None]
    return moves.representation.to_joints(moves.media.mT, T2M), real


def test_actions_in_turn_each_as_often(moves):
    assert moves.class_names == CLASSES and len(CLASSES) == 14 and len(moves) == 140
    assert moves.media.shape == (140, *moves.media_shape) == (140, 263, 60) and moves.media.dtype == torch.float32
    assert moves.labels.bincount().tolist() == [10] * 14
    assert moves.lengths.min() >= 40 and moves.lengths.max() <= 60 and len(moves.lengths.unique()) > 3
    assert moves.fps == 20 and moves.skeleton is T2M


def test_an_item_is_a_clip_one_of_its_captions_and_a_mask(moves):
    item = moves.item(7, np.random.default_rng(5))
    assert torch.equal(item["media"], moves.media[7]) and int(item["condition"]) == 7
    assert item["mask"].sum() == -(-int(moves.lengths[7]) // 4) and item["mask"].shape == (15,)
    moves.conditions = torch.arange(len(moves.captions))
    drawn = {int(moves.item(7, np.random.default_rng(seed))["condition"]) for seed in range(30)}
    moves.conditions = moves.labels
    assert drawn == {21, 22, 23} and moves.caption_rows[7:9].tolist() == [21, 24]
    assert moves.captions_at(7) == moves.captions[21:24]
    assert moves.name(7) == f"clip 7 of train: {moves.captions[21]}"


def test_padding_is_the_mean_and_statistics_are_of_what_is_real(moves):
    real = torch.arange(60) < moves.lengths[:, None]
    rows = moves.media.mT
    assert torch.equal(rows[~real], moves.statistics.mean.expand(int((~real).sum()), -1))
    normal = moves.statistics.normalise(rows[real])
    assert normal.mean(0).abs().max() < 1e-2
    for block in moves.representation.slices(T2M).values():
        assert 0.5 < normal[:, block].std(0, correction=0).mean() < 1.5
        assert moves.statistics.std[block].unique().numel() == 1


def test_a_clip_is_a_function_of_seed_split_and_row(moves):
    more = MovesConfig(frames=60, num_clips=210).build()
    chosen = moves.item(3, np.random.default_rng(0))["media"][:, :40]
    torch.testing.assert_close(more.media[3, :, :40], chosen, atol=1e-5, rtol=0)
    assert more.captions[:420] == moves.captions and torch.equal(more.lengths[:140], moves.lengths)
    other = MovesConfig(frames=60, num_clips=140, seed=1).build()
    assert (other.media[:, :, :40] - moves.media[:, :, :40]).abs().amax((1, 2)).min() > 1e-3
    assert other.captions != moves.captions


def test_held_out_clips_are_other_ones_with_the_same_statistics(moves):
    heldout = moves.heldout()
    assert len(heldout) == 14 and heldout.labels.bincount().tolist() == [1] * 14 and heldout.heldout() is None
    assert heldout.statistics is moves.statistics and heldout.token_masks is moves.token_masks
    distance = (heldout.media[:, None, :, :40] - moves.media[None, :, :, :40]).abs().amax((2, 3))
    assert distance.min() > 1e-2
    both = MovesConfig(frames=60, num_clips=140, split="all").build()
    assert len(both) == 154 and both.captions[-42:] == heldout.captions
    assert both.name(140).startswith("clip 0 of heldout: ")


def test_feet_do_not_slide_and_nothing_is_below_the_floor(moves):
    """After the way through 263 numbers and back."""
    joints, real = joints_of(moves)
    found = measures(joints, T2M, real)
    assert found["skate_ratio"].mean() < 0.005 and found["penetration"].max() < 0.1
    flies = {CLASSES.index("run"), CLASSES.index("jump")}
    grounded = torch.tensor([label not in flies for label in moves.labels.tolist()])
    assert found["floating"][grounded].max() < 1 < found["floating"][moves.labels == CLASSES.index("jump")].min()
    assert 10 < found["jerk"].mean() < 150


@every_row(("representation", "size"), [("full", 263), ("positions", 67), ("joints", 66)])
def test_the_same_clips_in_every_representation(representation, size, moves):
    other = MovesConfig(frames=60, num_clips=140, representation=representation).build()
    assert other.media_shape == (size, 60)
    (ours, real), (theirs, _) = joints_of(moves), joints_of(other)
    torch.testing.assert_close(theirs[real], ours[real], atol=1e-4, rtol=0)
    assert other.captions == moves.captions


@every_row(
    ("options", "words"),
    [
        ({"split": "test"}, "data.split is 'test'; allowed"),
        ({"representation": "smpl"}, "data.representation is 'smpl'; allowed"),
        ({"num_clips": 100}, "data.num_clips is 100; allowed: 140 or more"),
        ({"frames": 20}, "data.frames is 20; allowed: 40 to 100"),
        ({"frames": 120}, "data.frames is 120; allowed: 40 to 100"),
        ({"min_frames": 81}, "data.min_frames is 81; allowed: 40 to data.frames=80"),
        ({"min_frames": 10}, "data.min_frames is 10; allowed: 40"),
        ({"min_frames": 57, "frames": 59}, "no multiple of 4 in data.min_frames=57 to data.frames=59"),
    ],
)
def test_bad_options_are_refused_by_their_key(options, words):
    with pytest.raises(ValueError) as error:
        MovesConfig(**options)
    assert words in str(error.value)
