"""`python -m audio.sample run=<dir>`: WAV files and a picture from a run or from published weights."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from audio.data import clip_format
from audio.preview import AudioPreview
from audio.sounds.pcm import FULL_SCALE, write_wav
from audio.sounds.sound import ClipFormat
from audio.train import ENTRY as TRAIN
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
from core.conditioning.tags import TagConditioning
from core.generate import Generator
from core.latents.scaling import Scaling
from core.storage.checkpoint import State
from core.storage.coming import without_weights

MAX_SHOWN = 20  # samples in the picture
PCM_RULE = f"int16: round({FULL_SCALE} x), clamped"
SOUNDS = "wav"


@dataclass(frozen=True, kw_only=True)
class AudioSampleConfig(SamplingOptions):
    """What to sample, from a run or from published weights; see `core.commands.sample.SamplingOptions`.

    labels   classes to cycle through, by number or name; null for the config's own rule over all
    tags     a set of tags that every sample is asked to have; null for the config's own rule
    prompts  texts to cycle through; null for the config's own prompts
    seconds  length of the samples, at most that of the training clips; null: as long as these
    """

    labels: int | str | list[int | str] | None = None
    tags: list[str] | None = None
    prompts: list[str] | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_requested(self)
        if self.seconds is not None and not self.seconds > 0:
            raise ValueError(f"seconds is {self.seconds}; allowed: above 0, or null: as the training clips")


def main(config: AudioSampleConfig) -> None:
    """Sample sound from a run or from published weights: WAV files and a picture of the first.

    Sample i depends on (seed, i), its condition and the weights only, never on num, batch_size or the device count.
    """
    AudioSampling(config).run(print)


class AudioSampling(Sampling):
    """Clips of the classes, tags or texts that are asked for."""

    train, unit, files = TRAIN, "clip", f"grid.png, {SOUNDS}/"
    config: AudioSampleConfig

    def build_model(self, state: State, source: Path, device: torch.device) -> ModelParts:
        """The model for weights; a checkpoint of ours knows its classes and the scaling of its latents.

        Raises ValueError for a file without these, unless the config says them.
        """
        model = self.model_config
        tokenizer, known = model.tokenizer.build(model.data.sample_rate, model.data.channels, device)
        if "tokenizer" in self.notes:
            known = Scaling.kept(self.notes["tokenizer"])
        if known is None:
            raise ValueError(
                f"{source} does not say how its latents are scaled; give tokenizer.latent_mean and "
                "tokenizer.latent_std: +overrides.tokenizer.latent_mean=..."
            )
        null_label = model.backbone.null_label
        names = self.class_names or unnamed_classes(model.conditioning, null_label, state, str(source))
        conditioning = model.conditioning.build(names, device)
        clip = clip_format(model.data, tokenizer.hop, model.backbone.patch_size)
        with without_weights():
            backbone = model.backbone.build(tuple(tokenizer.latent_shape(clip.shape)), conditioning)
        made = clip if self.config.seconds is None else shorter_clip(clip, self.config.seconds)
        return ModelParts(tokenizer.scaled(known), backbone, conditioning, tuple(tokenizer.latent_shape(made.shape)))

    def condition_name(self) -> str:
        """What is asked for, and the length where it is another: all, labels_piano-flute_0.5s."""
        length = "" if self.config.seconds is None else f"_{self.config.seconds:g}s"
        return f"{request_name(self.config, self.class_names)}{length}"

    def requests(self, conditioning: Any) -> Tensor:
        """Conditions (num, ...) of the samples to make; ValueError for a kind that the model does not take."""
        return requested_conditions(self.config, conditioning)

    def protocol_entries(self) -> dict[str, Any]:
        """Which conditions, how long, and how sound is stored."""
        own = request_entries(self.config, self.model_config.conditioning, self.class_names)
        return {**own, "seconds": self.config.seconds or self.model_config.data.seconds, "samples": PCM_RULE}

    def write(self, generator: Generator, batches: Iterable[Tensor], requests: Tensor, folder: Path) -> None:
        """Write grid.png of the first, wav/000000.wav ... and wav/conditions.json, holding one batch in memory."""
        preview, rate = preview_of(generator), generator.tokenizer.sample_rate
        (folder / SOUNDS).mkdir()
        shown: list[Tensor] = []
        done = 0
        for media in batches:
            for i, clip in enumerate(media):
                write_wav(folder / SOUNDS / f"{done + i:06d}.wav", clip, rate)
            shown += list(media[: MAX_SHOWN - done]) if done < MAX_SHOWN else []
            done += len(media)
        preview.save_picture(torch.stack(shown), requests[: len(shown)], folder / "grid.png")
        titles = requested_texts(self.config, generator.conditioning) or preview.titles(requests, len(requests))
        rows = {f"{number:06d}.wav": title for number, title in enumerate(titles)}
        (folder / SOUNDS / "conditions.json").write_text(json.dumps(rows, indent=1) + "\n")


def shorter_clip(clip: ClipFormat, seconds: float) -> ClipFormat:
    """The format of clips of other seconds; ValueError for more than the training clips', or less than a token."""
    if not clip.token_samples <= seconds * clip.sample_rate <= clip.num_samples:
        least, most = (count / clip.sample_rate for count in (clip.token_samples, clip.num_samples))
        raise ValueError(f"seconds is {seconds:g}; the model makes clips of {least:g} to {most:g} s")
    return ClipFormat.of(clip.sample_rate, clip.channels, seconds, clip.token_samples)


def preview_of(generator: Generator) -> AudioPreview:
    """Pictures whose samples are titled by what they were asked to be."""
    names = getattr(generator.conditioning, "names", [])
    tags = names if isinstance(generator.conditioning, TagConditioning) else ()
    return AudioPreview(names, generator.tokenizer.sample_rate, tags)


ENTRY = Entry(main, "audio.conf", "sample", AudioSampleConfig)

if __name__ == "__main__":
    ENTRY.run()
