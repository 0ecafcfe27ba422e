"""`python -m image.train_tokenizer`: train the small KL autoencoder that `tokenizer=conv_kl` loads.

Letters: B batch, C image channels, H height, W width in pixels.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn
from tqdm import tqdm

from core.checkpoint import atomic_dir
from core.config import Entry
from core.contracts import Dataset
from core.data import StepPositions, step_batches
from core.distributed import pick_device
from core.draws import StepRandom, fold_seed, numpy_rng
from core.failures import NonFiniteError
from core.rundir import RunDirectory
from core.schema import choice, plain
from image.autoencoder import CONFIG_FILE, WEIGHTS_FILE, AutoencoderConfig, ConvKL, kl_divergence, save_autoencoder
from image.data import PIXEL_DATASETS, DigitsConfig, PixelsDataConfig, build_dataset
from image.preview import grid

METRICS_FILE = "metrics.json"
PICTURE_FILE = "reconstructions.png"
OUTPUT_FILES = {CONFIG_FILE, WEIGHTS_FILE, METRICS_FILE, PICTURE_FILE}
HELDOUT_SHARE = 0.2  # at most, of images that have no held-out split
MEASURED_IMAGES = 10_000  # at most, for the latents' mean and standard deviation
WARMUP_STEPS = 20
MAX_GRADIENT_NORM = 1.0
DATA_RANGE = 2.0  # of media in [-1, 1]
STEPS_PER_DISPLAY = 20
PICTURE_IMAGES, PICTURE_PAIRS_PER_ROW = 64, 8


@dataclass(frozen=True)
class TrainTokenizerConfig:
    """What `python -m image.train_tokenizer` takes; the keys are explained in conf/train_tokenizer.yaml."""

    data: PixelsDataConfig = choice(PIXEL_DATASETS, default_factory=DigitsConfig)
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    steps: int = 1500
    batch_size: int = 64
    lr: float = 3e-3
    seed: int = 0
    device: str = "auto"
    num_workers: int = 0
    heldout_images: int = 1000
    runs_dir: str = "runs"
    name: str = "digits"
    overwrite: bool = False

    def __post_init__(self):
        for key, least in (("steps", 1), ("batch_size", 1), ("heldout_images", 1), ("num_workers", 0)):
            if getattr(self, key) < least:
                raise ValueError(f"{key} is {getattr(self, key)!r}; allowed: {least} or more")
        if not 0 < self.lr < math.inf:
            raise ValueError(f"lr is {self.lr!r}; allowed: a finite number above 0")
        if not re.fullmatch(r"[\w+-][\w.+-]*", self.name):
            raise ValueError(f"name is {self.name!r}; allowed: letters, digits and . _ + - only, no dot in front")


class Images:
    """Some rows of a data set, itself a data set; fulfils `core.contracts.Dataset`."""

    def __init__(self, dataset: Dataset, rows: np.ndarray):
        self.dataset, self.rows = dataset, rows
        self.media_shape, self.class_names = dataset.media_shape, dataset.class_names

    def __len__(self) -> int:
        return len(self.rows)

    def item(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """What the data set gives for the row at `index`."""
        return self.dataset.item(int(self.rows[index]), rng)

    def name(self, index: int) -> str:
        """What the data set calls the row at `index`."""
        return self.dataset.name(int(self.rows[index]))

    def batches(self, size: int, limit: int) -> Iterator[Tensor]:
        """At most `limit` images, evenly spread over the rows, as (B, C, H, W) with B at most `size`."""
        chosen = np.linspace(0, len(self) - 1, min(limit, len(self))).round().astype(np.int64)
        for start in range(0, len(chosen), size):
            part = chosen[start : start + size]
            yield torch.stack([self.item(index, numpy_rng("measure", index))["media"] for index in part])


def main(config: TrainTokenizerConfig) -> Path:
    """Train a small convolutional KL autoencoder on images, for runs with tokenizer=conv_kl.

    Without arguments: handwritten digits, under a minute on two CPU cores. Writes weights, numbers and a picture of
    held-out images beside their reconstructions to runs_dir/tokenizer/name. It stands in for a pretrained
    autoencoder where none can be downloaded: it has no perceptual and no adversarial loss.
    """
    directory = output_directory(config)
    train, heldout = split_images(config)
    network = build_network(config, train.media_shape)
    print(f"training on {len(train)} images, {config.steps} steps of {config.batch_size}")
    seconds = fit(network, train, config)
    metrics = measure(network, train, heldout, config)
    with atomic_dir(directory) as temporary:
        save_autoencoder(temporary, network, metrics["latent_mean"], metrics["latent_std"])
        save_picture(network, heldout, temporary / PICTURE_FILE)
        record = {**metrics, "train_seconds": seconds, "config": plain(config)}
        (temporary / METRICS_FILE).write_text(json.dumps(record, indent=2) + "\n")
    print(report(directory, metrics, seconds))
    return directory


def report(directory: Path, metrics: dict[str, float], seconds: float) -> str:
    """What a training prints at its end: numbers, places, next command."""
    shown = RunDirectory(directory).shown()
    return "\n".join(
        [
            f"PSNR              {metrics['psnr_db']:.2f} dB, over {metrics['heldout_images']} held-out images",
            f"size              {metrics['parameters']:,} parameters, trained in {seconds:.0f} s",
            f"directory         {shown} (picture: {PICTURE_FILE}, numbers: {METRICS_FILE})",
            f"use               {use_command(directory)}",
        ]
    )


def use_command(directory: Path) -> str:
    """The command that trains a backbone on the latents."""
    return f"python -m image.train tokenizer=conv_kl tokenizer.path={RunDirectory(directory).shown()}"


def output_directory(config: TrainTokenizerConfig) -> Path:
    """Where the tokenizer goes; ValueError where that would lose a complete one, or files of someone else."""
    directory = Path(config.runs_dir) / "tokenizer" / config.name
    if not directory.exists():
        return directory
    found = {file.name for file in directory.iterdir()} if directory.is_dir() else {directory.name}
    strangers = sorted(found - OUTPUT_FILES)
    if strangers:
        raise ValueError(f"{directory} is in use for something else ('{strangers[0]}'); choose another name")
    if found == OUTPUT_FILES and not config.overwrite:
        raise ValueError(
            f"{directory} holds a trained tokenizer and is left as it is: overwrite=true replaces it, name=NAME makes "
            f"another, and this trains on its latents: {use_command(directory)}"
        )
    return directory


def split_images(config: TrainTokenizerConfig) -> tuple[Images, Images]:
    """Images to train on and images to measure on, disjoint.

    The digits' train split is measured on their held-out split. Other data gives up `heldout_images` rows, at most a
    fifth, which do not depend on the seed.
    """
    dataset = build_dataset(config.data)
    if config.data == DigitsConfig(split="train"):
        heldout = build_dataset(replace(config.data, split="heldout"))
        return Images(dataset, np.arange(len(dataset))), Images(heldout, np.arange(len(heldout)))
    count = min(config.heldout_images, int(HELDOUT_SHARE * len(dataset)))
    if count == 0:
        raise ValueError(f"data holds {len(dataset)} images; needed: {math.ceil(1 / HELDOUT_SHARE)} or more")
    order = numpy_rng("tokenizer heldout").permutation(len(dataset))
    return Images(dataset, np.sort(order[count:])), Images(dataset, np.sort(order[:count]))


def build_network(config: TrainTokenizerConfig, media_shape: tuple[int, ...]) -> ConvKL:
    """A fresh network for images of `media_shape`, on `config.device`; its weights are a function of the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(fold_seed(config.seed, "weights"))
        network = ConvKL(config.autoencoder, in_channels=media_shape[0])
    network.latent_shape(media_shape)  # a size that does not fit is refused here, before the first batch
    return network.to(pick_device(config.device))


