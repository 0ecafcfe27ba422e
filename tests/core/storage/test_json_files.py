"""JSON is read, or refused in one line that names the file."""

import os

import pytest

from core.storage.json_files import parse_json, read_json, read_mapping
from tests.rows import every_row


def test_what_was_written_is_read(tmp_path):
    (tmp_path / "a.json").write_text('{"a": [1, "é"]}', encoding="utf-8")
    assert read_json(tmp_path / "a.json") == read_mapping(tmp_path / "a.json") == {"a": [1, "é"]}
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "b.json")


DAMAGED = {
    b"[" * 100_000: "nested too deep",
    b"{": "Expecting",
    b"\xff\xfe{": "decode",
    b"": "Expecting",
    b"1" * 5000: "digits",
}


@every_row(("content", "reason"), list(DAMAGED.items()))
def test_damage_is_told_with_the_files_name(tmp_path, content, reason):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=rf"a\.json is damaged: .*{reason}"):
        read_json(tmp_path / "a.json")
    with pytest.raises(ValueError, match=rf"'facts' is damaged: .*{reason}"):
        parse_json(content, "'facts'")


@every_row("content", ["[]", "null", "3", '"text"'])
def test_another_value_than_a_mapping_is_damage(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ValueError, match=r"a\.json is damaged: it holds \w+, needed: names and values"):
        read_mapping(tmp_path / "a.json")


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="pipe is no file"):
        read_json(tmp_path / "pipe")
