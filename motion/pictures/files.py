"""Files of single clips beside those that show several: an MP4 of each, and on request a BVH file.

Letters: F frames, J joints.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from core.data.movies import QUICK, write_mp4
from motion.body.bvh import write_bvh
from motion.data import MotionFormat

CLIPS, BVH = "mp4", "bvh"


class ClipFiles:
    """Folders with a file for each clip: mp4/000000.mp4, and bvh/000000.bvh where they are asked for.

    distances  of the BVH files, whose bones have constant lengths, from the clips: means over joints and frames, metres
    """

    def __init__(self, folder: Path, clips: MotionFormat, titles: Sequence[str], bvh: bool):
        self.folder, self.format, self.titles, self.bvh = folder, clips, titles, bvh
        self.distances: list[float] = []

    def write(self, number: int, joints: np.ndarray) -> None:
        """The files of clip `number` (F, J, 3) in metres; ValueError for one whose numbers are not finite."""
        from motion.pictures.animation import animate
        from motion.pictures.strips import check_finite

        check_finite([joints], self.titles[number : number + 1], number)
        skeleton, fps = self.format.skeleton, self.format.fps
        frames = animate(joints, self.titles[number], skeleton, fps)
        write_mp4(frames, self.folder / CLIPS / f"{number:06d}.mp4", fps, QUICK)
        if self.bvh:
            file = self.folder / BVH / f"{number:06d}.bvh"
            self.distances.append(write_bvh(joints, skeleton, fps, file))