def fit(network: ConvKL, train: Images, config: TrainTokenizerConfig) -> float:
    """Train `network` in place with AdamW and a cosine schedule; returns the seconds it took.

    Raises NonFiniteError when the loss or the gradient is not finite, before it reaches the weights.
    """
    device = next(network.parameters()).device
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.lr, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(_lr_factor, steps=config.steps))
    positions = StepPositions(0, config.steps, config.batch_size, (0, config.batch_size))
    batches = step_batches(train, config.seed, positions, config.num_workers, pin=device.type == "cuda")
    started = time.perf_counter()
    for step, batch in enumerate(bar := tqdm(batches, unit="step", disable=None)):
        loss = network.loss(batch.media.to(device, non_blocking=True), StepRandom(config.seed, step, device))
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
    return time.perf_counter() - started


def _lr_factor(step: int, steps: int) -> float:
    """Linear warm-up times half a cosine, which ends at 0."""
    return min(1.0, (step + 1) / WARMUP_STEPS) * 0.5 * (1 + math.cos(math.pi * step / steps))


@torch.no_grad()
def measure(network: ConvKL, train: Images, heldout: Images, config: TrainTokenizerConfig) -> dict[str, float]:
    """What metrics.json holds about the trained network.

    psnr_db                  of held-out images decoded from the posterior's mean; mean squared error over all pixels
    psnr_sampled_db          decoded from a sample of the posterior, as a backbone's data are
    kl                       KL(posterior || standard normal), nats per held-out image
    latent_mean, latent_std  over all numbers of the training images' latents, sampled from the posterior
    """
    device = next(network.parameters()).device
    errors, kls = [], []
    for index, media in enumerate(heldout.batches(config.batch_size, len(heldout))):
        media = media.to(device)
        mean, std = network.moments(media)
        noise = StepRandom(config.seed, index, device).normal("heldout posterior", tuple(mean.shape))
        decoded = [network.decode(z).clamp(-1, 1) for z in (mean, mean + std * noise)]
        errors.append(torch.stack([(image - media).square().mean((1, 2, 3)) for image in decoded]))
        kls.append(kl_divergence(mean, std))
    psnr_db, psnr_sampled_db = (_psnr_db(error) for error in torch.cat(errors, dim=1).mean(1).tolist())
    latent_mean, latent_std = latent_statistics(network, train, config.batch_size)
    return {
        "psnr_db": psnr_db,
        "psnr_sampled_db": psnr_sampled_db,
        "kl": torch.cat(kls).mean().item(),
        "latent_mean": latent_mean,
        "latent_std": latent_std,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "train_images": len(train),
        "heldout_images": len(heldout),
    }


