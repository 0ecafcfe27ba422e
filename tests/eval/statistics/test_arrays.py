"""What is refused before anything is computed, and the order of spatial features."""

import numpy as np
import pytest
import torch

from eval.statistics.arrays import as_array, checked, flatten_spatial
from eval.statistics.diversity import diversity, multimodality
from eval.statistics.frechet import frechet_infinity, moments
from eval.statistics.inception_score import Splits, inception_score
from eval.statistics.kernel import kernel_distance
from eval.statistics.neighbours import density_coverage, precision_recall
from eval.statistics.retrieval import matching_distance, r_precision
from tests.eval.statistics.feature_sets import normal

ROWS, WIDTH = 64, 4
OTHER = normal(ROWS, WIDTH, seed=1)
METRICS = {
    "Fréchet": moments,
    "FD-infinity": lambda x: frechet_infinity(x, moments(OTHER), smallest=ROWS - 1),
    "KID": lambda x: kernel_distance(x, OTHER, subset_size=ROWS),
    "KID, reference": lambda x: kernel_distance(OTHER, x, subset_size=ROWS),
    "precision": lambda x: precision_recall(x, OTHER),
    "precision, reference": lambda x: precision_recall(OTHER, x),
    "density": lambda x: density_coverage(x, OTHER),
    "density, reference": lambda x: density_coverage(OTHER, x),
    "Inception Score": lambda x: inception_score(x, Splits(size=ROWS)),
    "R-precision": lambda x: r_precision(x, OTHER),
    "MM-Dist": lambda x: matching_distance(OTHER, x),
    "diversity": lambda x: diversity(x, pairs=ROWS),
    "multimodality": lambda x: multimodality(x.reshape(2, len(x) // 2, -1), pairs=ROWS // 2),
}


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_takes_good_features(metric):
    METRICS[metric](normal(ROWS, WIDTH))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_every_metric_refuses_values_that_are_not_finite(metric, bad):
    x = normal(ROWS, WIDTH)
    x[5, 1] = bad
    with pytest.raises(ValueError, match="of 1 samples are NaN or infinite, first at row 5"):
        METRICS[metric](x)


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_refuses_media_that_are_all_the_same(metric):
    with pytest.raises(ValueError, match=f"all {ROWS} samples have equal .*; are the media all the same"):
        METRICS[metric](np.full((ROWS, WIDTH), 0.3))


@pytest.mark.parametrize("metric", [name for name in METRICS if name not in ("multimodality", "Fréchet")])
def test_every_metric_refuses_fewer_samples_than_it_needs(metric):
    few = 3 if "precision" in metric.split(",")[0] else 5 if "density" in metric else ROWS - 2
    few = few if metric != "R-precision" else 31
    with pytest.raises(ValueError, match=rf"needs .* \(n, D\) of at least \d+ samples, got \({min(few, 31)}"):
        METRICS[metric](normal(min(few, 31), WIDTH))


@pytest.mark.parametrize("metric", ["FD-infinity", "KID", "precision", "density"])
def test_every_comparison_refuses_another_width(metric):
    with pytest.raises(ValueError, match=f"width {WIDTH + 1} and {WIDTH}"):
        METRICS[metric](normal(ROWS, WIDTH + 1))


@pytest.mark.parametrize("shape", [(ROWS,), (ROWS, 2, 2), (ROWS, 0), ()])
def test_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"a metric needs features \(n, D\) of at least 2 samples"):
        checked(np.zeros(shape), "a metric")


def test_tensors_come_as_arrays():
    for dtype in (torch.float64, torch.float32, torch.float16):
        assert as_array(torch.ones(2, 3, dtype=dtype, requires_grad=True)).dtype == np.dtype(str(dtype).split(".")[1])
    assert as_array(torch.ones(2, 3, dtype=torch.bfloat16)).dtype == np.float32


def test_spatial_features_run_channel_fastest():
    """What TensorFlow's reshape of (n, H, W, C) gives, here from (n, C, H, W)."""
    maps = torch.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    flat = flatten_spatial(maps, channels=2)
    assert flat.shape == (2, 4 * 5 * 2)
    np.testing.assert_array_equal(flat, maps.numpy()[:, :2].transpose(0, 2, 3, 1).reshape(2, -1))
    assert flatten_spatial(np.zeros((3, 192, 17, 17), np.float32)).shape == (3, 2023)


@pytest.mark.parametrize(("shape", "channels"), [((2, 3, 4), 1), ((2, 3, 4, 4), 4), ((2, 3, 4, 4), 0)])
def test_other_maps_are_refused(shape, channels):
    with pytest.raises(ValueError, match="maps have shape"):
        flatten_spatial(np.zeros(shape), channels)
