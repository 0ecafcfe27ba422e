"""What is measured: clips of a run, given ones, and real motion; see `motion.measured`.

`open_real` opens what the config key `real` names.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from core.storage.arrays import map_array
from motion.body.skeleton import SKELETONS
from motion.datasets.humanml3d import HumanML3DConfig
from motion.measured.real import RealMotion

KEY, DATA = "real", "data"  # real=data: the run's own
MEAN = "Mean.npy"
MOVES = {"moves": "train", "moves_heldout": "heldout"}  # real=NAME -> the split
REFERENCES = f"a folder in the format of HumanML3D, {DATA} (the run's), {', '.join(MOVES)}"


@dataclass(frozen=True)
class RealSource:
    """Which real motion is compared with.

    value  config key `real`; None: the run's data
    split  of it
    data   the config of the run's data, None where no run is known
    """

    value: str | None
    split: str
    data: Any = None

    def open(self, cache_dir: str, max_broken: int = 0) -> RealMotion:
        """The clips; ValueError, naming the config key, for a folder that is none."""
        return RealMotion(self.config(cache_dir, max_broken).build())

    def config(self, cache_dir: str, max_broken: int) -> HumanML3DConfig:
        """The data of the run, or of a folder, in the published rows and of the published lengths."""
        if self.value in (None, DATA):
            return replace(self.data, split=self.split, representation="full", frames=HumanML3DConfig.frames)
        folder = Path(self.value).expanduser()
        if not folder.is_dir():
            raise ValueError(f"{KEY} is {self.value!r}, which is not there; allowed: {REFERENCES}")
        options = {"max_broken": max_broken, "cache_dir": cache_dir}
        return HumanML3DConfig(root=str(folder), split=self.split, skeleton=skeleton_of(folder), **options)


def skeleton_of(folder: Path) -> str:
    """The skeleton of a folder's motion, by the size of its mean; ValueError for one that is none's."""
    shape = map_array(folder / MEAN).shape
    for name, skeleton in SKELETONS.items():
        if shape == (skeleton.size,):
            return name
    sizes = ", ".join(f"{skeleton.size} ({name})" for name, skeleton in SKELETONS.items())
    raise ValueError(f"{folder / MEAN} holds {shape} numbers; needed: {sizes}")
