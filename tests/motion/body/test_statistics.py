"""Mean and deviation as published, and files that hold others."""

import pytest
import torch

from motion.body.features import slices
from motion.body.representations import REPRESENTATIONS
from motion.body.skeleton import KIT, SKELETONS, T2M
from motion.body.statistics import Statistics, check_statistics, kind_of, statistics
from tests.golden_files import load_golden
from tests.motion.bodies import moving
from tests.rows import every_row

FULL = REPRESENTATIONS["full"]


def measured(skeleton=T2M, name="full"):
    kind = REPRESENTATIONS[name]
    clips = [kind.from_joints(moving(skeleton, 60, seed, degrees=2.0), skeleton) for seed in range(4)]
    return statistics(clips, kind, skeleton), torch.cat(clips)


def of_the_evaluator(std, skeleton=T2M):
    """The deviations (C,) of full rows as an evaluator has them."""
    std = std.clone()
    for name in ("yaw", "velocity_xz", "height", "contacts"):
        std[slices(skeleton)[name]] /= 25
    return std


def test_they_are_the_published_ones():
    tensors, config = load_golden("humanml_features")
    found = statistics([tensors[f"seq{each}.features"] for each in range(len(config["lengths"]))], FULL, T2M)
    assert (found.mean - tensors["feature_mean"]).abs().max() < 1e-5
    assert (found.std - tensors["feature_std_grouped"]).abs().max() < 1e-6


@every_row("skeleton", SKELETONS.values())
@every_row("name", REPRESENTATIONS)
def test_normalised_rows_have_mean_0_and_deviation_1_of_each_block(skeleton, name):
    found, rows = measured(skeleton, name)
    normal = found.normalise(rows)
    assert normal.mean(0).abs().max() < 1e-3
    if name == "joints":
        assert torch.allclose(normal.unflatten(-1, (-1, 3)).std(0, correction=0).mean(0), torch.ones(3), atol=1e-3)
        return
    for block, place in REPRESENTATIONS[name].slices(skeleton).items():
        if (block, skeleton) == ("contacts", KIT):  # its feet stand by a far smaller step, and never do here
            continue
        assert normal[:, place].std(0, correction=0).mean().item() == pytest.approx(1, abs=2e-3), block


def test_evaluators_rows_are_brought_over_and_back():
    """From the model's statistics to the evaluator's, whose contacts and root are 25 times larger."""
    model, rows = measured()
    evaluator = Statistics(model.mean, of_the_evaluator(model.std))
    seen = evaluator.normalise(model.denormalise(model.normalise(rows)))
    again = model.normalise(evaluator.denormalise(seen))
    assert (again - model.normalise(rows)).abs().max() < 1e-4
    assert torch.allclose(seen[:, 0], 25 * model.normalise(rows)[:, 0], rtol=1e-3, atol=1e-3)


def test_a_block_that_never_changes_stays_as_it_is_and_a_large_mean_does_no_harm():
    rows = FULL.from_joints(moving(T2M, 60), T2M)
    rows[:, 3], rows[:, 259:] = 1e6 + torch.arange(59) % 2, 1.0
    found = statistics([rows], FULL, T2M)
    assert found.std[3].item() == pytest.approx(0.5, abs=1e-3) and found.std[259:].tolist() == [1.0] * 4


@every_row(
    ("clips", "words"),
    [
        ([], "at least one clip"),
        ([torch.zeros(5, 251)], "clip 0 has shape (5, 251); rows are (frames, 263)"),
        ([torch.zeros(5, 263), torch.full((5, 263), torch.inf)], "clip 1 has numbers that are NaN or infinite"),
        ([torch.full((5, 263), torch.nan)], "clip 0 has numbers that are NaN or infinite"),
    ],
)
def test_what_has_no_statistics_is_refused(clips, words):
    with pytest.raises(ValueError) as caught:
        statistics(clips, FULL, T2M)
    assert words in str(caught.value)


@every_row("skeleton", SKELETONS.values())
def test_the_right_files_are_taken(skeleton):
    model, _ = measured(skeleton)
    assert check_statistics(model.mean, model.std, skeleton).std.dtype == torch.float32
    check_statistics(model.mean, of_the_evaluator(model.std, skeleton), skeleton, "evaluator")
    short, _ = measured(skeleton, "positions")
    check_statistics(short.mean, short.std, skeleton, representation="positions")


def test_files_of_others_are_told_apart():
    model, _ = measured()
    kit, _ = measured(KIT)
    evaluators = of_the_evaluator(model.std)
    nan, zero = model.mean.clone(), model.std.clone()
    nan[5], zero[7] = torch.nan, 0
    rows = [
        ((model.mean, evaluators, T2M), "Std.npy holds the evaluator's"),
        ((model.mean, model.std, T2M, "evaluator"), "Std.npy holds the data set's own"),
        ((kit.mean, kit.std, T2M), "(251,), which is representation 'full' of skeleton 'kit'; 263 numbers are needed"),
        ((model.mean, model.std[:67], T2M), "(67,), which is representation 'positions' of skeleton 't2m'"),
        ((model.mean[None], model.std, T2M), "Mean.npy has shape (1, 263); 263 numbers"),
        ((nan, model.std, T2M), "Mean.npy has 1 numbers that are NaN"),
        ((model.mean, zero, T2M), "Std.npy is 0 at number 7; deviations are above 0"),
        ((model.mean, -model.std, T2M), "deviations are above 0"),
    ]
    for arguments, words in rows:
        with pytest.raises(ValueError) as caught:
            check_statistics(*arguments)
        assert words in str(caught.value) and "\n" not in str(caught.value), words


def test_numbers_that_say_nothing_are_taken_as_they_are():
    """Feet that always stand have no deviation to compare."""
    still = Statistics(torch.ones(263), torch.ones(263))
    assert kind_of(still.mean, still.std, T2M) is None
    check_statistics(still.mean, still.std, T2M, "evaluator")
