"""Records of one JSON object a line, which survive the end of the process that appends to them."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from core.storage.atomic import sync, writing

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
        self.path, self.whole = path, True
        texts = [text + b"\n" for text, line in _whole_lines(path) if line["step"] <= resume_step]
        self.lines, self.bytes, self.digest = 0, 0, hashlib.sha256()
        self._count(*texts)
        temporary = path.with_name(f".{path.name}.tmp")  # one left over from a killed process is overwritten
        with writing(path):
            temporary.write_bytes(b"".join(texts))
            sync(temporary)
            temporary.replace(path)
            sync(path.parent)

    def _count(self, *texts: bytes) -> None:
        for text in texts:
            self.lines, self.bytes = self.lines + 1, self.bytes + len(text)
            self.digest.update(text)

    def facts(self) -> dict[str, Any]:
        """How many lines and bytes were written, and their SHA-256: what `lost_lines` is told later."""
        return {"lines": self.lines, "bytes": self.bytes, "sha256": self.digest.hexdigest()}

    def write(self, line: dict[str, Any]) -> None:
        """Append one line and hand it to the system.

        Raises ValueError for a number that is not finite, OSError naming the file where it cannot be written.
        """
        for name, value in line.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(
                    f"{self.path.name}, step {line['step']}: {name} is {value}; records hold finite numbers"
                )
        text = (json.dumps(line, allow_nan=False) + "\n").encode()
        with writing(self.path), self.path.open("ab") as file:
            file.write(text)
        self._count(text)

    def sync(self) -> None:
        """Return when every line is on the disk; lines that somebody else has removed meanwhile are told, once."""
        size = self.path.stat().st_size if self.path.is_file() else 0
        if self.whole and size != self.bytes:
            self.whole = False
            told = "%s was changed by somebody else: it has %d bytes, %d were written"
            log.warning(told, self.path, size, self.bytes)
        if self.path.is_file():
            sync(self.path)


def lost_lines(path: Path, noted: Mapping[str, Any], step: int) -> str | None:
    """What is lost of the lines that stood in a file at the checkpoint of `step`, in words; None where nothing is.

    noted  the `facts` of that moment; lines that were appended later are not looked at
    """
    content = path.read_bytes() if path.exists() else b""
    content += b"" if content.endswith(b"\n") else b"\n"
    if hashlib.sha256(content[: noted["bytes"]]).hexdigest() == noted["sha256"]:
        return None
    left = [line["step"] for line in read_lines(path) if line["step"] <= step]
    found = f"those left are of steps {left[0]} to {left[-1]}" if left else "none is left"
    lost = noted["lines"] - len(left)
    what = f"{lost} of the {noted['lines']} lines" if lost > 0 else f"some of the {noted['lines']} lines"
    return f"{path}: {what} up to step {step} are lost or changed, and are not made again; {found}"


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a JSON-lines file, [] where there is none; a line cut short by a crash is left out.

    A damaged line that is not the last (after a power cut, say) is left out too, with a warning in the log.
    """
    return [line for _, line in _whole_lines(path)]


def curve(lines: Sequence[Mapping[str, Any]], name: str) -> tuple[list[int], list[float]]:
    """Steps and values of the lines in which `name` is a finite number: a config may change, and people edit."""
    found = [(line["step"], line[name]) for line in lines if is_number(line.get(name))]
    return [step for step, _ in found], [value for _, value in found]


def is_number(value: Any) -> bool:
    """Whether the value of a line is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _whole_lines(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """The text of each whole line, without its end, and what it says, one at a time: records may be long."""
    texts = path.read_bytes().removesuffix(b"\n").split(b"\n") if path.exists() else []
    for number, text in enumerate(texts, start=1):
        line = _parse(text)
        if line is not None:
            yield text, line
        elif number < len(texts):
            log.warning("%s: line %d cannot be read and is left out: %r", path, number, text[:40])


def _parse(text: bytes) -> dict[str, Any] | None:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):  # no JSON, no UTF-8, or nested without end
        return None
    return line if isinstance(line, dict) and isinstance(line.get("step"), int) else None
