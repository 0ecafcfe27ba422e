"""The captions of prepared clips: a text file for each, one caption a line, in HumanML3D's format.

    a person walks forward.#a/DET person/NOUN walk/VERB forward/ADV#0.0#0.0

A line without "#" is a caption alone; its words get the part of speech OTHER, which the published evaluators know.
"""

from __future__ import annotations

import math
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath

from core.data.files import files_under
from core.storage.arrays import DAMAGE
from core.storage.atomic import write_atomic
from motion.preparation.layout import MIRROR, Layout, names_in
from motion.preparation.own import clip_name
from motion.preparation.takes import Span

LEAST_SECONDS = 1.0  # of a part that a caption is of
LARGEST = 1 << 20  # bytes of a text file
TOO_LARGE = f"a text file of more than {LARGEST:,} bytes"
WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")
OPPOSITES = (("left", "right"), ("clockwise", "counterclockwise"), ("clockwise", "anticlockwise"))
TURNED = {**{b: a for a, b in OPPOSITES}, **{a: b for a, b in reversed(OPPOSITES)}}
SIDES = re.compile(r"\b(counter[- ]clockwise|anti[- ]clockwise|" + "|".join(TURNED) + r")(?=s?\b|[-_/])", re.IGNORECASE)


class Texts:
    """The text files of a folder, at any depth, or of a zip, by the names of their clips."""

    def __init__(self, source: Path):
        """ValueError for what is neither a folder nor a zip."""
        self.source = source
        self._readers: dict[str, Callable[[], bytes]] = {}
        if source.is_dir():
            for file in files_under(source, (".txt",)):
                self._readers[clip_name(file.relative_to(source))] = file.read_bytes
        elif source.is_file() and zipfile.is_zipfile(source):
            self._open_zip()
        else:
            raise ValueError(f"texts is {str(source)!r}; needed: a folder of text files, or a zip of them")
        if not self._readers:
            raise ValueError(f"texts is {str(source)!r}, which holds no .txt file")

    def __contains__(self, name: str) -> bool:
        return name in self._readers

    def read(self, name: str) -> list[str]:
        """The lines of a clip in HumanML3D's format; ValueError, naming source and clip, for what is no text."""
        where = f"{self.source}: {name}.txt"
        try:
            content = self._readers[name]()
        except DAMAGE as error:
            raise ValueError(f"{where} is damaged: {error}") from error
        if len(content) > LARGEST:
            raise ValueError(f"{where} is {TOO_LARGE}")
        try:
            lines = content.decode("utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise ValueError(f"{where} is no text in UTF-8") from error
        return [formatted(line.strip()) for line in lines if line.strip()]

    def _open_zip(self) -> None:
        archive = zipfile.ZipFile(self.source)
        for member in archive.infolist():
            path = PurePosixPath(PurePosixPath(member.filename).name)
            if path.suffix == ".txt" and not path.name.startswith("."):
                if member.file_size > LARGEST:
                    raise ValueError(f"{self.source}: {member.filename} is {TOO_LARGE}")
                self._readers[clip_name(path)] = lambda member=member: archive.read(member)


def formatted(line: str) -> str:
    """A line as HumanML3D's: a caption alone gets its words, and is about the whole clip."""
    if line.count("#") >= 3:
        return line
    caption = line.replace("#", " ")
    words = " ".join(f"{word.lower()}/OTHER" for word in WORD.findall(caption))
    return f"{caption}#{words}#0.0#0.0"


def mirrored(line: str) -> str:
    """A caption of the mirrored clip: left is right, and clockwise is counterclockwise."""

    def turn(match: re.Match[str]) -> str:
        word = match[0]
        turned = TURNED[re.sub("[- ]", "", word.lower())]
        return turned.upper() if word.isupper() else turned.capitalize() if word[0].isupper() else turned

    return SIDES.sub(turn, line)


def part(line: str, span: Span) -> str | None:
    """A caption of a take as that of a part of it: its seconds from the part's start; None where it is of another."""
    caption, start, end = line.rsplit("#", 2) if line.count("#") == 3 else (line, "", "")
    try:
        first, last = float(start), float(end)
    except ValueError:  # it is told by who reads it
        return line
    if not (first or last) or math.isnan(first) or math.isnan(last):  # of the whole take
        return line
    first, last = max(first, span.start) - span.start, min(last, span.end) - span.start
    if last - first < LEAST_SECONDS:
        return None
    whole = first == 0 and last == span.end - span.start
    return f"{caption}#0.0#0.0" if whole else f"{caption}#{first:.3f}#{last:.3f}"


def write_texts(texts: Texts, layout: Layout, names: Iterable[str], spans: Mapping[str, Span]) -> list[str]:
    """Write the captions of clips that have none in the folder yet; the names of those that have none at all.

    A clip without a text of its own has those of the take that it is a part of, a mirror those of its clip, with left
    and right exchanged.
    """
    there, without = set(names_in(layout.texts, ".txt")), []
    for name in names:
        if name in there:
            continue
        lines = _lines(texts, name, spans)
        if lines:
            write_atomic(layout.texts / f"{name}.txt", "\n".join(lines) + "\n")
        else:
            without.append(name)
    return without


def _lines(texts: Texts, name: str, spans: Mapping[str, Span]) -> list[str]:
    if name in texts:
        return texts.read(name)
    if name in spans and spans[name].take in texts:
        parts = [part(line, spans[name]) for line in texts.read(spans[name].take)]
        return [line for line in parts if line is not None]
    own = name.removeprefix(MIRROR)
    return [mirrored(line) for line in _lines(texts, own, spans)] if own != name else []
