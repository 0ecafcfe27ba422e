"""Recordings of AMASS in the SMPL+H flavour: body poses of an .npz as joints at 20 frames a second.

Rules of the published preparation of HumanML3D are kept: every k-th frame, k = whole part of rate / 20; the female body
for whoever is not "male"; no soft tissue. y is up afterwards, and x points to the other side, until a clip is cut.

Letters: F frames.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from core.storage.arrays import npz_array, npz_keys
from motion.body.smpl import NUM_BETAS, BodyModels

FPS = 20
POSE_NUMBERS = 156  # axis angles of the 52 joints of SMPL+H
SMPLX_NUMBERS = 165  # of the 55 of SMPL-X
KEYS = ("poses", "betas", "trans", "gender", "mocap_framerate")
AT_ONCE = 4096  # frames that are posed together
WHICH = "on https://amass.is.tue.mpg.de/download.php take 'SMPL+H G' of each data set"


@dataclass(frozen=True)
class Recording:
    """The poses (F, 156), shape (betas,), path of the root (F, 3) and gender of an .npz, with its frames a second."""

    poses: np.ndarray
    betas: np.ndarray
    trans: np.ndarray
    gender: str
    fps: float

    @classmethod
    def read(cls, path: Path) -> Recording:
        """From a file; ValueError, naming it, for one of another flavour or with numbers that are none."""
        keys = npz_keys(path)
        if "surface_model_type" in keys or "mocap_frame_rate" in keys:
            raise ValueError(f"{path} is a file of the SMPL-X flavour of AMASS; needed is SMPL+H: {WHICH}")
        missing = [key for key in KEYS if key not in keys]
        if missing:
            raise ValueError(f"{path} is no recording of AMASS: it has no {', '.join(missing)}")
        poses, betas, trans = (np.asarray(npz_array(path, key)) for key in KEYS[:3])
        rate = np.asarray(npz_array(path, "mocap_framerate"))
        if rate.size != 1 or rate.dtype.kind not in "fiu" or not math.isfinite(fps := float(rate.reshape(()))):
            raise ValueError(f"{path}: mocap_framerate is {rate.tolist()!r}, expected a number of frames a second")
        return cls(poses, betas, trans, _gender(path), fps)._checked(path)

    def _checked(self, path: Path) -> Recording:
        count = self.poses.shape[-1] if self.poses.ndim == 2 else None
        if count == SMPLX_NUMBERS:
            raise ValueError(f"{path} has poses of the 55 joints of SMPL-X; needed is SMPL+H: {WHICH}")
        if count != POSE_NUMBERS:
            shape = self.poses.shape
            raise ValueError(f"{path}: poses has the shape {shape}, expected (frames, {POSE_NUMBERS}) of SMPL+H")
        if self.trans.shape != (len(self.poses), 3):
            raise ValueError(f"{path}: trans has the shape {self.trans.shape}, expected ({len(self.poses)}, 3)")
        if self.betas.ndim != 1 or len(self.betas) < NUM_BETAS:
            raise ValueError(f"{path}: betas has the shape {self.betas.shape}, expected at least {NUM_BETAS} numbers")
        if self.fps < FPS:
            raise ValueError(f"{path} has {self.fps:g} frames a second; fewer than {FPS} are not made more")
        for name in ("poses", "betas", "trans"):
            if getattr(self, name).dtype.kind not in "fiu" or not np.isfinite(getattr(self, name)).all():
                raise ValueError(f"{path}: {name} holds NaN, infinity or no numbers")
        return self

    @property
    def stride(self) -> int:
        """Every how many frames one is taken: the whole part, so that 59 a second become 29.5, as published."""
        return int(self.fps / FPS)

    @property
    def sampled_fps(self) -> float:
        """Frames a second that are left: 20 where the rate is a multiple of it."""
        return self.fps / self.stride

    def joints(self, models: BodyModels) -> np.ndarray:
        """The body's joints (F, 22, 3) at 20 frames a second, metres, y up; float32."""
        betas = torch.from_numpy(self.betas[:NUM_BETAS].astype(np.float32))
        poses = torch.from_numpy(np.ascontiguousarray(self.poses[:: self.stride, :66], np.float32))
        trans = torch.from_numpy(np.ascontiguousarray(self.trans[:: self.stride], np.float32))
        gender = "male" if self.gender == "male" else "female"
        parts = [
            models.joints(poses[first : first + AT_ONCE], betas, trans[first : first + AT_ONCE], gender)
            for first in range(0, len(poses), AT_ONCE)
        ]
        found = torch.cat(parts) if parts else torch.zeros(0, 22, 3)
        return found.numpy()[..., [0, 2, 1]]  # z is up in AMASS


def _gender(path: Path) -> str:
    """As the file says it; a name stored as bytes is none: the published preparation compares it with a text."""
    found = np.asarray(npz_array(path, "gender"))
    if found.size != 1 or found.dtype.kind not in "US":
        raise ValueError(f"{path}: gender is {found.tolist()!r:.60}, expected a word")
    return str(found.reshape(()).item())
