"""`python -m video.train_tokenizer`: train the small causal VAE that `tokenizer=conv3d_kl` loads.

Letters: B batch, C channels, F frames, H height, W width in pixels, f downsampling factor, s frames of a latent frame.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool3d, interpolate

from core.commands.entry import Entry
from core.draws import seeded_weights
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
from core.processes.world import pick_device
from core.schema import choice, plain
from core.storage.atomic import atomic_dir
from core.storage.run_folder import RunDirectory
from video.codecs.autoencoder import KIND, AutoencoderConfig, VideoAutoencoder, save_autoencoder
from video.codecs.clip_grid import checked_clip
from video.codecs.fidelity import psnr_db, ssim
from video.data import CLIP_DATASETS, ClipsConfig
from video.datasets.digits import DigitsConfig
from video.preview import VideoPreview

METRICS_FILE, PICTURE = "metrics.json", "reconstructions"
SHOWN = 6  # clips, each before and after, in the picture
SIDES = ("original", "decoded")
MEASURED_CLIPS = 1000  # at most, for the latents' mean and deviation
OUTPUT_FILES = {CONFIG_FILE, WEIGHTS_FILE, METRICS_FILE, f"{PICTURE}.png", f"{PICTURE}.mp4"}
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
    use = USE.format("{}", config.data.clip.frames)
    directory = output_directory(config, OUTPUT_FILES, use)
    train, heldout = split_clips(config)
    network = build_network(config, train.media_shape)
    print(f"training on {len(train)} clips, {config.steps} steps of {config.batch_size}")
    seconds = fit(network, train, config)
    metrics = measure(network, train, heldout, config)
    mean, std = latent_statistics(network, train, config.batch_size, MEASURED_CLIPS).of_channels()
    with atomic_dir(directory) as temporary:
        save_autoencoder(temporary, network, mean, std)
        save_pictures(network, heldout, temporary / PICTURE)
        record = {**metrics, "train_seconds": seconds, "config": plain(config)}
        (temporary / METRICS_FILE).write_text(json.dumps(record, indent=2) + "\n")
    print(report(directory, metrics, seconds, use))
    return directory


def split_clips(config: VideoTrainTokenizerConfig) -> tuple[Rows, Rows]:
    """Clips to train on and clips to measure on, disjoint; the digits' train split is measured on their held-out one.

    ValueError for a first clip whose pixels leave [-1, 1].
    """
    dataset = config.data.build()
    checked_clip(dataset, 0)
    if isinstance(config.data, DigitsConfig) and config.data.split == "train":
        return all_rows(dataset), all_rows(replace(config.data, split="heldout").build())
    return split_by_chance(dataset, config.heldout_clips, "clip")


def build_network(config: VideoTrainTokenizerConfig, media_shape: tuple[int, ...]) -> VideoAutoencoder:
    """A fresh network for clips (C, F, H, W), on `config.device`; its weights are a function of the seed."""
    with seeded_weights(config.seed, "weights"):
        network = VideoAutoencoder(config.autoencoder, media_shape[0])
    network.latent_shape(media_shape)  # clips that do not fit are refused here, before the first batch
    return network.to(pick_device(config.device))


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


def measure(
    network: VideoAutoencoder, train: Rows, heldout: Rows, config: VideoTrainTokenizerConfig
) -> dict[str, float | dict]:
    """What metrics.json holds: how near held-out clips come back, beside what needs no network, on the same clips."""
    count = min(config.heldout_clips, len(heldout))
    grid = network.latent_shape(train.media_shape)
    codes: dict[str, Code] = {KIND: partial(coded, network), "shrunk": partial(shrunk, grid[1:]), "still": still}
    batches = list(heldout.batches(config.batch_size, count))
    return {
        **{name: distances(code, batches) for name, code in codes.items()},
        "media_numbers": torch.Size(train.media_shape).numel(),
        "latent_numbers": torch.Size(grid).numel(),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "train_clips": len(train),
        "heldout_clips": count,
    }


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


def report(directory: Path, metrics: dict, seconds: float, use: str) -> str:
    """What a training prints at its end: the comparison, places, next command."""
    shown = RunDirectory(directory).shown()
    rows = [
        f"{name:<16}  {metrics[name]['psnr_db']:>7.2f}   {metrics[name]['ssim']:>5.3f}"
        for name in (KIND, "shrunk", "still")
    ]
    share = metrics["media_numbers"] / metrics["latent_numbers"]
    return "\n".join(
        [
            f"{metrics['heldout_clips']} held-out clips, encoded and decoded ({share:.1f} numbers become one):",
            "                  PSNR dB    SSIM",
            *rows,
            f"size              {metrics['parameters']:,} parameters, trained in {seconds:.0f} s",
            f"directory         {shown} (pictures: {PICTURE}.png, {PICTURE}.mp4, numbers: {METRICS_FILE})",
            f"use               {use.format(shown)}",
        ]
    )


ENTRY = Entry(main, "video.conf", "train_tokenizer", VideoTrainTokenizerConfig)

if __name__ == "__main__":
    ENTRY.run()
