"""What a piece of audio is in this domain: samples with their rate, and the format of a training clip.

Letters: C channels (1 or 2), L samples in time, N tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

MAX_SECONDS, MAX_SAMPLE_RATE = 86_400, 10_000_000  # of a clip: a day, and more than any recorder's


@dataclass(frozen=True)
class Sound:
    """Samples (C, L) float32, full scale [-1, 1], and how many of them make a second."""

    samples: Tensor
    sample_rate: int

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return self.samples.shape[-1] / self.sample_rate

    def same(self, other: Sound) -> bool:
        """Whether another one has the same rate and the same samples."""
        return self.sample_rate == other.sample_rate and torch.equal(self.samples, other.samples)


@dataclass(frozen=True)
class ClipFormat:
    """What a data set gives: clips of one rate, number of channels and length.

    sample_rate    samples a second, Hz
    channels       C, 1 or 2
    num_samples    L; a multiple of token_samples: what is left of the configured seconds is cropped
    token_samples  samples that become one token of the backbone: the tokenizer's hop times the patch size
    """

    sample_rate: int
    channels: int
    num_samples: int
    token_samples: int

    def __post_init__(self) -> None:
        if self.num_samples < self.token_samples or self.num_samples % self.token_samples:
            raise ValueError(
                f"clips of {self.num_samples} samples do not divide into tokens of {self.token_samples} samples"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """(C, L) of a clip."""
        return self.channels, self.num_samples

    @property
    def num_tokens(self) -> int:
        """N of a clip."""
        return self.num_samples // self.token_samples

    @classmethod
    def of(cls, sample_rate: int, channels: int, seconds: float, token_samples: int) -> ClipFormat:
        """Clips of as many whole tokens as `seconds` hold: 10 s at 44.1 kHz in hops of 2048 are 215, 9.985 s.

        Cropped, not padded: each latent frame then stands for samples that are in the file, and a decoded clip is as
        long as the clip that was encoded. Raises ValueError, naming data.seconds, for less than a token.
        """
        tokens = int(seconds * sample_rate + 1e-6) // token_samples
        if tokens < 1:
            least = token_samples / sample_rate
            raise ValueError(f"data.seconds is {seconds}; it must hold a token of the backbone, {least:g} s")
        return cls(sample_rate, channels, tokens * token_samples, token_samples)
