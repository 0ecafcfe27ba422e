"""Records: written whole, read back as they were, and never compared across protocols by accident."""

import csv
import dataclasses
import json

import pytest
import torch

from eval.measure.record import Provenance, Record, differences, hardware, read_records, table, write_records
from eval.statistics.estimate import Estimate, Interval

PROTOCOL = {"sampler": {"solver": "heun", "num_steps": 250}, "weights": "ema", "labels": "balanced", "seed": 0}
REFERENCE = {"name": "imagenet", "kind": "adm", "sha256": "r" * 64, "num_samples": None}
FEATURES = {"name": "inception_adm", "weights_sha256": "w" * 64, "preprocessing": "299"}


def record(metric="fid", value=2.06, **changes):
    values = {
        "metric": metric,
        "value": value,
        "num_samples": 50_000,
        "protocol": PROTOCOL,
        "features": FEATURES,
        "reference": REFERENCE,
        "code": {"version": "0.1.0", "commit": "c" * 40, "dirty": False},
        "hardware": {"device": "cpu"},
        "created": "2030-01-02T03:04:05.000001+00:00",
        "interval": Interval(2.0, 2.125, "bootstrap"),
        "parameters": {"k": 3},
        "config_sha256": "f" * 64,
        "step": 400_000,
        "run": "runs/image/a",
    }
    return Record(**{**values, **changes})


def with_sampler(**changes):
    return record(protocol={**PROTOCOL, "sampler": {**PROTOCOL["sampler"], **changes}})


def test_records_come_back_as_they_were_written(tmp_path):
    records = [record(), record("is", 215.84, interval=None, step=None, config_sha256=None)]
    file = write_records(tmp_path / "run" / "evaluations", records)
    for path in (file, file.parent, tmp_path / "run"):
        assert read_records([path]) == records
    assert json.loads(file.read_text())["records"][0]["reference"] == REFERENCE


def test_no_evaluation_overwrites_another(tmp_path):
    first = write_records(tmp_path, [record()])
    before = first.read_bytes()
    second = write_records(tmp_path, [record(value=2.07)])
    assert first != second
    assert first.read_bytes() == before
    assert write_records(tmp_path, [record()]) == first
    assert sorted(each.value for each in read_records([tmp_path])) == [2.06, 2.07]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value": float("nan")}, "fid is nan"),
        ({"interval": Interval(0.0, float("inf"), "x")}, "inf"),
        ({"num_samples": 0}, "num_samples is 0"),
        ({"metric": ""}, "names what it measures"),
    ],
)
def test_a_record_holds_numbers(change, message):
    with pytest.raises(ValueError, match=message):
        record(**change)


