"""Clips of Wan with or without a LoRA, through diffusers' pipeline; a part of `python -m video.sample`.

Letters: B batch, C channels, F frames, H height, W width in pixels, Z latent channels, (T, Y, X) latent frames, rows,
columns.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
import yaml
from einops import rearrange
from torch import Tensor

from core.commands.sample import check_weights, in_a_name
from core.data.pixels import UINT8_RULE
from core.draws import SampleRandom
from core.processes.world import Place, pick_device
from core.schema import plain
from core.storage.atomic import atomic_dir, writing
from core.storage.checkpoint import CheckpointStore, follow_latest
from core.storage.run_folder import RunDirectory
from core.storage.weights import load_weights
from video.preview import VideoPreview
from video.wan.files import DTYPES, Expert, WanFiles, import_diffusers
from video.wan.lora import adapters_of, check_fits
from video.wan.lora_keys import LoRA, read_lora

log = logging.getLogger(__name__)

FRAMES, SIZE, FPS = 81, (480, 832), 16.0  # of Wan 2.1 at 480p
GROUP = 4  # frames of a latent frame, but for the first
RUN_KEY = "lora"  # below backbone in the config of a fine-tuning


@dataclass(frozen=True)
class WanSampleOptions:
    """Samples of Wan by diffusers' pipeline: of a fine-tuning (run=...), or of a directory with a LoRA file or without.

    model            directory of a Wan pipeline; of a run: null, its own, or where that has moved
    lora             a LoRA file of any format, of the transformer or of 2.2's expert of high noise; null: none
    lora_low_noise   the same of the expert of low noise
    scale            of the LoRA's change, of a file's or a run's; 0: the model without it
    negative_prompt  what samples are guided away from
    num_steps        of UniPC
    guidance_scale   1: none
    shift            of the scheduler's times: 5 for 720p, 3 for 480p; null: as the directory says
    size             [height, width], multiples of 16
    fps              at which clips are shown
    dtype            of the networks but the VAE, which is float32
    """

    model: str | None = None
    lora: str | None = None
    lora_low_noise: str | None = None
    scale: float = 1.0
    negative_prompt: str = ""
    num_steps: int = 50
    guidance_scale: float = 5.0
    shift: float | None = None
    size: list[int] | None = None
    fps: float | None = None
    dtype: Literal["float32", "bfloat16"] = "bfloat16"

    def __post_init__(self) -> None:
        if self.num_steps < 1 or self.guidance_scale < 0:
            raise ValueError(f"wan.num_steps is {self.num_steps} and guidance_scale {self.guidance_scale}; see --help")
        if self.size is not None and (len(self.size) != 2 or min(self.size) < 1):
            raise ValueError(f"wan.size is {self.size}; needed: [height, width], pixels")
        if self.shift is not None and self.shift <= 0:
            raise ValueError(f"wan.shift is {self.shift}; it must be positive")


class SampleConfig(Protocol):
    """The keys of `python -m video.sample` that are read here."""

    run: str | None
    architecture: str | None
    sampler: dict[str, Any]
    labels: object
    compile: str
    gif: bool
    checkpoint: str | None
    weights: str
    num: int
    seed: int
    device: str
    out: str | None
    overwrite: bool
    prompts: list[str] | None
    frames: int | None
    wan: WanSampleOptions


@dataclass(frozen=True)
class Source:
    """What is sampled: the model's files, the adapters of each expert, and what the clips are.

    name  of the source, for the folder of samples
    """

    files: WanFiles
    lora: dict[Expert, LoRA]
    frames: int
    size: tuple[int, int]
    fps: float
    prompts: list[str]
    name: str
    facts: dict[str, Any] = field(default_factory=dict)


def is_finetuned(run: str | None) -> bool:
    """Whether a run's folder is that of a fine-tuning."""
    if run is None:
        return False
    backbone = RunDirectory.find(run).config().get("backbone")
    return isinstance(backbone, dict) and RUN_KEY in backbone


def checkpoint_of(run: RunDirectory, checkpoint: str | None) -> Path:
    """The checkpoint that is named, or the newest sound one of a run; ValueError where there is none."""
    if checkpoint is not None:
        return follow_latest(Path(checkpoint))
    newest = CheckpointStore(run.checkpoints).newest_intact()
    if newest is None:
        raise ValueError(f"{run.shown()} has no sound checkpoint yet")
    return newest


def trained_adapters(checkpoint: Path, alpha: float, weights: str) -> LoRA:
    """The adapters in a checkpoint of a fine-tuning; ValueError for weights that it has not, or a foreign one."""
    check_weights(checkpoint, weights)
    lora = adapters_of(load_weights(checkpoint, prefer=weights), alpha)
    if not lora:
        raise ValueError(f"{checkpoint} holds no adapters of a fine-tuning of Wan")
    return lora


