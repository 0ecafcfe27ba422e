"""`python -m image.train`: train a SiT with LayerSync on images, sample it and measure it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from core.commands.entry import Entry
from core.commands.train import closing_lines, run_training
from core.contracts import Domain
from core.latents.tokenizer import FromMoments
from core.schema import choice
from core.storage.coming import first_weights
from core.storage.run_folder import RunDirectory
from core.train.config import RunConfig
from image.backbone import BACKBONES, SiTConfig
from image.conditioning import LabelConditioning, LabelConfig
from image.data import DATASETS, LatentsConfig
from image.datasets.digits import DigitsConfig
from image.datasets.scenes import ScenesConfig
from image.encoder import ENCODERS, encoders_of
from image.metrics import TABLE, ImagesEvaluationConfig
from image.preview import ImagePreview
from image.scenes.features import ScenesEvaluationConfig
from image.stand_in import EVALUATIONS, DigitsEvaluationConfig, NoEvaluationConfig
from image.tokenizer import TOKENIZERS, PixelsConfig


@dataclass(frozen=True, kw_only=True)
class ImageConfig(RunConfig):
    """A run on images."""

    encoders: ClassVar[tuple[str, ...]] = ENCODERS
    data: object = choice(DATASETS)
    tokenizer: object = choice(TOKENIZERS)
    backbone: SiTConfig = choice(BACKBONES)
    conditioning: LabelConfig
    evaluation: DigitsEvaluationConfig | ScenesEvaluationConfig | ImagesEvaluationConfig | NoEvaluationConfig = choice(
        EVALUATIONS, free=True
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.data, LatentsConfig) and isinstance(self.tokenizer, PixelsConfig):
            kinds = ", ".join(sorted(set(TOKENIZERS) - {"pixels"}))
            raise ValueError(f"data is 'latents' but tokenizer is 'pixels'; allowed there: {kinds}, as in the cache")
        self.check_media(cache=self.data.root if isinstance(self.data, LatentsConfig) else None)
        self.check_model(self.backbone, self.conditioning.drop)
        if isinstance(self.evaluation, DigitsEvaluationConfig):
            self.check_stand_in("digits", DigitsConfig, DATASETS)
        if isinstance(self.evaluation, ScenesEvaluationConfig):
            self.check_stand_in("scenes", ScenesConfig, DATASETS)


def build_domain(config: ImageConfig, device: torch.device, *, evaluate: bool) -> Domain:
    """The components of an image run; the backbone's first weights are a function of the seed."""
    dataset = config.data.build()
    tokenizer = config.tokenizer.build(device)
    if isinstance(config.data, LatentsConfig):
        tokenizer = FromMoments(tokenizer, dataset.spec.tokenizer, config.data.root)
    num_classes = len(dataset.class_names)
    with first_weights(config.seed):
        backbone = config.backbone.build(tuple(tokenizer.latent_shape(dataset.media_shape)), num_classes)
    return Domain(
        name="image",
        unit="image",
        dataset=dataset,
        tokenizer=tokenizer,
        backbone=backbone,
        conditioning=LabelConditioning(config.conditioning, num_classes, dataset.class_names),
        preview=ImagePreview(),
        evaluator=config.evaluation.build(config.cache, device, config.data) if evaluate else None,
        encoders=encoders_of(dataset, device),
    )


def main(config: ImageConfig) -> None:
    """Train a SiT with LayerSync on images, then sample and measure it.

    Without arguments: handwritten digits, a few minutes on two CPU cores. The same command again continues a
    run that was interrupted, or says that it is complete. experiment=NAME selects a row of the paper.
    torchrun --nproc-per-node=N -m image.train ... runs it on N GPUs, or N CPU processes.
    """
    run_training(config, "image", build_domain, report, show=print)


def report(run: RunDirectory, summary: dict) -> str:
    """What a run prints at its end: numbers, places, next commands."""
    names = [metric.name for metric in TABLE.metrics if metric.name in summary]
    told = [name for name in names if name not in ("frechet_distance", "class_accuracy")]
    lines = [f"{name:<17} {summary[name]:.4g}   ({summary['num_samples']} samples, EMA weights)" for name in told]
    data = run.config()["data"]["name"]
    unit, asked = ("digit", "labels=3 num=64") if data == "digits" else ("class", "num=64")
    if "frechet_distance" in summary:
        lines += [
            f"Fréchet distance  {summary['frechet_distance']:.2f}   (held-out real {data}: "
            f"{summary['frechet_floor']:.2f}; {summary['num_samples']} samples, EMA weights)",
            f"class accuracy    {100 * summary['class_accuracy']:.1f} %   (samples that the classifier takes for the "
            f"{unit} asked for; of real held-out {data} it gets {100 * summary['classifier_accuracy']:.1f} % right)",
        ]
    return "\n".join([*lines, *closing_lines(run, summary, "image", ".png", asked)])


ENTRY = Entry(main, "image.conf", "train", ImageConfig)

if __name__ == "__main__":
    ENTRY.run()
