"""`python -m video.finetune`: fine-tune Wan by LoRA, with LayerSync on chosen blocks, on clips with captions."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch

from core.alignment.contract import check_layers
from core.commands.entry import Entry
from core.commands.train import closing_lines, run_training
from core.contracts import Domain
from core.draws import seeded_weights
from core.latents.tokenizer import FromMoments
from core.processes.world import Place, pick_device
from core.schema import FREE, choice
from core.storage.run_folder import RunDirectory
from core.train.config import RunConfig
from video.codecs.trained import check_tokenizer
from video.datasets.folder import FolderConfig
from video.tokenizer import WanVAEConfig
from video.wan.backbone import WanConfig
from video.wan.files import WanFiles
from video.wan.latents import CachedClips, Clips, LatentFilesConfig, cached_clips
from video.wan.objective import WanObjectiveConfig, WanSamplerConfig
from video.wan.preview import PromptPreview
from video.wan.texts import ENCODER, TOKENIZER, WanTextConfig, WanTexts
from video.wan.trainer import FinetuneTrainer
from video.wan.written import FOLDER

log = logging.getLogger(__name__)

# Keys of the data that have one value here, and why.
FIXED = (
    ("short", "drop", "Wan attends to every token of a clip"),
    ("flip", False, "each clip is encoded once"),
    ("crop", "center", "each clip is encoded once"),
    ("channels", 3, "Wan's VAE takes RGB"),
)
STRIDE = 4  # frames of a latent frame of Wan's VAE, but for the first


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(RunConfig):
    """A LoRA fine-tuning of Wan.

    model       directory of a Wan pipeline, as diffusers writes it
    data        clips with captions
    tokenizer   the VAE of that directory
    off_frames  clips of other than 4n+1 frames, which the VAE cannot take: refuse, or cut them at the end
    latents     where latents are kept
    """

    model: str = field(metadata=FREE)
    data: FolderConfig = choice({"folder": FolderConfig})
    tokenizer: WanVAEConfig = choice({"wan_vae": WanVAEConfig})
    backbone: WanConfig
    conditioning: WanTextConfig
    objective: WanObjectiveConfig
    sampler: WanSamplerConfig = field(metadata=FREE)
    off_frames: Literal["refuse", "cut"] = field(default="refuse", metadata=FREE)
    latents: LatentFilesConfig = field(default_factory=LatentFilesConfig, metadata=FREE)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.model:
            raise ValueError(f"model is {self.model!r}; needed: the directory of a Wan pipeline")
        self._fit_frames()
        self.check_tokens(self.backbone)
        for name, allowed, why in FIXED:
            if getattr(self.data, name, allowed) != allowed:
                raise ValueError(f"data.{name} is {getattr(self.data, name)!r}; {why}; allowed: {allowed}")
        blocks = WanFiles(self.model).num_blocks(self.backbone.expert)
        if blocks is not None:
            check_layers(self.alignment, blocks)

    def _fit_frames(self) -> None:
        """Cut the clips to 4n+1 frames where that is allowed; ValueError where it is not."""
        frames = self.data.clip.frames
        fitting = frames - (frames - 1) % STRIDE
        if fitting == frames:
            return
        if self.off_frames == "refuse":
            raise ValueError(
                f"data.clip.frames is {frames}; Wan's VAE takes 1 frame and then groups of {STRIDE} ({STRIDE}n+1), so "
                f"{fitting} or {fitting + STRIDE}; off_frames=cut cuts clips to {fitting}"
            )
        log.warning("data.clip.frames is %d: clips are cut to %d frames, of the form 4n+1", frames, fitting)
        cut = replace(self.data, clip=replace(self.data.clip, frames=fitting))
        object.__setattr__(self, "data", cut)  # of a frozen dataclass, before anybody has seen it


def build_domain(config: FinetuneConfig, device: torch.device, *, evaluate: bool) -> Domain:
    """The components of a fine-tuning; the adapters' first weights are a function of the seed."""
    files, clips, texts = open_parts(config, device)
    root, tokenizer = cached_clips(config.latents, latents_folder(config), clips), clips.tokenizer
    dataset = CachedClips(root, clips.dataset)
    with seeded_weights(config.seed, "weights"):
        backbone = config.backbone.build(files, tuple(tokenizer.latent_shape(dataset.media_shape)), texts)
    return Domain(
        name="video",
        unit="clip",
        dataset=dataset,
        tokenizer=FromMoments(tokenizer, dataset.spec.tokenizer, root),
        backbone=backbone,
        conditioning=texts,
        preview=PromptPreview(texts, clips.dataset.fps),
    )


def open_parts(config: FinetuneConfig, device: torch.device) -> tuple[WanFiles, Clips, WanTexts]:
    """The model's files, the clips with the numbers of their captions and the VAE, and the texts.

    Raises ValueError for a model that lacks a part, before anything takes time, and for clips without captions.
    """
    files = WanFiles(config.model)
    files.time_range(config.backbone.expert)
    for part in (ENCODER, TOKENIZER):
        files.part(part)
    check_layers(config.alignment, int(files.transformer_config(config.backbone.expert)["num_layers"]))
    tokenizer = config.tokenizer.build(device)
    clips = config.data.build()
    if getattr(clips, "captions", None) is None:
        raise ValueError("the data has no captions, which Wan is trained with; needed: data.captions, a table or txt")
    check_tokenizer(config.tokenizer, tokenizer, clips, config.cache)
    texts = config.conditioning.build(files, clips.captions, device)
    clips.conditions, clips.labels, clips.class_names = texts.numbers(clips.captions, device), None, []
    return files, Clips(clips, tokenizer, config.data.transform), texts


def latents_folder(config: FinetuneConfig) -> Path:
    """Where the caches of latents are."""
    return Path(config.latents.root or config.cache / "wan_latents").expanduser()


def main(config: FinetuneConfig) -> None:
    """Fine-tune Wan by LoRA on clips with captions: encode texts and latents once, train, sample before and after.

    model=DIR names a Wan pipeline as diffusers writes it, data.root=DIR the clips, data.captions their captions.
    alignment=wan_layersync or wan_reference or none; recipe=NAME selects a row of the paper. The same command again
    continues a run that was interrupted. LoRA files are written in three key formats into <run>/lora.
    """
    if config.latents.only:
        encode(config, print)
    else:
        run_training(config, "video", build_domain, report, print, FinetuneTrainer)


def encode(config: FinetuneConfig, show: Callable[[str], None]) -> None:
    """Encode texts and this process's part of the latents, and stop; `show` takes what a person is to read."""
    place = Place.from_environment()
    _, clips, _ = open_parts(config, pick_device(config.device, place.local_rank))
    root = cached_clips(config.latents, latents_folder(config), clips, (place.rank, place.size))
    show(f"latents           {RunDirectory(root).shown()}; the same command without latents.only trains on them")


def report(run: RunDirectory, summary: dict) -> str:
    """What a run prints at its end: places, next commands."""
    files = sorted((run.path / FOLDER).glob("*.safetensors"))
    lines = [f"LoRA              {RunDirectory(file).shown()}" for file in files]
    lines.append(f"samples before    {RunDirectory(run.previews / 'step_00000000.mp4').shown()}")
    return "\n".join([*lines, *closing_lines(run, summary, "clip", ".mp4", "num=4")])


ENTRY = Entry(main, "video.conf", "finetune", FinetuneConfig)

if __name__ == "__main__":
    ENTRY.run()
