"""From conditions to media: sampling in batches, where sample i depends on (seed, i) only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from core.contracts import Backbone, Conditioning, Tokenizer
from core.draws import SampleRandom
from core.flow.path import Interpolant, build_path
from core.flow.sampler import Sampler
from core.precision import Precision, autocast
from core.processes.world import World
from core.train.config import RunConfig


class StoppedError(Exception):
    """Sampling was asked to stop."""


@dataclass(frozen=True)
class Generator:
    """The components that turn conditions into media; `network` holds the weights to sample from (usually the EMA).

    The processes of `world` take turns at the batches, so what is in a batch, and every sample, is the same for any
    number of them. `network` runs without exchange between them, in `precision`; the solver's arithmetic is fp32.
    """

    network: Backbone
    sampler: Sampler
    tokenizer: Tokenizer
    conditioning: Conditioning
    latent_shape: tuple[int, ...]
    world: World = World()  # noqa: RUF009, immutable
    precision: Precision = "fp32"

    def __call__(
        self,
        condition: Tensor,
        seed: int,
        batch_size: int,
        on_batch: Callable[[int], None] = lambda count: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> Tensor | None:
        """Media (n, *media) on the CPU for conditions (n, ...), in the main process; None in the others.

        `on_batch(count)` is told of every finished batch; StoppedError when `stop()` says so in any process.
        """
        parts = []
        for media in self.batches(condition, seed, batch_size, stop):
            parts.append(media)
            on_batch(len(media))
        return torch.cat(parts) if self.world.is_main else None

    def batches(
        self, condition: Tensor, seed: int, batch_size: int, stop: Callable[[], bool] = lambda: False
    ) -> Iterator[Tensor]:
        """The same media, a batch at a time, for more samples than memory holds; nothing but in the main process.

        Every process has to go through it to the end.
        """
        if batch_size < 1:
            raise ValueError(f"the sampling batch size is {batch_size}; it must be at least 1")
        starts = range(0, len(condition), batch_size)
        for turn in range(0, len(starts), self.world.size):
            if self.world.any(stop())[0]:
                raise StoppedError
            mine = turn + self.world.rank
            media = None
            if mine < len(starts):
                rows = condition[starts[mine] : starts[mine] + batch_size]
                media = self.one_batch(rows, seed, starts[mine])
            yield from (made for made in self.world.gather(media) or () if made is not None)

    def one_batch(self, condition: Tensor, seed: int, first: int) -> Tensor:
        """Media (B, *media) on the CPU of the samples first, first + 1, ... with conditions (B, ...).

        Made in this process alone, anywhere among the samples.
        """
        indices, device = range(first, first + len(condition)), self.world.device
        return self._batch(condition.to(device), SampleRandom(seed, indices, device)).cpu()

    @torch.no_grad()
    def _batch(self, condition: Tensor, random: SampleRandom) -> Tensor:
        was_training = self.network.training
        self.network.eval()
        try:
            shape = (len(condition), *self.latent_shape)
            null = self.conditioning.null(condition)
            latents = self.sampler(self._predict, shape, condition, null, random)
            return self.tokenizer.decode(latents)
        finally:
            self.network.train(was_training)

    def _predict(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        with autocast(x.device, self.precision):
            return self.network(x, t, condition).float()


def make_generator(
    config: RunConfig,
    tokenizer: Tokenizer,
    backbone: Backbone,
    conditioning: Conditioning,
    latent_shape: tuple[int, ...],
    world: World,
) -> Generator:
    """The sampling side of a run's config: the given components under its sampler, path and prediction."""
    interpolant = Interpolant(build_path(config.objective.path), backbone.expand)
    sampler = Sampler(config.sampler, interpolant, config.objective.prediction)
    return Generator(backbone, sampler, tokenizer, conditioning, latent_shape, world)