class WanSampling:
    """Samples by diffusers' pipeline; sample i depends on (seed, i), its prompt and the weights only.

    write  writes batches of media (B, C, F, H, W) in [-1, 1]: how many there are, the folder, the preview
    """

    def __init__(self, config: SampleConfig, write: Callable[[Iterable[Tensor], int, Path, VideoPreview], None]):
        self.config, self.write = config, write

    def run(self, show: Callable[[str], None]) -> None:
        """Sample, and write the samples with the protocol that made them; `show` takes what a person is to read."""
        place = Place.from_environment()
        if place.size > 1:
            raise ValueError(f"{place.size} processes were started; Wan is sampled by one")
        config, source = self.config, self.source()
        out = self.output_folder(source)
        pipeline = self.pipeline(source, pick_device(config.device))
        prompts = [source.prompts[i % len(source.prompts)] for i in range(config.num)]
        with writing(out), atomic_dir(out) as folder:
            self.write(self.batches(pipeline, source, prompts), config.num, folder, VideoPreview([], source.fps))
            (folder / "protocol.yaml").write_text(yaml.safe_dump(self.protocol(source, prompts), sort_keys=False))
        show(f"{config.num} clips: {RunDirectory(out).shown()} (grid.png, grid.mp4, mp4/, samples.npz, protocol.yaml)")

    def source(self) -> Source:
        """The run, or the directory, that the keys name; ValueError for what does not fit together."""
        self._check_keys()
        frames = self.config.frames
        if frames is not None and (frames < 1 or frames % GROUP != 1):
            raise ValueError(f"frames is {frames}; Wan's VAE makes 1 frame and then groups of {GROUP} ({GROUP}n+1)")
        return self._of_run() if self.config.run is not None else self._of_model()

    def _check_keys(self) -> None:
        """Raises ValueError for keys that other models are sampled with: nothing that is asked for is passed over."""
        config = self.config
        given = [f"sampler.{name}" for name, value in config.sampler.items() if value is not None]
        given += [name for name in ("labels", "architecture") if getattr(config, name) is not None]
        given += ["gif"] * config.gif + ["compile"] * (config.compile != "none")
        if given:
            raise ValueError(
                f"{given[0]} is given, but Wan is sampled by diffusers' pipeline, with the keys of wan (num_steps, "
                "guidance_scale, shift, dtype, ...) and prompts, frames, num, seed"
            )

    def _of_run(self) -> Source:
        from video.finetune import FinetuneConfig

        config, own = self.config, self.config.wan
        if own.lora is not None or own.lora_low_noise is not None:
            raise ValueError(f"wan.lora is {own.lora!r}, but run is given, which has its own; give one of them")
        run = RunDirectory.find(config.run)
        trained = run.checked_config(FinetuneConfig)
        checkpoint = checkpoint_of(run, config.checkpoint)
        adapters = trained_adapters(checkpoint, trained.backbone.lora.alpha, config.weights)
        clip, data = trained.data.clip, trained.data.media_shape
        return Source(
            files=WanFiles(own.model or trained.model, "wan.model" if own.model else "model"),
            lora={trained.backbone.expert: adapters},
            frames=config.frames or clip.frames,
            size=tuple(own.size or data[-2:]),
            fps=own.fps or clip.fps or FPS,
            prompts=config.prompts or trained.conditioning.prompts,
            name=run.path.name,
            facts={"checkpoint": str(checkpoint)},
        )

    def _of_model(self) -> Source:
        own, config = self.config.wan, self.config
        files = WanFiles(own.model, "wan.model")
        if not config.prompts:
            raise ValueError("prompts is null; needed with wan.model: prompts=['a text', ...]")
        boundary, lora = files.boundary(), {}
        if own.lora_low_noise is not None and boundary is None:
            raise ValueError(f"wan.lora_low_noise is {own.lora_low_noise!r}, but {own.model} has one transformer")
        if own.lora is not None:
            lora["only" if boundary is None else "high_noise"] = read_lora(own.lora)[0]
        if own.lora_low_noise is not None:
            lora["low_noise"] = read_lora(own.lora_low_noise)[0]
        name = Path(own.lora).stem if own.lora else files.folder.resolve().name
        size, fps = tuple(own.size or SIZE), own.fps or FPS
        return Source(files, lora, config.frames or FRAMES, size, fps, list(config.prompts), name)

    def output_folder(self, source: Source) -> Path:
        """Where samples go; ValueError for a folder that is there, unless overwrite is true."""
        config, own = self.config, self.config.wan
        scale = "" if own.scale == 1 else f"_scale{own.scale:g}"
        name = f"{config.weights}_{in_a_name(source.prompts[:1])}{scale}_seed{config.seed}"
        base = Path("samples", source.name) if config.run is None else RunDirectory.find(config.run).path / "samples"
        out = base / name if config.out is None else Path(config.out).expanduser()
        if out.exists() and not config.overwrite:
            raise ValueError(f"{out} exists; out=... names another folder, overwrite=true replaces it")
        return out

    def pipeline(self, source: Source, device: torch.device) -> Any:
        """diffusers' pipeline with the adapters in it; ValueError for a directory that lacks a part."""
        diffusers = import_diffusers("video.sample of Wan")
        index, own = source.files.index(), self.config.wan
        for part in [name for name, kind in index.items() if isinstance(kind, list) and kind[0] is not None]:
            source.files.part(part)
        dtypes = {"default": DTYPES[own.dtype], "vae": torch.float32}
        reading = {"local_files_only": True, "use_safetensors": True, "torch_dtype": dtypes}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # of diffusers, about the name of an option
                pipeline = diffusers.WanPipeline.from_pretrained(str(source.files.folder), **reading)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise ValueError(f"{source.files.name}: no Wan pipeline that diffusers reads: {error}") from error
        if own.shift is not None:
            kind = diffusers.UniPCMultistepScheduler
            pipeline.scheduler = kind.from_config(pipeline.scheduler.config, flow_shift=own.shift)
        for expert, lora in source.lora.items():
            self._put_in(pipeline, expert, lora, source.name)
        pipeline.set_progress_bar_config(disable=None)
        return pipeline.to(device)

    def _put_in(self, pipeline: Any, expert: Expert, lora: LoRA, name: str) -> None:
        """Load adapters through diffusers, their scale within the matrices."""
        transformer = pipeline.transformer_2 if expert == "low_noise" else pipeline.transformer
        if transformer is None:
            raise ValueError(f"{name} is a LoRA of the expert {expert!r}, which the model has not")
        check_fits(lora, transformer, name)
        if self.config.wan.scale == 0:
            return
        tensors = {}
        for module, adapter in lora.items():
            down = adapter.down * (adapter.scale * self.config.wan.scale)
            tensors |= {f"transformer.{module}.lora_A.weight": down, f"transformer.{module}.lora_B.weight": adapter.up}
        pipeline.load_lora_weights(tensors, adapter_name=f"own_{expert}", load_into_transformer_2=expert == "low_noise")
        log.info("%s: %d of %d maps matched", name, len(lora), len(lora))

    def batches(self, pipeline: Any, source: Source, prompts: list[str]) -> Iterator[Tensor]:
        """Media (1, C, F, H, W) in [-1, 1] of each prompt."""
        own = self.config.wan
        shape = latent_shape(pipeline, source.frames, source.size)
        for i, prompt in enumerate(prompts):
            noise = SampleRandom(self.config.seed, [i]).normal("start", (1, *shape))
            found = pipeline(
                prompt=prompt,
                negative_prompt=own.negative_prompt,
                height=source.size[0],
                width=source.size[1],
                num_frames=source.frames,
                num_inference_steps=own.num_steps,
                guidance_scale=own.guidance_scale,
                latents=noise,
                output_type="pt",
            ).frames
            yield rearrange(found.float().cpu() * 2 - 1, "b f c h w -> b c f h w")

    def protocol(self, source: Source, prompts: list[str]) -> dict[str, Any]:
        """What made the samples: which model, of which run, and below `protocol` how, which any model may share."""
        config, own = self.config, plain(self.config.wan)
        model = {"model": source.files.path, **{name: own.pop(name) for name in ("lora", "lora_low_noise", "scale")}}
        own |= {"frames": source.frames, "size": list(source.size), "fps": source.fps}
        own |= {"weights": config.weights, "num": config.num, "seed": config.seed, "prompts": source.prompts}
        own |= {"sampler": "UniPC of diffusers", "pixels": UINT8_RULE}
        how = {name: value for name, value in own.items() if name != "model"}
        return {"run": config.run, **source.facts, **model, "prompts": prompts, "protocol": how}


def latent_shape(pipeline: Any, frames: int, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """(Z, T, Y, X) of a clip; ValueError for a size that is not whole patches."""
    channels, patch = pipeline.transformer.config.in_channels, pipeline.transformer.config.patch_size
    time, space = pipeline.vae_scale_factor_temporal, pipeline.vae_scale_factor_spatial
    for side, step in zip(size, (space * patch[1], space * patch[2]), strict=True):
        if side % step:
            raise ValueError(f"wan.size is {list(size)}; both must be multiples of {step}")
    return channels, 1 + (frames - 1) // time, size[0] // space, size[1] // space
