"""`python -m video.evaluate run=<dir> | samples=<...> real=<...>`: from weights or clips to FVD and its kin."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from einops import rearrange
from torch import Tensor

from core.commands.entry import Entry
from core.data.pixels import UINT8_RULE, to_uint8
from core.storage.arrays import npz_keys
from core.storage.run_folder import RunDirectory
from eval.measure.command import run_evaluation
from eval.measure.evaluation import EvaluateConfig, Evaluation, run_behind
from eval.measure.extractor import Extractor
from eval.measure.generated import Chunks, Form
from eval.measure.media import FirstMedia, Media, PlannedSamples
from eval.measure.reference import FACTS, MediaReference, Reference, Size, StatisticsReference
from eval.weights import weights_root
from video.datasets.clips import ClipConfig
from video.datasets.digits import DigitsConfig
from video.datasets.files import probe_clip
from video.datasets.folder import FolderConfig
from video.datasets.frames import find_clips
from video.datasets.windows import WindowsConfig
from video.encoders.inception import Frames
from video.extractors import CDFVD, ExtractorSource
from video.media import (
    ClipRule,
    Clips,
    DigitsReference,
    FileClips,
    FileReference,
    NpzClips,
    StridedClips,
    keys_of,
    size_of,
    source_of,
)
from video.metrics import TABLE
from video.sample import VideoSampleConfig, VideoSampling
from video.stand_in import DigitFeatures, DigitsEvaluationConfig
from video.train import VideoConfig
from video.wan.sample import is_finetuned

if TYPE_CHECKING:
    from video.finetune import FinetuneConfig

log = logging.getLogger(__name__)
KEY = "real"
DIGITS = {"digits": "train", "digits_heldout": "heldout"}  # real=NAME -> the split
DATA = "data"  # real=data: the run's own
NUM_SAMPLES, NUM_REAL = 2048, 2048  # fvd2048_16f
FRAMES, CDFVD_SEED = 16, 42
REFERENCES = f"a folder of video files or of frames, an .npz, saved statistics, {DATA} (the run's), {', '.join(DIGITS)}"


@dataclass(frozen=True)
class MeasuredClip:
    """The frames of the clips that are compared with; null: those of the run's data, else 16, the files' own, 1."""

    frames: int | None = None
    fps: float | None = None
    stride: int | None = None


@dataclass(frozen=True, kw_only=True)
class VideoEvaluateConfig(EvaluateConfig):
    """The keys of video; they are explained in conf/evaluate.yaml."""

    real: str | None = None
    split: str | None = None
    clips: Clips = "random"
    clip: MeasuredClip = field(default_factory=MeasuredClip)
    size: int | list[int] | None = None
    fit: Literal["crop", "squeeze"] | None = None
    num_real: int | Literal["all"] | None = None
    sample_stride: int = 1
    frame_choice: Frames = "all"
    labels: int | str | list[int | str] | None = None
    i3d: str | None = None
    i3d_cdfvd: str | None = None
    videomae: str | None = None
    inception: str | None = None
    feature_batch_size: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        numbers = {"num_real": self.num_real, "sample_stride": self.sample_stride}
        numbers |= {"clip.frames": self.clip.frames, "clip.stride": self.clip.stride}
        for key, value in numbers.items():
            if isinstance(value, int) and value < 1:
                raise ValueError(f"{key} is {value}; it must be at least 1")


def main(config: VideoEvaluateConfig) -> None:
    """Measure clips: those that a run or published weights make, or those in a folder or an .npz.

    Without more than run=runs/video/digits: the numbers that the default's training prints. FVD takes features=i3d and
    real=<folder of videos, or data: the run's>; features=i3d_cdfvd, videomae and inception are other protocols, and
    numbers of different ones are never compared. seeds=[0,1,2] draws samples and real clips three times.
    torchrun --nproc-per-node=N -m video.evaluate ... divides sampling and features among N GPUs. The same command goes
    on with an evaluation that was interrupted. save_reference=FILE.npz writes the statistics of real=... instead.
    """
    run_evaluation(config, VideoEvaluation(config), print)


class FrameBytes(Form):
    """The bytes that a file of frames would hold."""

    rule, floats = UINT8_RULE, False

    def store(self, media: Tensor) -> Tensor:
        """Clips (B, C, F, H, W) in [-1, 1] -> uint8."""
        return to_uint8(media)

    def load(self, stored: Tensor) -> Tensor:
        """The frames (B, F, H, W, C) of what was written."""
        return rearrange(stored, "b c f h w -> b f h w c")


class VideoEvaluation(Evaluation):
    """Clips by I3D, VideoMAE or Inception on frames or, for moving digits, by a small classifier of them."""

    table = TABLE
    key, form_key, file_form = KEY, "pixels", FrameBytes()
    config: VideoEvaluateConfig
    model: VideoConfig | None

    @cached_property
    def known_model(self) -> VideoConfig | FinetuneConfig | None:
        """The training config of the model whose samples are measured; of given samples, where their run is known."""
        run = run_behind(self.config)
        if run is None or not is_finetuned(str(run)):
            given = run is not None and self.model is None
            return known_config(run) if given else self.model
        if self.config.run is not None:
            raise ValueError(
                f"run is {self.config.run!r}, a fine-tuning of Wan, which diffusers samples: python -m video.sample "
                "run=... writes clips, and samples=... measures them"
            )
        from video.finetune import FinetuneConfig

        return RunDirectory.find(str(run)).checked_config(FinetuneConfig)

    # What is asked for

    @cached_property
    def reference_name(self) -> str:
        """The reference: as the config says, or moving digits for a run on them, the run's data for one on files."""
        model = self.known_model
        of_digits = model is not None and isinstance(model.data, DigitsConfig)
        of_files = model is not None and isinstance(model.data, WindowsConfig)
        default = "digits" if of_digits or self.config.features == "digits" else DATA if of_files else None
        name = self.config.real or default
        self.config.check_target(KEY, name, REFERENCES)
        if name == DATA and model is None:
            raise ValueError(f"{KEY} is {DATA!r}, and no run is known whose data that were; allowed: {REFERENCES}")
        return "digits" if name == DATA and of_digits else name

    @cached_property
    def extractor_name(self) -> str:
        """The extractor: as the config says, or that of digits for digits, else StyleGAN-V's I3D."""
        features = self.config.features or ("digits" if self.reference_name in DIGITS else "i3d")
        self.table.by_extractor(None, features)  # refuses an unknown one
        if features == "digits" and (self.config.sample_stride > 1 or self.config.clip != MeasuredClip()):
            raise ValueError("features is 'digits', which takes whole clips; allowed there: no clip, sample_stride 1")
        return features

    @cached_property
    def source(self) -> ExtractorSource:
        """The places of the extractors' weights."""
        places = {name: getattr(self.config, name) for name in ("i3d", "i3d_cdfvd", "videomae", "inception")}
        paths = {name: None if path is None else Path(path).expanduser() for name, path in places.items()}
        return ExtractorSource(weights_root(self.config.weights_dir), **paths, frame_choice=self.config.frame_choice)

    @cached_property
    def digits(self) -> tuple[DigitsEvaluationConfig, DigitsConfig, Path]:
        """The options of the classifier, its clips and its cache: those of the run that made the samples, if known."""
        options, data, run = DigitsEvaluationConfig(), DigitsConfig(), run_behind(self.config)
        if run is None:
            return options, data, Path(self.config.cache_dir)
        model = self.known_model
        own = getattr(model, "evaluation", None)
        options = own if isinstance(own, DigitsEvaluationConfig) else options
        data = replace(model.data, split="train") if isinstance(model.data, DigitsConfig) else data
        return options, data, run.resolve().parents[1] / "cache"

    @property
    def num(self) -> int:
        """The number of samples: as the config says, or as the training on digits measures, or 2048."""
        if self.config.num is not None or self.extractor_name != "digits":
            return self.config.num or NUM_SAMPLES
        options, data, _ = self.digits
        return options.num_samples or len(replace(data, split="heldout").build())

    # What clips are

    @property
    def clip_seed(self) -> int:
        """The seed that draws clips of video files: cd-fvd's is 42."""
        default = CDFVD_SEED if self.extractor_name in CDFVD else 0
        return default if self.config.seed is None else self.config.seed

    @property
    def num_real(self) -> int | None:
        """How many real clips at most: as the config says, or StyleGAN-V's 2048, or all."""
        if self.config.num_real is None:
            return NUM_REAL if self.extractor_name == "i3d" else None
        return None if self.config.num_real == "all" else self.config.num_real

    @cached_property
    def given_file(self) -> NpzClips | None:
        """The .npz of given samples, or the one in their folder; None where they are video files, or none are given."""
        path = None if self.config.samples is None else npz_in(Path(self.config.samples).expanduser())
        return None if path is None else NpzClips(path)

    @cached_property
    def frames(self) -> int:
        """The frames of a clip that is measured: as the config says, or all that the model's or the samples' have."""
        if self.config.clip.frames is not None:
            return self.config.clip.frames
        given = None if self.given_file is None else self.given_file.array.shape[1]
        there = given or (None if self.known_model is None else self.known_model.data.clip.frames)
        return FRAMES if there is None else -(-there // self.config.sample_stride)

    def files_config(self, root: Path, real: bool) -> FolderConfig:
        """Video files below a folder as clips: real ones with the stride of `clip`, samples with `sample_stride`."""
        config, data = self.config, None if self.known_model is None else self.known_model.data
        trained = getattr(data, "clip", None)
        fps = config.clip.fps if config.clip.fps is not None or trained is None else trained.fps
        stride = config.clip.stride or (1 if trained is None else trained.stride)
        size = self.given_size(root) if config.size is None else config.size
        split = {"split": config.split} if real and config.split is not None else {}
        return FolderConfig(
            root=str(root),
            clip=ClipConfig(self.frames, fps, stride) if real else ClipConfig(self.frames, None, config.sample_stride),
            size=size,
            channels=1 if self.extractor_name == "digits" else 3,
            fit=config.fit or getattr(data, "fit", "crop"),
            cache_dir=config.cache_dir,
            **split,
        )

    def given_size(self, root: Path) -> list[int] | int:
        """Height and width of the model's clips or, where there is none, of given samples, or of the first file."""
        if self.known_model is not None:
            return self.known_model.data.size
        if self.given_file is not None:
            return list(self.given_file.array.shape[2:4])
        folder = Path(self.config.samples).expanduser() if self.config.samples is not None else root
        key = KEY if self.config.samples is None else "samples"
        first = next(iter(find_clips(checked_folder(folder, key))), None)
        if first is None:
            raise ValueError(f"{key} is {str(folder)!r}: no video file and no folder of frames there")
        facts = probe_clip(first)
        return [facts.height, facts.width]

    # What is there

    def sampling(self, num: int, model: VideoConfig | None = None) -> VideoSampling:
        """The command of `video.sample` that makes the samples; seed and batch are the run's own where null."""
        return VideoSampling(VideoSampleConfig(**self.config.sample_values(num, model), labels=self.config.labels))

    def planned_samples(self) -> PlannedSamples:
        """Clips of the model's size, cut as they are measured."""
        _, frames, *sides = self.model.data.media_shape
        there = -(-frames // self.config.sample_stride)
        return PlannedSamples(self.num, self.table.unit, size=(min(there, self.frames), *sides))

    def generated_samples(self, chunks: Chunks, name: str) -> Media:
        """The clips that were made, as floats for digits, else as frames."""
        clips = super().generated_samples(chunks, name)
        return clips if chunks.form.floats else self.cut(clips, self.config.sample_stride)

    def cut(self, clips: Media, stride: int) -> Media:
        """The frames of uint8 clips that are measured."""
        return clips if (size_of(clips)[0], stride) == (self.frames, 1) else StridedClips(clips, self.frames, stride)

    def extractor(self, name: str, device: torch.device) -> Extractor:
        """The extractor of that name."""
        return DigitFeatures(*self.digits, device) if name == "digits" else self.source.extractor(name, device)

    def open_samples(self, path: Path) -> Media:
        """The clips in an .npz, in a folder that `video.sample` wrote, or of the video files in a folder."""
        if self.given_file is not None:
            whole = self.extractor_name == "digits"
            return self.given_file if whole else self.cut(self.given_file, self.config.sample_stride)
        if not path.is_dir():
            what = "a file" if path.exists() else "not there"
            raise ValueError(f"samples is {str(path)!r}, which is {what}; allowed: an .npz, or a folder of videos")
        with keys_of("samples"):
            return FileClips(
                path.name, self.files_config(path, real=False), ClipRule(self.config.clips, self.clip_seed)
            )

    def open_reference(self) -> Reference:
        """What the config key `real` names."""
        name = self.reference_name
        path = Path(name).expanduser()
        if name in DIGITS and not path.exists():
            return DigitsReference(DIGITS[name], replace(self.digits[1], split=DIGITS[name]).build())
        if path.suffix == ".npz" and path.is_file() and FACTS in npz_keys(path):
            return StatisticsReference(path, self.table.unit, KEY)
        file = npz_in(path)
        if file is not None:
            clips = self.cut(NpzClips(file), self.config.clip.stride or 1)
            most = self.config.num_real
            clips = FirstMedia(clips, most) if isinstance(most, int) and most < len(clips) else clips
            return MediaReference(clips, size_of(clips))
        rule = ClipRule(self.config.clips, self.clip_seed, self.num_real)
        if name == DATA and not path.exists():
            return of_files(FileClips(Path(self.data_config.root).name, self.data_config, rule))
        with keys_of(KEY):
            return of_files(FileClips(path.name, self.files_config(checked_folder(path, KEY), real=True), rule))

    @property
    def data_config(self) -> WindowsConfig:
        """The run's data set as it is measured, of the split that the config names."""
        data, config = self.known_model.data, self.config
        if not isinstance(data, WindowsConfig):
            raise ValueError(f"{KEY} is {DATA!r}, but the run's data are no video files; allowed: {REFERENCES}")
        clip = ClipConfig(
            self.frames,
            data.clip.fps if config.clip.fps is None else config.clip.fps,
            config.clip.stride or data.clip.stride,
        )
        changed = {"size": config.size, "fit": config.fit, "split": config.split}
        return replace(
            data, clip=clip, channels=3, **{key: value for key, value in changed.items() if value is not None}
        )

    # What the record says, and what is refused

    def sample_entries(self, samples: Media) -> dict[str, Any]:
        """Where the frames come from, and their stride beside the one that the model was trained with."""
        if self.extractor_name == "digits":
            return {}
        clips, model = source_of(samples), self.known_model
        trained = {} if model is None else {"model_fps": model.data.clip.fps, "model_stride": model.data.clip.stride}
        found: dict[str, Any] = {"clip": {"frames": self.frames, "stride": self.config.sample_stride, **trained}}
        if isinstance(clips, FileClips):
            how = "lossless" if clips.lossless else "as a codec left them"
            found |= {"pixels": f"{clips.kind}, {how}", "clips": clips.facts()["clips"]}
            found |= {"size": list(self.size_of(samples)[1:]), "fit": clips.config.fit}
        return found

    def size_of(self, samples: Media) -> Size:
        """(F, H, W) of the first clip."""
        return size_of(samples)

    def check_size(self, size: Size, reference: Reference) -> None:
        """Raises ValueError for clips that an extractor cannot look at, and for two sides of another shape."""
        shapes = [shape for shape in (size, reference.size) if shape is not None]
        for name in self.requested_metrics():
            for shape in shapes if name != "digits" else ():
                self.source.check_frames(name, shape[0])
        if len(set(shapes)) > 1:
            ours, other = (f"{frames} frames of {width}x{height} pixels" for frames, height, width in shapes)
            raise ValueError(f"samples have {ours}, the reference {reference.name} {other}; both must agree")


def known_config(run: Path) -> VideoConfig:
    """The training config of the run that made given samples."""
    return VideoSampling(VideoSampleConfig(run=str(run), overrides={}, sampler={})).model_config


def npz_in(path: Path) -> Path | None:
    """The .npz that a path names, or the one in a folder that `video.sample` wrote; None where there is none."""
    file = path / "samples.npz" if path.is_dir() else path
    return file if file.is_file() and file.suffix == ".npz" else None


def checked_folder(path: Path, key: str) -> Path:
    """A folder; ValueError, naming the config key, for what is none."""
    if not path.is_dir():
        what = "a file of another kind" if path.exists() else "not there"
        allowed = REFERENCES if key == KEY else "an .npz, or a folder of videos"
        raise ValueError(f"{key} is {str(path)!r}, which is {what}; allowed: {allowed}")
    return path


def of_files(clips: FileClips) -> FileReference:
    """Clips of files to compare with; that there are fewer than were asked for is told."""
    if clips.rule.count is not None and len(clips) < clips.rule.count:
        log.warning("%s has %d clips of the %d that num_real asks for", clips.name, len(clips), clips.rule.count)
    return FileReference(clips, tuple(clips.config.media_shape[1:]))


ENTRY = Entry(main, "video.conf", "evaluate", VideoEvaluateConfig)

if __name__ == "__main__":
    ENTRY.run()
