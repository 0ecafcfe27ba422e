"""`python -m image.evaluate run=<dir> | samples=<folder or npz> reference=<...>`: from weights or images to numbers."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from core.commands.entry import Entry
from core.data.pixels import to_uint8
from eval.measure import evaluation
from eval.measure.command import run_evaluation
from eval.measure.evaluation import Components, EvaluationPlan, SamplePlan, run_behind
from eval.measure.extractor import Extractor
from eval.measure.generated import AS_THEY_ARE, Form
from eval.measure.media import Media
from eval.weights import weights_root
from image.datasets.digits import DigitsConfig
from image.extractors import WeightsSource, build_extractor
from image.media import DIGITS, check_size, open_images, open_reference, size_of
from image.metrics import TABLE
from image.sample import DOMAIN, UINT8_RULE, SampleConfig, model_config
from image.stand_in import DigitsEvaluationConfig
from image.train import ImageConfig

NUM_SAMPLES = 50_000  # of a run, as ImageNet's protocol has it
REFERENCES = "ADM's .npz, a folder or .npz of images, or saved statistics"
UINT8 = Form(UINT8_RULE, floats=False, store=to_uint8)


@dataclass(frozen=True, kw_only=True)
class ImageEvaluateConfig(evaluation.EvaluateConfig):
    """What is measured, against what, and how; the keys are explained in conf/evaluate.yaml."""

    reference: str | None = None
    labels: int | list[int] | None = None
    inception: str | None = None
    dinov2: str | None = None


def main(config: ImageEvaluateConfig) -> None:
    """Measure images: those that a run or published weights make, or those in a folder or an .npz.

    Without more than run=runs/image/digits: the numbers that the default's training prints. FID, sFID, IS, precision
    and recall take features=inception_adm and reference=<ADM's .npz, images, or statistics saved before>.
    torchrun --nproc-per-node=N -m image.evaluate ... divides sampling and features among N GPUs. The same command goes
    on with an evaluation that was interrupted. save_reference=FILE writes the statistics of reference=... instead.
    """
    run_evaluation(config, COMPONENTS, print)


def make_plan(config: ImageEvaluateConfig) -> EvaluationPlan:
    """Fill in what is null, from the run where there is one; ValueError for what does not fit together."""
    model = model_config(sample_config(config, 1)) if config.makes_samples else None
    of_digits = model is not None and isinstance(model.data, DigitsConfig)
    reference = config.reference or ("digits" if of_digits or config.features == "digits" else None)
    config.check_target("reference", reference, REFERENCES)
    features = config.features or ("digits" if reference in DIGITS else "inception_adm")
    metrics = TABLE.plan(config.metrics, features)
    digits = digit_classifier(config, model)
    sample_plan = None
    if model is not None:
        command = sample_config(config, default_num(config, digits[0], features), model)
        sample_plan = SamplePlan(command, model, DOMAIN, tuple(model.data.media_shape[-2:]), kept="pixels")
    paths = (None if value is None else Path(value).expanduser() for value in (config.inception, config.dinov2))
    weights = WeightsSource(weights_root(config.weights_dir), *paths, digits)
    return EvaluationPlan(sample_plan, reference, metrics, functools.partial(extractor, weights))


def extractor(weights: WeightsSource, name: str, device: torch.device) -> Extractor:
    """The extractor of that name, with weights from there."""
    return build_extractor(name, weights, device)


def digit_classifier(config: ImageEvaluateConfig, model: ImageConfig | None) -> tuple[DigitsEvaluationConfig, Path]:
    """How the classifier of digits is made and where it is cached: that of the run that made the samples, if known."""
    default, run = DigitsEvaluationConfig(), run_behind(config)
    if run is None:
        return default, Path(config.cache_dir)
    model = model or model_config(SampleConfig(run=str(run), overrides={}, sampler={}))
    own = model.evaluation if isinstance(model.evaluation, DigitsEvaluationConfig) else default
    return own, run.resolve().parents[1] / "cache"


def default_num(config: ImageEvaluateConfig, digits: DigitsEvaluationConfig, features: str) -> int:
    """How many samples are made: as asked, or as many as the training of digits measures, or 50,000."""
    if config.num is not None or features != "digits":
        return config.num or NUM_SAMPLES
    return digits.num_samples or len(open_reference("digits_heldout").media)


def sample_config(config: ImageEvaluateConfig, num: int, model: ImageConfig | None = None) -> SampleConfig:
    """The command of `image.sample` that makes the samples; seed and batch are the run's own where null."""
    return SampleConfig(**config.sample_values(num, model), labels=config.labels)


def open_samples(path: Path) -> Media:
    """The images in a folder, an .npz, or a folder that `image.sample` wrote."""
    return open_images(path / "samples.npz" if (path / "samples.npz").is_file() else path, "samples")


def kept_for(extractors: Mapping[str, Extractor]) -> Form:
    """As they are where all extractors take floats, otherwise in the bytes that an image file would hold."""
    return AS_THEY_ARE if all(extractor.takes_floats for extractor in extractors.values()) else UINT8


COMPONENTS = Components(
    table=TABLE,
    plan=make_plan,
    open_reference=open_reference,
    open_samples=open_samples,
    size_of=size_of,
    check_size=check_size,
    form=kept_for,
)
ENTRY = Entry(main, "image.conf", "evaluate", ImageEvaluateConfig)

if __name__ == "__main__":
    ENTRY.run()
