"""The captions of HumanML3D and KIT-ML: a text file for each motion, one caption a line.

    a person walks forward.#a/DET person/NOUN walk/VERB forward/ADV#0.0#0.0

The words with their parts of speech are what the published text-motion evaluators read. The last two numbers are the
seconds that the caption is about; 0.0 and 0.0, or NaN, mean the whole motion.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path

from core.data.captions import composed

SEPARATOR, FIELDS = "#", 4
LATEST_SECONDS = 1e6


@dataclass(frozen=True)
class Description:
    """One caption of a motion.

    caption     the text
    tokens      its words, each as word/POS
    start, end  seconds that it is about; 0 and 0: the whole motion
    """

    caption: str
    tokens: list[str]
    start: float
    end: float

    @property
    def whole(self) -> bool:
        """Whether it is about the whole motion."""
        return self.start == 0 and self.end == 0

    def rows(self, fps: float, frames: int) -> tuple[int, int]:
        """First row and number of rows, of a motion of that many, that it is about."""
        if self.whole:
            return 0, frames
        first, last = (min(int(seconds * fps), frames) for seconds in (self.start, self.end))
        return first, max(0, last - first)


def read_descriptions(file: Path) -> list[Description]:
    """The captions of a text file, one or more; ValueError, naming the file and the line, for what is none.

    Empty lines are passed over. A caption that has no text is refused: nothing can be asked for by it.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ValueError(f"text file {file} is not there") from None
    except (UnicodeDecodeError, IsADirectoryError) as error:
        raise ValueError(f"text file {file} is not UTF-8 text: {error}") from error
    lines = enumerate(text.split("\n"), start=1)
    found = [_description(line, f"{file}, line {number}") for number, line in lines if line.strip()]
    if not found:
        raise ValueError(f"text file {file} is empty; needed: a line caption#word/POS word/POS#0.0#0.0")
    return found


def _description(line: str, where: str) -> Description:
    fields = line.strip().split(SEPARATOR)
    if len(fields) < FIELDS or not fields[0].strip() or "\0" in line:
        raise ValueError(f"{where} is {line.strip()[:120]!r}; needed: caption#word/POS word/POS#start#end, in seconds")
    start, end = (_seconds(field, where) for field in fields[2:FIELDS])
    tokens = [sys.intern(token) for token in fields[1].split()]  # each word stands thousands of times
    return Description(composed(fields[0].strip()), tokens, start, end)


def _seconds(field: str, where: str) -> float:
    try:
        seconds = float(field)
    except ValueError:
        raise ValueError(f"{where}: the time {field!r} is no number of seconds") from None
    if math.isnan(seconds):  # as published: the whole motion
        return 0.0
    if not 0 <= seconds <= LATEST_SECONDS:
        raise ValueError(f"{where}: the time {field!r} is none; needed: seconds from the start, 0 or more")
    return seconds
