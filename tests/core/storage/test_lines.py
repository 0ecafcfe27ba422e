"""Records of one JSON object a line: what a crash leaves, what a resumed run keeps, and numbers to the bit."""

import math
import re

import pytest

import core.storage.lines
from core.storage.lines import JsonLines, lost_lines, read_lines
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


@every_row(
    "damage", [b"\x00" * 20, b'{"step": 2, "fl{"step": 9}', b"\xff\xfe", b"12", b'["step"]', b"", b"[" * 100_000]
)
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


WHOLE = [f'{{"step": {step}}}\n' for step in range(2, 12, 2)]


@every_row(
    ("content", "words"),
    [
        ("".join(WHOLE), None),
        ("".join(WHOLE)[:-1], None),  # a line end is no loss
        ("".join([*WHOLE, '{"step": 12}\n', '{"st']), None),  # what came after the checkpoint
        ("".join(WHOLE[:3]), "2 of the 5 lines up to step 10 are lost or changed, .*; those left are of steps 2 to 6"),
        ("".join([*WHOLE[:3], '{"step": 12}\n']), "2 of the 5 lines up to step 10 .* steps 2 to 6"),
        ("".join(WHOLE)[:-2], "1 of the 5 lines .* steps 2 to 8"),
        ("".join(WHOLE[2:]), "2 of the 5 lines .* steps 6 to 10"),
        ("".join(WHOLE).replace("4", "3"), "some of the 5 lines"),
        ("", "5 of the 5 lines up to step 10 are lost or changed, and are not made again; none is left"),
        (None, "5 of the 5 lines .*; none is left"),
    ],
)
def test_lines_that_were_there_at_a_checkpoint_and_are_no_longer_are_told(tmp_path, content, words):
    file = tmp_path / "a.jsonl"
    file.unlink(missing_ok=True)
    lines = JsonLines(file, 0)
    for step in range(2, 12, 2):
        lines.write({"step": step})
    noted = lines.facts()
    assert noted == JsonLines(file, 10).facts(), "of lines that were read, as of those written"
    file.unlink() if content is None else file.write_text(content)
    lost = lost_lines(file, noted, 10)
    assert lost is None if words is None else re.search(words, lost), lost


def test_a_file_that_somebody_changes_while_it_is_written_is_told_once(tmp_path, caplog):
    lines = JsonLines(tmp_path / "a.jsonl", 0)
    lines.write({"step": 1})
    lines.sync()
    assert caplog.text == ""
    lines.path.unlink()
    lines.sync()
    lines.write({"step": 2})
    lines.sync()
    assert caplog.text.count("a.jsonl was changed by somebody else: it has 0 bytes, 12 were written") == 1
    assert caplog.text.count("changed") == 1