def test_an_evaluation_without_records_or_with_foreign_values_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="without a record"):
        write_records(tmp_path, [])
    with pytest.raises(ValueError, match="JSON"):
        write_records(tmp_path, [record(protocol={"seed": torch.zeros(1)})])
    with pytest.raises(ValueError, match="JSON"):
        write_records(tmp_path, [record(protocol={"atol": float("nan")})])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda text: text[: len(text) // 2], "damaged"),
        (lambda text: "[]", "no record"),
        (lambda text: text.replace('"schema_version": 1', '"schema_version": 9'), "schema 9; this version reads 1"),
        (lambda text: text.replace('"metric"', '"measure"'), "unknown config key 'measure'"),
        (lambda text: text.replace("2.06", '"2.06a"'), "a number"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, spoil, message):
    file = write_records(tmp_path, [record()])
    file.write_text(spoil(file.read_text()))
    with pytest.raises(ValueError, match=message) as error:
        read_records([file])
    assert file.name in str(error.value)


def test_a_folder_without_records_is_said(tmp_path):
    with pytest.raises(ValueError, match="holds no record"):
        read_records([tmp_path])


def test_where_and_when_it_was_measured_is_no_difference():
    other = record(
        value=3.0,
        interval=None,
        code={"commit": "other"},
        hardware={"device": "cuda"},
        created="2031-01-01T00:00:00+00:00",
        run="runs/image/b",
        step=1,
        config_sha256="0" * 64,
        protocol={**PROTOCOL, "seed": 7},
    )
    assert differences(record(), other) == {}


@pytest.mark.parametrize(
    ("other", "found"),
    [
        (with_sampler(solver="dopri5"), {"protocol.sampler.solver": ("heun", "dopri5")}),
        (with_sampler(guidance_scale=1.8), {"protocol.sampler.guidance_scale": (None, 1.8)}),
        (record(protocol={**PROTOCOL, "labels": [1, 2]}), {"protocol.labels": ("balanced", [1, 2])}),
        (record("kid"), {"metric": ("fid", "kid")}),
        (record(num_samples=10_000), {"num_samples": (50_000, 10_000)}),
        (record(parameters={"k": 5}), {"parameters.k": (3, 5)}),
        (record(features={**FEATURES, "name": "dinov2"}), {"features.name": ("inception_adm", "dinov2")}),
        (record(reference={**REFERENCE, "sha256": "s" * 64}), {"reference.sha256": ("r" * 64, "s" * 64)}),
    ],
)
def test_what_makes_numbers_differ_is_told_with_both_values(other, found):
    assert differences(record(), other) == found
    assert differences(other, record()) == {key: values[::-1] for key, values in found.items()}


def test_what_is_unknown_equals_nothing():
    protocol = {"source": "unknown: samples given"}
    a, b = record(protocol=protocol), record(protocol=protocol, run="b")
    assert differences(a, b) == {"protocol.source": (protocol["source"],) * 2}
    with pytest.raises(ValueError, match="unknown: samples given"):
        table([a, b])
    assert "2.06" in table([a])


def test_a_record_read_back_differs_from_none(tmp_path):
    """A tuple of the config is a list in the file."""
    with_tuple = record(protocol={**PROTOCOL, "guidance_interval": (0.0, 0.7)})
    (back,) = read_records([write_records(tmp_path, [with_tuple])])
    assert differences(with_tuple, back) == {}


def test_tables_put_runs_below_and_metrics_beside_each_other():
    rows = [record(), record("recall", 0.5309, interval=None), record(value=8.3, run="runs/image/b", interval=None)]
    lines = table(rows).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["run", "step", "fid", "recall"]
    assert cells[2:] == [["runs/image/a", "400000", "2.06 [2, 2.125]", "0.5309"], ["runs/image/b", "400000", "8.3", ""]]


def test_a_name_of_two_lines_is_one_cell():
    assert table([record(run="a\nb|c")]).splitlines()[2].startswith("| a b\\|c |")
    assert "\na b|c &" in table([record(run="a\nb|c")], format="latex")
    assert list(csv.reader(table([record(run="a\nb")], format="csv").splitlines(keepends=True)))[1][0] == "a\nb"


def test_a_table_of_different_protocols_is_refused_with_keys_and_values():
    rows = [record(), with_sampler(solver="dopri5"), record("is", 200.0)]
    with pytest.raises(ValueError, match=r"fid: protocol\.sampler\.solver is heun or dopri5"):
        table(rows)


def test_a_table_that_is_asked_for_shows_the_difference():
    rows = [record(), record("is", 200.0), with_sampler(solver="dopri5", num_steps=9)]
    lines = list(csv.DictReader(table(rows, allow_differences=True, format="csv").splitlines()))
    keys = ["protocol.sampler.num_steps", "protocol.sampler.solver"]
    assert [[line[key] for key in keys] for line in lines] == [["250", "heun"], ["9", "dopri5"]]
    assert [line["fid"] for line in lines] == ["2.06", "2.06"]
    assert [line["is"] for line in lines] == ["200.0", ""]


def test_a_metric_measured_again_begins_a_row():
    again = record(value=2.1, protocol={**PROTOCOL, "seed": 1})
    lines = list(csv.DictReader(table([record(), again, record(value=2.2)], format="csv").splitlines()))
    assert sorted(line["fid"] for line in lines) == ["2.06", "2.1", "2.2"]


def test_latex_escapes_what_latex_reads():
    text = table([record("class_accuracy", 0.5, interval=None, run="runs/a_b")], format="latex")
    assert r"class\_accuracy" in text and r"runs/a\_b" in text
    assert text.count("\\\\") == 2


def test_bad_tables_are_refused():
    with pytest.raises(ValueError, match="no records"):
        table([])
    with pytest.raises(ValueError, match="format is 'html'; allowed: markdown, latex, csv"):
        table([record()], format="html")


def test_facts_make_records_of_estimates():
    facts = Provenance(PROTOCOL, hardware(torch.device("cpu"), 2), "2030-01-01T00:00:00+00:00", None, 5, "runs/image/a")
    made = facts.record("fid", Estimate(1.5, 10, Interval(1.0, 2.0, "x"), {"k": 3}), FEATURES, REFERENCE)
    assert (made.value, made.num_samples, made.parameters, made.step) == (1.5, 10, {"k": 3}, 5)
    assert made.hardware["processes"] == 2
    assert made.code.keys() >= {"commit", "dirty"}
    assert dataclasses.replace(made, value=2.0).value == 2.0
