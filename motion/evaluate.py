"""`python -m motion.evaluate run=<dir>`: from weights to numbers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch

from core.commands.entry import Entry
from eval.measure.command import run_evaluation
from eval.measure.evaluation import EvaluateConfig, Evaluation, run_behind
from eval.measure.extractor import Extractor
from eval.measure.generated import Chunks
from eval.measure.media import ArrayMedia, Media, PlannedSamples
from eval.measure.reference import MediaReference, Reference
from motion.conditioning import TextConfig, build_conditioning
from motion.data import UNIT
from motion.datasets.moves import MovesConfig
from motion.extractors import ExtractorSource
from motion.media import KEY, ChunkClips
from motion.metrics import TABLE
from motion.sample import MotionSampleConfig, MotionSampling
from motion.stand_in import NAME, MovesEvaluationConfig
from motion.train import MotionConfig, masks_of

REFERENCES = {"moves": "train", "moves_heldout": "heldout"}


@dataclass(frozen=True, kw_only=True)
class MotionEvaluateConfig(EvaluateConfig):
    """The keys of motion; they are explained in conf/evaluate.yaml."""

    real: str | None = None
    prompts: list[str] | None = None


def main(config: MotionEvaluateConfig) -> None:
    """Measure motion: the samples of a run.

    Without more than run=runs/motion/moves: the numbers that the default's training prints.
    torchrun --nproc-per-node=N -m motion.evaluate ... divides sampling and features among N GPUs. The same command goes
    on with an evaluation that was interrupted.
    """
    run_evaluation(config, MotionEvaluation(config), print)


class MotionEvaluation(Evaluation):
    """Clips by the evaluator of moves."""

    table, key = TABLE, KEY
    config: MotionEvaluateConfig
    model: MotionConfig | None

    def sampling(self, num: int, model: MotionConfig | None = None) -> MotionSampling:
        """The command of `motion.sample` that makes the samples; seed and batch are the run's own where null."""
        return MotionSampling(MotionSampleConfig(**self.config.sample_values(num, model), prompts=self.config.prompts))

    @cached_property
    def reference_name(self) -> str:
        """The reference: as the config says, or the moves for a run on them."""
        of_moves = self.model is not None and isinstance(self.model.data, MovesConfig)
        name = self.config.real or (NAME if of_moves else None)
        self.config.check_target(KEY, name, ", ".join(REFERENCES))
        if name not in REFERENCES:
            raise ValueError(f"{KEY} is {name!r}; allowed: {', '.join(REFERENCES)}")
        return name

    @cached_property
    def extractor_name(self) -> str:
        """The evaluator."""
        features = self.config.features or NAME
        self.table.by_extractor(None, features)  # refuses an unknown one
        return features

    @cached_property
    def source(self) -> ExtractorSource:
        """The moves and their evaluator: those of the run."""
        run = run_behind(self.config)
        cache = Path(self.config.cache_dir) if run is None else run.resolve().parents[1] / "cache"
        model = self.model
        if model is None or not isinstance(model.data, MovesConfig):
            data = None if model is None else type(model.data).__name__
            raise ValueError(f"features is {self.extractor_name!r}, for samples of a run with data=moves; got {data}")
        own = model.evaluation
        return ExtractorSource(
            model.data, own if isinstance(own, MovesEvaluationConfig) else MovesEvaluationConfig(), cache
        )

    @property
    def num(self) -> int:
        """The number of samples: as the config says, or as many as the training measures."""
        options = self.source.options
        return self.config.num or options.num_samples or len(replace(self.source.moves, split="heldout").build())

    @cached_property
    def texts(self) -> list[str] | None:
        """The texts of the samples that are made, to be taken in turn."""
        if self.config.prompts is not None:
            return self.config.prompts
        own = self.model.conditioning
        if not isinstance(own, TextConfig):
            return None
        if own.prompts is not None:
            return own.prompts
        device = torch.device("cpu")
        tokenizer, _ = self.model.tokenizer.build(device)
        masks = masks_of(self.model, tokenizer)
        return build_conditioning(own, self.model.data, [], masks, device).config.prompts

    def in_turn(self, count: int) -> list[str] | None:
        """The texts of `count` samples."""
        return None if self.texts is None else [self.texts[number % len(self.texts)] for number in range(count)]

    def planned_samples(self) -> PlannedSamples:
        """Clips, and what they will be asked to be."""
        return PlannedSamples(self.num, self.table.unit, None, False, self.in_turn(self.num))

    def generated_samples(self, chunks: Chunks, name: str) -> Media:
        """The clips that were made."""
        return ChunkClips(chunks, name, self.in_turn(len(chunks)))

    def extractor(self, name: str, device: torch.device) -> Extractor:
        """The evaluator of that name."""
        return self.source.extractor(name, device)

    def open_reference(self) -> Reference:
        """The moves of a split."""
        split = REFERENCES[self.reference_name]
        clips = self.source.extractor(NAME, torch.device("cpu")).split(split).cut()
        return MediaReference(ArrayMedia(f"moves, {split}", UNIT, clips), None)

    def open_samples(self, path: Path) -> Media:
        """Given samples are not read yet."""
        raise ValueError(f"samples is {str(path)!r}; allowed: null, with run=...")


ENTRY = Entry(main, "motion.conf", "evaluate", MotionEvaluateConfig)

if __name__ == "__main__":
    ENTRY.run()
