"""A folder of one's own joints, .npy of (frames, joints, 3): a source of `python -m motion.prepare`.

Letters: F frames, J joints of the skeleton.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from core.data.files import existing_folder, files_under
from core.storage.arrays import map_array, read_array
from motion.body.skeleton import SKELETONS, Skeleton
from motion.preparation.takes import Motion, Segment, Span, Take

BODY_OF_SMPL = (24, 52, 55)  # joints of SMPL, SMPL+H and SMPL-X, the first 22 of which are those of t2m
UP = {"y": (0, 1, 2), "z": (1, 2, 0)}  # the axes that become x, y, z: a turn, so that left stays left
SHORTEST, LONGEST = 1.0, 15.0  # metres of all bones of a body together, 4 or 5 of a grown one
LEAST_SECONDS = 2.0  # of clips that takes are cut into
UPRIGHT = 0.3  # share of the way from the feet to the head that goes up, in the middle one of the frames


@dataclass(frozen=True, kw_only=True)
class JointsConfig:
    """A folder of .npy files at any depth, one for each take.

    root       the folder
    fps        frames a second of the files
    up         the axis that points up
    scale      metres in a unit of the files: 0.01 for centimetres
    seconds    longer takes are cut into equal clips of at most so many; null: they stay whole
    reference  .npy of joints in metres whose first frame gives the bones of all clips; null: of the first file
    """

    root: str
    fps: float
    up: Literal["y", "z"] = "y"
    scale: float = 1.0
    seconds: float | None = None
    reference: str | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.fps <= 1000:
            raise ValueError(f"source.fps is {self.fps:g}; allowed: 1 to 1000 frames a second")
        if self.scale <= 0:
            raise ValueError(f"source.scale is {self.scale:g}; it must be above 0, metres in a unit of the files")

        if self.seconds is not None and not self.seconds >= LEAST_SECONDS:
            raise ValueError(f"source.seconds is {self.seconds:g}; allowed: {LEAST_SECONDS:g} or more, or null")

    def build(self, skeleton: Skeleton) -> JointsSource:
        """The source; ValueError for a folder without files."""
        return JointsSource(self, skeleton)


class JointsSource:
    """Fulfils `motion.preparation.takes.Source`; a clip has the name of its file, folders joined by "_"."""

    splits: Path | None = None

    def __init__(self, config: JointsConfig, skeleton: Skeleton):
        self.config, self.skeleton, self.left_out = config, skeleton, {}
        root = existing_folder(config.root, "source.root")
        files = files_under(root, (".npy",))
        if not files:
            raise ValueError(f"source.root is {config.root!r}, which holds no .npy file")
        self.spans: dict[str, Span] = {}
        self.texts = root if files_under(root, (".txt",)) else None  # beside the files
        self.takes = [Take(file, self._segments(clip_name(file.relative_to(root)), file)) for file in files]
        names: dict[str, Path] = {}
        for take in self.takes:
            for segment in take.segments:
                if segment.name in names:
                    both = f"{names[segment.name]} and {take.file}"
                    raise ValueError(f"{both} would both be the clip {segment.name}; rename one")
                names[segment.name] = take.file

    def read(self, take: Take) -> Motion:
        """The joints of a file: axes, units and rate changed."""
        joints = resample(self._read(take.file), self.config.fps, self.skeleton.fps)
        return Motion(joints, "" if is_upright(joints, self.skeleton) else "no upright body: is source.up right?")

    def reference(self) -> Tensor:
        """The first frame (J, 3) of the file that is named, or of the first."""
        if self.config.reference is not None:
            file = Path(self.config.reference).expanduser()
            return self._person(self._checked(read_array(file), file), file, "source.reference has to be in metres")[0]
        try:
            return self._read(self.takes[0].file)[0]
        except ValueError as error:
            raise ValueError(f"{error}; it gives all clips their bones, source.reference=... names another") from error

    def facts(self) -> dict[str, Any]:
        """What decides the numbers of a clip beside its file."""
        return {"source": "joints", **{key: getattr(self.config, key) for key in ("fps", "up", "scale", "seconds")}}

    def _segments(self, name: str, file: Path) -> tuple[Segment, ...]:
        """The clips of a file: itself, or parts of equal length, which are its spans."""
        if self.config.seconds is None:
            return (Segment(name),)
        try:
            frames = resampled(len(map_array(file)), self.config.fps / self.skeleton.fps)
        except (ValueError, TypeError):  # it is told when it is read
            return (Segment(name),)
        fps = self.skeleton.fps
        count = math.ceil(frames / (self.config.seconds * fps))
        if count < 2:
            return (Segment(name),)
        bounds = [round(part * frames / count) for part in range(count + 1)]
        parts = [Segment(f"{name}_{n}", *each) for n, each in enumerate(itertools.pairwise(bounds))]
        self.spans |= {part.name: Span(name, part.start / fps, part.end / fps) for part in parts}
        return tuple(parts)

    def _read(self, file: Path) -> Tensor:
        joints = self._checked(read_array(file), file)[..., list(UP[self.config.up])] * self.config.scale
        return self._person(joints, file, f"source.scale is {self.config.scale:g}, metres in a unit of the file")

    def _person(self, joints: Tensor, file: Path, advice: str) -> Tensor:
        bones = float(self.skeleton.bones(joints[0]).sum())
        if not SHORTEST <= bones <= LONGEST:
            raise ValueError(f"{file}: all bones together have {bones:.4g} m, those of a person 4 or 5; {advice}")
        return joints

    def _checked(self, joints: np.ndarray, file: Path) -> Tensor:
        """Finite joints (F, J, 3) float32 as they stand; ValueError naming the file."""
        count = self.skeleton.joints
        if joints.ndim == 3 and self.skeleton.name == "t2m" and joints.shape[1] in BODY_OF_SMPL:
            joints = joints[:, :count]
        if joints.ndim != 3 or joints.shape[1:] != (count, 3) or joints.dtype.kind not in "fiu":
            known = ", ".join(f"{name} {each.joints}" for name, each in SKELETONS.items())
            raise ValueError(
                f"{file} holds {joints.dtype} {joints.shape}, expected (frames, {count}, 3) of the skeleton "
                f"{self.skeleton.name!r} (joints: {known}; of SMPL's 24, SMPL+H's 52 and SMPL-X's 55 the first 22)"
            )
        if len(joints) < 2:
            raise ValueError(f"{file} has {len(joints)} frames; a clip needs 2")
        if not np.isfinite(joints).all():
            raise ValueError(f"{file} holds {int((~np.isfinite(joints)).sum())} numbers that are NaN or infinite")
        return torch.from_numpy(joints.astype(np.float32))


def clip_name(path: PurePath) -> str:
    """The name of the clip of a file below the root: "walks/slow 1.npy" becomes "walks_slow-1"."""
    parts = ["".join(c if c.isalnum() or c in "-_" else "-" for c in part) for part in path.with_suffix("").parts]
    return "_".join(parts)


def resampled(frames: int, ratio: float) -> int:
    """How many frames are left of `frames` at a rate that is `ratio` times lower."""
    return int((frames - 1) / ratio + 1e-6) + 1 if frames else 0


def is_upright(joints: Tensor, skeleton: Skeleton) -> bool:
    """Whether the head is above the feet in most frames (F, J, 3), as of one who neither lies nor has another up."""
    heights = [0]  # of the joints of the rest pose, in bones
    for parent, (_, up, _) in zip(skeleton.parents[1:], skeleton.raw_offsets[1:], strict=True):
        heights.append(heights[parent] + up)
    head = joints[:, heights.index(max(heights))]
    way = head - joints[:, list(skeleton.feet)].mean(1)
    return float((way[:, 1] / way.norm(dim=-1).clamp_min(1e-9)).median()) > UPRIGHT


def resample(joints: Tensor, fps: float, wanted: float) -> Tensor:
    """Joints (F, J, 3) at another rate: every k-th frame where the rate is k times the wanted one, else linear in time.

    Frame i of the result is at i / wanted seconds; times after the last frame are left out.
    """
    ratio = fps / wanted
    if abs(ratio - round(ratio)) < 1e-6 and ratio >= 1:
        return joints[:: round(ratio)]
    last = len(joints) - 1
    place = torch.arange(resampled(len(joints), ratio), dtype=torch.float64) * ratio
    before = place.floor().long().clamp(max=last)
    after, weight = (before + 1).clamp(max=last), (place - before).to(joints.dtype)[:, None, None]
    return joints[before] + (joints[after] - joints[before]) * weight