@torch.no_grad()
def latent_statistics(network: ConvKL, images: Images, batch_size: int) -> tuple[float, float]:
    """Mean and standard deviation of the latents' numbers under their posteriors, without drawing from them.

    E[z] = E[mean], E[z^2] = E[mean^2 + std^2]; over at most `MEASURED_IMAGES` images.
    """
    device = next(network.parameters()).device
    first, second, count = 0.0, 0.0, 0
    for media in images.batches(batch_size, MEASURED_IMAGES):
        mean, std = (moment.double() for moment in network.moments(media.to(device)))
        first += mean.sum().item()
        second += (mean.square() + std.square()).sum().item()
        count += mean.numel()
    return first / count, math.sqrt(second / count - (first / count) ** 2)


def _psnr_db(error: float) -> float:
    return 10 * math.log10(DATA_RANGE**2 / error)


@torch.no_grad()
def save_picture(network: ConvKL, images: Images, path: Path) -> None:
    """A PNG of up to `PICTURE_IMAGES` images, each with its reconstruction on its right."""
    media = next(images.batches(PICTURE_IMAGES, PICTURE_IMAGES))
    mean, _ = network.moments(media.to(next(network.parameters()).device))
    pairs = rearrange([media, network.decode(mean).cpu()], "pair b c h w -> (b pair) c h w")
    grid(pairs, columns=2 * PICTURE_PAIRS_PER_ROW).save(path)


ENTRY = Entry(main, "image.conf", "train_tokenizer", TrainTokenizerConfig)

if __name__ == "__main__":
    ENTRY.run()
