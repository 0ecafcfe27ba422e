"""`python -m audio.evaluate run=<dir> | samples=<folder> real=<...>`: from weights or sound files to numbers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from audio.conditioning import TextConfig
from audio.data import clip_format
from audio.datasets.notes import NotesConfig
from audio.encoders.protocols import FADTK, PROTOCOLS
from audio.encoders.tables import TABLES
from audio.extractors import ExtractorSource
from audio.media import (
    KEY,
    NOTES,
    SHORTEST_SECONDS,
    ChunkSounds,
    FolderSounds,
    NotesSounds,
    in_turn,
    of_clips,
    open_reference,
    open_sounds,
    size_of,
)
from audio.metrics import TABLE, ClapScore
from audio.sample import PCM_RULE, AudioSampleConfig, AudioSampling
from audio.sounds.pcm import FULL_SCALE, to_int16
from audio.stand_in import NotesEvaluationConfig, NotesFeatures, NotesSource
from audio.train import AudioConfig
from core.commands.entry import Entry
from core.conditioning.labels import LabelConfig
from eval.measure.command import run_evaluation
from eval.measure.evaluation import EvaluateConfig, Evaluation, run_behind, written_protocol
from eval.measure.extractor import Extractor
from eval.measure.generated import Chunks, Form
from eval.measure.media import Media, PlannedSamples
from eval.measure.metrics import Metric
from eval.measure.reference import Reference, Size
from eval.weights import weights_root

NUM_SAMPLES = 10_000  # of a run
REFERENCES = f"a folder of audio files, saved statistics, {', '.join(NOTES)}"


@dataclass(frozen=True, kw_only=True)
class AudioEvaluateConfig(EvaluateConfig):
    """The keys of sound; they are explained in conf/evaluate.yaml."""

    real: str | None = None
    labels: int | str | list[int | str] | None = None
    tags: list[str] | None = None
    prompts: list[str] | None = None
    protocol: Literal["one_window", "fadtk"] = "one_window"
    table: Literal["self_flow"] | None = None
    floor: str | None = None
    clap: str | None = None
    clap_music: str | None = None
    clap_audio: str | None = None
    ms_clap: str | None = None
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
        if self.table is not None and self.metrics != list(TABLES[self.table].metrics):
            TABLES[self.table].check(vars(self), self.sampler)

    def completed(self) -> AudioEvaluateConfig:
        """The config with what its table decides."""
        if self.table is None:
            return self
        table = TABLES[self.table]
        sampler = {**self.sampler, **table.sampler} if self.makes_samples else self.sampler
        return replace(self, metrics=list(table.metrics), features="clap_music", num=table.num, sampler=sampler)


def main(config: AudioEvaluateConfig) -> None:
    """Measure sound: the samples of a run or of published weights, or the files in a folder.

    Without more than run=runs/audio/notes: the numbers that the default's training prints.
    samples=FOLDER real=FOLDER compares files of any length, rate and format: FAD in the embeddings of CLAP, and where
    there are more than 500 samples FAD-infinity beside it; metrics=[clap_music/fad,clap_audio/fad] takes several in one
    call, table=self_flow a paper's by its protocol, floor=FOLDER other real clips beside. features=vggish,
    features=classifier classifier=DIR (KL divergences) and protocol=fadtk are other protocols; numbers of different
    ones are never compared.
    torchrun --nproc-per-node=N -m audio.evaluate ... divides sampling and features among N GPUs. The same command goes
    on with an evaluation that was interrupted. save_reference=FILE.npz writes the statistics of real=... instead.
    """
    config = config.completed()
    run_evaluation(config, AudioEvaluation(config), print)


class PcmSamples(Form):
    """The 16 bits that a WAV file would hold."""

    rule, floats = PCM_RULE, False

    def store(self, media: Tensor) -> Tensor:
        """Clips (B, C, L) in [-1, 1] -> int16."""
        return to_int16(media)

    def load(self, stored: Tensor) -> Tensor:
        """int16 samples as a reader of their WAV file gives them, in [-1, 1)."""
        return stored.float() / (FULL_SCALE + 1)


class AudioEvaluation(Evaluation):
    """Clips by CLAP, VGGish or an audio classifier or, for notes, by a small classifier of their timbres."""

    table = TABLE
    key, file_form = KEY, PcmSamples()
    config: AudioEvaluateConfig
    model: AudioConfig | None

    def sampling(self, num: int, model: AudioConfig | None = None) -> AudioSampling:
        """The command of `audio.sample` that makes the samples; seed and batch are the run's own where null."""
        requests = {key: getattr(self.config, key) for key in ("labels", "tags", "prompts")}
        return AudioSampling(AudioSampleConfig(**self.config.sample_values(num, model), **requests))

    @cached_property
    def reference_name(self) -> str:
        """The reference: as the config says, or the notes for a run on them."""
        of_notes = self.model is not None and isinstance(self.model.data, NotesConfig)
        name = self.config.real or ("notes" if of_notes or self.config.features == "notes" else None)
        self.config.check_target(KEY, name, REFERENCES)
        return name

    @cached_property
    def extractor_name(self) -> str:
        """The extractor: as the config says, or that of the notes for notes, the given CLAP, or LAION's for music."""
        default = "notes" if self.reference_name in NOTES else "clap_music" if self.config.clap is None else "clap"
        features = self.config.features or default
        self.table.by_extractor(None, features)  # refuses an unknown one
        return features

    @cached_property
    def extractor_names(self) -> list[str]:
        """The extractors of all metrics; ValueError for one that cannot be made."""
        names = list(self.table.by_extractor(self.config.metrics, self.extractor_name))
        for name in names:
            self.source.check(name)
        return names

    @property
    def window(self) -> float | None:
        """The seconds of a longer clip that are read, its central part; None: all of it, as any extractor needs it."""
        windows = [self.source.window(name) for name in self.extractor_names]
        return None if None in windows else max(windows)

    @cached_property
    def source(self) -> ExtractorSource:
        """The places of the extractors' weights, and how clips are cut for them."""
        config = self.config
        claps = {"clap_music": config.clap_music, "clap_audio": config.clap_audio}
        names = ("clap", "ms_clap", "tokenizer", "vggish", "classifier")
        paths = {name: None if (path := getattr(config, name)) is None else Path(path).expanduser() for name in names}
        return ExtractorSource(
            weights_root(self.config.weights_dir),
            **paths,
            claps={name: Path(path).expanduser() for name, path in claps.items() if path is not None},
            protocol=PROTOCOLS[self.config.protocol],
        )

    @cached_property
    def notes(self) -> NotesSource:
        """The notes and their classifier: those of the run that made the samples, where it is known."""
        run = run_behind(self.config)
        cache = Path(self.config.cache_dir) if run is None else run.resolve().parents[1] / "cache"
        model = self.model
        if model is None and run is not None:
            model = AudioSampling(AudioSampleConfig(run=str(run), overrides={}, sampler={})).model_config
        if model is None or not isinstance(model.data, NotesConfig):
            return NotesSource.default(cache)
        data, own = model.data, model.evaluation
        tokenizer, _ = model.tokenizer.build(data.sample_rate, data.channels, torch.device("cpu"))
        options = own if isinstance(own, NotesEvaluationConfig) else NotesEvaluationConfig()
        return NotesSource(options, data, clip_format(data, tokenizer.hop, model.backbone.patch_size), cache)

    @property
    def num(self) -> int:
        """The number of samples: as the config says, or as many as the training on notes measures, or 10,000."""
        return self.config.num or (self.notes.num_samples if self.extractor_name == "notes" else NUM_SAMPLES)

    @cached_property
    def texts(self) -> list[str] | None:
        """The texts of the samples, to be taken in turn: as the config says, or those that made them."""
        if self.config.prompts is not None:
            return self.config.prompts
        if self.model is not None:
            return self.model.conditioning.prompts if isinstance(self.model.conditioning, TextConfig) else None
        return written_protocol(self.config).get("protocol", {}).get("prompts")

    def requested_metrics(self) -> dict[str, list[Metric]]:
        """The metrics by extractor; ValueError too for a CLAP score of windows that are not clips."""
        metrics = super().requested_metrics()
        of_texts = any(isinstance(metric, ClapScore) for chosen in metrics.values() for metric in chosen)
        if self.config.protocol == FADTK.name and of_texts:
            raise ValueError("protocol is 'fadtk', whose windows are not clips; clap_score needs one_window")
        return metrics

    def planned_samples(self) -> PlannedSamples:
        """Clips of the model's length, and what they will be known to be."""
        texts = None if self.texts is None else in_turn(self.texts, self.num)
        rate = self.model.data.sample_rate
        size = (int(self.model.data.seconds * rate), rate)
        return PlannedSamples(self.num, self.table.unit, size, self.labelled, texts)

    @property
    def labelled(self) -> bool:
        """Whether the conditions of the samples that are made are classes."""
        return isinstance(self.model.conditioning, LabelConfig)

    def generated_samples(self, chunks: Chunks, name: str) -> Media:
        """The clips that were made."""
        texts = None if self.texts is None else in_turn(self.texts, len(chunks))
        return ChunkSounds(chunks, name, self.model.data.sample_rate, texts, self.labelled)

    def extractor(self, name: str, device: torch.device) -> Extractor:
        """The extractor of that name."""
        return NotesFeatures(self.notes, device) if name == "notes" else self.source.extractor(name, device)

    def open_reference(self) -> Reference:
        """What the config key `real` names, or notes."""
        name, window = self.reference_name, self.window
        if name in NOTES and not Path(name).exists():
            split = NOTES[name]
            return of_clips(NotesSounds(f"synthesised notes, {split}", self.notes.dataset(split)))
        reference = open_reference(name, window)
        self.check_format(reference.media)
        return reference

    def real_media(self) -> Media | None:
        """What the key `floor` names: other real clips, whose numbers are what samples can reach."""
        name = self.config.floor
        if name in NOTES and not Path(name).exists():
            return NotesSounds(f"synthesised notes, {NOTES[name]}", self.notes.dataset(NOTES[name]))
        clips = None if name is None else open_sounds(Path(name).expanduser(), "floor", self.window)
        self.check_format(clips)
        return clips

    def sample_entries(self, samples: Media) -> dict[str, Any]:
        """The table that the samples are measured for."""
        return {} if self.config.table is None else {"table": self.config.table}

    def open_samples(self, path: Path) -> Media:
        """The clips in a folder of files, or in one that `audio.sample` wrote, and what they were asked to be."""
        clips = open_sounds(path, "samples", self.window)
        self.check_format(clips)
        clips.read_conditions()
        if self.texts is not None:
            clips.texts = in_turn(self.texts, len(clips))
        return clips

    def check_format(self, clips: Media | None) -> None:
        """Raises ValueError for files that the extractor does not take, before it is made."""
        if "notes" in self.extractor_names and isinstance(clips, FolderSounds):
            clips.check_format(self.notes.clip)

    def size_of(self, samples: Media) -> Size:
        """Samples and sample rate of the first clip."""
        return size_of(samples)

    def check_size(self, size: Size, reference: Reference) -> None:
        """Raises ValueError for clips too short to be measured; lengths and rates of the two need not agree."""
        for found, what in ((size, "samples"), (reference.size, f"clips of {reference.name}")):
            if found is not None and found[0] < SHORTEST_SECONDS * found[1]:
                raise ValueError(f"the {what} last {found[0] / found[1]:.3g} s; needed: {SHORTEST_SECONDS} s at least")
        if self.config.table is not None and size is not None:
            TABLES[self.config.table].check_seconds(size[0] / size[1], "samples")


ENTRY = Entry(main, "audio.conf", "evaluate", AudioEvaluateConfig)

if __name__ == "__main__":
    ENTRY.run()
