"""`python -m motion.train_tokenizer`: train the small VAE of motion that `tokenizer=conv_vae` loads.

Letters: B batch, C numbers of a frame, F frames, J joints.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from core.commands.entry import Entry
from core.commands.overrides import override
from core.commands.train_tokenizer import TokenizerFitting
from core.latents.fitting import LatentStatistics, Rows, TokenizerTraining, all_rows, split_by_chance
from core.schema import choice, plain
from motion.body.physics import skate_ratio
from motion.codecs.autoencoder import (
    KIND,
    MotionAutoencoder,
    MotionAutoencoderConfig,
    coarser,
    real_frames,
    save_autoencoder,
)
from motion.codecs.fidelity import every_nth, joint_errors_mm
from motion.data import CLIP_DATASETS, UNIT, MotionFormat, motion_format
from motion.datasets.moves import MovesConfig
from motion.preview import MotionPreview

PICTURE = "reconstructions"
SHOWN = 4  # clips, each before and after, in the picture
MEASURED_CLIPS = 2000  # at most, for the latents' mean and deviation
USE = "python -m motion.train tokenizer=conv_vae tokenizer.path={} backbone.patch_size=1"
Code = Callable[[Tensor], Tensor]  # a clip (C, F) of real frames -> the decoded clip


@dataclass(frozen=True, kw_only=True)
class MotionTrainTokenizerConfig(TokenizerTraining):
    """What `python -m motion.train_tokenizer` takes; the keys are explained in conf/train_tokenizer.yaml."""

    data: object = choice(CLIP_DATASETS, default_factory=MovesConfig)
    autoencoder: MotionAutoencoderConfig = field(default_factory=MotionAutoencoderConfig)
    heldout_clips: int = 200
    steps: int = 1000
    batch_size: int = 32
    lr: float = 3e-3
    name: str = "moves"

    def __post_init__(self):
        super().__post_init__()
        if self.heldout_clips < SHOWN:
            raise ValueError(f"heldout_clips is {self.heldout_clips!r}; allowed: {SHOWN} or more")


def main(config: MotionTrainTokenizerConfig) -> Path:
    """Train a small convolutional VAE on motion, for runs with tokenizer=conv_vae.

    Without arguments: procedural moves, two minutes on two CPU cores. Writes weights, numbers and a film strip of
    held-out clips before and after to runs_dir/tokenizer/name, and tells how it compares with clips of which as many
    frames are kept as it has latent frames, and those between lie on straight lines.
    """
    return MotionFitting(config).run(print)


class MotionFitting(TokenizerFitting):
    """A small VAE of motion."""

    unit, pictures = UNIT, (f"{PICTURE}.png", f"{PICTURE}.mp4")
    config: MotionTrainTokenizerConfig

    @property
    def use(self) -> str:
        """The command that trains on its latents, with {} for the folder."""
        data, own = self.config.data, plain(self.config)["data"]
        moves = isinstance(data, MovesConfig)
        changed = [each.name for each in fields(data) if getattr(data, each.name) != each.default]
        words = [] if moves else [f"data={own['name']}", "evaluation=none"]
        words += [override(f"data.{key}", own[key]) for key in changed if key != "cache_dir"]
        return " ".join([USE, *(shlex.quote(word).replace("{", "{{").replace("}", "}}") for word in words)])

    def split(self) -> tuple[Rows, Rows]:
        """Clips to train on and clips to measure on, disjoint: what the data keeps out of training, else a part."""
        dataset = self.config.data.build()
        self.statistics = dataset.statistics
        heldout = dataset.heldout()
        if heldout is not None:
            return all_rows(dataset), all_rows(heldout)
        return split_by_chance(dataset, self.config.heldout_clips, self.unit)

    def network(self, media_shape: tuple[int, ...]) -> MotionAutoencoder:
        """An untrained network for clips (C, F), which knows mean and deviation of their numbers."""
        origin = self.format.skeleton.name, self.format.representation
        return MotionAutoencoder(self.config.autoencoder, (self.statistics.mean, self.statistics.std), origin)

    def measure(self, network: MotionAutoencoder, train: Rows, heldout: Rows) -> dict[str, float | dict]:
        """How near held-out clips come back, beside what needs no network, on the same clips."""
        count = min(self.config.heldout_clips, len(heldout))
        clips = [clip for batch in heldout.batches(self.config.batch_size, count) for clip in self.real(batch)]
        codes = {
            "original": lambda clip: clip,
            KIND: partial(coded, network),
            "interpolated": partial(every_nth, stride=network.downsample),
        }
        frame_numbers = network.latent_channels / network.downsample
        return {
            **{name: self.distances(code, clips) for name, code in codes.items()},
            "numbers_a_frame": {"clips": train.media_shape[0], "latents": frame_numbers},
            "heldout_clips": count,
        }

    def write(self, folder: Path, network: MotionAutoencoder, data: tuple[Rows, Rows], metrics: dict) -> None:
        """The files, and a film strip of held-out clips before and after."""
        train, heldout = data
        save_autoencoder(folder, network, *real_latents(network, train, self.config.batch_size).of_channels())
        self.save_picture(network, heldout, folder / PICTURE)

    def numbers(self, metrics: dict) -> list[str]:
        """The comparison."""
        size = metrics["numbers_a_frame"]
        rows = [
            f"{name:<14}{row['joints_mm']:>13.1f}{row['pose_mm']:>11.1f}{row['number_error']:>15.4f}"
            f"{100 * row['skate_ratio']:>9.2f} %"
            for name, row in ((name, metrics[name]) for name in ("original", KIND, "interpolated"))
        ]
        head = (
            f"{metrics['heldout_clips']} held-out clips, encoded and decoded ({size['clips']} numbers a frame become "
            f"{size['latents']:g}; interpolated: every {self.config.autoencoder.stride}th frame is kept):"
        )
        return [head, "                joints mm    pose mm   error^2 of num.   skate", *rows]

    def shown_pictures(self) -> str:
        """How the report calls the pictures."""
        return f"pictures: {', '.join(self.pictures)}"

    @property
    def format(self) -> MotionFormat:
        """What the numbers of the clips are."""
        return motion_format(self.config.data)

    def real(self, clips: Tensor) -> Iterator[Tensor]:
        """The real frames (C, F) of each of padded clips (B, C, F)."""
        lengths = real_frames(self.normalised(clips)).sum((1, 2)).tolist()
        yield from (clip[:, :length] for clip, length in zip(clips, lengths, strict=True))

    def normalised(self, clips: Tensor) -> Tensor:
        """Clips (..., C, F) with mean 0 and deviation 1 of each number."""
        return (clips - self.statistics.mean[:, None]) / self.statistics.std[:, None]

    def distances(self, code: Code, clips: Iterable[Tensor]) -> dict[str, float]:
        """Means over clips: distances of joints and of poses in mm, squared error of numbers, and the skate ratio."""
        parts = []
        for clip in clips:
            decoded = code(clip)
            error = (self.normalised(decoded) - self.normalised(clip)).square().mean()
            joints, back = (self.format.joints(each) for each in (clip, decoded))
            skate = skate_ratio(back[None], self.format.skeleton)
            parts.append(torch.stack([*joint_errors_mm(joints, back), error, skate[0]]))
        names = ("joints_mm", "pose_mm", "number_error", "skate_ratio")
        return dict(zip(names, torch.stack(parts).double().mean(0).tolist(), strict=True))

    def save_picture(self, network: MotionAutoencoder, heldout: Rows, path: Path) -> None:
        """A film strip of some held-out clips, each above what is decoded, at `path`.png."""
        clips = next(heldout.batches(SHOWN, SHOWN))
        pairs = [(self.format.joints(clip), self.format.joints(coded(network, clip))) for clip in self.real(clips)]
        titles = [side for _ in pairs for side in ("original", "decoded")]
        MotionPreview(self.format).save_joints([joints for pair in pairs for joints in pair], titles, path)


@torch.no_grad()
def coded(network: MotionAutoencoder, clip: Tensor) -> Tensor:
    """A clip (C, F) encoded, by the posterior's mean, and decoded; F need be no whole number of latent frames."""
    spare = -clip.shape[-1] % network.downsample
    padded = torch.cat([clip.to(network.mean.device), network.mean.expand(-1, spare)], dim=-1)
    return network.decode(network.moments(padded[None])[0])[0, :, : clip.shape[-1]].cpu()


@torch.no_grad()
def real_latents(network: MotionAutoencoder, rows: Rows, batch_size: int) -> LatentStatistics:
    """The statistics of the latents of real frames of at most `MEASURED_CLIPS` clips."""
    found = LatentStatistics()
    for media in rows.batches(batch_size, MEASURED_CLIPS):
        media = media.to(network.mean.device)
        real = coarser(real_frames((media - network.mean) / network.std), network.downsample)[:, 0]
        mean, std = (moment.transpose(1, 2)[real].T[None] for moment in network.moments(media))
        found.add(mean, std)
    return found


ENTRY = Entry(main, "motion.conf", "train_tokenizer", MotionTrainTokenizerConfig)

if __name__ == "__main__":
    ENTRY.run()
