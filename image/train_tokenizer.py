"""`python -m image.train_tokenizer`: train the small KL autoencoder that `tokenizer=conv_kl` loads.

Letters: B batch, C image channels, H height, W width in pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from einops import rearrange

from core.commands.entry import Entry
from core.commands.train_tokenizer import TokenizerFitting
from core.draws import StepRandom
from core.latents.fitting import Rows, TokenizerTraining, all_rows, latent_statistics, split_by_chance
from core.latents.tokenizer import kl_divergence
from core.schema import choice
from image.codecs.autoencoder import AutoencoderConfig, ConvKL, save_autoencoder
from image.data import PIXEL_DATASETS, PixelsDataConfig
from image.datasets.digits import DigitsConfig
from image.preview import grid

PICTURE_FILE = "reconstructions.png"
USE = "python -m image.train tokenizer=conv_kl tokenizer.path={}"
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
    return ImageFitting(config).run(print)


class ImageFitting(TokenizerFitting):
    """A small KL autoencoder of images."""

    unit, pictures, use = "image", (PICTURE_FILE,), USE
    config: ImageTrainTokenizerConfig

    def split(self) -> tuple[Rows, Rows]:
        """Images to train on and images to measure on, disjoint.

        The digits' train split is measured on their held-out split. Other data gives up `heldout_images` rows, at most
        a fifth, which do not depend on the seed.
        """
        data = self.config.data
        dataset = data.build()
        if data == DigitsConfig(split="train"):
            return all_rows(dataset), all_rows(replace(data, split="heldout").build())
        return split_by_chance(dataset, self.config.heldout_images, self.unit)

    def network(self, media_shape: tuple[int, ...]) -> ConvKL:
        """An untrained network for images of `media_shape`."""
        return ConvKL(self.config.autoencoder, in_channels=media_shape[0])

    def measure(self, network: ConvKL, train: Rows, heldout: Rows) -> dict[str, float]:
        """See `measure`."""
        return measure(network, train, heldout, self.config)

    def write(self, folder: Path, network: ConvKL, data: tuple[Rows, Rows], metrics: dict[str, float]) -> None:
        """The files, and a picture of held-out images beside their reconstructions."""
        save_autoencoder(folder, network, metrics["latent_mean"], metrics["latent_std"])
        save_picture(network, data[1], folder / PICTURE_FILE)

    def numbers(self, metrics: dict[str, float]) -> list[str]:
        """PSNR."""
        return [f"PSNR              {metrics['psnr_db']:.2f} dB, over {metrics['heldout_images']} held-out images"]


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
