"""From conditions to media: sampling in batches, where sample i depends on (seed, i) only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from core.contracts import Backbone, Conditioning, Tokenizer
from core.draws import SampleRandom
from core.sampler import Sampler


@dataclass(frozen=True)
class Generator:
    """The components that turn conditions into media; `network` holds the weights to sample from (usually the EMA)."""

    network: Backbone
    sampler: Sampler
    tokenizer: Tokenizer
    conditioning: Conditioning
    latent_shape: tuple[int, ...]
    device: torch.device | str = "cpu"

    def __call__(
        self,
        condition: Tensor,
        seed: int,
        batch_size: int,
        on_batch: Callable[[int], None] = lambda count: None,
    ) -> Tensor:
        """Media (n, *media) on the CPU for conditions (n, ...); `on_batch(count)` is told of every finished batch."""
        parts = []
        for media in self.batches(condition, seed, batch_size):
            parts.append(media)
            on_batch(len(media))
        return torch.cat(parts)

    def batches(self, condition: Tensor, seed: int, batch_size: int) -> Iterator[Tensor]:
        """The same media, a batch at a time, for more samples than memory holds."""
        if batch_size < 1:
            raise ValueError(f"the sampling batch size is {batch_size}; it must be at least 1")
        for start in range(0, len(condition), batch_size):
            rows = condition[start : start + batch_size].to(self.device)
            yield self._batch(rows, SampleRandom(seed, range(start, start + len(rows)), self.device)).cpu()

    @torch.no_grad()
    def _batch(self, condition: Tensor, random: SampleRandom) -> Tensor:
        was_training = self.network.training
        self.network.eval()
        try:
            shape = (len(condition), *self.latent_shape)
            null = self.conditioning.null(condition)
            latents = self.sampler(self.network, shape, condition, null, random)
            return self.tokenizer.decode(latents)
        finally:
            self.network.train(was_training)
