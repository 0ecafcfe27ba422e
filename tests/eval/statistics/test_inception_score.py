"""Inception Score: its two ends, its splits, and torch-fidelity's numbers."""

import numpy as np
import pytest
import torch

from eval.statistics.inception_score import ADM, TORCH_FIDELITY, Splits, inception_score
from tests.eval.statistics.feature_sets import normal

WHOLE = Splits(count=1)


def test_predictions_without_information_score_one():
    assert inception_score(1e-9 * normal(200, 10), WHOLE).value == pytest.approx(1)
    same = np.tile([[0.7, 0.2, 0.1]], (50, 1)) + 1e-12 * normal(50, 1)
    assert inception_score(same, WHOLE, of="probabilities").value == pytest.approx(1)


@pytest.mark.parametrize("classes", [2, 10])
def test_sure_predictions_spread_evenly_score_their_number(classes):
    labels = np.eye(classes)[np.arange(5 * classes) % classes]
    assert inception_score(labels, WHOLE, of="probabilities").value == pytest.approx(classes)
    assert inception_score(1000 * labels, WHOLE).value == pytest.approx(classes)
    one_class_never = np.pad(labels, ((0, 0), (0, 1)))
    assert inception_score(one_class_never, WHOLE, of="probabilities").value == pytest.approx(classes)


def test_logits_and_their_softmax_score_the_same():
    logits = 3 * normal(100, 7)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert inception_score(logits, WHOLE).value == pytest.approx(inception_score(p, WHOLE, of="probabilities").value)
    assert inception_score(logits + 500, WHOLE).value == pytest.approx(inception_score(logits, WHOLE).value)


def test_adm_scores_consecutive_parts_and_counts_a_shorter_last_one():
    logits = 3 * normal(12_000, 5)
    parts = [inception_score(part, WHOLE).value for part in np.split(logits, [5000, 10_000])]
    ours = inception_score(logits, ADM)
    assert ours.value == pytest.approx(np.mean(parts))
    assert ours.interval.high - ours.interval.low == pytest.approx(2 * np.std(parts))
    assert ours.interval.kind == "± standard deviation over 3 splits"
    assert ours.parameters == {"size": 5000, "count": None, "seed": None}


@pytest.mark.parametrize("rows", [100, 107])
def test_torch_fidelity_agrees(rows):
    theirs = pytest.importorskip("torch_fidelity.metric_isc", reason="the extra `eval` is not installed")
    logits = 3 * normal(rows, 6)
    expected = theirs.isc_features_to_metric(torch.from_numpy(logits))
    ours = inception_score(logits, TORCH_FIDELITY)
    assert ours.value == pytest.approx(expected[theirs.KEY_METRIC_ISC_MEAN], rel=1e-10)
    assert ours.interval.high - ours.value == pytest.approx(expected[theirs.KEY_METRIC_ISC_STD], rel=1e-9)


@pytest.mark.parametrize("settings", [{}, {"size": 5, "count": 5}, {"size": 0}, {"count": -1}])
def test_impossible_splits_are_refused(settings):
    with pytest.raises(ValueError, match="exactly one must be set, at least 1"):
        Splits(**settings)


def test_what_is_no_prediction_is_refused():
    with pytest.raises(ValueError, match="are these logits"):
        inception_score(normal(20, 4), WHOLE, of="probabilities")
    with pytest.raises(ValueError, match="'scores'; allowed: logits, probabilities"):
        inception_score(normal(20, 4), WHOLE, of="scores")
    with pytest.raises(ValueError, match="at least 5000 samples"):
        inception_score(normal(4999, 4))
