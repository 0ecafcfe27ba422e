"""`python -m image.evaluate run=<dir> | samples=<folder or npz> reference=<...>`: from weights or images to numbers."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from core.commands.entry import Entry
from core.data.pixels import UINT8_RULE, to_uint8
from core.extras import extra
from eval.measure.command import run_evaluation
from eval.measure.evaluation import EvaluateConfig, Evaluation, run_behind
from eval.measure.extractor import Extractor
from eval.measure.generated import Form
from eval.measure.media import Media, PlannedSamples
from eval.measure.metrics import Metric
from eval.measure.reference import MediaReference, Reference, Size
from eval.weights import locate, weights_root
from image.datasets.digits import DigitsConfig
from image.datasets.scenes import ScenesConfig
from image.extractors import WeightsSource, published_extractor
from image.media import DIGITS, SCENES, open_images, open_reference, scenes_reference, size_of
from image.metrics import INCEPTION, TABLE
from image.sample import ImageSampleConfig, ImageSampling
from image.scenes.features import SceneFeatures, ScenesEvaluationConfig
from image.stand_in import DigitFeatures, DigitsEvaluationConfig
from image.train import ImageConfig

log = logging.getLogger(__name__)
NUM_SAMPLES = 50_000  # of a run, as ImageNet's protocol has it
STAND_INS = {"digits": DigitsConfig, "scenes": ScenesConfig}
REFERENCES = "ADM's .npz, a folder or .npz of images, or saved statistics"


@dataclass(frozen=True, kw_only=True)
class ImageEvaluateConfig(EvaluateConfig):
    """The keys of images; they are explained in conf/evaluate.yaml."""

    reference: str | None = None
    labels: int | str | list[int | str] | None = None
    inception: str | None = None
    dinov2: str | None = None
    efficientnet_lite0: str | None = None


def main(config: ImageEvaluateConfig) -> None:
    """Measure images: those that a run or published weights make, or those in a folder or an .npz.

    Without more than run=runs/image/digits: the numbers that the default's training prints. FID, sFID, IS, precision
    and recall take features=inception_adm and reference=<ADM's .npz, images, or statistics saved before>; beside them
    stands FD-DINOv2 where its weights are there and the reference is images. features=efficientnet_lite0 measures any
    folder of images without a download.
    torchrun --nproc-per-node=N -m image.evaluate ... divides sampling and features among N GPUs. The same command goes
    on with an evaluation that was interrupted. save_reference=FILE writes the statistics of reference=... instead.
    """
    run_evaluation(config, ImageEvaluation(config), print)


class PixelBytes(Form):
    """The bytes that an image file would hold."""

    rule, floats = UINT8_RULE, False

    def store(self, media: Tensor) -> Tensor:
        """Images (B, C, H, W) in [-1, 1] -> uint8."""
        return to_uint8(media)


class ImageEvaluation(Evaluation):
    """Images by Inception-v3, DINOv2, EfficientNet-Lite0 or, for digits and scenes, a small classifier of them."""

    table = TABLE
    form_key, file_form = "pixels", PixelBytes()
    config: ImageEvaluateConfig
    model: ImageConfig | None

    @cached_property
    def reference_name(self) -> str:
        """The reference: as the config says, or digits or scenes for a run on them."""
        data = None if self.model is None else self.model.data
        own = [name for name, schema in STAND_INS.items() if isinstance(data, schema) or self.config.features == name]
        name = self.config.reference or (own[0] if own else None)
        self.config.check_target("reference", name, REFERENCES)
        return name

    @property
    def extractor_name(self) -> str:
        """The extractor: as the config says, or that of digits or scenes for them, else ADM's Inception."""
        by_reference = {**dict.fromkeys(DIGITS, "digits"), **dict.fromkeys(SCENES, "scenes")}
        return self.config.features or by_reference.get(self.reference_name, "inception_adm")

    @cached_property
    def digits(self) -> tuple[DigitsEvaluationConfig, Path]:
        """The options of the digit classifier and its cache: those of the run that made the samples, if known."""
        model, cache = self.run_model
        own = None if model is None else model.evaluation
        return own if isinstance(own, DigitsEvaluationConfig) else DigitsEvaluationConfig(), cache

    @cached_property
    def scenes(self) -> tuple[ScenesEvaluationConfig, ScenesConfig, Path]:
        """The options of the classifier of scenes, the scenes, and its cache: those of the run, if known."""
        model, cache = self.run_model
        own, data = (None, None) if model is None else (model.evaluation, model.data)
        options = own if isinstance(own, ScenesEvaluationConfig) else ScenesEvaluationConfig()
        return options, data if isinstance(data, ScenesConfig) else ScenesConfig(), cache

    @cached_property
    def run_model(self) -> tuple[ImageConfig | None, Path]:
        """The config of the run that made the samples, if known, and the cache of the stand-ins' classifiers."""
        run = run_behind(self.config)
        if run is None:
            return None, Path(self.config.cache_dir)
        model = self.model or ImageSampling(ImageSampleConfig(run=str(run), overrides={}, sampler={})).model_config
        return model, run.resolve().parents[1] / "cache"

    @property
    def num(self) -> int:
        """The number of samples: as the config says, or as many as the training on a stand-in measures, or 50,000."""
        if self.config.num is not None or self.extractor_name not in STAND_INS:
            return self.config.num or NUM_SAMPLES
        if self.extractor_name == "scenes":
            options, data, _ = self.scenes
            return options.num_samples or len(replace(data, split="heldout").build())
        return self.digits[0].num_samples or len(open_reference("digits_heldout").media)

    def sampling(self, num: int, model: ImageConfig | None = None) -> ImageSampling:
        """The command of `image.sample` that makes the samples; seed and batch are the run's own where null."""
        return ImageSampling(ImageSampleConfig(**self.config.sample_values(num, model), labels=self.config.labels))

    def requested_metrics(self) -> dict[str, list[Metric]]:
        """The metrics by extractor; without `metrics` those of Inception have FD-DINOv2 beside them where it can be."""
        found, config = super().requested_metrics(), self.config
        if self.extractor_name not in INCEPTION or config.metrics is not None or config.save_reference is not None:
            return found
        lacking = self.lacks_dino()
        if lacking is not None:
            log.info("fd_dinov2 is not measured: %s", lacking)
            return found
        return found | self.table.by_extractor(["fd_dinov2"], self.extractor_name)

    def lacks_dino(self) -> str | None:
        """What FD-DINOv2 lacks, in words; None: nothing."""
        if not isinstance(self.reference, MediaReference):
            return f"{self.reference.name} holds statistics of other features"
        try:
            extra("transformers", "fd_dinov2", "eval")
            if self.config.dinov2 is None:
                locate("dinov2-large", self.weights.root)
        except (ValueError, ImportError) as error:
            return str(error)
        return None

    def planned_samples(self) -> PlannedSamples:
        """Images of the model's size, their classes known."""
        return PlannedSamples(self.num, self.table.unit, size=tuple(self.model.data.media_shape[-2:]))

    @property
    def weights(self) -> WeightsSource:
        """The places of the extractors' weights."""
        places = (self.config.inception, self.config.dinov2, self.config.efficientnet_lite0)
        paths = (None if place is None else Path(place).expanduser() for place in places)
        return WeightsSource(weights_root(self.config.weights_dir), *paths)

    def extractor(self, name: str, device: torch.device) -> Extractor:
        """The extractor of that name, with weights from the config's places, the registry's or a package's."""
        if name == "digits":
            return DigitFeatures(*self.digits, device)
        if name == "scenes":
            return SceneFeatures(*self.scenes, device)
        return published_extractor(name, self.weights, device)

    @cached_property
    def reference(self) -> Reference:
        """What the config key `reference` names, or digits, or scenes."""
        if self.reference_name in SCENES and not Path(self.reference_name).exists():
            return scenes_reference(replace(self.scenes[1], split=SCENES[self.reference_name]))
        return open_reference(self.reference_name)

    def open_reference(self) -> Reference:
        """The same, opened once."""
        return self.reference

    def open_samples(self, path: Path) -> Media:
        """The images in a folder, an .npz, or a folder that `image.sample` wrote."""
        return open_images(path / "samples.npz" if (path / "samples.npz").is_file() else path, "samples")

    def size_of(self, samples: Media) -> Size:
        """Height and width (H, W) of the first image."""
        return size_of(samples)

    def check_size(self, size: Size, reference: Reference) -> None:
        """Raises ValueError for samples of another (H, W) than the reference's."""
        if reference.size is not None and size != reference.size:
            shapes = [f"{width}x{height}" for height, width in (size, reference.size)]
            raise ValueError(
                f"samples are {shapes[0]} pixels, the reference {reference.name} {shapes[1]}; both must agree"
            )


ENTRY = Entry(main, "image.conf", "evaluate", ImageEvaluateConfig)

if __name__ == "__main__":
    ENTRY.run()
