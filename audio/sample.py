"""`python -m audio.sample run=<dir>`: WAV files and a picture from a run or from published weights."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from audio.conditioning import TagsConfig, TextConfig
from audio.data import clip_format
from audio.preview import AudioPreview
from audio.sounds.pcm import FULL_SCALE, write_wav
from audio.sounds.sound import ClipFormat
from audio.tokenizer import build_tokenizer
from audio.train import ENTRY as TRAIN
from audio.train import AudioConfig
from core.commands import sample as sampling
from core.commands.entry import Entry
from core.commands.sample import ModelParts, SamplingDomain
from core.conditioning.labels import LabelConditioning, LabelConfig
from core.conditioning.tags import TagConditioning
from core.conditioning.texts import TextConditioning
from core.generate import Generator
from core.latents.scaling import Scaling
from core.storage.checkpoint import State, read_checkpoint

MAX_SHOWN = 20  # samples in the picture
PCM_RULE = f"int16: round({FULL_SCALE} x), clamped"
SOUNDS = "wav"


@dataclass(frozen=True, kw_only=True)
class SampleConfig(sampling.SampleConfig):
    """What to sample, from a run or from published weights; see `core.commands.sample.SampleConfig`.

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
        given = [name for name in ("labels", "tags", "prompts") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are given; samples are asked for by one of them")
        for name in given:
            if getattr(self, name) == []:
                raise ValueError(f"{name} is empty; give one or more, or null")
        if self.seconds is not None and not self.seconds > 0:
            raise ValueError(f"seconds is {self.seconds}; allowed: above 0, or null: as the training clips")


def model_config(config: SampleConfig) -> AudioConfig:
    """The training config that says what the model is."""
    return sampling.model_config(config, TRAIN)


def model_parts(
    config: SampleConfig, model: AudioConfig, state: State, source: Path, device: torch.device
) -> ModelParts:
    """The model for weights; a checkpoint of ours knows its classes and the scaling of its latents.

    Raises ValueError for a file without these, unless the config says them.
    """
    notes = read_checkpoint(source, only=()).notes if source.is_dir() else {}
    tokenizer, known = build_tokenizer(model.tokenizer, model.data.sample_rate, model.data.channels, device)
    if "tokenizer" in notes:
        known = Scaling.kept(notes["tokenizer"])
    if known is None:
        raise ValueError(
            f"{source} does not say how its latents are scaled; give tokenizer.latent_mean and tokenizer.latent_std: "
            "+overrides.tokenizer.latent_mean=..."
        )
    names = notes.get("class_names") or unnamed(model, state, source)
    conditioning = model.conditioning.build(names, device)
    patch = model.backbone.patch_size
    clip = clip_format(model.data, tokenizer.hop, patch)
    backbone = model.backbone.build(tuple(tokenizer.latent_shape(clip.shape)), conditioning)
    asked_for = clip if config.seconds is None else shorter_clip(clip, config.seconds)
    return ModelParts(tokenizer.scaled(known), backbone, conditioning, tuple(tokenizer.latent_shape(asked_for.shape)))


def shorter_clip(clip: ClipFormat, seconds: float) -> ClipFormat:
    """The format of clips of other seconds; ValueError for more than the training clips', or less than a token."""
    if not clip.token_samples <= seconds * clip.sample_rate <= clip.num_samples:
        least, most = (count / clip.sample_rate for count in (clip.token_samples, clip.num_samples))
        raise ValueError(f"seconds is {seconds:g}; the model makes clips of {least:g} to {most:g} s")
    return ClipFormat.of(clip.sample_rate, clip.channels, seconds, clip.token_samples)


def unnamed(model: AudioConfig, state: State, source: Path) -> list[str]:
    """Numbers for the classes or tags of weights that come without names."""
    if not isinstance(model.conditioning, LabelConfig | TagsConfig):
        return []
    table = state.get("y_embedder.embedding_table.weight")
    if table is None:
        raise ValueError(f"{source} is of another architecture than the configured backbone: it has no table of labels")
    null_row = isinstance(model.conditioning, TagsConfig) or model.backbone.null_label
    return [str(number) for number in range(len(table) - null_row)]


def request(config: SampleConfig, conditioning: Any) -> Tensor:
    """Conditions (num, ...) of the samples to make; ValueError for a kind that the model does not take."""
    kinds = {"labels": LabelConditioning, "tags": TagConditioning, "prompts": TextConditioning}
    for key, kind in kinds.items():
        wanted = getattr(config, key)
        if wanted is None:
            continue
        if not isinstance(conditioning, kind):
            takes = next((name for name, each in kinds.items() if isinstance(conditioning, each)), "none of them")
            raise ValueError(f"{key} is {wanted!r}, but the model knows other conditions; it takes: {takes}")
        return conditioning.named(wanted if isinstance(wanted, list) else [wanted], config.num)
    return conditioning.requests(config.num, config.seed)


def asked(config: SampleConfig) -> str:
    """What is asked for, as a part of a folder's name."""
    length = "" if config.seconds is None else f"_{config.seconds:g}s"
    for key in ("labels", "tags", "prompts"):
        wanted = getattr(config, key)
        if wanted is not None:
            words = "-".join(str(each) for each in (wanted if isinstance(wanted, list) else [wanted]))
            return f"{key}_{''.join(letter if letter.isalnum() else '-' for letter in words)[:60]}{length}"
    return f"all{length}"


def told(config: SampleConfig, model: AudioConfig) -> dict[str, Any]:
    """What the protocol says of conditions and files."""
    own = {key: getattr(config, key) for key in ("labels", "tags", "prompts") if getattr(config, key) is not None}
    if not own and isinstance(model.conditioning, LabelConfig):
        own = {"labels": model.conditioning.labels}
    elif not own and isinstance(model.conditioning, TagsConfig):
        own = {"tags": model.conditioning.requests}
    elif not own and isinstance(model.conditioning, TextConfig):
        own = {"prompts": list(model.conditioning.prompts)}
    return {**own, "seconds": config.seconds or model.data.seconds, "samples": PCM_RULE}


def write_samples(
    config: SampleConfig, generator: Generator, batches: Iterable[Tensor], conditions: Tensor, folder: Path
) -> None:
    """Write grid.png of the first samples, wav/000000.wav ... and wav/conditions.json, holding one batch in memory."""
    preview, rate = make_preview_of(generator), generator.tokenizer.sample_rate
    (folder / SOUNDS).mkdir()
    shown: list[Tensor] = []
    done = 0
    for media in batches:
        for i, clip in enumerate(media):
            write_wav(folder / SOUNDS / f"{done + i:06d}.wav", clip, rate)
        shown += list(media[: MAX_SHOWN - done]) if done < MAX_SHOWN else []
        done += len(media)
    preview.save_picture(torch.stack(shown), conditions[: len(shown)], folder / "grid.png")
    titles = texts_asked_for(config, generator.conditioning) or preview.titles(conditions, len(conditions))
    rows = {f"{number:06d}.wav": title for number, title in enumerate(titles)}
    (folder / SOUNDS / "conditions.json").write_text(json.dumps(rows, indent=1) + "\n")


def texts_asked_for(config: SampleConfig, conditioning: Any) -> list[str]:
    """The text behind each of the samples; [] for a model that takes none."""
    if not isinstance(conditioning, TextConditioning):
        return []
    texts = config.prompts or conditioning.config.prompts
    return [texts[number % len(texts)] for number in range(config.num)]


def make_preview_of(generator: Generator) -> AudioPreview:
    """Pictures whose samples are titled by what they were asked to be."""
    names = getattr(generator.conditioning, "names", [])
    tags = names if isinstance(generator.conditioning, TagConditioning) else ()
    return AudioPreview(names, generator.tokenizer.sample_rate, tags)


DOMAIN = SamplingDomain(
    train=TRAIN,
    parts=model_parts,
    asked=asked,
    request=request,
    told=told,
    write=write_samples,
    unit="clip",
    files="grid.png, wav/",
)


def main(config: SampleConfig) -> None:
    """Sample sound from a run or from published weights: WAV files and a picture of the first.

    Sample i depends on (seed, i), its condition and the weights only, never on num, batch_size or the device count.
    """
    sampling.run_sampling(config, DOMAIN, print)


ENTRY = Entry(main, "audio.conf", "sample", SampleConfig)

if __name__ == "__main__":
    ENTRY.run()
