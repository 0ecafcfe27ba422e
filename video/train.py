"""`python -m video.train`: train a SiT with LayerSync on video, sample it and measure it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from core.commands.entry import Entry
from core.commands.train import closing_lines, run_training
from core.conditioning.contract import assign_conditions, check_cached_conditions
from core.contracts import Domain, Tokenizer
from core.latents.tokenizer import FromMoments
from core.schema import choice
from core.storage.coming import first_weights
from core.storage.run_folder import RunDirectory
from core.train.config import RunConfig
from core.train.trainer import Trainer
from video.backbone import BACKBONES, BackboneConfig
from video.codecs.trained import check_tokenizer
from video.conditioning import CONDITIONINGS, ConditioningConfig, LabelConfig
from video.data import DATASETS, LatentsConfig
from video.datasets.clips import FrameMasks
from video.datasets.digits import DigitsConfig
from video.datasets.sheet import DATA_SHEET, write_data_sheet
from video.encoder import ENCODERS, encoders_of
from video.preview import VideoPreview
from video.stand_in import ASPECTS, EVALUATIONS, DigitsEvaluationConfig, NoEvaluationConfig
from video.tokenizer import TOKENIZERS, ClipPixels, PixelsConfig, VideoTokenizer


@dataclass(frozen=True, kw_only=True)
class VideoConfig(RunConfig):
    """A run on video."""

    encoders: ClassVar[tuple[str, ...]] = ENCODERS
    data: object = choice(DATASETS)
    tokenizer: object = choice(TOKENIZERS)
    backbone: BackboneConfig = choice(BACKBONES)
    conditioning: ConditioningConfig = choice(CONDITIONINGS)
    evaluation: DigitsEvaluationConfig | NoEvaluationConfig = choice(EVALUATIONS, free=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.data, LatentsConfig) and isinstance(self.tokenizer, PixelsConfig):
            kinds = ", ".join(sorted(set(TOKENIZERS) - {"pixels"}))
            raise ValueError(f"data is 'latents' but tokenizer is 'pixels'; allowed there: {kinds}, as in the cache")
        self.check_media(cache=self.data.root if isinstance(self.data, LatentsConfig) else None)
        self.check_model(self.backbone, self.conditioning.drop)
        if isinstance(self.evaluation, DigitsEvaluationConfig):
            self.check_stand_in("digits", DigitsConfig, DATASETS)
            if not isinstance(self.conditioning, LabelConfig):
                raise ValueError("evaluation is 'digits', which needs conditioning=labels; allowed otherwise: none")


def build_domain(config: VideoConfig, device: torch.device, *, evaluate: bool) -> Domain:
    """The components of a video run; the backbone's first weights are a function of the seed."""
    tokenizer, dataset = open_data(config, device)
    conditioning = config.conditioning.build(dataset.class_names, device)
    latent_shape = tuple(tokenizer.latent_shape(dataset.media_shape))
    with first_weights(config.seed):
        backbone = config.backbone.build(latent_shape, conditioning)
    config.backbone.begin(backbone, RunDirectory(Path(config.runs_dir) / "video" / config.name))
    return Domain(
        name="video",
        unit="clip",
        dataset=dataset,
        tokenizer=tokenizer,
        backbone=backbone,
        conditioning=conditioning,
        preview=VideoPreview(dataset.class_names, getattr(dataset, "fps", config.data.fps)),
        evaluator=config.evaluation.build(config.cache, device, config.data) if evaluate else None,
        encoders=encoders_of(dataset, device),
    )


def open_data(config: VideoConfig, device: torch.device) -> tuple[Tokenizer, Any]:
    """The tokenizer, and the data set with the conditions that are asked for."""
    data, tokenizer = config.data, config.tokenizer.build(device)
    dataset = data.build(frame_masks(config, tokenizer))
    if isinstance(data, LatentsConfig):
        check_cached_conditions(dataset, config.conditioning)
        return FromMoments(tokenizer, dataset.spec.tokenizer, data.root), dataset
    assign_conditions(dataset, config.conditioning, CONDITIONINGS, device)
    check_tokenizer(config.tokenizer, tokenizer, dataset, config.cache)
    return tokenizer, dataset


def frame_masks(config: VideoConfig, tokenizer: VideoTokenizer | ClipPixels) -> FrameMasks:
    """Which tokens of latents (Z, T, Y, X) are real where only the first frames of a clip are."""
    latent_shape = tokenizer.latent_shape(config.data.media_shape)
    frames, *sides = config.backbone.patch
    tokens = math.prod(side // patch for side, patch in zip(latent_shape[2:], sides, strict=True))
    return FrameMasks(config.data.clip.frames, tokenizer.frame_stride, tokenizer.first, frames, tokens)


class VideoTrainer(Trainer):
    """The loop, behind a contact sheet of what it is about to train on."""

    def begin(self) -> None:
        """Write data.png into the folder of a run that begins: some clips with their files, classes and seconds."""
        super().begin()
        if self.step == 0 and not isinstance(self.config.data, LatentsConfig):
            self.records.write(lambda: write_data_sheet(self.domain.dataset, self.run.path / DATA_SHEET) and None)


def main(config: VideoConfig) -> None:
    """Train a SiT with LayerSync on video, then sample and measure it.

    Without arguments: handwritten digits that move and bounce, some minutes on two CPU cores. The same command again
    continues a run that was interrupted, or says that it is complete. experiment=NAME selects a row of the paper.
    torchrun --nproc-per-node=N -m video.train ... runs it on N GPUs, or N CPU processes.
    """
    run_training(config, "video", build_domain, report, show=print, trainer=VideoTrainer)


def report(run: RunDirectory, summary: dict) -> str:
    """What a run prints at its end: numbers, places, next commands."""
    lines = []
    if "frechet_distance" in summary:
        floor, shuffled = summary["frechet_floor"], summary["shuffled_frechet_distance"]
        asked, real, unordered = (
            ", ".join(f"{name} {100 * summary[f'{prefix}{name}_accuracy']:.1f} %" for name in ASPECTS)
            for prefix in ("", "classifier_", "shuffled_")
        )
        both, of_real = (f"{100 * summary[key]:.1f} %" for key in ("class_accuracy", "classifier_accuracy"))
        lines += [
            f"FVD (digits)      {summary['frechet_distance']:.2f}   (held-out clips: {floor:.2f}, with shuffled frames "
            f"{shuffled:.2f}; {summary['num_samples']} samples, EMA weights, features of a small classifier)",
            f"as asked          {asked}, both {both}   (samples that the classifier takes for what was asked for)",
            f"classifier        {real}, both {of_real}   (of held-out clips, right; with shuffled frames {unordered})",
        ]
    return "\n".join([*lines, *closing_lines(run, summary, "clip", ".png", "num=8")])


ENTRY = Entry(main, "video.conf", "train", VideoConfig)

if __name__ == "__main__":
    ENTRY.run()
