"""The index of HumanML3D: which frames of which recording of AMASS or HumanAct12 are a clip, and its name."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from motion.preparation.takes import Segment

COLUMNS = ("source_path", "start_frame", "end_frame", "new_name")
HUMANACT12 = "humanact12"
ROOT = "pose_data"  # of the paths in the index
NAME = re.compile(r"[A-Za-z0-9_-]+")
# Seconds at the start of a recording that the index does not count, by data set: people stand in a T-pose there.
SKIPPED_SECONDS = {
    **{"Eyes_Japan_Dataset": 3.0, "MPI_HDM05": 3.0, "TotalCapture": 1.0, "MPI_Limits": 1.0, "Transitions_mocap": 0.5}
}
# The folder of a data set in the index, and the names under which AMASS packs it otherwise.
FOLDERS = {
    "BioMotionLab_NTroje": ("BMLrub",),
    "DFaust_67": ("DFaust",),
    "Eyes_Japan_Dataset": ("EyesJapanDataset",),
    "MPI_HDM05": ("HDM05",),
    "MPI_Limits": ("PosePrior",),
    "MPI_mosh": ("MoSh", "Mosh"),
    "SSM_synced": ("SSM",),
    "TCD_handMocap": ("TCDHands", "TCDHandMocap"),
    "Transitions_mocap": ("Transitions",),
}


@dataclass(frozen=True)
class Indexed:
    """A recording and its clips.

    path  below the root of the data, without its suffix: "KIT/3/kick_high_left02_poses"
    """

    path: PurePosixPath
    segments: tuple[Segment, ...]

    @property
    def dataset(self) -> str:
        """The data set's folder, the first of the path."""
        return self.path.parts[0]

    @property
    def is_humanact12(self) -> bool:
        """Whether its file holds joints, not poses of a body model."""
        return self.dataset == HUMANACT12

    @property
    def skipped_seconds(self) -> float:
        """How much of its start the index does not count."""
        return SKIPPED_SECONDS.get(self.dataset, 0.0)

    def find(self, root: Path) -> Path | None:
        """Its .npz below `root`, None where there is none; a data set may have its other name."""
        for folder in (self.dataset, *FOLDERS.get(self.dataset, ())):
            file = root.joinpath(folder, *self.path.parts[1:-1], self.path.name + ".npz")
            if file.is_file():
                return file
        return None


def read_index(path: Path) -> list[Indexed]:
    """The recordings of an index.csv, each with its clips, in the order of the file.

    Raises ValueError, naming file and line, for a row that is none, and for a name that stands there twice.
    """
    if not path.is_file():
        raise ValueError(f"the index {path} is not there; it is index.csv of the repository EricGuo5513/HumanML3D")
    segments: dict[PurePosixPath, list[Segment]] = {}
    names: set[str] = set()
    try:
        for where, row in _rows(path):
            source, segment = _parse(row, where)
            if segment.name in names:
                raise ValueError(f"{where}: the clip {segment.name} stands there twice")
            names.add(segment.name)
            segments.setdefault(source, []).append(segment)
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as CSV: {error}") from error
    if not segments:
        raise ValueError(f"{path} names no clip")
    return [Indexed(source, tuple(found)) for source, found in segments.items()]


def _rows(path: Path) -> Iterator[tuple[str, dict[str, str | None]]]:
    """Each row by its columns, and where it stands; ValueError where a column is missing."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        if not set(COLUMNS) <= set(rows.fieldnames or ()):
            raise ValueError(f"{path} has the columns {rows.fieldnames}; needed: {', '.join(COLUMNS)}")
        for row in rows:
            yield f"{path}, line {rows.line_num}", row


def _parse(row: dict[str, str | None], where: str) -> tuple[PurePosixPath, Segment]:
    try:
        start, end = int(row["start_frame"]), int(row["end_frame"])
    except (TypeError, ValueError):
        raise ValueError(
            f"{where}: start_frame is {row['start_frame']!r} and end_frame {row['end_frame']!r}; expected numbers"
        ) from None
    name = (row["new_name"] or "").removesuffix(".npy")
    if not NAME.fullmatch(name):
        raise ValueError(f"{where}: new_name is {row['new_name']!r}; expected letters, digits, - and _, then .npy")
    parts = [part for part in PurePosixPath(row["source_path"] or "").parts if part != "."]
    if parts[:1] == [ROOT]:
        parts = parts[1:]
    if len(parts) < 2 or ".." in parts or parts[0] == "/" or not parts[-1].endswith(".npy"):
        raise ValueError(
            f"{where}: source_path is {row['source_path']!r}; expected ./pose_data/<data set>/.../<name>.npy"
        )
    whole = parts[0] == HUMANACT12  # the published preparation does not cut these, whatever the index says
    source = PurePosixPath(*parts[:-1], parts[-1].removesuffix(".npy"))
    return source, Segment(name) if whole else Segment(name, start, end)
