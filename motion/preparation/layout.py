"""Where a folder in the format of HumanML3D keeps what."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

SPLITS = ("train", "val", "test")
MIRROR = "M"  # before the name of a clip, of its mirror


@dataclass(frozen=True)
class Layout:
    """The places below `root`."""

    root: Path

    @property
    def rows(self) -> Path:
        """Folder of the rows (F, C) of each clip, float32."""
        return self.root / "new_joint_vecs"

    @property
    def joints(self) -> Path:
        """Folder of the joints (F, J, 3) of each clip, in the units of the rows."""
        return self.root / "new_joints"

    @property
    def texts(self) -> Path:
        """Folder of the captions of each clip, a line each."""
        return self.root / "texts"

    @property
    def mean(self) -> Path:
        """Mean (C,) of all rows."""
        return self.root / "Mean.npy"

    @property
    def std(self) -> Path:
        """Deviation (C,) of all rows, averaged over each block."""
        return self.root / "Std.npy"

    @property
    def record(self) -> Path:
        """How the folder was prepared, JSON."""
        return self.root / "prepare.json"

    def split(self, name: str) -> Path:
        """The names of a split's clips, a line each."""
        return self.root / f"{name}.txt"

    def clips(self) -> list[str]:
        """Names of the clips that have rows, sorted."""
        return names_in(self.rows, ".npy")


def names_in(folder: Path, suffix: str) -> list[str]:
    """Names of the files of a folder without their suffix, sorted; hidden files are none."""
    if not folder.is_dir():
        return []
    files = (entry.name for entry in os.scandir(folder) if not entry.name.startswith("."))
    return sorted(name.removesuffix(suffix) for name in files if name.endswith(suffix))


def read_names(path: Path) -> list[str]:
    """The names in a split file; ValueError naming it where it is no text."""
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8") from error


def mirror_name(name: str) -> str:
    """The name of a clip's mirror."""
    return MIRROR + name
