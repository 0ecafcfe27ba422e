"""Files of single clips beside those that show several: an MP4 of each, and on request a BVH file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from core.data.movies import QUICK, write_mp4
from motion.body.bvh import write_bvh
from motion.body.skeleton import Skeleton
from motion.pictures.animation import animate

CLIPS, BVH = "mp4", "bvh"


class ClipFiles:
    """Folders with a file for each clip: mp4/000000.mp4, and bvh/000000.bvh where they are asked for.

    distances  of the clips' BVH files from their joints, metres, which are not of constant bone length
    """

    def __init__(self, folder: Path, skeleton: Skeleton, fps: float, bvh: bool):
        self.folder, self.skeleton, self.fps, self.bvh = folder, skeleton, fps, bvh
        self.distances: list[float] = []

    def write(self, number: int, joints: np.ndarray, title: str) -> None:
        """The files of a clip (F, J, 3) in metres."""
        frames = animate(joints, title, self.skeleton, self.fps)
        write_mp4(frames, self.folder / CLIPS / f"{number:06d}.mp4", self.fps, QUICK)
        if self.bvh:
            file = self.folder / BVH / f"{number:06d}.bvh"
            self.distances.append(write_bvh(joints, self.skeleton, self.fps, file))
