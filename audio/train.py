"""`python -m audio.train`: train a SiT with LayerSync on sound, sample it and measure it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from audio.backbone import BACKBONES, SiTConfig
from audio.codecs.scaling import measured_latents
from audio.conditioning import (
    CONDITIONINGS,
    LabelConfig,
    NoneConfig,
    TagsConfig,
    TextConfig,
)
from audio.data import DATASETS, LatentsConfig, clip_format
from audio.datasets.notes import NotesConfig
from audio.encoder import ENCODERS, encoders_of
from audio.preview import AudioPreview
from audio.stand_in import EVALUATIONS, NoEvaluationConfig, NotesEvaluationConfig
from audio.tokenizer import TOKENIZERS, AudioTokenizer
from core.commands.entry import Entry
from core.commands.train import closing_lines, run_training
from core.conditioning.contract import assign_conditions, check_cached_conditions
from core.contracts import Domain
from core.latents.scaling import Scaling, scaling_of_run
from core.latents.tokenizer import FromMoments
from core.schema import choice
from core.storage.coming import first_weights
from core.storage.run_folder import RunDirectory
from core.train.config import RunConfig


@dataclass(frozen=True, kw_only=True)
class AudioConfig(RunConfig):
    """A run on sound."""

    encoders: ClassVar[tuple[str, ...]] = ENCODERS
    data: object = choice(DATASETS)
    tokenizer: object = choice(TOKENIZERS)
    backbone: SiTConfig = choice(BACKBONES)
    conditioning: LabelConfig | TagsConfig | TextConfig | NoneConfig = choice(CONDITIONINGS)
    evaluation: NotesEvaluationConfig | NoEvaluationConfig = choice(EVALUATIONS, free=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_media(cache=self.data.root if isinstance(self.data, LatentsConfig) else None)
        self.check_model(self.backbone, self.conditioning.drop)
        if isinstance(self.evaluation, NotesEvaluationConfig):
            self.check_stand_in("notes", NotesConfig, DATASETS)
            if not isinstance(self.conditioning, LabelConfig):
                raise ValueError("evaluation is 'notes', which needs conditioning=labels; allowed otherwise: none")


def build_domain(config: AudioConfig, device: torch.device, *, evaluate: bool) -> Domain:
    """The components of an audio run; the backbone's first weights are a function of the seed."""
    tokenizer, dataset = open_data(config, device)
    conditioning = config.conditioning.build(dataset.class_names, device)
    latent_shape = tuple(tokenizer.latent_shape(dataset.media_shape))
    with first_weights(config.seed):
        backbone = config.backbone.build(latent_shape, conditioning)
    names = dataset.class_names
    return Domain(
        name="audio",
        unit="clip",
        dataset=dataset,
        tokenizer=tokenizer,
        backbone=backbone,
        conditioning=conditioning,
        preview=make_preview(config, names),
        evaluator=config.evaluation.build(config.cache, device, config.data, dataset) if evaluate else None,
        encoders=encoders_of(dataset, device, config.data.sample_rate),
    )


def make_preview(config: AudioConfig, names: Sequence[str]) -> AudioPreview:
    """Pictures and sounds that are titled by class or by tags."""
    tags = names if isinstance(config.conditioning, TagsConfig) else ()
    return AudioPreview(names, config.data.sample_rate, tags)


def open_data(config: AudioConfig, device: torch.device) -> tuple[AudioTokenizer | FromMoments, Any]:
    """The tokenizer, its latents scaled, and the data set with the conditions that are asked for."""
    data, patch = config.data, config.backbone.patch_size
    tokenizer, known = config.tokenizer.build(data.sample_rate, data.channels, device)
    clip = clip_format(data, tokenizer.hop, patch)
    dataset = data.build(clip, patch)
    if isinstance(data, LatentsConfig):
        check_cached_conditions(dataset, config.conditioning)
        scaling = known or Scaling.kept(dataset.spec.tokenizer)
        recorded = {**dataset.spec.tokenizer, "shift": scaling.shift, "scale": scaling.scale}  # moments have neither
        return FromMoments(tokenizer.scaled(scaling), recorded, data.root), dataset
    assign_conditions(dataset, config.conditioning, CONDITIONINGS, device)
    known = known or scaling_of_run(RunDirectory(Path(config.runs_dir) / "audio" / config.name), tokenizer)
    found = measured_latents(config.tokenizer, tokenizer, dataset, config.cache)
    return tokenizer.scaled(known or Scaling.of(found.mean, found.std)), dataset


def main(config: AudioConfig) -> None:
    """Train a SiT with LayerSync on sound, then sample and measure it.

    Without arguments: synthesised instrument notes, some minutes on two CPU cores. The same command again continues a
    run that was interrupted, or says that it is complete. experiment=NAME selects a row of the paper.
    torchrun --nproc-per-node=N -m audio.train ... runs it on N GPUs, or N CPU processes.
    """
    run_training(config, "audio", build_domain, report, show=print)


def report(run: RunDirectory, summary: dict) -> str:
    """What a run prints at its end: numbers, places, next commands."""
    lines = []
    if "frechet_distance" in summary:
        lines += [
            f"FAD (timbres)     {summary['frechet_distance']:.2f}   (held-out notes: {summary['frechet_floor']:.2f}; "
            f"{summary['num_samples']} samples, EMA weights, features of a small timbre classifier)",
            f"class accuracy    {100 * summary['class_accuracy']:.1f} %   (samples that the classifier takes for the "
            f"timbre asked for; of held-out notes it gets {100 * summary['classifier_accuracy']:.1f} % right)",
        ]
    return "\n".join([*lines, *closing_lines(run, summary, "clip", ".png", "num=24")])


ENTRY = Entry(main, "audio.conf", "train", AudioConfig)

if __name__ == "__main__":
    ENTRY.run()
