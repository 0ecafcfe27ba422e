"""`python -m video.train_tokenizer`: train the small causal VAE that `tokenizer=conv3d_kl` loads.

Letters: B batch, C channels, F frames, H height, W width in pixels, f downsampling factor, s frames of a latent frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool3d, interpolate

from core.commands.entry import Entry
from core.commands.train_tokenizer import TokenizerFitting
from core.latents.fitting import Rows, TokenizerTraining, all_rows, latent_statistics, split_by_chance
from core.schema import choice
from video.codecs.autoencoder import KIND, AutoencoderConfig, VideoAutoencoder, save_autoencoder
from video.codecs.clip_grid import checked_clip
from video.codecs.fidelity import psnr_db, ssim
from video.data import CLIP_DATASETS, ClipsConfig
from video.datasets.digits import DigitsConfig
from video.preview import VideoPreview

PICTURE = "reconstructions"
SHOWN = 6  # clips, each before and after, in the picture
SIDES = ("original", "decoded")
MEASURED_CLIPS = 1000  # at most, for the latents' mean and deviation
USE = "python -m video.train tokenizer=conv3d_kl tokenizer.path={} data.clip.frames={} backbone.patch_size=1"
Code = Callable[[Tensor], Tensor]  # clips (B, C, F, H, W) -> decoded clips


@dataclass(frozen=True, kw_only=True)
class VideoTrainTokenizerConfig(TokenizerTraining):
    """What `python -m video.train_tokenizer` takes; the keys are explained in conf/train_tokenizer.yaml."""

    data: ClipsConfig = choice(CLIP_DATASETS, default_factory=DigitsConfig)
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    heldout_clips: int = 200
    steps: int = 1500
    batch_size: int = 8
    lr: float = 4e-3
    name: str = "digits"

    def __post_init__(self):
        super().__post_init__()
        if self.heldout_clips < SHOWN:
            raise ValueError(f"heldout_clips is {self.heldout_clips!r}; allowed: {SHOWN} or more")


def main(config: VideoTrainTokenizerConfig) -> Path:
    """Train a small causal VAE on clips, for runs with tokenizer=conv3d_kl.

    Without arguments: moving digits, some minutes on two CPU cores. Writes weights, numbers, a contact sheet and an MP4
    of held-out clips before and after to runs_dir/tokenizer/name, and tells how it compares with clips that were made
    as small as its grid and enlarged again, and with clips that stand still. It stands in for a pretrained VAE: it has
    no perceptual and no adversarial loss.
    """
    return VideoFitting(config).run(print)


class VideoFitting(TokenizerFitting):
    """A small causal VAE of clips."""

    unit, pictures = "clip", (f"{PICTURE}.png", f"{PICTURE}.mp4")
    config: VideoTrainTokenizerConfig

    @property
    def use(self) -> str:
        """The command that trains on its latents, with {} for the folder."""
        return USE.format("{}", self.config.data.clip.frames)

    def split(self) -> tuple[Rows, Rows]:
        """Clips to train on and clips to measure on, disjoint; of digits the held-out ones.

        ValueError for a first clip whose pixels leave [-1, 1].
        """
        data = self.config.data
        dataset = data.build()
        checked_clip(dataset, 0)
        if isinstance(data, DigitsConfig) and data.split == "train":
            return all_rows(dataset), all_rows(replace(data, split="heldout").build())
        return split_by_chance(dataset, self.config.heldout_clips, self.unit)

    def network(self, media_shape: tuple[int, ...]) -> VideoAutoencoder:
        """An untrained network for clips (C, F, H, W)."""
        return VideoAutoencoder(self.config.autoencoder, media_shape[0])

    def measure(self, network: VideoAutoencoder, train: Rows, heldout: Rows) -> dict[str, float | dict]:
        """How near held-out clips come back, beside what needs no network, on the same clips."""
        count = min(self.config.heldout_clips, len(heldout))
        grid = network.latent_shape(train.media_shape)
        codes: dict[str, Code] = {KIND: partial(coded, network), "shrunk": partial(shrunk, grid[1:]), "still": still}
        batches = list(heldout.batches(self.config.batch_size, count))
        return {
            **{name: distances(code, batches) for name, code in codes.items()},
            "media_numbers": torch.Size(train.media_shape).numel(),
            "latent_numbers": torch.Size(grid).numel(),
            "heldout_clips": count,
        }

    def write(self, folder: Path, network: VideoAutoencoder, data: tuple[Rows, Rows], metrics: dict) -> None:
        """The files, and held-out clips before and after."""
        train, heldout = data
        save_autoencoder(
            folder, network, *latent_statistics(network, train, self.config.batch_size, MEASURED_CLIPS).of_channels()
        )
        save_pictures(network, heldout, folder / PICTURE)

    def numbers(self, metrics: dict) -> list[str]:
        """The comparison."""
        share = metrics["media_numbers"] / metrics["latent_numbers"]
        rows = [
            f"{name:<16}  {metrics[name]['psnr_db']:>7.2f}   {metrics[name]['ssim']:>5.3f}"
            for name in (KIND, "shrunk", "still")
        ]
        head = f"{metrics['heldout_clips']} held-out clips, encoded and decoded ({share:.1f} numbers become one):"
        return [head, "                  PSNR dB    SSIM", *rows]

    def shown_pictures(self) -> str:
        """How the report calls the pictures."""
        return f"pictures: {', '.join(self.pictures)}"


@torch.no_grad()
def coded(network: VideoAutoencoder, clips: Tensor) -> Tensor:
    """Clips (B, C, F, H, W) encoded, by the posterior's mean, and decoded."""
    device = next(network.parameters()).device
    return network.decode(network.moments(clips.to(device))[0]).clamp(-1, 1).cpu()


def shrunk(grid: tuple[int, int, int], clips: Tensor) -> Tensor:
    """Clips (B, C, F, H, W) made as small as `grid` of frames, rows and columns, and enlarged again."""
    return interpolate(adaptive_avg_pool3d(clips, grid), clips.shape[2:], mode="trilinear")


def still(clips: Tensor) -> Tensor:
    """Clips (B, C, F, H, W) whose frames are all the first one."""
    return clips[:, :, :1].expand_as(clips)


def distances(code: Code, batches: Iterable[Tensor]) -> dict[str, float]:
    """Means over clips of PSNR and SSIM."""
    parts = [(psnr_db(clips, decoded), ssim(clips, decoded)) for clips in batches for decoded in (code(clips),)]
    names = ("psnr_db", "ssim")
    return {name: torch.cat(each).mean().item() for name, each in zip(names, zip(*parts, strict=True), strict=True)}


def save_pictures(network: VideoAutoencoder, heldout: Rows, path: Path) -> None:
    """A contact sheet of some held-out clips, each above what is decoded, at `path`.png, and an MP4 that plays them."""
    clips = next(heldout.batches(SHOWN, SHOWN))
    pairs = torch.stack([clips, coded(network, clips)], dim=1).flatten(0, 1)  # (2 B, C, F, H, W)
    sides = torch.arange(len(SIDES)).repeat(len(clips))
    VideoPreview(SIDES, heldout.dataset.fps).save(pairs, sides, path)


ENTRY = Entry(main, "video.conf", "train_tokenizer", VideoTrainTokenizerConfig)

if __name__ == "__main__":
    ENTRY.run()
