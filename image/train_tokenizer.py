"""`python -m image.train_tokenizer`: train the small KL autoencoder that `tokenizer=conv_kl` loads.

Letters: B batch, C image channels, H height, W width in pixels.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from einops import rearrange

from core.commands.entry import Entry
from core.draws import StepRandom, seeded_weights
from core.latents.fitting import (
    Rows,
    TokenizerTraining,
    all_rows,
    fit,
    latent_statistics,
    output_directory,
    split_by_chance,
)
from core.latents.own_files import CONFIG_FILE, WEIGHTS_FILE
from core.latents.tokenizer import kl_divergence
from core.processes.world import pick_device
from core.schema import choice, plain
from core.storage.atomic import atomic_dir
from core.storage.run_folder import RunDirectory
from image.codecs.autoencoder import AutoencoderConfig, ConvKL, save_autoencoder
from image.data import PIXEL_DATASETS, PixelsDataConfig
from image.datasets.digits import DigitsConfig
from image.preview import grid

METRICS_FILE = "metrics.json"
PICTURE_FILE = "reconstructions.png"
USE = "python -m image.train tokenizer=conv_kl tokenizer.path={}"
OUTPUT_FILES = {CONFIG_FILE, WEIGHTS_FILE, METRICS_FILE, PICTURE_FILE}
DATA_RANGE = 2.0  # of media in [-1, 1]
PICTURE_IMAGES, PICTURE_PAIRS_PER_ROW = 64, 8


@dataclass(frozen=True, kw_only=True)
class ImageTrainTokenizerConfig(TokenizerTraining):
    """What `python -m image.train_tokenizer` takes; the keys are explained in conf/train_tokenizer.yaml."""

    data: PixelsDataConfig = choice(PIXEL_DATASETS, default_factory=DigitsConfig)
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    heldout_images: int = 1000
    name: str = "digits"

    def __post_init__(self):
        super().__post_init__()
        if self.heldout_images < 1:
            raise ValueError(f"heldout_images is {self.heldout_images!r}; allowed: 1 or more")


def main(config: ImageTrainTokenizerConfig) -> Path:
    """Train a small convolutional KL autoencoder on images, for runs with tokenizer=conv_kl.

    Without arguments: handwritten digits, under a minute on two CPU cores. Writes weights, numbers and a picture of
    held-out images beside their reconstructions to runs_dir/tokenizer/name. It stands in for a pretrained
    autoencoder where none can be downloaded: it has no perceptual and no adversarial loss.
    """
    directory = output_directory(config, OUTPUT_FILES, USE)
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
            f"use               {USE.format(shown)}",
        ]
    )


def split_images(config: ImageTrainTokenizerConfig) -> tuple[Rows, Rows]:
    """Images to train on and images to measure on, disjoint.

    The digits' train split is measured on their held-out split. Other data gives up `heldout_images` rows, at most a
    fifth, which do not depend on the seed.
    """
    dataset = config.data.build()
    if config.data == DigitsConfig(split="train"):
        return all_rows(dataset), all_rows(replace(config.data, split="heldout").build())
    return split_by_chance(dataset, config.heldout_images, "image")


def build_network(config: ImageTrainTokenizerConfig, media_shape: tuple[int, ...]) -> ConvKL:
    """A fresh network for images of `media_shape`, on `config.device`; its weights are a function of the seed."""
    with seeded_weights(config.seed, "weights"):
        network = ConvKL(config.autoencoder, in_channels=media_shape[0])
    network.latent_shape(media_shape)  # a size that does not fit is refused here, before the first batch
    return network.to(pick_device(config.device))


@torch.no_grad()
def measure(network: ConvKL, train: Rows, heldout: Rows, config: ImageTrainTokenizerConfig) -> dict[str, float]:
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
    latent_mean, latent_std = latent_statistics(network, train, config.batch_size).of_all()
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


def _psnr_db(error: float) -> float:
    return 10 * math.log10(DATA_RANGE**2 / error)


@torch.no_grad()
def save_picture(network: ConvKL, images: Rows, path: Path) -> None:
    """A PNG of up to `PICTURE_IMAGES` images, each with its reconstruction on its right."""
    media = next(images.batches(PICTURE_IMAGES, PICTURE_IMAGES))
    mean, _ = network.moments(media.to(next(network.parameters()).device))
    pairs = rearrange([media, network.decode(mean).cpu()], "pair b c h w -> (b pair) c h w")
    grid(pairs, columns=2 * PICTURE_PAIRS_PER_ROW).save(path)


ENTRY = Entry(main, "image.conf", "train_tokenizer", ImageTrainTokenizerConfig)

if __name__ == "__main__":
    ENTRY.run()
