"""From requests to media: sampling in batches, where sample i depends on (seed, i) and what it is asked to be only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from core.contracts import Backbone, Condition, Conditioning, Requests, Tokenizer
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
    """The components that turn requests into media; `network` holds the weights to sample from (usually the EMA).

    The processes of `world` take turns at the batches, so what is in a batch, and every sample, is the same for any
    number of them. `network` runs without exchange between them, in `precision`; the solver's arithmetic is fp32.

    A sample whose request has a mask has as many real tokens as that says: they attend to each other only, and the
    latents of the others are zeros when they are decoded.
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
        requests: Condition | Requests,
        seed: int,
        batch_size: int,
        on_batch: Callable[[int], None] = lambda count: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> Tensor | None:
        """Media (n, *media) on the CPU for n requests, in the main process; None in the others.

        `on_batch(count)` is told of every finished batch; StoppedError when `stop()` says so in any process.
        """
        parts = []
        for media in self.batches(requests, seed, batch_size, stop):
            parts.append(media)
            on_batch(len(media))
        return torch.cat(parts) if self.world.is_main else None

    def batches(
        self,
        requests: Condition | Requests,
        seed: int,
        batch_size: int,
        stop: Callable[[], bool] = lambda: False,
    ) -> Iterator[Tensor]:
        """The same media, a batch at a time, for more samples than memory holds; nothing but in the main process.

        Every process has to go through it to the end.
        """
        if batch_size < 1:
            raise ValueError(f"the sampling batch size is {batch_size}; it must be at least 1")
        starts = range(0, len(requests), batch_size)
        for turn in range(0, len(starts), self.world.size):
            if self.world.any(stop())[0]:
                raise StoppedError
            mine = turn + self.world.rank
            media = None
            if mine < len(starts):
                rows = requests[starts[mine] : starts[mine] + batch_size]
                media = self.one_batch(rows, seed, starts[mine])
            yield from (made for made in self.world.gather(media) or () if made is not None)

    def one_batch(self, requests: Condition | Requests, seed: int, first: int) -> Tensor:
        """Media (B, *media) on the CPU of the samples first, first + 1, ... that are asked to be B `requests`.

        Made in this process alone, anywhere among the samples.
        """
        indices, device = range(first, first + len(requests)), self.world.device
        return self._batch(Requests.of(requests).to(device), SampleRandom(seed, indices, device)).cpu()

    @torch.no_grad()
    def _batch(self, requests: Requests, random: SampleRandom) -> Tensor:
        was_training = self.network.training
        self.network.eval()
        try:
            shape = (len(requests), *self.latent_shape)
            null = replace(requests, condition=self.conditioning.null(requests.condition))
            latents = self.sampler(self._predict, shape, requests, null, random)
            return self.tokenizer.decode(self._without_padding(latents, requests.mask))
        finally:
            self.network.train(was_training)

    def _predict(self, x: Tensor, t: Tensor, requests: Requests) -> Tensor:
        with autocast(x.device, self.precision):
            prediction = self.network(x, t, requests.condition, requests.mask).float()
        return self._without_padding(prediction, requests.mask)  # nothing there that a solver could carry astray

    def _without_padding(self, values: Tensor, mask: Tensor | None) -> Tensor:
        """Values (B, *latent) with zeros where mask (B, N) is false."""
        return values if mask is None else torch.where(self.network.expand(mask, values), values, 0)


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
