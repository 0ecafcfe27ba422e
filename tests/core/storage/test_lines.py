"""Records of one JSON object a line: what a crash leaves, what a resumed run keeps, and numbers to the bit."""

import math

import pytest

import core.storage.lines
from core.storage.lines import JsonLines, read_lines
from tests.rows import every_row


def test_a_run_cut_at_any_byte_and_resumed_has_the_file_of_an_uncut_one(tmp_path, monkeypatch):
    """From a checkpoint of any step whose line is whole, be it without its end; later lines are made again."""
    monkeypatch.setattr(core.storage.lines, "sync", lambda path: None)

    def write(lines, first):
        for step in range(first, 5):
            lines.write({"step": step, "loss": math.sqrt(step), "\u00e9": -1e-30 * step})

    write(JsonLines(tmp_path / "whole.jsonl", 0), 1)
    whole, cut = (tmp_path / "whole.jsonl").read_bytes(), tmp_path / "cut.jsonl"
    assert read_lines(cut) == []
    for size in range(len(whole) + 1):
        cut.write_bytes(whole[:size])
        done = [line["step"] for line in read_lines(cut)]
        assert done == [*range(1, whole[: size + 1].count(b"\n") + 1)]
        for checkpoint in range(len(done) + 1):
            cut.write_bytes(whole[:size])
            write(JsonLines(cut, checkpoint), checkpoint + 1)
            assert cut.read_bytes() == whole, (size, checkpoint)


@every_row("damage", [b"\x00" * 20, b'{"step": 2, "fl{"step": 9}', b"\xff\xfe", b"12", b'["step"]', b""])
def test_a_damaged_line_between_others_is_said_and_costs_no_other(tmp_path, caplog, damage):
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'{"step": 1}\n' + damage + b'\n{"step": 3}\n')
    caplog.clear()
    JsonLines(file, 3)
    assert "a.jsonl: line 2 cannot be read" in caplog.text
    assert file.read_bytes() == b'{"step": 1}\n{"step": 3}\n'


def test_a_rewrite_that_was_interrupted_costs_nothing(tmp_path, monkeypatch):
    file, before = tmp_path / "a.jsonl", b'{"step": 1}\n{"step": 2}\n{"step": 3}\n'
    file.write_bytes(before)
    with monkeypatch.context() as patch:
        patch.setattr(type(tmp_path), "replace", lambda self, target: (_ for _ in ()).throw(OSError("killed here")))
        with pytest.raises(OSError, match="killed here"):
            JsonLines(file, 1)
    assert file.read_bytes() == before
    (left,) = tmp_path.glob(".*.tmp")
    left.write_bytes(b'{"step": 77}\n{"st')
    JsonLines(file, 3)
    assert file.read_bytes() == before
    assert not list(tmp_path.glob(".*.tmp"))


@every_row("value", [5e-324, 1.7976931348623157e308, 1 / 3, -0.0, 1e16, 123456789.123456789, 2**53 + 1])
def test_a_number_is_the_same_after_writing_and_rewriting(tmp_path, value):
    JsonLines(tmp_path / "a.jsonl", 0).write({"step": 1, "loss": value})
    JsonLines(tmp_path / "a.jsonl", 1)
    read = read_lines(tmp_path / "a.jsonl")[0]["loss"]
    assert (read, math.copysign(1, read)) == (value, math.copysign(1, value))


@every_row("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_never_written(tmp_path, value):
    lines = JsonLines(tmp_path / "a.jsonl", 0)
    with pytest.raises(ValueError, match=r"a.jsonl, step 7: loss is -?(nan|inf)"):
        lines.write({"step": 7, "flow_loss": 1.0, "loss": value})
    assert (tmp_path / "a.jsonl").read_bytes() == b""
