"""`python -m motion.evaluate run=<dir> | samples=<...>`: from weights or clips to FID, R-precision and their kin."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch

from core.commands.entry import Entry
from core.storage.provenance import json_sha256
from core.storage.run_folder import RunDirectory
from eval.measure.command import run_evaluation
from eval.measure.evaluation import EvaluateConfig, Evaluation, run_behind
from eval.measure.extractor import Extractor
from eval.measure.generated import Chunks
from eval.measure.media import Media, PlannedSamples, Repeats
from eval.measure.record import Record
from eval.measure.reference import MediaReference, Reference
from eval.statistics.estimate import Estimate, replications
from eval.statistics.retrieval import POOL
from eval.weights import weights_root
from motion.conditioning import TextConfig
from motion.data import motion_format
from motion.datasets.humanml3d import HumanML3DConfig
from motion.datasets.moves import MovesConfig
from motion.encoders.published import EVALUATORS, EvaluatorFiles
from motion.extractors import ExtractorSource, MovesSource
from motion.measured.asked import Asked, AskedSampling
from motion.measured.clips import Clips, ListedClips, ShuffledClips, check_skeleton, samples_of
from motion.measured.given import open_given
from motion.measured.published_rows import RealRow
from motion.measured.real import DrawnClips, RealMotion, RealReference
from motion.media import DATA, KEY, MOVES, REFERENCES, RealSource
from motion.metrics import TABLE
from motion.sample import MotionSampleConfig, MotionSampling
from motion.stand_in import NAME, MovesEvaluationConfig
from motion.train import MotionConfig

REPLICATIONS, NUM_SAMPLES, REPEATS = 20, 1024, 30
SPLITS = Literal["train", "val", "test"]


@dataclass(frozen=True, kw_only=True)
class MotionEvaluateConfig(EvaluateConfig):
    """The keys of motion; they are explained in conf/evaluate.yaml."""

    real: str | None = None
    split: SPLITS = "test"
    replications: int | None = None
    multimodality: int = 0
    prompts: list[str] | None = None
    evaluator: str | None = None
    glove: str | None = None
    clip: str | None = None
    real_row: Literal["refuse", "warn"] = "refuse"
    max_broken: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.replications is not None and self.replications < 1:
            raise ValueError(f"replications is {self.replications}; it must be at least 1, or null")
        if self.replications is not None and self.seeds is not None:
            raise ValueError(f"replications is {self.replications} and seeds are {self.seeds}; give one of them")
        if self.multimodality < 0 or self.max_broken < 0:
            raise ValueError(
                f"multimodality is {self.multimodality} and max_broken {self.max_broken}; both are 0 or more"
            )
        if self.save_reference is not None:
            raise ValueError(
                f"save_reference is {self.save_reference!r}; motion has none: the row of real motion needs the clips"
            )


def main(config: MotionEvaluateConfig) -> None:
    """Measure motion: the samples of a run or of published weights, or clips that are there.

    Without more than run=runs/motion/moves: the numbers that the default's training prints. On HumanML3D and KIT-ML:
    20 replications of 1024 samples of the captions of split=test, in pools of 32, beside real motion, whose row comes
    first and is held against the published one. samples=FOLDER real=FOLDER measures anyone's .npy files or results.npy.
    torchrun --nproc-per-node=N -m motion.evaluate ... divides sampling and features among N GPUs. The same command goes
    on with an evaluation that was interrupted.
    """
    run_evaluation(config, MotionEvaluation(config), print)


class MotionEvaluation(Evaluation):
    """Clips by the published evaluators of motion and text or, for moves, by a small one of them."""

    table, key = TABLE, KEY
    config: MotionEvaluateConfig
    model: MotionConfig | None

    def with_config(self, config: MotionEvaluateConfig) -> MotionEvaluation:
        """The same with another seed: real motion and given clips are not opened again."""
        other = MotionEvaluation(config)
        shared = ("model", "known_model", "reference_name", "extractor_name", "real_motion", "source", "moves")
        for name in (*shared, "given_clips"):
            if name in self.__dict__:
                other.__dict__[name] = self.__dict__[name]
        return other

    # What is asked for

    @cached_property
    def known_model(self) -> MotionConfig | None:
        """The training config of the model whose samples are measured; of given samples, where their run is known."""
        run = run_behind(self.config)
        given = run is not None and self.model is None
        return RunDirectory.find(str(run)).checked_config(MotionConfig) if given else self.model

    @cached_property
    def reference_name(self) -> str:
        """The reference: as the config says, or the moves for a run on them, the run's data for one on a folder."""
        data = None if self.known_model is None else self.known_model.data
        of_moves = isinstance(data, MovesConfig)
        of_folder = isinstance(data, HumanML3DConfig)
        default = NAME if of_moves or self.config.features == NAME else DATA if of_folder else None
        name = self.config.real or default
        self.config.check_target(KEY, name, REFERENCES)
        if name == DATA and of_moves:
            return NAME
        if name == DATA and not of_folder:
            raise ValueError(f"{KEY} is {DATA!r}, and no run is known whose data that were; allowed: {REFERENCES}")
        return name

    @property
    def of_moves(self) -> bool:
        """Whether samples are compared with moves."""
        return self.reference_name in MOVES and not Path(self.reference_name).is_dir()

    @cached_property
    def extractor_name(self) -> str:
        """The evaluator: as the config says, or that of moves for moves, else the published one of the skeleton."""
        if self.of_moves:
            features = self.config.features or NAME
            if features != NAME:
                raise ValueError(f"features is {features!r} and {KEY} {self.reference_name!r}; allowed with it: {NAME}")
            return features
        skeleton = self.real_motion.dataset.skeleton
        features = self.config.features or ("kit251" if skeleton.name == "kit" else "t2m263")
        self.table.by_extractor(None, features)  # refuses an unknown one
        if features == NAME:
            raise ValueError(
                f"features is {NAME!r} and {KEY} {self.reference_name!r}; allowed with it: {', '.join(MOVES)}"
            )
        check_skeleton(skeleton, EVALUATORS[features].body, f"features={features}")
        return features

    @property
    def seeds(self) -> list[int] | None:
        """A seed for each replication: 20 with a published evaluator, as the papers have; one for moves."""
        count = self.config.replications or (1 if self.of_moves else REPLICATIONS)
        if self.config.seeds is not None or count == 1:
            return self.config.seeds
        first = self.config.seed or 0
        return list(range(first, first + count))

    def over_seeds(self, values: dict[int, float], num_samples: int, parameters: dict[str, Any]) -> Estimate:
        """The mean of replications with its 95 % interval, or, where seeds are given, with their deviation."""
        if self.config.seeds is not None:
            return super().over_seeds(values, num_samples, parameters)
        found = replications(list(values.values()))
        return replace(found, num_samples=num_samples, parameters={**parameters, **found.parameters})

    @property
    def num(self) -> int:
        """The number of samples: as the config says, or as the training measures, or 1024, whole pools of the split."""
        if self.config.num is not None:
            return self.config.num
        if self.of_moves:
            return self.moves.options.num_samples or len(replace(self.moves.data, split="heldout").build())
        return min(NUM_SAMPLES, len(self.real_motion) // POOL * POOL or POOL)

    # What it is made of

    @cached_property
    def real_motion(self) -> RealMotion:
        """The clips that samples are compared with, moves apart."""
        data = None if self.known_model is None else self.known_model.data
        source = RealSource(self.reference_name, self.config.split, data)
        return source.open(self.config.cache_dir, self.config.max_broken)

    @cached_property
    def moves(self) -> MovesSource:
        """The moves and their evaluator: those of the run that made the samples, where it is known."""
        run, model = run_behind(self.config), self.known_model
        cache = Path(self.config.cache_dir) if run is None else run.resolve().parents[1] / "cache"
        if model is None or not isinstance(model.data, MovesConfig):
            return MovesSource(cache=cache)
        own = model.evaluation
        return MovesSource(
            model.data, own if isinstance(own, MovesEvaluationConfig) else MovesEvaluationConfig(), cache
        )

    @cached_property
    def source(self) -> ExtractorSource:
        """What extractors are made of."""
        paths = {name: getattr(self.config, name) for name in ("evaluator", "glove", "clip")}
        folder, glove, clip = (None if path is None else Path(path).expanduser() for path in paths.values())
        files = EvaluatorFiles(folder, glove, clip, weights_root(self.config.weights_dir))
        return ExtractorSource(files, self.moves, (lambda text: None) if self.of_moves else self.real_motion.tokens)

    def extractor(self, name: str, device: torch.device) -> Extractor:
        """The extractor of that name."""
        return self.source.extractor(name, device)

    def open_reference(self) -> Reference:
        """The moves of a split, or a draw of real motion."""
        if self.of_moves:
            return MediaReference(self.moves_of(MOVES[self.reference_name]), None)
        return RealReference(self.real_motion, self.config.seed or 0)

    def moves_of(self, split: str) -> ListedClips:
        """The moves of a split, each with the first of its captions."""
        data = replace(self.moves.data, split=split)
        moves, form = data.build(), motion_format(data)
        rows = [moves.media[index, :, :length].T.contiguous() for index, length in enumerate(moves.lengths.tolist())]
        clips = ListedClips(f"moves, {split}", "data set", rows, form.representation, form.skeleton)
        clips.texts = [moves.captions[int(first)] for first in moves.caption_rows[:-1]]
        return clips

    def real_media(self) -> Media:
        """Held-out moves, or another draw of the real motion."""
        if self.of_moves:
            return self.moves_of("heldout")
        draws = self.real_motion.draw(self.config.seed or 0, "real row")
        order = ShuffledClips(DrawnClips(self.real_motion, draws), self.config.seed or 0)
        return order

    def real_row(self, records: list[Record]) -> str:
        """The row of real motion, and how it stands to the published one; ValueError where it is another."""
        told = super().real_row(records)
        if self.of_moves:
            return told
        row = RealRow.of(self.extractor_name, self.config.split, {record.metric: record.value for record in records})
        if row.off and self.config.real_row == "refuse":
            raise ValueError(
                f"{row.text()}; no model is measured by it. real_row=warn measures all the same; such numbers are not "
                "those of papers"
            )
        return f"{told}\n{row.text()}{'; numbers below are not those of papers' if row.off else ''}"

    # Samples

    @cached_property
    def asked(self) -> Asked | None:
        """The captions and lengths that samples are made of, drawn from the data; None: the model's own rule."""
        of_texts = self.model is not None and isinstance(self.model.conditioning, TextConfig)
        if self.of_moves or not of_texts or self.config.prompts is not None:
            return None
        draws = self.real_motion.draw(self.config.seed or 0, "samples")
        return Asked.of(draws, self.num, self.config.multimodality, REPEATS, self.config.seed or 0)

    def sampling(self, num: int, model: MotionConfig | None = None) -> MotionSampling:
        """The command of `motion.sample` that makes the samples; seed and batch are the run's own where null."""
        values = self.config.sample_values(num, model)
        if model is None or self.asked is None:
            return MotionSampling(MotionSampleConfig(**values, prompts=self.config.prompts))
        values = {**values, "num": len(self.asked)}
        return AskedSampling(MotionSampleConfig(**values), self.asked, f"captions of {self.real_motion.name}")

    @cached_property
    def texts(self) -> list[str] | None:
        """The texts of the samples that are made; None where they are made of none."""
        if self.asked is not None:
            return self.asked.texts[: self.num]
        own = self.model.conditioning
        prompts = self.config.prompts or (own.prompts if isinstance(own, TextConfig) else None)
        if prompts is None and isinstance(own, TextConfig):
            prompts = self.moves_of("heldout").texts if self.of_moves else None
        return None if prompts is None else [prompts[place % len(prompts)] for place in range(self.num)]

    def planned_samples(self) -> PlannedSamples:
        """Clips, and what they will be asked to be."""
        check_skeleton(motion_format(self.model.data).skeleton, self.skeleton, f"{KEY}={self.reference_name}")
        planned = PlannedSamples(self.num, self.table.unit, None, False, self.texts)
        if self.asked is not None and len(self.asked) > self.num:
            planned.repeats = Repeats(planned, REPEATS)
        return planned

    def sample_identity(self) -> dict[str, Any]:
        """The captions and lengths, which the protocol has in words."""
        return {} if self.asked is None else {"asked": json_sha256(vars(self.asked))}

    def generated_samples(self, chunks: Chunks, name: str) -> Media:
        """The clips that were made."""
        clips = samples_of(chunks, name, motion_format(self.model.data), self.num, REPEATS)
        clips.texts = self.texts
        return clips

    @property
    def skeleton(self) -> Any:
        """That of the reference."""
        return motion_format(self.moves.data).skeleton if self.of_moves else self.real_motion.dataset.skeleton

    @cached_property
    def given_clips(self) -> Clips:
        """The given samples, in their own order."""
        return open_given(Path(self.config.samples).expanduser())

    def open_samples(self, path: Path) -> Media:
        """The given samples in an order that the seed draws."""
        check_skeleton(self.given_clips.skeleton, self.skeleton, f"{KEY}={self.reference_name}")
        if self.config.prompts is not None:
            prompts = self.config.prompts
            self.given_clips.texts = [prompts[place % len(prompts)] for place in range(len(self.given_clips))]
        return ShuffledClips(self.given_clips, self.config.seed or 0)

    def sample_entries(self, samples: Clips) -> dict[str, Any]:
        """How clips are measured: whose captions, in which pools, how often, and what they were before."""
        if self.of_moves:
            return {}
        own = {"split": self.config.split, "pool": POOL, "replications": len(self.seeds or [0])}
        own |= {} if self.config.samples is None else {"representation": samples.representation}
        unread = sum(self.real_motion.tokens(text) is None for text in samples.texts or ())
        own |= {"captions_without_parts_of_speech": unread} if unread else {}
        return own if self.asked is None else {**own, "num": self.num, "multimodality": self.config.multimodality}


ENTRY = Entry(main, "motion.conf", "evaluate", MotionEvaluateConfig)

if __name__ == "__main__":
    ENTRY.run()
