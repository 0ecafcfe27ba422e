"""Published extractors of clips, I3D in two forms, VideoMAE and Inception on frames, and where their weights are.

Every extractor takes uint8 clips (B, F, H, W, C) and gives float32 features by name on the CPU. A record of an
evaluation holds its `facts`: numbers of different networks, weights or protocols are never compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from eval.measure.extractor import Extractor
from video.encoders import i3d, inception, videomae
from video.encoders.frames import check_frames
from video.encoders.inception import Frames

CDFVD = (i3d.CDFVD, videomae.NAME)  # by cd-fvd's rules: all real videos, seed 42


@dataclass(frozen=True)
class ExtractorSource:
    """The places of the extractors' weights; see `eval.weights`.

    root          the weights folder; null: its default
    i3d           a TorchScript file to take instead of the registry's: a program, which is run
    i3d_cdfvd     a state dict to take instead of the registry's
    videomae      a published file, or a directory of transformers, to take instead of the registry's
    inception     a file to take instead of the registry's
    frame_choice  which frames Inception looks at
    """

    root: Path | None = None
    i3d: Path | None = None
    i3d_cdfvd: Path | None = None
    videomae: Path | None = None
    inception: Path | None = None
    frame_choice: Frames = "all"

    def check_frames(self, name: str, frames: int) -> None:
        """Raises ValueError for clips of so many frames that an extractor cannot look at, before it is read."""
        if name in (i3d.SCRIPT, i3d.CDFVD):
            check_frames(frames, name, i3d.LEAST_FRAMES)
        elif name == videomae.NAME and not (self.videomae is not None and self.videomae.is_dir()):
            check_frames(frames, name, videomae.PUBLISHED_FRAMES, videomae.PUBLISHED_FRAMES)

    def extractor(self, name: str, device: torch.device) -> Extractor:
        """The extractor of that name on `device`; ValueError where its weights are absent, ImportError for an extra."""
        if name == i3d.SCRIPT:
            return i3d.I3DDetector(self.i3d, self.root, device)
        if name == i3d.CDFVD:
            return i3d.I3DNetwork(self.i3d_cdfvd, self.root, device)
        if name == videomae.NAME:
            return videomae.VideoMaeFeatures(self.videomae, self.root, device)
        return inception.InceptionFrames(self.frame_choice, self.inception, self.root, device)
