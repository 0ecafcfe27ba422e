"""Captions: rows that are whole or refused, names in every Unicode form, tables that are none."""

import csv
import json
import logging
import unicodedata

import pytest

from core.data.captions import in_any_form, read_captions
from tests.rows import every_row

NFC, NFD = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
HEAD = "path,caption\n"


def table(folder, content, name="c.csv"):
    """A table with that content, text or bytes; its name."""
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return name


@every_row(
    ("content", "wanted"),
    [
        (HEAD + 'a.wav,"slow, sad piano"\n', "slow, sad piano"),
        ("\ufeff" + HEAD + "a.wav,slow\n", "slow"),
        ("caption, path \r\nslow,a.wav\r\n", "slow"),  # the columns in any order
        ("\n" + HEAD + "\n \na.wav,slow\n\n", "slow"),
        (HEAD + 'a.wav,"two\nlines"\n', "two\nlines"),
        (HEAD + 'a.wav,"a ""slow"" one"\n', 'a "slow" one'),
        (HEAD + 'a.wav,5" disc\n', '5" disc'),
        (HEAD + f"a.wav,caf{NFD}\n", f"caf{NFC}"),
    ],
)
def test_a_row_is_read_whole(tmp_path, content, wanted):
    assert read_captions(tmp_path, ["a.wav"], table(tmp_path, content)) == [wanted]


@every_row(
    ("content", "message"),
    [
        (HEAD + "a.wav,slow, sad piano\n", r"c\.csv, line 2 has 3 fields, the header 2: .*sad piano.*between quotes"),
        (HEAD + "\nb.wav,x\na.wav\n", r"c\.csv, line 4 has 1 fields, the header 2"),
        (HEAD + 'b.wav,x\na.wav,"slow\nb.wav,fast\n', r"c\.csv, the row from line 3 on is not CSV: unexpected end"),
        (HEAD + 'a.wav,"slow\nb.wav,"fast"\n', r"c\.csv, the row from line 2 on is not CSV: ',' expected"),
        (HEAD + 'a.wav,"slow" piano\n', r"c\.csv, the row from line 2 on is not CSV: ',' expected"),
        (
            HEAD + f'a.wav,"{"x" * csv.field_size_limit()}x"\n',
            r"c\.csv, the row from line 2 on is not CSV: field larger",
        ),
        (HEAD + "a.wav,x\n./a.wav,y\n", r"c\.csv, line 3 captions 'a\.wav' again"),
        (HEAD + f"{NFC}.wav,x\n{NFD}.wav,y\n", r"c\.csv, line 3 captions '.*' again"),
        ("a.wav,slow\n", r"c\.csv, line 1 is .*needed: a header with the columns path and caption"),
        ("path\tcaption\na.wav\tslow\n", r"c\.csv, line 1 is .*separated by commas"),
        ("path;caption\na.wav;slow\n", r"c\.csv, line 1 is .*separated by commas"),
        ("path,caption,caption\na.wav,x,y\n", r"c\.csv, line 1 is .*once each"),
        ("", r"c\.csv is empty"),
        (HEAD + "a.wav,sl\0ow\n", r"c\.csv, line 2 holds a NUL byte"),
        ((HEAD + "a.wav,slow\n").encode("utf-16"), r"c\.csv is not UTF-8 text"),
        ((HEAD + "a.wav,slow\n").encode("utf-16-le"), r"c\.csv, line 1 holds a NUL byte"),
        ((HEAD + f"a.wav,caf{NFC}\n").encode("latin-1"), r"c\.csv is not UTF-8 text"),
        (HEAD + "a.wav, \n", r"1 of 1 files have no caption, such as \['a\.wav'\]"),
    ],
)
def test_a_table_that_cannot_be_read_whole_is_refused_in_one_line(tmp_path, content, message):
    with pytest.raises(ValueError, match=message) as error:
        read_captions(tmp_path, ["a.wav"], table(tmp_path, content))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600


@every_row(
    ("content", "message"),
    [
        ('{"path": "a.wav", "caption": "x", "caption": "y"}', r"line 1 is not JSON: a key stands twice"),
        ("[" * 100_000, r"line 1 is not JSON"),
        ('\n{"path": "a.wav", "caption": "\\ud83d"}', r"line 2 holds half a character"),
        ('{"path": "a.wav", "caption": "slow\\u0000"}', r"line 1 holds half a character, or NUL"),
        ('{"path": "a.wav", "caption": ["x"]}', r"line 1 is .*; needed: path and caption"),
        ('{"path": "a.wav"} {"path": "b.wav"}', r"line 1 is not JSON: Extra data"),
        ("", r"1 of 1 files have no caption"),
    ],
)
def test_json_lines_that_are_none_are_refused(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        read_captions(tmp_path, ["a.wav"], table(tmp_path, content, "c.jsonl"))


def test_json_lines_may_lie_apart(tmp_path):
    row = json.dumps({"path": "a.wav", "caption": "one\ntwo", "tags": ["x"]})
    assert read_captions(tmp_path, ["a.wav"], table(tmp_path, f"\ufeff\n{row}\n\n", "c.jsonl")) == ["one\ntwo"]


@every_row("source", ["c.csv", "c.jsonl", "txt"])
def test_a_name_is_the_same_in_every_unicode_form(tmp_path, source):
    for file, row in ((NFC, NFD), (NFD, NFC)):
        folder = tmp_path / f"{source}{file}"
        (folder / file).mkdir(parents=True)
        path, named = f"{file}/{file}.b.wav", f"{row}/{row}.b.wav"
        if source == "txt":
            (folder / file / f"{row}.b.txt").write_text("slow")
        else:
            json_row = json.dumps({"path": named, "caption": "slow"})
            table(folder, HEAD + f"{named},slow\n" if source == "c.csv" else json_row, source)
        assert read_captions(folder, [path], source) == ["slow"]


def test_two_files_whose_names_differ_in_form_alone_keep_their_own(tmp_path):
    assert in_any_form({NFC: 1}, [NFC, NFD]) == {NFC: 1}
    with pytest.raises(ValueError, match="1 of 2 files have no caption"):
        read_captions(tmp_path, [f"{NFC}.wav", f"{NFD}.wav"], table(tmp_path, HEAD + f"{NFC}.wav,x\n"))


def test_rows_of_no_file_are_told(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        read_captions(tmp_path, ["a.wav"], table(tmp_path, HEAD + "a.wav,x\nb.wav,y\n"))
    assert "1 rows are of no file, such as ['b.wav']" in caplog.text
