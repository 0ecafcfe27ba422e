"""`python -m audio.evaluate run=<dir> | samples=<folder> real=<...>`: from weights or sound files to numbers."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from audio.conditioning import TextConfig
from audio.data import clip_format
from audio.datasets.notes import NotesConfig
from audio.encoders.protocols import FADTK, PROTOCOLS
from audio.extractors import ExtractorSource, NotesSource, build_extractor
from audio.media import KEY, NOTES, ChunkSounds, FolderSounds, check_size, in_turn, open_reference, open_sounds, size_of
from audio.metrics import TABLE, PlannedSamples, wanted
from audio.sample import DOMAIN, PCM_RULE, SampleConfig, model_config
from audio.sounds.pcm import FULL_SCALE, to_int16
from audio.stand_in import NotesEvaluationConfig
from audio.tokenizer import build_tokenizer
from audio.train import AudioConfig
from core.commands.entry import Entry
from core.conditioning.labels import LabelConfig
from eval.measure.command import run_evaluation
from eval.measure.evaluation import Components, EvaluateConfig, EvaluationPlan, SamplePlan, run_behind, written_protocol
from eval.measure.extractor import Extractor
from eval.measure.generated import AS_THEY_ARE, Form
from eval.measure.media import Media
from eval.measure.reference import Reference
from eval.weights import weights_root

NUM_SAMPLES = 10_000  # of a run
REFERENCES = f"a folder of audio files, saved statistics, {', '.join(NOTES)}"


def as_read(pcm: Tensor) -> Tensor:
    """int16 samples as a reader of their WAV file gives them, in [-1, 1)."""
    return pcm.float() / (FULL_SCALE + 1)


PCM16 = Form(PCM_RULE, floats=False, store=to_int16, load=as_read)


@dataclass(frozen=True, kw_only=True)
class AudioEvaluateConfig(EvaluateConfig):
    """What is measured, against what, and how; the keys are explained in conf/evaluate.yaml."""

    real: str | None = None
    labels: int | str | list[int | str] | None = None
    tags: list[str] | None = None
    prompts: list[str] | None = None
    protocol: Literal["one_window", "fadtk"] = "one_window"
    clap: str | None = None
    tokenizer: str | None = None
    vggish: str | None = None
    classifier: str | None = None
    feature_batch_size: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("labels", "tags"):
            if getattr(self, key) is not None and not self.makes_samples:
                raise ValueError(f"{key} is {getattr(self, key)!r}, which asks for samples of a run; none are made")
        if self.prompts is not None and not (self.prompts and all(prompt.strip() for prompt in self.prompts)):
            raise ValueError(f"prompts is {self.prompts}; needed: one text or more, none of them empty, or null")


def main(config: AudioEvaluateConfig) -> None:
    """Measure sound: the samples of a run or of published weights, or the files in a folder.

    Without more than run=runs/audio/notes: the numbers that the default's training prints.
    samples=FOLDER real=FOLDER compares files of any length, rate and format: FAD in the embeddings of CLAP, and where
    there are more than 500 samples FAD-infinity beside it. features=vggish, features=classifier classifier=DIR (KL
    divergences) and protocol=fadtk are other ways to hear; numbers of different ones are never compared.
    torchrun --nproc-per-node=N -m audio.evaluate ... divides sampling and features among N GPUs. The same command goes
    on with an evaluation that was interrupted. save_reference=FILE.npz writes the statistics of real=... instead.
    """
    run_evaluation(config, components(config), print)


class AudioEvaluation:
    """What follows from the config, each worked out once; ValueError for what does not fit together."""

    def __init__(self, config: AudioEvaluateConfig):
        self.config = config

    @cached_property
    def model(self) -> AudioConfig | None:
        """The training config of the model whose samples are made; None where they are given."""
        return model_config(self.command(1)) if self.config.makes_samples else None

    def command(self, num: int, model: AudioConfig | None = None) -> SampleConfig:
        """The command of `audio.sample` that makes the samples; seed and batch are the run's own where null."""
        asked = {key: getattr(self.config, key) for key in ("labels", "tags", "prompts")}
        return SampleConfig(**self.config.sample_values(num, model), **asked)

    @cached_property
    def real(self) -> str:
        """The reference: as asked, or the notes for a run on them."""
        of_notes = self.model is not None and isinstance(self.model.data, NotesConfig)
        reference = self.config.real or ("notes" if of_notes or self.config.features == "notes" else None)
        self.config.check_target(KEY, reference, REFERENCES)
        return reference

    @cached_property
    def features(self) -> str:
        """The extractor: as asked, or that of the notes for notes, or the CLAP that is given, or LAION's for music."""
        default = "notes" if self.real in NOTES else "clap_music" if self.config.clap is None else "clap"
        features = self.config.features or default
        TABLE.plan(None, features)  # refuses an unknown one
        self.source.check(features)
        return features

    @cached_property
    def window(self) -> float | None:
        """Seconds of a longer file that are looked at; None: all of it."""
        return self.source.window(self.features)

    @cached_property
    def source(self) -> ExtractorSource:
        """Where the extractors find their weights, and how they are shown clips."""
        names = ("clap", "tokenizer", "vggish", "classifier")
        paths = {name: getattr(self.config, name) for name in names}
        return ExtractorSource(
            weights_root(self.config.weights_dir),
            **{name: None if path is None else Path(path).expanduser() for name, path in paths.items()},
            protocol=PROTOCOLS[self.config.protocol],
            notes=lambda: self.notes,
        )

    @cached_property
    def notes(self) -> NotesSource:
        """The notes and their classifier: those of the run that made the samples, where it is known."""
        run = run_behind(self.config)
        cache = Path(self.config.cache_dir) if run is None else run.resolve().parents[1] / "cache"
        model = self.model
        if model is None and run is not None:
            model = model_config(SampleConfig(run=str(run), overrides={}, sampler={}))
        if model is None or not isinstance(model.data, NotesConfig):
            return NotesSource.default(cache)
        data, own = model.data, model.evaluation
        tokenizer, _ = build_tokenizer(model.tokenizer, data.sample_rate, data.channels, torch.device("cpu"))
        evaluation = own if isinstance(own, NotesEvaluationConfig) else NotesEvaluationConfig()
        return NotesSource(evaluation, data, clip_format(data, tokenizer.hop, model.backbone.patch_size), cache)

    @cached_property
    def num(self) -> int:
        """How many samples are made: as asked, or as many as the training on notes measures, or 10,000."""
        return self.config.num or (self.notes.num_samples if self.features == "notes" else NUM_SAMPLES)

    @cached_property
    def texts(self) -> list[str] | None:
        """What samples are asked to be in words, to be taken in turn: as the command says, or who made them."""
        if self.config.prompts is not None:
            return self.config.prompts
        if self.model is not None:
            return self.model.conditioning.prompts if isinstance(self.model.conditioning, TextConfig) else None
        return written_protocol(self.config).get("protocol", {}).get("prompts")

    def plan(self) -> EvaluationPlan:
        """Everything with every null filled in."""
        planned = sample_plan = None
        reference, features, model = self.real, self.features, self.model
        if model is not None:
            labelled = isinstance(model.conditioning, LabelConfig)
            texts = None if self.texts is None else in_turn(self.texts, self.num)
            planned = PlannedSamples(self.num, labelled, texts)
            rate = model.data.sample_rate
            media = functools.partial(ChunkSounds, sample_rate=rate, asked_for=texts, labelled=labelled)
            size = (int(model.data.seconds * rate), rate)
            sample_plan = SamplePlan(self.command(self.num, model), model, DOMAIN, size, kept="samples", media=media)
        metrics = wanted(self.config.metrics, features, planned)
        if self.config.protocol == FADTK.name and any("clap_score" in names for names in metrics.values()):
            raise ValueError("protocol is 'fadtk', whose windows are not clips; clap_score needs one_window")
        return EvaluationPlan(sample_plan, reference, metrics, self.extractor)

    def extractor(self, name: str, device: torch.device) -> Extractor:
        """The extractor of that name."""
        return build_extractor(name, self.source, device)

    def open_reference(self, value: str) -> Reference:
        """What the config key `real` names."""
        reference = open_reference(value, self.window, lambda split: self.notes.split(split))
        self.check_format(reference.media)
        return reference

    def check_format(self, clips: Media | None) -> None:
        """Raises ValueError for files that the extractor does not take, before it is made."""
        if self.features == "notes" and isinstance(clips, FolderSounds):
            clips.check_format(self.notes.clip)

    def open_samples(self, path: Path) -> Media:
        """The clips in a folder of files, or in one that `audio.sample` wrote, and what they were asked to be."""
        clips = open_sounds(path, "samples", self.window)
        self.check_format(clips)
        clips.read_conditions()
        if self.texts is not None:
            clips.texts = in_turn(self.texts, len(clips))
        return clips


def kept_for(extractors: Mapping[str, Extractor]) -> Form:
    """As they are where all extractors take floats, otherwise in the 16 bits that a WAV file would hold."""
    return AS_THEY_ARE if all(extractor.takes_floats for extractor in extractors.values()) else PCM16


def components(config: AudioEvaluateConfig) -> Components:
    """What the command takes of this domain, for one config: files are opened as its extractor hears them."""
    own = AudioEvaluation(config)
    return Components(
        table=TABLE,
        plan=lambda config: own.plan(),
        open_reference=own.open_reference,
        open_samples=own.open_samples,
        size_of=size_of,
        check_size=check_size,
        form=kept_for,
        key=KEY,
    )


ENTRY = Entry(main, "audio.conf", "evaluate", AudioEvaluateConfig)

if __name__ == "__main__":
    ENTRY.run()
