"""Captions of files: rows of a table below the root, or text files beside the media.

A table is .csv with the columns path and caption, or .jsonl with these keys; its paths start at the root. Nothing is
cut: a row of another number of fields is refused. Names that Unicode writes in two ways (a letter and its accent, or
one letter) are the same name, and captions are kept in the composed form (NFC).
"""

from __future__ import annotations

import csv
import io
import json
import logging
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from core.data.index import NUM_LISTED

log = logging.getLogger(__name__)

BESIDE, CAPTION_SUFFIXES, COLUMNS = "txt", (".csv", ".jsonl"), ("path", "caption")
NUM_SHOWN = 120  # letters of a row that a message shows
Value = TypeVar("Value")


def check_captions(captions: str | None) -> None:
    """Raises ValueError for a value of data.captions that names no source of captions."""
    if captions not in (None, BESIDE) and not captions.endswith(CAPTION_SUFFIXES):
        raise ValueError(
            f"data.captions is {captions!r}; allowed: {BESIDE!r}, a file {' or '.join(CAPTION_SUFFIXES)}, null"
        )


def read_captions(root: Path, paths: Sequence[str], source: str) -> list[str]:
    """One text for each of `paths` below `root`; ValueError, listing the first, where files have none.

    source: "txt", or the name of a table below the root.
    """
    by_path = _texts_beside(root, paths) if source == BESIDE else _caption_table(root / source)
    found = in_any_form(by_path, paths)
    missing = [path for path in paths if not found.get(path)]
    if missing:
        raise ValueError(
            f"data.captions is {source!r}: {len(missing)} of {len(paths)} files have no caption, such as "
            f"{missing[:NUM_LISTED]}"
        )
    known = {composed(path) for path in paths}
    spare = [path for path in by_path if composed(path) not in known]
    if spare:
        log.info("data.captions is %r: %d rows are of no file, such as %s", source, len(spare), spare[:NUM_LISTED])
    return [found[path] for path in paths]


def composed(text: str) -> str:
    """The text in Unicode's composed form (NFC), in which two spellings of one text are equal."""
    return unicodedata.normalize("NFC", text)


def in_any_form(by_name: Mapping[str, Value], names: Sequence[str]) -> dict[str, Value]:
    """What `by_name` has for each of `names`: under that name, or under one that differs in its Unicode form alone.

    A name of which there are two forms among `names` is taken to the letter.
    """
    forms = Counter(composed(name) for name in names)
    by_form = {composed(name): value for name, value in by_name.items()}
    found = {}
    for name in names:
        form = composed(name)
        if name in by_name:
            found[name] = by_name[name]
        elif form in by_form and forms[form] == 1:
            found[name] = by_form[form]
    return found


def read_text(file: Path, key: str) -> str:
    """The text of a file in UTF-8, with or without a byte order mark; ValueError, naming the config key, for another.

    Characters that no text has (NUL) are refused: they show a file of another encoding, or a damaged one.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{key}: {file} is not UTF-8 text: {error}") from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise ValueError(f"{key}: {file}, line {line} holds a NUL byte; needed: text in UTF-8")
    return text


def _texts_beside(root: Path, paths: Sequence[str]) -> dict[str, str]:
    """Captions by path, from the .txt files of the same names."""
    folders = {(root / path).parent for path in paths}
    files = {str(file.relative_to(root)): file for folder in folders for file in folder.glob("*.txt") if file.is_file()}
    texts = {path: str(Path(path).with_suffix(".txt")) for path in paths}
    found = in_any_form(files, list(texts.values()))
    return {path: _text(found[name]) for path, name in texts.items() if name in found}


def _text(file: Path) -> str:
    return composed(read_text(file, "data.captions").strip())


def _caption_table(file: Path) -> dict[str, str]:
    """Captions by path; ValueError, naming the line, for one that lacks a column or repeats a path."""
    if not file.is_file():
        raise ValueError(f"data.captions is {file.name!r}: there is no file {file}")
    found: dict[str, str] = {}
    seen = set()
    for line, row in _rows(file):
        if not isinstance(row, dict) or not all(isinstance(row.get(name), str) for name in COLUMNS):
            raise ValueError(f"data.captions: {file}, line {line} is {_shown(row)}; needed: {' and '.join(COLUMNS)}")
        path, caption = str(Path(row["path"])), composed(row["caption"].strip())
        if composed(path) in seen:
            raise ValueError(f"data.captions: {file}, line {line} captions {path!r} again")
        if not caption.isprintable() and any(letter == "\0" or "\ud800" <= letter <= "\udfff" for letter in caption):
            raise ValueError(f"data.captions: {file}, line {line} holds half a character, or NUL: {_shown(caption)}")
        seen.add(composed(path))
        found[path] = caption
    return found


def _rows(file: Path) -> Iterator[tuple[int, object]]:
    """Line and content of each row of a CSV or JSONL file."""
    text = read_text(file, "data.captions")
    yield from (_csv_rows if file.suffix == ".csv" else _json_rows)(file, text)


def _csv_rows(file: Path, text: str) -> Iterator[tuple[int, dict[str, str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    line, names = 1, None
    try:
        for fields in reader:
            if not "".join(fields).strip():
                pass
            elif names is None:
                names = _header(file, line, fields)
            elif len(fields) != len(names):
                raise ValueError(
                    f"data.captions: {file}, line {line} has {len(fields)} fields, the header {len(names)}: "
                    f'{_shown(fields)}; needed: path and caption, a text with commas between quotes, a.wav,"slow, sad"'
                )
            else:
                yield line, dict(zip(names, fields, strict=True))
            line = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"data.captions: {file}, the row from line {line} on is not CSV: {error}") from error
    if names is None:
        raise ValueError(f"data.captions: {file} is empty; needed: a header with the columns {' and '.join(COLUMNS)}")


def _header(file: Path, line: int, fields: list[str]) -> list[str]:
    names = [name.strip() for name in fields]
    if any(names.count(name) != 1 for name in COLUMNS):
        raise ValueError(
            f"data.captions: {file}, line {line} is {_shown(fields)}; needed: a header with the columns "
            f"{' and '.join(COLUMNS)}, once each, separated by commas"
        )
    return names


def _json_rows(file: Path, text: str) -> Iterator[tuple[int, object]]:
    for line, content in enumerate(text.split("\n"), start=1):
        if not content.strip():
            continue
        try:
            yield line, json.loads(content, object_pairs_hook=_each_key_once)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"data.captions: {file}, line {line} is not JSON: {error}") from error


def _each_key_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    row = dict(pairs)
    if len(row) < len(pairs):
        raise ValueError(f"a key stands twice among {[name for name, _ in pairs]}")
    return row


def _shown(row: object) -> str:
    text = repr(row)
    return text if len(text) <= NUM_SHOWN else text[:NUM_SHOWN] + "..."
