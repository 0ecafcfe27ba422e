"""The metrics of the published protocols: recorded values, through the command's own metrics."""

import pytest
import torch

from eval.measure.extractor import ExtractedFeatures
from eval.measure.media import ArrayMedia
from eval.measure.metrics import ReferenceStatistics
from eval.measure.pairs import Multimodality, PairCosine, TextExtractor
from eval.statistics import diversity
from eval.statistics.frechet import moments
from motion.encoders.published import EVALUATORS
from motion.measured.published_rows import REAL_ROWS, TOLERANCES, RealRow
from motion.metrics import TABLE
from tests.golden_files import load_golden

MARDM, OLD = load_golden("mardm_evaluators")[0], load_golden("metrics")[0]


class Recorded(TextExtractor):
    """An extractor whose texts are recorded embeddings."""

    name, main = "mardm67", "motion"

    def __init__(self, texts):
        self.texts = texts

    def text_features(self, texts):
        return self.texts


def recorded(motion, texts, repeats=None):
    """Features of clips with recorded embeddings."""
    media = ArrayMedia("recorded", "clip", torch.zeros(len(motion), 1))
    media.texts = ["a text"] * len(motion)
    arrays = {"motion": motion.numpy()}
    groups = {} if repeats is None else {"motion": repeats.numpy()}
    return ExtractedFeatures(Recorded(texts), media, arrays, repeats=groups)


def test_the_recorded_values_of_mardm_come_out():
    texts = MARDM["metrics.text_emb"]
    reference = ReferenceStatistics({"motion": moments(MARDM["metrics.motion_emb"])})
    for motion, name in (("metrics.motion_emb", "real"), ("metrics.pred_emb", "pred")):
        samples = recorded(MARDM[motion], texts)
        hits = [
            metric.compute(samples, reference).value
            for metric in TABLE.of([f"mardm67/r_precision_{top}" for top in (1, 2, 3)])
        ]
        assert hits == pytest.approx(MARDM[f"metrics.{name}.r_precision"].tolist())
        (matching,) = TABLE.of(["mardm67/matching_score"])
        found = matching.compute(samples, reference)
        assert found.value == pytest.approx(MARDM[f"metrics.{name}.matching_score"].item(), abs=1e-4)
        assert found.num_samples == 96 and found.parameters["pool"] == 32
    (fid,) = TABLE.of(["mardm67/fid"])
    assert fid.compute(samples, reference).value == pytest.approx(MARDM["metrics.fid"].item(), rel=1e-4)


def test_the_recorded_clip_score_comes_out():
    samples = recorded(MARDM["metrics.clip_motion"], MARDM["metrics.clip_text"])
    score = PairCosine("mardm67/clip_score", ("mardm67_clip",)).compute(samples, ReferenceStatistics())
    assert score.value == pytest.approx(MARDM["metrics.clip_score"].item(), abs=1e-6)


def test_the_recorded_multimodality_comes_out_for_its_pairs(monkeypatch):
    for tensors, prefix, repeats, value in (
        (MARDM, "metrics.multimodality", "metrics.multimodality.emb", "metrics.multimodality"),
        (OLD, "multimodality", "multimodality.activations", "multimodality.value"),
    ):
        pairs = tuple(tensors[f"{prefix}.{which}"].numpy() for which in ("first", "second"))
        monkeypatch.setattr(diversity, "draw_pairs", lambda *of, pairs=pairs: pairs)
        samples = recorded(torch.zeros(2, 3), None, tensors[repeats])
        found = Multimodality("t2m263/multimodality", ("t2m263",)).compute(samples, ReferenceStatistics())
        assert found.value == pytest.approx(tensors[value].item(), rel=1e-5)
        assert found.num_samples == len(tensors[repeats].flatten(0, 1))


def test_every_published_evaluator_has_the_same_metrics_under_its_own_name():
    for name in EVALUATORS:
        own = [metric.name for metric in TABLE.of(TABLE.defaults[name])]
        assert own[:7] == [
            *(f"{name}/{each}" for each in ("fid", "r_precision_1", "r_precision_2", "r_precision_3")),
            *(f"{name}/{each}" for each in ("matching_score", "diversity", "multimodality")),
        ]
        assert own[7:] == [f"physics/{each}" for each in ("skate_ratio", "jerk", "penetration", "floating")]


def test_a_real_row_is_the_published_one_within_its_tolerance():
    published = REAL_ROWS["t2m263", "test"]
    values = {f"t2m263/{name}": value + 0.9 * TOLERANCES[name] for name, value in published.items()}
    row = RealRow.of("t2m263", "test", {**values, "physics/jerk": 7.0})
    assert not row.off and "within tolerance of the published row of t2m263, test" in row.text()
    far = RealRow.of("t2m263", "test", {**values, "t2m263/r_precision_3": 0.7})
    assert far.off == {"r_precision_3": (0.7, 0.797)}
    assert "is not the published one" in far.text() and "r_precision_3 0.7 (published 0.797" in far.text()
    for evaluator, split in (("t2m263", "val"), ("mardm67", "test")):
        other = RealRow.of(evaluator, split, values)
        assert not other.off and f"no published row is known for {evaluator} on the split {split}" in other.text()
    assert published.keys() == REAL_ROWS["kit251", "test"].keys() == TOLERANCES.keys()
