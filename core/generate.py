"""From requests to media: sampling in batches, where sample i depends on (seed, i) and what it is asked to be only."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from core.contracts import Backbone, Condition, Conditioning, Requests, Tokenizer
from core.draws import SampleRandom
from core.flow.path import Interpolant, build_path
from core.flow.sampler import Sampler
from core.precision import Precision, autocast
from core.processes.failures import SamplesError
from core.processes.world import World
from core.train.config import RunConfig


@contextlib.contextmanager
def together(world: World) -> Iterator[None]:
    """What makes samples in each process: SamplesError of one of them is raised in all. A collective."""
    said = None
    try:
        yield
    except SamplesError as error:
        if world.size == 1:
            raise
        said = str(error)
    if world.any(said is not None)[0]:
        gathered = world.gather(said) or []
        raise SamplesError(world.on_main(lambda: next(each for each in gathered if each is not None)))


SecondOutput = Callable[[Callable[[], Tensor], Tensor], tuple[Tensor, Tensor]]  # see `Alignment.second_output`


class StoppedError(Exception):
    """Sampling was asked to stop."""


@dataclass(frozen=True)
class Generator:
    """The components that turn requests into media; `network` holds the weights to sample from (usually the EMA).

    The processes of `world` take turns at the batches, so what is in a batch, and every sample, is the same for any
    number of them. `network` runs without exchange between them, in `precision`; the solver's arithmetic is fp32.

    A sample whose request has a mask has as many real tokens as that says: they attend to each other only, and the
    latents of the others are zeros when they are decoded. `second` makes the two predictions of internal guidance.
    """

    network: Backbone
    sampler: Sampler
    tokenizer: Tokenizer
    conditioning: Conditioning
    latent_shape: tuple[int, ...]
    world: World = World()  # noqa: RUF009, immutable
    precision: Precision = "fp32"
    second: SecondOutput | None = None

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
            mine = starts[turn + self.world.rank : turn + self.world.rank + 1]
            with together(self.world):
                media = None
                for first in mine:
                    media = self.one_batch(requests[first : first + batch_size], seed, first)
            yield from (made for made in self.world.gather(media) or () if made is not None)

    def one_batch(self, requests: Condition | Requests, seed: int, first: int) -> Tensor:
        """Media (B, *media) on the CPU of the samples first, first + 1, ... that are asked to be B `requests`.

        Made in this process alone, anywhere among the samples. Raises SamplesError, naming the first, for samples that
        are not finite, before and after decoding.
        """
        indices, device = range(first, first + len(requests)), self.world.device
        try:
            return self._batch(Requests.of(requests).to(device), SampleRandom(seed, indices, device)).cpu()
        except ArithmeticError as error:
            if type(error) is not ArithmeticError:  # which a solver raises that finds no step
                raise
            raise SamplesError(f"samples {first} to {indices[-1]}: {error} ({self._made_with()})") from error

    @torch.no_grad()
    def _batch(self, requests: Requests, random: SampleRandom) -> Tensor:
        was_training = self.network.training
        self.network.eval()
        try:
            shape = (len(requests), *self.latent_shape)
            null = replace(requests, condition=self.conditioning.null(requests.condition))
            predict = self._predict if self.sampler.config.internal_scale == 1 else self._predict_both
            latents = self.sampler(predict, shape, requests, null, random)
            latents = self._without_padding(latents, requests.mask)
            self._check_finite(latents, random.indices, "has latents")
            media = self.tokenizer.decode(latents)
            self._check_finite(media, random.indices, "is decoded to numbers")
            return media
        finally:
            self.network.train(was_training)

    def _check_finite(self, values: Tensor, indices: Sequence[int], what: str) -> None:
        """Raise SamplesError for values (B, ...) of the samples `indices` that are NaN or infinite."""
        bad = (~values.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
        if bad:
            others = f" (and {len(bad) - 1} more of its batch of {len(indices)})" if bad[1:] else ""
            raise SamplesError(
                f"sample {indices[bad[0]]}{others} {what} that are NaN or infinite ({self._made_with()}); "
                "are the weights sound, and is the precision enough?"
            )

    def _made_with(self) -> str:
        config = self.sampler.config
        return f"precision={self.precision}, sampler.guidance_scale={config.guidance_scale}, solver {config.solver}"

    def _predict(self, x: Tensor, t: Tensor, requests: Requests) -> Tensor:
        with autocast(x.device, self.precision):
            prediction = self.network(x, t, requests.condition, requests.mask).float()
        return self._without_padding(prediction, requests.mask)  # nothing there that a solver could carry astray

    def _predict_both(self, x: Tensor, t: Tensor, requests: Requests) -> tuple[Tensor, Tensor]:
        if self.second is None:
            scale = self.sampler.config.internal_scale
            raise ValueError(
                f"sampler.internal_scale is {scale}, but the weights have no second output layer; needed: 1"
            )
        prediction, early = self.second(lambda: self._predict(x, t, requests), x)
        return prediction, self._without_padding(early, requests.mask)

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
    """The sampling side of a run's config: the given components under its sampler, path and prediction.

    Raises ValueError for a sampler that the latents cannot be sampled with.
    """
    interpolant = Interpolant(build_path(config.objective.path), backbone.expand)
    sampler = config.sampler.build(interpolant, config.objective.prediction)
    sampler.check(latent_shape)
    return Generator(backbone, sampler, tokenizer, conditioning, latent_shape, world)
