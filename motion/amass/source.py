"""AMASS and HumanAct12 as the index of HumanML3D cuts them: a source of `python -m motion.prepare`. F frames."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from core.data.files import existing_folder
from core.storage.arrays import read_array
from core.storage.atomic import sha256_file
from motion.amass.index import HUMANACT12, Indexed, read_index
from motion.amass.recordings import FPS, WHICH, Recording
from motion.body.skeleton import T2M, Skeleton
from motion.body.smpl import BODY_JOINTS, BodyModels
from motion.preparation.takes import Motion, Span, Take, cut

ZIP = "pose_data/humanact12.zip"
SHOWN = 3  # names in a message
CLOSE_FPS = 0.05  # frames a second by which a rate may differ from 20 and is called 20
MIRRORED_X = np.float32([-1, 1, 1])  # y and z have changed places, which mirrors a body: so it is itself again


@dataclass(frozen=True, kw_only=True)
class AmassConfig:
    """AMASS in the SMPL+H flavour, cut by the index of HumanML3D.

    root         folder with KIT/, CMU/, ... of AMASS
    body_models  folder with smplh/male/model.npz and smplh/female/model.npz
    repository   a copy of the repository EricGuo5513/HumanML3D, which has index, captions, splits and HumanAct12
    index        index.csv; null: of the repository
    humanact12   folder of the .npy files of HumanAct12; null: unpacked in the repository's pose_data
    reference    the clip whose bones all clips are given
    missing      refuse, or skip clips whose recordings are not there
    """

    root: str
    body_models: str
    repository: str | None = None
    index: str | None = None
    humanact12: str | None = None
    reference: str = "000021"
    missing: Literal["refuse", "skip"] = "refuse"

    def build(self, skeleton: Skeleton) -> AmassSource:
        """The source; ValueError for what is not there."""
        if skeleton is not T2M:
            raise ValueError(f"skeleton is {skeleton.name!r}; AMASS has the joints of {T2M.name!r}")
        return AmassSource(self)


class AmassSource:
    """Fulfils `motion.preparation.takes.Source`."""

    skeleton = T2M
    spans: Mapping[str, Span] = {}

    def __init__(self, config: AmassConfig):
        self.config = config
        self.root = existing_folder(config.root, "source.root")
        self.repository = existing_folder(config.repository, "source.repository") if config.repository else None
        self.models = BodyModels(config.body_models, "source.body_models")
        self.index = self._from_repository(config.index, "index.csv", "index")
        self.humanact12 = self._humanact12()
        self.left_out: dict[str, str] = {}
        self._indexed: dict[Path, Indexed] = {}
        self.takes = self._find(read_index(self.index))
        inner = self.repository / "HumanML3D" if self.repository else None
        self.splits = inner if inner and (inner / "train.txt").is_file() else None
        self.texts = next((inner / n for n in ("texts", "texts.zip") if (inner / n).exists()), None) if inner else None

    def read(self, take: Take) -> Motion:
        """All joints (F, 22, 3) of a recording that the index counts, metres, y up, at 20 frames a second."""
        source = self._indexed[take.file]
        if source.is_humanact12:
            return Motion(self._read_joints(take.file))
        recording = Recording.read(take.file)
        joints = recording.joints(self.models)[int(source.skipped_seconds * FPS) :]
        found, rates = recording.sampled_fps, f"{recording.fps:g} frames/s read as {recording.sampled_fps:.4g}"
        return Motion(torch.from_numpy(joints * MIRRORED_X), "" if abs(found - FPS) < CLOSE_FPS else rates)

    def reference(self) -> Tensor:
        """The first frame (22, 3) of the reference clip."""
        for take in self.takes:
            for segment in take.segments:
                if segment.name == self.config.reference:
                    return cut(self.read(take).joints, segment)[0]
        name, reason = self.config.reference, self.left_out.get(self.config.reference, "the index has no such clip")
        raise ValueError(f"source.reference is {name!r}, whose bones all clips are given: {reason}")

    def facts(self) -> dict[str, Any]:
        """What decides the numbers of a clip: index, body models and reference."""
        models = {gender: sha256_file(self.models.model(gender).path) for gender in ("male", "female")}
        return {"source": "amass", "index": sha256_file(self.index), "models": models, "fps": FPS}

    def _from_repository(self, given: str | None, name: str, key: str) -> Path:
        if given is not None:
            return Path(given).expanduser()
        if self.repository is None:
            raise ValueError(f"source.{key} is null; name {name}, or the repository that has it: source.repository=...")
        return self.repository / name

    def _humanact12(self) -> Path | None:
        if self.config.humanact12 is not None:
            return existing_folder(self.config.humanact12, "source.humanact12")
        folder = self.repository / "pose_data" / HUMANACT12 if self.repository else None
        return folder if folder and folder.is_dir() else None

    def _find(self, indexed: Sequence[Indexed]) -> list[Take]:
        takes, missing = [], []
        for source in indexed:
            file = self._find_joints(source) if source.is_humanact12 else source.find(self.root)
            if file is None:
                missing.append(source)
            else:
                takes.append(Take(file, source.segments))
                self._indexed[file] = source
        if missing:
            self._tell_missing(missing)
        return sorted(takes, key=lambda take: str(take.file))

    def _find_joints(self, source: Indexed) -> Path | None:
        if self.humanact12 is None:
            return None
        name = f"{source.path.name}.npy"
        return next((f for f in (self.humanact12 / name, self.humanact12 / HUMANACT12 / name) if f.is_file()), None)

    def _tell_missing(self, missing: Sequence[Indexed]) -> None:
        clips = Counter[str]()
        for source in missing:
            clips[source.dataset] += len(source.segments)
            file = f"{source.path}.{'npy' if source.is_humanact12 else 'npz'}"
            self.left_out |= {clip.name: f"{file} is not there" for clip in source.segments}
        if self.config.missing == "skip":
            return
        total, names = clips.total(), ", ".join(f"{name} {count}" for name, count in sorted(clips.items()))
        example = ", ".join(str(source.path) for source in missing[:SHOWN])
        hints = []
        if any(True for _ in self.root.glob("*/**/*_stageii.npz")):
            hints.append(f"there are files of the SMPL-X flavour; {WHICH}")
        if HUMANACT12 in clips and self.humanact12 is None:
            hints.append(f"source.humanact12=... names the folder unpacked from {ZIP} of the repository")
        told = "; ".join([*hints, "source.missing=skip prepares the others"])
        raise ValueError(
            f"the recordings of {total} clips are not there (clips by data set: {names}), e.g. {example}, below "
            f"source.root={self.config.root}: {told}"
        )

    def _read_joints(self, file: Path) -> Tensor:
        joints = read_array(file)
        if joints.ndim != 3 or joints.shape[1] < BODY_JOINTS or joints.shape[2] != 3 or joints.dtype.kind != "f":
            raise ValueError(f"{file} holds {joints.dtype} {joints.shape}, expected (frames, 24, 3) of HumanAct12")
        return torch.from_numpy(joints[:, :BODY_JOINTS].astype(np.float32))
