"""What is prepared: takes, which are files of motion, and the segments that become clips. F frames, J joints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from motion.body.skeleton import Skeleton


@dataclass(frozen=True)
class Segment:
    """A clip and its frames, a slice of its take as Python reads one: an end of -1 leaves the last frame out."""

    name: str
    start: int = 0
    end: int | None = None


@dataclass(frozen=True)
class Take:
    """A file of motion, and the clips that are cut from it."""

    file: Path
    segments: tuple[Segment, ...]


@dataclass(frozen=True)
class Span:
    """Which part of a longer take a clip is: the take's name, and seconds from its start."""

    take: str
    start: float
    end: float


@dataclass(frozen=True)
class Motion:
    """What a take holds: joints (F, J, 3), metres, y up, at the skeleton's rate; a note if it was not as expected."""

    joints: Tensor
    note: str = ""


class Source(Protocol):
    """Where motion comes from; goes to worker processes by a pickle.

    skeleton  of its joints
    takes     in the order of their files
    left_out  why clips are left out that are not in `takes`, by name
    texts     folder or zip of captions, None where there is none
    splits    folder of train.txt and the others, None where clips are dealt out
    spans     of clips that are parts of a take with captions, by name
    """

    skeleton: Skeleton
    takes: Sequence[Take]
    left_out: Mapping[str, str]
    texts: Path | None
    splits: Path | None
    spans: Mapping[str, Span]

    def read(self, take: Take) -> Motion:
        """All that the segments of a take are cut from; ValueError naming the file."""
        ...

    def reference(self) -> Tensor:
        """A pose (J, 3) whose bones are as long as those of all clips become."""
        ...

    def facts(self) -> dict[str, Any]:
        """What decides the numbers of a clip of a given name, as JSON: clips made by other facts are not mixed."""
        ...


def cut(joints: Tensor, segment: Segment) -> Tensor:
    """The frames of a segment, of joints (F, J, 3); ValueError where fewer than two are left."""
    found = joints[segment.start : segment.end]
    if len(found) < 2:
        asked = f"frames {segment.start} to {segment.end} of " if segment.end is not None else ""
        raise ValueError(f"{asked}{len(joints)} frames are {len(found)}; a clip needs 2")
    return found
