"""From features to numbers: each protocol's own settings, and what a metric asks for."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from eval.measure.media import ArrayMedia
from eval.measure.table import ReferenceStatistics
from eval.statistics.inception_score import Splits, inception_score
from eval.statistics.kernel import kernel_distance
from image.metrics import DEFAULTS, METRICS, TABLE

CPU = torch.device("cpu")
EXTRACTOR = SimpleNamespace(name="inception_torch_fidelity", main="pool")


def features(count, width, seed=0):
    return np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)


def images(count):
    return ArrayMedia("images", "image", torch.zeros(count, 1))


def test_kid_and_is_follow_torch_fidelity():
    from torch_fidelity.metric_isc import isc_features_to_metric

    own, logits, theirs = features(1100, 4), 3 * features(1100, 6), features(1050, 4, seed=1)
    against = ReferenceStatistics({}, {"pool": theirs})
    found = TABLE.measure(["is", "kid"], EXTRACTOR, {"pool": own, "logits": logits}, against, images(1100), CPU)
    assert list(found) == ["is", "kid"]
    expected = isc_features_to_metric(torch.from_numpy(logits), splits=10, shuffle=True, rng_seed=2020)
    assert found["is"].value == pytest.approx(expected["inception_score_mean"])
    assert found["kid"] == kernel_distance(own, theirs, subsets=100, subset_size=1000)


def test_adm_scores_parts_of_5000_in_order():
    logits = 3 * features(10_000, 5)
    extractor = SimpleNamespace(name="inception_adm", main="pool")
    found = TABLE.measure(["is"], extractor, {"logits": logits}, ReferenceStatistics({}, {}), images(10_000), CPU)["is"]
    parts = [inception_score(part, Splits(count=1)).value for part in (logits[:5000], logits[5000:])]
    assert found.value == pytest.approx(np.mean(parts))


@pytest.mark.parametrize("name", DEFAULTS)
def test_what_is_measured_by_default_is_defined_for_its_features(name):
    assert [TABLE.extractor_name(metric, name) for metric in DEFAULTS[name]] == [name] * len(DEFAULTS[name])
    assert set(DEFAULTS[name]) <= set(METRICS)


def test_fd_dinov2_stands_beside_others():
    assert TABLE.extractor_name("fd_dinov2", "inception_adm") == "dinov2"
    with pytest.raises(ValueError, match="'fid' but features is 'digits'; allowed for it: inception_adm"):
        TABLE.extractor_name("fid", "digits")


def test_the_reference_must_have_enough_images_too():
    TABLE.check_count(["kid"], "dinov2", 1000, 1000)
    TABLE.check_count(["is"], "inception_adm", 5000, 3)
    with pytest.raises(ValueError, match=r"kid .* at least 1000 images of the reference, there are 999"):
        TABLE.check_count(["kid"], "dinov2", 1000, 999)
