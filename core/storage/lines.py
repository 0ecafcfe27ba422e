"""Records of one JSON object a line, which survive the end of the process that appends to them."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

from core.storage.atomic import sync

log = logging.getLogger(__name__)


class JsonLines:
    """An append-only file of one JSON object a line, each with its `step`.

    A process may be killed at any moment: a line cut short belongs to a step after the newest checkpoint, and the next
    session starts by rewriting the file without it.
    """

    def __init__(self, path: Path, resume_step: int):
        """Lines of steps after `resume_step`, and a line cut short, are dropped: those steps will be made again.

        The other lines keep their bytes, and the last one gets the line end that it may lack.
        """
        self.path = path
        kept = b"".join(text + b"\n" for text, line in _whole_lines(path) if line["step"] <= resume_step)
        temporary = path.with_name(f".{path.name}.tmp")  # one left over from a killed process is overwritten
        temporary.write_bytes(kept)
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)

    def write(self, line: dict[str, Any]) -> None:
        """Append one line and hand it to the system.

        Raises ValueError for a number that is not finite, OSError naming the file where it cannot be written.
        """
        for name, value in line.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(
                    f"{self.path.name}, step {line['step']}: {name} is {value}; records hold finite numbers"
                )
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, allow_nan=False) + "\n")
        except OSError as error:
            raise OSError(f"{self.path} could not be written: {error.strerror}") from error

    def sync(self) -> None:
        """Return when every line is on the disk."""
        sync(self.path)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a JSON-lines file, [] where there is none; a line cut short by a crash is left out.

    A damaged line that is not the last (after a power cut, say) is left out too, with a warning in the log.
    """
    return [line for _, line in _whole_lines(path)]


def _whole_lines(path: Path) -> list[tuple[bytes, dict[str, Any]]]:
    """The text of each whole line, without its end, and what it says."""
    texts = path.read_bytes().removesuffix(b"\n").split(b"\n") if path.exists() else []
    whole = []
    for number, text in enumerate(texts, start=1):
        line = _parse(text)
        if line is not None:
            whole.append((text, line))
        elif number < len(texts):
            log.warning("%s: line %d cannot be read and is left out: %r", path, number, text[:40])
    return whole


def _parse(text: bytes) -> dict[str, Any] | None:
    try:
        line = json.loads(text)
    except ValueError:  # no JSON, or no UTF-8
        return None
    return line if isinstance(line, dict) and isinstance(line.get("step"), int) else None
