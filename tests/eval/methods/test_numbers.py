"""The analysis of a comparison on curves whose answer is known."""

import numpy as np
import pytest

from eval.methods.numbers import direction, first_reached, mean_over_seeds, relative_gain, speed_up
from eval.methods.text import factor_text

STEPS = list(range(100, 1100, 100))


def falling(speed: float, offsets: tuple[float, ...] = (0.0,)) -> np.ndarray:
    """Straight curves 100 - step * speed / 20 for each offset, (S, E)."""
    return np.array([[100 - step * speed / 20 + offset for step in STEPS] for offset in offsets])


def test_known_factor_two():
    """Twice as fast along the same straight line: the end is reached at half of the steps, in every resampling."""
    found = speed_up(STEPS, falling(1, (0, 3, -1)), falling(2, (0, 3, -1)), "lower")
    assert found.target == pytest.approx(50 + 2 / 3)
    assert found.method_steps == pytest.approx(500)
    assert found.factor == pytest.approx(2.0)
    assert (found.low, found.high, found.reached_share) == (pytest.approx(2.0), pytest.approx(2.0), 1.0)
    assert found.baseline_first == found.baseline_steps == 1000


def test_between_two_evaluations():
    """The step is on the straight line between the evaluations around it."""
    assert first_reached([10, 20], np.array([4.0, 2.0]), 3.5, "lower").step == pytest.approx(12.5)


def test_higher_is_better():
    """The mirror image of a curve has the same factor and gain when higher is better."""
    low = speed_up(STEPS, falling(1), falling(1.6), "lower")
    high = speed_up(STEPS, -falling(1), -falling(1.6), "higher")
    assert high.factor == pytest.approx(low.factor) == pytest.approx(1.6)
    assert relative_gain(np.array([50.0]), np.array([60.0]), "higher").value == pytest.approx(0.2)
    assert relative_gain(np.array([50.0]), np.array([60.0]), "lower").value == pytest.approx(-0.2)


def test_never_reached():
    """A slower method has no factor, not in any resampling."""
    found = speed_up(STEPS, falling(1, (0, 1)), falling(0.5, (0, 1)), "lower")
    assert (found.factor, found.method_steps) == (None, None)
    assert (found.low, found.high, found.reached_share) == (0.0, 0.0, 0.0)
    assert factor_text(vars(found)) == "not reached"


def test_reached_before_the_first_evaluation_is_a_bound():
    """Nothing is known before the first evaluation, so the factor is a lower bound."""
    found = speed_up(STEPS, falling(1), falling(1) - 90, "lower")
    assert found.at_least and found.factor == 10.0
    assert factor_text(vars(found)).startswith("at least 10.00x")


def test_one_seed_has_no_interval():
    """One seed says nothing about others."""
    found = speed_up(STEPS, falling(1), falling(2), "lower")
    assert (found.low, found.high, found.reached_share) == (None, None, None)
    assert mean_over_seeds(np.array([3.0])).interval is None


def test_baseline_that_was_there_before_is_told():
    """A baseline that gets worse at its end had its final value earlier, and the result says when."""
    curve = np.array([[9.0, 5.0, 3.0, 5.0]])
    found = speed_up([1, 2, 3, 4], curve, curve, "lower")
    assert found.baseline_first == 2.0 and found.factor == 2.0


def test_noisy_curves_have_an_interval_around_the_truth():
    """With noise the interval is not a point, and in most of many draws it holds the true factor."""
    rng = np.random.default_rng(0)
    held = []
    for _ in range(40):
        offsets = tuple(rng.normal(0, 1.5, 12))
        baseline, method = (falling(speed, offsets) + rng.normal(0, 1.5, (12, 10)) for speed in (1, 2))
        found = speed_up(STEPS, baseline, method, "lower", 200)
        held.append(found.low < 2.0 < found.high)
        assert 0.01 < found.high - found.low < 0.5
    assert np.mean(held) > 0.8
    assert found == speed_up(STEPS, baseline, method, "lower", 200)  # the resampling is a function of nothing else


def test_interval_is_students():
    """Mean ± t(2) std / sqrt(3), t(2) = 4.30265 from any table."""
    estimate = mean_over_seeds(np.array([1.0, 2.0, 3.0]))
    assert estimate.value == 2.0
    assert estimate.interval.high - 2.0 == pytest.approx(4.30265 / np.sqrt(3), rel=1e-5)


def test_gain_is_paired_by_seed():
    """Seeds that differ wildly but agree in their difference leave no doubt about the gain."""
    baseline = np.array([10.0, 50.0, 90.0])
    gain = relative_gain(baseline, baseline - 5, "lower")
    assert gain.value == pytest.approx(0.1)
    assert gain.interval.low == pytest.approx(0.1) and gain.interval.high == pytest.approx(0.1)
    assert relative_gain(np.zeros(2), np.ones(2), "lower") is None


def test_direction_by_name():
    """Known names say which way is better; an unknown one is asked about."""
    assert direction("frechet_distance") == "lower" and direction("class_accuracy") == "higher"
    assert direction("class_accuracy", "lower") == "lower"
    lower = ("clap_music/kad_bandwidth_reference", "vggish/fad_infinity", "i3d/fvd", "i3d_cdfvd/kvd", "notes/kl_mean")
    lower += ("fd_efficientnet_lite0", "fd_dinov2", "sfid", "inception_torch_fidelity/fid", "clap_audio/real_fad")
    higher = ("is", "inception_torch_fidelity/is", "i3d_cdfvd/precision", "clap/clap_score", "digits/recall")
    assert {direction(name) for name in lower} == {"lower"} and {direction(name) for name in higher} == {"higher"}
    motion = {"moves/fid": "lower", "moves/r_precision_3": "higher", "t2m263/matching_score": "lower"}
    motion |= {"skate_ratio": "lower", "physics/jerk": "lower", "mardm67/clip_score": "higher"}
    assert {name: direction(name) for name in motion} == motion
    with pytest.raises(ValueError, match=r"better is 'auto'.*'wonder'.*lower, higher"):
        direction("wonder")
