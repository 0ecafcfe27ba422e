"""Training a domain's own small KL autoencoder: the folder it goes to, the split of the data, the loop, its latents.

A domain hands in the network (with `moments` and a `loss`), and measures and draws what came out.

Letters: B batch, Z latent channels.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn
from tqdm import tqdm

from core.contracts import Batch, Dataset
from core.data.stream import StepPositions, check_workers, on_device, step_batches
from core.draws import Random, StepRandom, numpy_rng
from core.latents.tokenizer import kl_divergence
from core.processes.failures import LoaderError, NonFiniteError
from core.processes.workers import LoaderWorkers

HELDOUT_SHARE = 0.2  # at most, of data that has no held-out split
MEASURED_ITEMS = 10_000  # at most, for the latents' mean and standard deviation
WARMUP_STEPS = 20
MAX_GRADIENT_NORM = 1.0
STEPS_PER_DISPLAY = 20


@dataclass(frozen=True, kw_only=True)
class TokenizerTraining:
    """How a tokenizer is trained, and where it goes; a domain adds data and autoencoder."""

    steps: int = 1500
    batch_size: int = 64
    lr: float = 3e-3
    seed: int = 0
    device: str = "auto"
    num_workers: int = 0
    runs_dir: str = "runs"
    name: str
    overwrite: bool = False

    def __post_init__(self):
        for key, least in (("steps", 1), ("batch_size", 1), ("num_workers", 0)):
            if getattr(self, key) < least:
                raise ValueError(f"{key} is {getattr(self, key)!r}; allowed: {least} or more")
        check_workers("num_workers", self.num_workers)
        if not 0 < self.lr < math.inf:
            raise ValueError(f"lr is {self.lr!r}; allowed: a finite number above 0")
        if not re.fullmatch(r"[\w+-][\w.+-]*", self.name):
            raise ValueError(f"name is {self.name!r}; allowed: letters, digits and . _ + - only, no dot in front")


class Rows:
    """Some rows of a data set, itself a data set; fulfils `core.contracts.Dataset`."""

    def __init__(self, dataset: Dataset, rows: np.ndarray):
        self.dataset, self.rows = dataset, rows
        self.media_shape, self.class_names = dataset.media_shape, dataset.class_names

    def __len__(self) -> int:
        return len(self.rows)

    def item(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """What the data set gives for the row at `index`."""
        return self.dataset.item(int(self.rows[index]), rng)

    def stored(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """The same with media as the data set stores them."""
        return getattr(self.dataset, "stored", self.dataset.item)(int(self.rows[index]), rng)

    def name(self, index: int) -> str:
        """What the data set calls the row at `index`."""
        return self.dataset.name(int(self.rows[index]))

    def batches(self, size: int, limit: int) -> Iterator[Tensor]:
        """At most `limit` items, evenly spread over the rows, as media (B, ...) with B at most `size`."""
        chosen = np.linspace(0, len(self) - 1, min(limit, len(self))).round().astype(np.int64)
        for start in range(0, len(chosen), size):
            part = chosen[start : start + size]
            yield torch.stack([self.item(index, numpy_rng("measure", index))["media"] for index in part])


def all_rows(dataset: Dataset) -> Rows:
    """The whole data set."""
    return Rows(dataset, np.arange(len(dataset)))


def split_by_chance(dataset: Dataset, heldout: int, unit: str) -> tuple[Rows, Rows]:
    """Rows to train on, and at most `heldout`, no more than a fifth, to measure on; no function of the seed."""
    count = min(heldout, int(HELDOUT_SHARE * len(dataset)))
    if count == 0:
        raise ValueError(f"data holds {len(dataset)} {unit}s; needed: {math.ceil(1 / HELDOUT_SHARE)} or more")
    order = numpy_rng("tokenizer heldout").permutation(len(dataset))
    return Rows(dataset, np.sort(order[count:])), Rows(dataset, np.sort(order[:count]))


def output_directory(config: TokenizerTraining, files: set[str], use: str) -> Path:
    """Where the tokenizer goes; ValueError where that would lose a complete one, or files of someone else.

    `files` are all that a training writes; `use` is the command that a complete one is used by, with {} for the folder.
    """
    directory = Path(config.runs_dir) / "tokenizer" / config.name
    if not directory.exists():
        return directory
    found = {file.name for file in directory.iterdir()} if directory.is_dir() else {directory.name}
    strangers = sorted(found - files)
    if strangers:
        raise ValueError(f"{directory} is in use for something else ('{strangers[0]}'); choose another name")
    if found == files and not config.overwrite:
        raise ValueError(
            f"{directory} holds a trained tokenizer and is left as it is: overwrite=true replaces it, name=NAME makes "
            f"another, and this trains on its latents: {use.format(directory)}"
        )
    return directory


def fit(network: nn.Module, train: Dataset, config: TokenizerTraining) -> float:
    """Train `network` in place with AdamW and a cosine schedule; returns the seconds it took.

    `network.loss(media, random)` has the scalar tensors `total` and `kl`. Raises NonFiniteError when the loss or the
    gradient is not finite, before it reaches the weights.
    """
    device = next(network.parameters()).device
    positions = StepPositions(0, config.steps, config.batch_size, (0, config.batch_size))
    workers = LoaderWorkers()
    batches = step_batches(train, config.seed, positions, config.num_workers, device.type == "cuda", workers)
    started = time.perf_counter()
    with workers.told(_killed):
        _fit(network, batches, config)
    return time.perf_counter() - started


@dataclass(frozen=True)
class PixelLoss:
    """The training loss of a batch of pictures or clips and its parts, all scalar tensors.

    total           reconstruction + kl_weight * kl per latent number
    reconstruction  mean of |error| + error^2 over pixels, for media in [-1, 1]
    kl              KL(posterior || standard normal) in nats, mean over the batch
    """

    total: Tensor
    reconstruction: Tensor
    kl: Tensor


def pixel_loss(network: nn.Module, media: Tensor, random: Random, kl_weight: float) -> PixelLoss:
    """The loss of media (B, ...) in [-1, 1] under a network with `moments` and `decode`.

    The posterior is sampled with the stream "posterior" of `random`.
    """
    mean, std = network.moments(media)
    noise = random.normal("posterior", tuple(mean.shape)).to(mean)
    error = network.decode(mean + std * noise) - media
    reconstruction = (error.abs() + error.square()).mean()
    kl = kl_divergence(mean, std).mean()
    return PixelLoss(reconstruction + kl_weight * kl / mean[0].numel(), reconstruction, kl)


def _killed(error: Exception) -> LoaderError:
    return LoaderError("a process that reads media was killed; if memory ran out, turn down num_workers")


def _fit(network: nn.Module, batches: Iterator[Batch], config: TokenizerTraining) -> None:
    device = next(network.parameters()).device
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.lr, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(_lr_factor, steps=config.steps))
    for step, batch in enumerate(bar := tqdm(batches, unit="step", disable=None)):
        loss = network.loss(on_device(batch, device).media, StepRandom(config.seed, step, device))
        optimizer.zero_grad()
        loss.total.backward()
        norm = nn.utils.clip_grad_norm_(network.parameters(), MAX_GRADIENT_NORM)
        if not math.isfinite(loss.total.item() + norm.item()):
            raise NonFiniteError(
                f"step {step + 1}: loss {loss.total.item():g}, gradient norm {norm.item():g}; lower lr"
            )
        optimizer.step()
        schedule.step()
        if step % STEPS_PER_DISPLAY == 0:
            bar.set_postfix(loss=f"{loss.total.item():.4f}", kl=f"{loss.kl.item():.1f}", refresh=False)


def _lr_factor(step: int, steps: int) -> float:
    """Linear warm-up times half a cosine, which ends at 0."""
    return min(1.0, (step + 1) / WARMUP_STEPS) * 0.5 * (1 + math.cos(math.pi * step / steps))


class LatentStatistics:
    """Mean and standard deviation of latents under their posteriors, without drawing from them.

    E[z] = E[mean], E[z^2] = E[mean^2 + std^2].
    """

    def __init__(self) -> None:
        self.first: Tensor | float = 0.0  # (Z,) sums of z and z^2
        self.second: Tensor | float = 0.0
        self.count = 0

    def add(self, mean: Tensor, std: Tensor) -> None:
        """Take in moments (B, Z, ...) of a batch."""
        mean, std = (rearrange(moment.double().cpu(), "b z ... -> z (b ...)") for moment in (mean, std))
        self.first = self.first + mean.sum(1)
        self.second = self.second + (mean.square() + std.square()).sum(1)
        self.count += mean.shape[1]

    def of_channels(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of each latent channel."""
        mean = self.first / self.count
        return mean.tolist(), (self.second / self.count - mean.square()).clamp_min(0).sqrt().tolist()

    def of_all(self) -> tuple[float, float]:
        """Mean and standard deviation of all numbers together."""
        count = self.count * len(self.first)
        first, second = self.first.sum().item(), self.second.sum().item()
        return first / count, math.sqrt(second / count - (first / count) ** 2)


@torch.no_grad()
def latent_statistics(network: nn.Module, rows: Rows, batch_size: int, limit: int = MEASURED_ITEMS) -> LatentStatistics:
    """The statistics of the latents of at most `limit` items."""
    device = next(network.parameters()).device
    found = LatentStatistics()
    for media in rows.batches(batch_size, limit):
        found.add(*network.moments(media.to(device)))
    return found
