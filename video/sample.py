"""`python -m video.sample run=<dir>`: MP4 files, a contact sheet and an .npz from a run or from published weights."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.commands.entry import Entry
from core.commands.requested import (
    check_requested,
    request_entries,
    request_name,
    requested_conditions,
    requested_texts,
    unnamed_classes,
)
from core.commands.sample import ModelParts, Sampling, SamplingOptions
from core.conditioning.labels import LabelConditioning
from core.data.movies import write_mp4
from core.data.pixels import UINT8_RULE
from core.generate import Generator
from core.storage.atomic import reserve
from core.storage.checkpoint import State
from core.storage.coming import without_weights
from video.preview import MAX_CLIPS, VideoPreview, to_frames
from video.train import ENTRY as TRAIN
from video.wan.sample import WanSampleOptions, WanSampling, is_finetuned

CLIPS = "mp4"


@dataclass(frozen=True, kw_only=True)
class VideoSampleConfig(SamplingOptions):
    """What to sample, from a run or from published weights; see `core.commands.sample.SamplingOptions`.

    labels   a class, or a list of classes to cycle through, by number or name; null for the config's own rule over all
    prompts  texts to cycle through; null for the prompts of the run
    frames   of the samples, at most those of the training clips; null: as many as these have
    wan      of a run of `video.finetune`, or instead of a run: a directory of Wan, with or without a LoRA file
    gif      whether there is grid.gif too
    """

    labels: int | str | list[int | str] | None = None
    prompts: list[str] | None = None
    frames: int | None = None
    wan: WanSampleOptions = field(default_factory=WanSampleOptions)
    gif: bool = False

    def __post_init__(self) -> None:
        if self.run is not None or self.wan.model is None:
            super().__post_init__()
        if self.num < 1:
            raise ValueError(f"num is {self.num}; it must be at least 1")
        if self.prompts is not None and not (self.prompts and all(prompt.strip() for prompt in self.prompts)):
            raise ValueError(f"prompts is {self.prompts}; needed: one text or more, none of them empty, or null")
        check_requested(self)


def main(config: VideoSampleConfig) -> None:
    """Sample video from a run or from published weights: MP4 files, a contact sheet, and the frames in an .npz.

    Sample i depends on (seed, i), its condition and the weights only, never on num, batch_size or the device count.
    """
    if is_finetuned(config.run) or (config.run is None and config.wan.model is not None):
        WanSampling(config, write_clips).run(print)
        return
    if config.wan != WanSampleOptions():
        raise ValueError("keys of wan are given, but run is no fine-tuning of Wan, and wan.model is null")
    VideoSampling(config).run(print)


class VideoSampling(Sampling):
    """Clips of the classes or texts that are asked for."""

    train, unit, files = TRAIN, "clip", f"grid.png, grid.mp4, {CLIPS}/, samples.npz"
    config: VideoSampleConfig

    def build_model(self, state: State, source: Path, device: torch.device) -> ModelParts:
        """The model for weights; a checkpoint of ours knows its classes."""
        model = self.model_config
        tokenizer, shape = model.tokenizer.build(device), model.data.media_shape
        null_label = model.backbone.null_label
        names = self.class_names or unnamed_classes(model.conditioning, null_label, state, str(source))
        conditioning = model.conditioning.build(names, device)
        with without_weights():
            backbone = model.backbone.build(tuple(tokenizer.latent_shape(shape)), conditioning)
        made = tuple(tokenizer.latent_shape(shape if self.config.frames is None else self.shorter(shape)))
        check_patches(made, model.backbone.patch, self.config.frames)
        return ModelParts(tokenizer, backbone, conditioning, made)

    def shorter(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of samples with the frames that are asked for; ValueError for more than the training clips'."""
        channels, most, *sides = shape
        if not 1 <= self.config.frames <= most:
            raise ValueError(f"frames is {self.config.frames}; the model makes clips of 1 to {most} frames")
        return channels, self.config.frames, *sides

    def condition_name(self) -> str:
        """What is asked for, and the number of frames where it is another: all, labels_3-right_8frames."""
        frames = "" if self.config.frames is None else f"_{self.config.frames}frames"
        return f"{request_name(self.config, self.class_names)}{frames}"

    def requests(self, conditioning: Any) -> Tensor:
        """Conditions (num, ...) of the samples to make; ValueError for a kind that the model does not take."""
        return requested_conditions(self.config, conditioning)

    def protocol_entries(self) -> dict[str, Any]:
        """Which conditions, how many frames, and how they are stored."""
        own = request_entries(self.config, self.model_config.conditioning, self.class_names)
        return {**own, "frames": self.config.frames or self.model_config.data.clip.frames, "pixels": UINT8_RULE}

    def write(self, generator: Generator, batches: Iterable[Tensor], requests: Tensor, folder: Path) -> None:
        """Write grid.png and grid.mp4 of the first, mp4/000000.mp4 ..., and samples.npz, holding one batch in memory.

        On request also grid.gif.

        The .npz has `arr_0` uint8 (num, F, H, W, C), which loses nothing, and the classes in `arr_1`.
        """
        labels = requests if isinstance(generator.conditioning, LabelConditioning) else None
        names = [] if labels is None else generator.conditioning.names
        preview = VideoPreview(names, self.model_config.data.fps, self.config.gif)
        write_clips(batches, len(requests), folder, preview, labels)
        titles = requested_texts(self.config, generator.conditioning)
        if labels is not None:
            titles = [names[label] for label in requests.tolist()]
        rows = {f"{row:06d}.mp4": title for row, title in enumerate(titles)}
        if rows:
            (folder / CLIPS / "conditions.json").write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n")


def write_clips(
    batches: Iterable[Tensor], count: int, folder: Path, preview: VideoPreview, labels: Tensor | None = None
) -> None:
    """What `VideoSampling.write` says of batches of media (B, C, F, H, W), `count` in all, and their classes (num,)."""
    (folder / CLIPS).mkdir()
    pixels, shown, done = None, [], 0
    for media in batches:
        rows = to_frames(media)
        if pixels is None:
            shape = (count, *rows.shape[1:])
            pixels = np.lib.format.open_memmap(folder / "pixels.npy", "w+", dtype=np.uint8, shape=shape)
            reserve(folder / "pixels.npy")
        pixels[done : done + len(rows)] = rows
        for i, clip in enumerate(rows):
            write_mp4(clip, folder / CLIPS / f"{done + i:06d}.mp4", preview.fps)
        shown += list(rows[: MAX_CLIPS - done]) if done < MAX_CLIPS else []
        done += len(rows)
    preview.save_frames(np.stack(shown), None if labels is None else labels[: len(shown)], folder / "grid")
    classes = {} if labels is None else {"arr_1": labels.numpy()}
    np.savez(folder / "samples.npz", arr_0=pixels, **classes)
    (folder / "pixels.npy").unlink()


def check_patches(latent_shape: tuple[int, ...], patch: tuple[int, ...], frames: int | None) -> None:
    """Raises ValueError, naming the key, where latents (Z, T, Y, X) of so many frames are no whole tokens."""
    if latent_shape[1] % patch[0]:
        raise ValueError(
            f"frames is {frames}, which makes {latent_shape[1]} latent frames; a token of the model has {patch[0]}, so "
            "they must be a multiple of that"
        )


ENTRY = Entry(main, "video.conf", "sample", VideoSampleConfig)

if __name__ == "__main__":
    ENTRY.run()
