"""YAML files of people: what is read, and one line with the file's name for everything else."""

import os
import time

import pytest

from core.storage.yaml_files import read_yaml
from tests.rows import every_row

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
DEEP = 20_000


@every_row(
    ("text", "values"),
    [
        ("a: 12:00:00\nb: 2026-01-31\nc: 1-12:00:00\n", {"a": "12:00:00", "b": "2026-01-31", "c": "1-12:00:00"}),
        ("a: 1\nb: [0.5, true, null, ä]\n", {"a": 1, "b": [0.5, True, None, "ä"]}),
        ("a: &a {x: 1}\nb: {<<: *a, y: 3}\nc: [*a, *a]\n", {"a": {"x": 1}, "b": {"x": 1, "y": 3}, "c": [{"x": 1}] * 2}),
        ("p: {q: &b {<<: &a {x: 1}, x: 2}}\nc: {<<: *b}\n", {"p": {"q": {"x": 2}}, "c": {"x": 2}}),
    ],
)
def test_what_is_read(tmp_path, text, values):
    file = tmp_path / "a.yaml"
    file.write_text(text, encoding="utf-8")
    assert read_yaml(file) == values


@every_row(
    ("content", "parts"),
    [
        (b"", ["holds None; needed: keys"]),
        (b"- 1\n- 2\n", ["holds [1, 2]; needed: keys"]),
        (b"a: [1\n", ["is no YAML", "line 2"]),
        (b"a:\n\tb: 1\n", ["is no YAML", "line 2"]),
        (b"a: \xe4\n", ["is no YAML", "utf-8"]),
        (b"\x89PNG\r\n\x1a\n\x00\x00", ["is no YAML"]),
        (b"a: \x00\n", ["is no YAML"]),
        (b"a: 1\na: 2\n", ["'a' stands twice", "line 2"]),
        (b"a: {b: {c: 1, c: 1}}\n", ["'c' stands twice"]),
        (b"? [a, b]\n: 1\n", ["a key is a list"]),
        (b"? {a: 1}\n: 1\n", ["a key is a list or a mapping"]),
        (b"a: 1\n---\nb: 2\n", ["is no YAML"]),
        (BOMB.encode(), ["more than 200000 values"]),
        (b"a: &a [*a]\n", ["an alias inside what it stands for"]),
        (b"a: &a {b: *a}\n", ["an alias inside what it stands for"]),
        (b"a: " + b"[" * DEEP + b"]" * DEEP, ["nested too deeply"]),
        (b"a: " + b"[" * 200 + b"]" * 200, ["more than 100 levels"]),
        (b"a: " + b"9" * 5000, ["is no YAML", "4300"]),
        (b"a: !!python/object/apply:os.system [ls]\n", ["a value of type", "os.system"]),
        (b"a: !!timestamp 2026-01-31\n", ["a value of type", "timestamp"]),
        (b"a: !!bool perhaps\n", ["is no YAML", "perhaps"]),
    ],
)
def test_what_is_refused(tmp_path, content, parts):
    file = tmp_path / "a.yaml"
    file.write_bytes(content)
    begun = time.monotonic()
    with pytest.raises(ValueError, match=r"a\.yaml") as caught:
        read_yaml(file)
    message = str(caught.value)
    assert all(part in message for part in parts), message
    assert "\n" not in message and len(message) < 400
    assert time.monotonic() - begun < 5


def test_what_is_no_file_is_told(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    for path in (tmp_path, tmp_path / "pipe.yaml"):
        with pytest.raises(ValueError, match=f"{path} is no file"):
            read_yaml(path)
    with pytest.raises(OSError, match=r"nowhere\.yaml"):
        read_yaml(tmp_path / "nowhere.yaml")
