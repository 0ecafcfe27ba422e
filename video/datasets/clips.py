"""The format of a run's clips, said once for all data sets, and which tokens are real where a clip is short.

Letters: F frames of a clip, T latent frames, N tokens (frames slowest).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

MAX_FRAMES = 10_000
MAX_FPS = 1000.0


@dataclass(frozen=True)
class ClipConfig:
    """The frames of a clip.

    frames  F
    fps     frames a second to which files are resampled by their time stamps; null: the file's own frames
    stride  every stride-th of these frames is taken
    """

    frames: int = 16
    fps: float | None = None
    stride: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.frames <= MAX_FRAMES:
            raise ValueError(f"data.clip.frames is {self.frames}; allowed: 1 to {MAX_FRAMES}")
        if self.fps is not None and not 0 < self.fps <= MAX_FPS:
            raise ValueError(
                f"data.clip.fps is {self.fps}; allowed: above 0, {MAX_FPS:g} at most, or null: the file's own"
            )
        if self.stride < 1:
            raise ValueError(f"data.clip.stride is {self.stride}; allowed: 1 or more")


@dataclass(frozen=True)
class FrameMasks:
    """Which tokens are real where only the first frames of a clip are.

    frames          F of a clip
    stride          frames of a latent frame, but for the first
    first           frames of the first latent frame
    patch           latent frames of a token
    tokens_per_row  tokens that share their frames
    """

    frames: int
    stride: int = 1
    first: int = 1
    patch: int = 1
    tokens_per_row: int = 1

    def rows(self, frames: int) -> int:
        """Rows of tokens that hold any of the first `frames` frames."""
        latent_frames = 1 + -(-max(0, frames - self.first) // self.stride)
        return -(-latent_frames // self.patch)

    def mask(self, frames: int) -> Tensor | None:
        """(N,) bool, True for the tokens that hold any of the first `frames` frames; None where all do."""
        real, total = self.rows(frames), self.rows(self.frames)
        if real >= total:
            return None
        return (torch.arange(total) < real).repeat_interleave(self.tokens_per_row)
