"""`python -m video.evaluate run=<dir>`: from weights, or from samples that are there, to numbers and records."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch

from core.commands.entry import Entry
from eval.measure.command import run_evaluation
from eval.measure.evaluation import EvaluateConfig, Evaluation, run_behind
from eval.measure.extractor import Extractor
from eval.measure.media import Media, PlannedSamples
from eval.measure.reference import Reference, Size
from video.datasets.digits import DigitsConfig
from video.media import DIGITS, NpzClips, of_digits, size_of
from video.metrics import TABLE
from video.sample import VideoSampleConfig, VideoSampling
from video.stand_in import DigitFeatures, DigitsEvaluationConfig
from video.train import VideoConfig


@dataclass(frozen=True, kw_only=True)
class VideoEvaluateConfig(EvaluateConfig):
    """The keys of video; they are explained in conf/evaluate.yaml."""

    reference: str | None = None
    labels: int | str | list[int | str] | None = None


def main(config: VideoEvaluateConfig) -> None:
    """Measure clips: those that a run or published weights make, or those in a folder or an .npz.

    Without more than run=runs/video/digits: the numbers that the default's training prints.
    torchrun --nproc-per-node=N -m video.evaluate ... divides sampling and features among N GPUs. The same command goes
    on with an evaluation that was interrupted. save_reference=FILE writes the statistics of reference=... instead.
    """
    run_evaluation(config, VideoEvaluation(config), print)


class VideoEvaluation(Evaluation):
    """Clips by a small classifier of moving digits."""

    table = TABLE
    config: VideoEvaluateConfig
    model: VideoConfig | None

    @cached_property
    def reference_name(self) -> str:
        """The reference: as the config says, or digits."""
        name = self.config.reference or "digits"
        self.config.check_target("reference", name, ", ".join(DIGITS))
        if name not in DIGITS:
            raise ValueError(f"reference is {name!r}; allowed: {', '.join(DIGITS)}")
        return name

    @property
    def extractor_name(self) -> str:
        """The extractor: as the config says, or that of digits."""
        self.reference_name  # noqa: B018, refuses what is none
        return self.config.features or "digits"

    @cached_property
    def digits(self) -> tuple[DigitsEvaluationConfig, DigitsConfig, Path]:
        """The options of the classifier, its clips and its cache: those of the run that made the samples, if known."""
        options, data, run = DigitsEvaluationConfig(), DigitsConfig(), run_behind(self.config)
        if run is None:
            return options, data, Path(self.config.cache_dir)
        model = self.model or VideoSampling(VideoSampleConfig(run=str(run), overrides={}, sampler={})).model_config
        options = model.evaluation if isinstance(model.evaluation, DigitsEvaluationConfig) else options
        data = model.data if isinstance(model.data, DigitsConfig) else data
        return options, data, run.resolve().parents[1] / "cache"

    @property
    def num(self) -> int:
        """The number of samples: as the config says, or as many as the training measures."""
        options, data, _ = self.digits
        return self.config.num or options.num_samples or len(replace(data, split="heldout").build())

    def sampling(self, num: int, model: VideoConfig | None = None) -> VideoSampling:
        """The command of `video.sample` that makes the samples; seed and batch are the run's own where null."""
        return VideoSampling(VideoSampleConfig(**self.config.sample_values(num, model), labels=self.config.labels))

    def planned_samples(self) -> PlannedSamples:
        """Clips of the model's size, their classes known."""
        return PlannedSamples(self.num, self.table.unit, size=tuple(self.model.data.media_shape[1:]))

    def extractor(self, name: str, device: torch.device) -> Extractor:
        """The extractor of that name."""
        return DigitFeatures(*self.digits, device)

    def open_reference(self) -> Reference:
        """Moving digits."""
        split = DIGITS[self.reference_name]
        return of_digits(split, replace(self.digits[1], split=split).build())

    def open_samples(self, path: Path) -> Media:
        """The clips in an .npz, or in a folder that `video.sample` wrote."""
        file = path / "samples.npz" if path.is_dir() else path
        if not file.is_file():
            raise ValueError(f"samples is {str(path)!r}; allowed: an .npz, or a folder that video.sample wrote")
        return NpzClips(file)

    def size_of(self, samples: Media) -> Size:
        """(F, H, W) of the first clip."""
        return size_of(samples)


ENTRY = Entry(main, "video.conf", "evaluate", VideoEvaluateConfig)

if __name__ == "__main__":
    ENTRY.run()
