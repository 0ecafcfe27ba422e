"""From features to numbers: each protocol's own settings, and what a metric asks for."""

import numpy as np
import pytest
import torch

from eval.measure.efficientnet import SHA256
from eval.measure.extractor import ExtractedFeatures, Extractor
from eval.measure.media import ArrayMedia
from eval.measure.metrics import ReferenceStatistics
from eval.measure.table import compute_metrics
from eval.statistics.inception_score import Splits, inception_score
from eval.statistics.kernel import kernel_distance
from image.metrics import TABLE, ImagesEvaluationConfig
from tests.image.evaluations import measured as by_command
from tests.image.evaluations import pictures, save_folder

CPU = torch.device("cpu")


class Inception(Extractor):
    main = "pool"

    def __init__(self, name):
        self.name = name


def rows(count, width, seed=0):
    return np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)


def measured(names, extractor, arrays, reference=None):
    media = ArrayMedia("images", "image", torch.zeros(len(next(iter(arrays.values()))), 1))
    samples = ExtractedFeatures(Inception(extractor), media, arrays)
    return compute_metrics(TABLE.of(names), samples, ReferenceStatistics(features=reference or {}))


def test_kid_and_is_follow_torch_fidelity():
    from torch_fidelity.metric_isc import isc_features_to_metric

    own, logits, theirs = rows(1100, 4), 3 * rows(1100, 6), rows(1050, 4, seed=1)
    arrays = {"pool": own, "logits": logits}
    found = measured(["is", "kid"], "inception_torch_fidelity", arrays, {"pool": theirs})
    assert list(found) == ["is", "kid"]
    expected = isc_features_to_metric(torch.from_numpy(logits), splits=10, shuffle=True, rng_seed=2020)
    assert found["is"].value == pytest.approx(expected["inception_score_mean"])
    assert found["kid"] == kernel_distance(own, theirs, subsets=100, subset_size=1000)


def test_adm_scores_parts_of_5000_in_order():
    logits = 3 * rows(10_000, 5)
    found = measured(["is"], "inception_adm", {"logits": logits})["is"]
    parts = [inception_score(part, Splits(count=1)).value for part in (logits[:5000], logits[5000:])]
    assert found.value == pytest.approx(np.mean(parts))


def test_what_is_measured_by_default_is_defined_for_its_features():
    for features, names in TABLE.defaults.items():
        assert TABLE.by_extractor(None, features) == {features: TABLE.of(names)}


def test_fd_dinov2_stands_beside_others():
    fd_dinov2 = TABLE.of(["fd_dinov2"])
    assert TABLE.by_extractor(["fd_dinov2"], "inception_adm") == {"dinov2": fd_dinov2}
    with pytest.raises(ValueError, match="'fid' but features is 'digits'; allowed for it: inception_adm"):
        TABLE.by_extractor(["fid"], "digits")


def test_the_reference_must_have_enough_images_too():
    kid, score = TABLE.of(["kid", "is"])
    kid.check_count("dinov2", 1000, 1000, "image")
    score.check_count("inception_adm", 5000, 3, "image")
    with pytest.raises(ValueError, match=r"kid .* at least 1000 images of the reference, there are 999"):
        kid.check_count("dinov2", 1000, 999, "image")


def test_a_run_is_measured_while_it_trains_as_the_command_measures_its_samples(tmp_path):
    """The numbers are those of the images' files; what does not fit is refused before the first step."""
    ours, theirs = (save_folder(tmp_path / name, pictures(5, seed=seed)) for seed, name in enumerate(("a", "b")))
    evaluator = ImagesEvaluationConfig(str(theirs), ("fd_efficientnet_lite0", "precision"), 5).build(tmp_path, CPU)
    media = torch.stack([torch.from_numpy(row).permute(2, 0, 1) for row in pictures(5, seed=0)]) / 127.5 - 1
    found = evaluator.evaluate(media, torch.zeros(5))
    assert set(found) == {"fd_efficientnet_lite0", "efficientnet_lite0/precision", "num_samples"}
    words = [f"samples={ours}", f"reference={theirs}", "features=efficientnet_lite0"]
    recorded = by_command(*words, out=tmp_path / "out")["fd_efficientnet_lite0"]
    assert found["fd_efficientnet_lite0"] == pytest.approx(recorded.value, rel=1e-6)
    assert recorded.features["weights_sha256"] == SHA256
    for reference, metrics, num, message in (
        ("", ("fid",), 5, "evaluation.reference is ''"),
        (str(theirs), ("fid",), 1, "evaluation.num_samples is 1"),
        (str(theirs), ("class_accuracy",), 5, r"evaluation.metrics is \['class_accuracy'\]"),
        (str(theirs), ("precision",), 3, "precision with features=efficientnet_lite0 needs at least 4 samples"),
        (str(tmp_path / "no"), ("precision",), 5, "which is not there"),
    ):
        with pytest.raises(ValueError, match=message):
            ImagesEvaluationConfig(reference, metrics, num).build(tmp_path, CPU)
