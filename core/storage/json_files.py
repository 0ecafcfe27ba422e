"""The one reader of JSON: what a file holds, or one error that names it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_json(path: Path) -> Any:
    """What a file holds; FileNotFoundError where it is not there, ValueError, naming it, where it is damaged."""
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise ValueError(f"{path} is no file")
    return parse_json(path.read_bytes(), path)


def read_mapping(path: Path) -> dict[str, Any]:
    """The same of a file that holds names and their values."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged: it holds {type(content).__name__}, needed: names and values")
    return content


def parse_json(text: str | bytes, source: Path | str) -> Any:
    """What a text says; ValueError naming `source` for one that is not JSON, in UTF-8, or nested without end."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError(f"{source} is damaged: it is nested too deeply") from error
    except ValueError as error:  # also text that is not UTF-8
        raise ValueError(f"{source} is damaged: {error}") from error
