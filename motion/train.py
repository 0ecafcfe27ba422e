"""`python -m motion.train`: train a SiT with LayerSync on motion, sample it and measure it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch

from core.commands.entry import Entry
from core.commands.train import closing_lines, run_training
from core.conditioning.contract import assign_conditions, check_cached_conditions
from core.contracts import Domain
from core.latents.cache import LastAxisMasks
from core.latents.scaling import Scaling, scaling_of_run
from core.latents.tokenizer import FromMoments
from core.schema import choice
from core.storage.coming import first_weights
from core.storage.run_folder import RunDirectory
from core.train.config import RunConfig
from core.train.trainer import Trainer
from motion.backbone import BACKBONES
from motion.codecs.trained import check_tokenizer
from motion.conditioning import CONDITIONINGS, ConditioningConfig, TextConfig, build_conditioning
from motion.data import DATASETS, UNIT, LatentsConfig, motion_format
from motion.datasets.moves import MovesConfig
from motion.datasets.sheet import DATA_SHEET, write_data_sheet
from motion.encoder import ENCODERS, encoders_of
from motion.preview import MotionPreview
from motion.stand_in import EVALUATIONS, MovesEvaluationConfig, NoEvaluationConfig, report_lines
from motion.tokenizer import TOKENIZERS, MotionTokenizer

ASKED = {  # words of motion.sample, by the conditioning of the run
    "text": "prompts='[\"somebody strolls along\"]' num=4",
    "labels": "labels=[walk,jump] num=4",
    "none": "num=4",
}


@dataclass(frozen=True, kw_only=True)
class MotionConfig(RunConfig):
    """A run on motion."""

    encoders: ClassVar[tuple[str, ...]] = ENCODERS
    data: object = choice(DATASETS)
    tokenizer: object = choice(TOKENIZERS)
    backbone: object = choice(BACKBONES)
    conditioning: ConditioningConfig = choice(CONDITIONINGS)
    evaluation: MovesEvaluationConfig | NoEvaluationConfig = choice(EVALUATIONS, free=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_media(cache=self.data.root if isinstance(self.data, LatentsConfig) else None)
        self.check_model(self.backbone, self.conditioning.drop)
        if isinstance(self.evaluation, MovesEvaluationConfig):
            self.check_stand_in("moves", MovesConfig, DATASETS)
            if not isinstance(self.conditioning, TextConfig):
                raise ValueError("evaluation is 'moves', which needs conditioning=text; allowed otherwise: none")


def build_domain(config: MotionConfig, device: torch.device, *, evaluate: bool) -> Domain:
    """The components of a run; the backbone's first weights are a function of the seed."""
    tokenizer, known = config.tokenizer.build(device)
    masks = masks_of(config, tokenizer)
    tokenizer, dataset = open_data(config, tokenizer, known, masks)
    conditioning = build_conditioning(config.conditioning, config.data, dataset.class_names, masks, device)
    with first_weights(config.seed):
        backbone = config.backbone.build(tuple(tokenizer.latent_shape(dataset.media_shape)), conditioning)
    return Domain(
        name="motion",
        unit=UNIT,
        dataset=dataset,
        tokenizer=tokenizer,
        backbone=backbone,
        conditioning=conditioning,
        preview=MotionPreview.of(motion_format(config.data), conditioning),
        evaluator=config.evaluation.build(config.cache, device, config.data, dataset, conditioning)
        if evaluate
        else None,
        encoders=encoders_of(dataset, device, motion_format(config.data)),
    )


def masks_of(config: MotionConfig, tokenizer: MotionTokenizer) -> LastAxisMasks:
    """Which tokens are real where only the first frames of a clip are; ValueError for frames that are no tokens."""
    frames, of_token = config.data.frames, tokenizer.frame_stride * config.backbone.patch_size
    if frames % of_token:
        raise ValueError(
            f"data.frames is {frames}; it must be a multiple of {of_token}, the frames of a token "
            f"(backbone.patch_size {config.backbone.patch_size})"
        )
    return LastAxisMasks(frames, of_token)


def open_data(
    config: MotionConfig, tokenizer: MotionTokenizer, known: Scaling | None, masks: LastAxisMasks
) -> tuple[MotionTokenizer | FromMoments, Any]:
    """The tokenizer, its latents scaled, and the data set with the conditions that are asked for."""
    data = config.data
    if isinstance(data, LatentsConfig):
        dataset = data.build(masks)
        check_cached_conditions(dataset, config.conditioning)
        scaling = known or Scaling.kept(dataset.spec.tokenizer)
        recorded = {**dataset.spec.tokenizer, "shift": scaling.shift, "scale": scaling.scale}  # moments have neither
        return FromMoments(tokenizer.scaled(scaling), recorded, data.root), dataset
    dataset = data.build(masks)
    check_tokenizer(config.tokenizer, tokenizer, dataset, config.cache)
    assign = partial(assign_conditions, config=config.conditioning, kinds=CONDITIONINGS, device=tokenizer.device)
    assign(dataset)
    dataset.assign = assign  # for its held-out clips
    known = known or scaling_of_run(RunDirectory(Path(config.runs_dir) / "motion" / config.name), tokenizer)
    return tokenizer.scaled(known or statistics_scaling(dataset)), dataset


def statistics_scaling(dataset: Any) -> Scaling:
    """The scaling by the mean and deviation of each number that come with a data set."""
    return Scaling.of(dataset.statistics.mean.tolist(), dataset.statistics.std.tolist())


class MotionTrainer(Trainer):
    """The loop, behind film strips of what it is about to train on."""

    def begin(self) -> None:
        """Write data.png into the folder of a run that begins: some clips with their names and captions."""
        super().begin()
        data, file = self.config.data, self.run.path / DATA_SHEET
        if self.step == 0 and not isinstance(data, LatentsConfig):
            clips = motion_format(data)
            self.records.write(lambda: write_data_sheet(self.domain.dataset, clips, file) and None)


def main(config: MotionConfig) -> None:
    """Train a SiT with LayerSync on motion, then sample and measure it.

    Without arguments: procedural moves with captions, some minutes on two CPU cores. The same command again continues a
    run that was interrupted, or says that it is complete. experiment=NAME selects a row of the paper.
    torchrun --nproc-per-node=N -m motion.train ... runs it on N GPUs, or N CPU processes.
    """
    run_training(config, "motion", build_domain, report, show=print, trainer=MotionTrainer)


def report(run: RunDirectory, summary: dict) -> str:
    """What a run prints at its end: numbers, places, next commands."""
    asked = ASKED[run.config()["conditioning"]["name"]]
    return "\n".join([*report_lines(summary), *closing_lines(run, summary, UNIT, ".png", asked)])


ENTRY = Entry(main, "motion.conf", "train", MotionConfig)

if __name__ == "__main__":
    ENTRY.run()
