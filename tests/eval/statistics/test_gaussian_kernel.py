"""KAD: recorded numbers by definition and of the published toolkit, and the median of more pairs than one block."""

import numpy as np
import pytest

from eval.statistics import kernel
from eval.statistics.kernel import gaussian_distance, median_distance
from tests.eval.statistics.feature_sets import normal
from tests.golden_files import load_golden
from tests.rows import every_row

TENSORS, CONFIG = load_golden("kad")
REFERENCE, EVALUATED = TENSORS["reference"].numpy(), TENSORS["evaluated"].numpy()


def recorded(name):
    return TENSORS[name].item()


@every_row("median", ["lower", "mean_of_two"])
@every_row("whose", ["reference", "evaluated"])
@every_row("size", [4, kernel.BLOCK])
def test_both_bandwidth_rules_have_the_recorded_numbers(whose, median, size, monkeypatch):
    monkeypatch.setattr(kernel, "BLOCK", size)  # of pairs that are taken at once
    b = median_distance(REFERENCE if whose == "reference" else EVALUATED, median)
    assert b == pytest.approx(recorded(f"bandwidth.{whose}.{median}"), rel=1e-12)
    found = gaussian_distance(EVALUATED, REFERENCE, bandwidth=whose, median=median)
    assert found.value == pytest.approx(recorded(f"kad.bandwidth_{whose}.{median}"), rel=1e-10)
    assert f"of the {whose} set, {median}" in found.parameters["bandwidth"]


def test_the_toolkits_code_takes_the_evaluated_sets_lower_median():
    found = gaussian_distance(EVALUATED, REFERENCE, bandwidth="evaluated").value
    assert found == pytest.approx(recorded("program.float64"), rel=1e-6)
    assert found == pytest.approx(recorded("program.default"), rel=1e-5)
    swapped = gaussian_distance(REFERENCE, EVALUATED, bandwidth="evaluated").value
    assert swapped == pytest.approx(recorded("program.swapped"), rel=1e-5)


def test_the_rule_decides_whether_sets_may_change_places_and_real_sets_may_be_below_zero():
    mean = {"median": "mean_of_two"}
    of_reference = gaussian_distance(REFERENCE, EVALUATED, bandwidth="reference", **mean).value
    assert of_reference == pytest.approx(recorded("kad.swapped.bandwidth_reference"))
    fixed = [
        gaussian_distance(*sets, bandwidth=CONFIG["fixed_bandwidth"]).value
        for sets in ((EVALUATED, REFERENCE), (REFERENCE, EVALUATED))
    ]
    assert fixed == pytest.approx([recorded("kad.fixed_bandwidth")] * 2)
    same = gaussian_distance(REFERENCE, REFERENCE, bandwidth="reference", **mean).value
    assert same == pytest.approx(recorded("kad.identical_sets.bandwidth_reference")) and same < 0
    real = gaussian_distance(TENSORS["evaluated_same_distribution"], REFERENCE, bandwidth="reference", **mean).value
    assert real == pytest.approx(recorded("kad.same_distribution.bandwidth_reference"))


def test_the_median_of_many_pairs_is_numpys():
    rows = normal(301, 3)
    distances = np.linalg.norm(rows[:, None] - rows[None], axis=-1)[np.triu_indices(301, 1)]
    assert median_distance(rows, "mean_of_two") == pytest.approx(np.median(distances), rel=1e-12)


def test_equal_rows_have_no_bandwidth():
    rows = np.r_[np.zeros((9, 2)), np.ones((1, 2))]
    with pytest.raises(ValueError, match=r"the bandwidth of the kernel is 0\.0; needed: above 0"):
        gaussian_distance(rows, rows, bandwidth="reference")
