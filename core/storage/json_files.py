"""JSON files of ours, which may come back damaged: read as a mapping, or refused in one line that names the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises FileNotFoundError or NotADirectoryError where there is none, OSError for a file that cannot be read, and
    ValueError for anything else: a folder, a file that was cut off, text that is no UTF-8, a list, nesting without end.
    """
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is no file")
    try:
        content = json.loads(path.read_bytes().decode())
    except RecursionError:
        raise ValueError(f"{path} is damaged: it is nested too deeply") from None
    except ValueError as error:  # no JSON, or no UTF-8
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged: it holds {type(content).__name__}, not an object")
    return content
