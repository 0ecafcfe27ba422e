"""Inception-v3 on single frames, for the FID of frames, which knows no motion.

Letters: B clips, F frames, H W pixels, C channels, D features.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor

from eval.measure.extractor import Extractor
from eval.measure.inception import TORCH_FIDELITY, InceptionFeatures
from video.encoders.frames import as_rgb_clips

NAME = "inception"
Frames = Literal["all", "first", "middle"]
MAX_IMAGES = 64  # through the network at once


class InceptionFrames(Extractor):
    """torch-fidelity's Inception-v3 of the frames of each clip: pool (B F, 2048), the frames of the first clip first.

    frames: all of each clip; or the first, or the middle one, F // 2: (B, 2048) then.
    """

    name, main = NAME, "pool"

    def __init__(self, frames: Frames, path: Path | None, root: Path | None, device: torch.device):
        """path: a file to take instead of the registry's under `root`; ValueError where there is none, or another."""
        self.frames = frames
        self.images = InceptionFeatures(TORCH_FIDELITY, path, root, device)
        self.weights_sha256 = self.images.weights_sha256

    @property
    def preprocessing(self) -> str:
        """Which frames, and what is done to each."""
        which = "all frames" if self.frames == "all" else f"the {self.frames} frame"
        return f"{which} of each clip; {self.images.preprocessing}"

    def __call__(self, rows: Tensor) -> dict[str, Tensor]:
        """uint8 clips (B, F, H, W, C) -> pool, a row for each frame that is looked at."""
        clips = as_rgb_clips(rows)
        if self.frames != "all":
            place = 0 if self.frames == "first" else clips.shape[1] // 2
            clips = clips[:, place : place + 1]
        images = rearrange(clips, "b f h w c -> (b f) c h w")
        return {"pool": torch.cat([self.images(part)["pool"] for part in images.split(MAX_IMAGES)])}
