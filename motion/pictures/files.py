"""Files of single clips beside those that show several: an MP4 of each, and on request a BVH file and a body's mesh.

Letters: F frames, J joints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from core.data.movies import QUICK, write_mp4
from motion.body.bvh import write_bvh
from motion.body.skeleton import T2M
from motion.body.smpl import BodyModel, BodyModels
from motion.data import MotionFormat

CLIPS, BVH, MESH = "mp4", "bvh", "mesh"
MAX_MESHES = 12  # shown: each costs some seconds


@dataclass(frozen=True)
class Extras:
    """What is written of each clip beside its MP4.

    bvh   whether a BVH file
    body  a body model whose mesh is shown for the first of them, or None
    """

    bvh: bool = False
    body: BodyModel | None = None


def read_body(root: str | None, gender: str, clips: MotionFormat) -> BodyModel | None:
    """The body model of a gender in a directory, or None without one.

    ValueError, naming the config key, where it is not there, and for clips of a skeleton that it does not have.
    """
    if root is None:
        return None
    if clips.skeleton.name != T2M.name:
        raise ValueError(
            f"mesh={root} needs clips of skeleton '{T2M.name}'; those of the model are of '{clips.skeleton.name}'"
        )
    return BodyModels(root, "mesh").model(gender)


class ClipFiles:
    """Folders with files of each clip: mp4/000000.mp4, on request bvh/000000.bvh, mesh/000000.mp4, mesh/000000.png.

    distances  folder -> how far the joints of each file's body, of constant bone lengths, are from the clip's: the mean
               over joints and frames, metres
    """

    def __init__(self, folder: Path, clips: MotionFormat, titles: Sequence[str], extras: Extras):
        self.folder, self.format, self.titles, self.extras = folder, clips, titles, extras
        self.distances: dict[str, list[float]] = {}

    def write(self, number: int, joints: np.ndarray) -> None:
        """The files of clip `number` (F, J, 3) in metres; ValueError for one whose numbers are not finite."""
        from motion.pictures.animation import animate
        from motion.pictures.figure import Figure
        from motion.pictures.strips import check_finite

        title, skeleton, fps = self.titles[number], self.format.skeleton, self.format.fps
        check_finite([joints], [title], number)
        frames = animate(joints, title, Figure(skeleton), fps)
        write_mp4(frames, self.folder / CLIPS / f"{number:06d}.mp4", fps, QUICK)
        if self.extras.bvh:
            file = self.folder / BVH / f"{number:06d}.bvh"
            self.distances.setdefault(BVH, []).append(write_bvh(joints, skeleton, fps, file))
        if self.extras.body is not None and number < MAX_MESHES:
            self._write_mesh(number, joints)

    def _write_mesh(self, number: int, joints: np.ndarray) -> None:
        """The mesh of the body model as an MP4 and as a film strip."""
        from motion.pictures.animation import animate
        from motion.pictures.mesh import MeshFigure
        from motion.pictures.strips import save_png, strip

        figure = MeshFigure(joints, self.format.skeleton, self.extras.body)
        self.distances.setdefault(MESH, []).append(figure.distance)
        title, fps, file = self.titles[number], self.format.fps, self.folder / MESH / f"{number:06d}"
        write_mp4(animate(joints, title, figure, fps), file.with_suffix(".mp4"), fps, QUICK)
        save_png(strip(joints, title, figure, fps), file.with_suffix(".png"))
