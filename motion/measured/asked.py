"""What samples are asked for when they are measured: captions of a data set, as long as the motion that they are about.

Letters: n samples, N tokens of a clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from core.draws import numpy_rng
from motion.conditioning import Captions
from motion.data import token_masks
from motion.measured.real import Drawn
from motion.sample import MotionSampleConfig, MotionSampling


@dataclass(frozen=True)
class Asked:
    """Captions and lengths in frames of n samples, those that multimodality is taken of behind the others."""

    texts: list[str]
    lengths: list[int]

    @classmethod
    def of(cls, draws: Sequence[Drawn], num: int, texts: int, repeats: int, seed: int) -> Asked:
        """`num` of the draws in a random order, all in turn where they are fewer, then `repeats` of each of `texts`."""
        rng = numpy_rng("captions of samples", seed)
        order = rng.permutation(len(draws))
        chosen = [draws[order[place % len(draws)]] for place in range(num)]
        if texts > len(draws):
            raise ValueError(f"multimodality is {texts}; there are {len(draws)} clips with captions")
        again = [draws[place] for place in rng.permutation(len(draws))[:texts] for _ in range(repeats)]
        return cls([each.caption for each in (*chosen, *again)], [each.frames for each in (*chosen, *again)])

    def __len__(self) -> int:
        return len(self.texts)


class AskedSampling(MotionSampling):
    """`motion.sample` for captions of a data set, each with its length.

    source: whose captions they are, for the protocol
    """

    def __init__(self, config: MotionSampleConfig, asked: Asked, source: str):
        super().__init__(config)
        self.asked, self.source = asked, source

    def conditioning(self, names: Sequence[str], device: torch.device) -> Any:
        """The conditioning of the captions; clips longer than the model makes are asked to be as long as it can."""
        lengths = [min(length, self.masks.frames) for length in self.asked.lengths]
        captions = Captions(self.asked.texts, token_masks(self.masks, lengths))
        return self.model_config.conditioning.asking(captions, device)

    def asked_entries(self) -> dict[str, Any]:
        """Whose captions, in words: they are drawn by the seed."""
        return {"prompts": f"{self.source}, drawn by the seed, each as long as its clip"}
