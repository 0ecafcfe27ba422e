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
from core.commands.sample import ModelParts, Sampling, SamplingOptions, in_a_name
from core.conditioning.labels import LabelConditioning, LabelConfig, by_name
from core.generate import Generator
from core.storage.atomic import reserve
from core.storage.checkpoint import State
from video.preview import MAX_CLIPS, VideoPreview, to_frames, write_mp4
from video.train import ENTRY as TRAIN
from video.train import VideoConfig
from video.wan.sample import WanSampleOptions, WanSampling, is_finetuned

UINT8_RULE = "uint8: 127.5 x + 128, cut to 0..255, truncated"
CLIPS = "mp4"


@dataclass(frozen=True, kw_only=True)
class VideoSampleConfig(SamplingOptions):
    """What to sample, from a run or from published weights; see `core.commands.sample.SamplingOptions`.

    labels   a class, or a list of classes to cycle through, by number or name; null for the config's own rule over all
    prompts  texts to cycle through, of a Wan; null for the prompts of the run
    wan      of a run of `video.finetune`, or instead of a run: a directory of Wan, with or without a LoRA file
    gif      whether there is grid.gif too
    """

    labels: int | str | list[int | str] | None = None
    prompts: list[str] | None = None
    wan: WanSampleOptions = field(default_factory=WanSampleOptions)
    gif: bool = False

    def __post_init__(self) -> None:
        if self.run is not None or self.wan.model is None:
            super().__post_init__()
        if self.num < 1:
            raise ValueError(f"num is {self.num}; it must be at least 1")
        if self.prompts is not None and not (self.prompts and all(prompt.strip() for prompt in self.prompts)):
            raise ValueError(f"prompts is {self.prompts}; needed: one text or more, none of them empty, or null")


def main(config: VideoSampleConfig) -> None:
    """Sample video from a run or from published weights: MP4 files, a contact sheet, and the frames in an .npz.

    Sample i depends on (seed, i), its condition and the weights only, never on num, batch_size or the device count.
    """
    if is_finetuned(config.run) or (config.run is None and config.wan.model is not None):
        WanSampling(config, write_clips).run(print)
        return
    if config.prompts is not None:
        raise ValueError(f"prompts is {config.prompts}, but the model is no Wan that takes texts")
    VideoSampling(config).run(print)


class VideoSampling(Sampling):
    """Clips of the classes that are asked for."""

    train, unit, files = TRAIN, "clip", f"grid.png, grid.mp4, {CLIPS}/, samples.npz"
    config: VideoSampleConfig

    def build_model(self, state: State, source: Path, device: torch.device) -> ModelParts:
        """The model for weights; a checkpoint of ours knows its classes."""
        model = self.model_config
        tokenizer = model.tokenizer.build(device)
        latent_shape = tuple(tokenizer.latent_shape(model.data.media_shape))
        names = self.class_names or unnamed(model, state, source)
        conditioning = model.conditioning.build(names, device)
        return ModelParts(tokenizer, model.backbone.build(latent_shape, conditioning), conditioning, latent_shape)

    def condition_name(self) -> str:
        """The classes: all, label3, label1-2."""
        if self.config.labels is None:
            return "all"
        labels = by_name(self.config.labels, self.class_names)
        return f"label{in_a_name(labels if isinstance(labels, list) else [labels])}"

    def requests(self, conditioning: Any) -> Tensor:
        """Conditions (num, ...) of the samples to make; ValueError for a kind that the model does not take."""
        if self.config.labels is None:
            return conditioning.requests(self.config.num, self.config.seed)
        if not isinstance(conditioning, LabelConditioning):
            raise ValueError(f"labels is {self.config.labels!r}, but the model knows no classes")
        return conditioning.chosen(self.config.labels, self.config.num)

    def protocol_entries(self) -> dict[str, Any]:
        """Which conditions, and how frames are stored."""
        labels, of_model = self.config.labels, self.model_config.conditioning
        own: dict[str, Any] = {}
        if labels is not None:
            own = {"labels": by_name(labels, self.class_names)}
        elif isinstance(of_model, LabelConfig):
            own = {"labels": of_model.labels}
        return {**own, "pixels": UINT8_RULE}

    def write(self, generator: Generator, batches: Iterable[Tensor], requests: Tensor, folder: Path) -> None:
        """Write grid.png and grid.mp4 of the first, mp4/000000.mp4 ..., and samples.npz, holding one batch in memory.

        On request also grid.gif.

        The .npz has `arr_0` uint8 (num, F, H, W, C), which loses nothing, and the classes in `arr_1`.
        """
        labels = requests if isinstance(generator.conditioning, LabelConditioning) else None
        names = [] if labels is None else generator.conditioning.names
        preview = VideoPreview(names, self.model_config.data.fps, self.config.gif)
        write_clips(batches, len(requests), folder, preview, labels)
        if labels is not None:
            titles = {f"{row:06d}.mp4": names[label] for row, label in enumerate(requests.tolist())}
            (folder / CLIPS / "conditions.json").write_text(json.dumps(titles, indent=1) + "\n")


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


def unnamed(model: VideoConfig, state: State, source: Path) -> list[str]:
    """Numbers for the classes of weights that come without names."""
    if not isinstance(model.conditioning, LabelConfig):
        return []
    table = state.get("y_embedder.embedding_table.weight")
    if table is None:
        raise ValueError(f"{source} is of another architecture than the configured backbone: it has no table of labels")
    return [str(number) for number in range(len(table) - model.backbone.null_label)]


ENTRY = Entry(main, "video.conf", "sample", VideoSampleConfig)

if __name__ == "__main__":
    ENTRY.run()
