"""The directory of a Wan model as diffusers writes it: what is in it, checked before it is used, and its networks.

model_index.json  transformer/  vae/  text_encoder/  tokenizer/  scheduler/
transformer_2/    of Wan 2.2: the expert of low noise; model_index.json says its boundary_ratio
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from core.extras import extra
from core.storage.json_files import read_mapping
from core.storage.pretrained import CONFIG, check_config, check_loaded, check_safetensors, told_to
from core.storage.weights import check_finite_weights

INDEX = "model_index.json"
PIPELINES = ("WanPipeline",)
WEIGHTS = "diffusion_pytorch_model"
Expert = Literal["only", "high_noise", "low_noise"]
FOLDERS: dict[Expert, str] = {"only": "transformer", "high_noise": "transformer", "low_noise": "transformer_2"}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def import_diffusers(what: str) -> Any:
    """diffusers with peft beside it; ImportError naming the extra `wan` where one is not installed."""
    extra("peft", what, "wan")
    return extra("diffusers", what, "wan")


@dataclass(frozen=True)
class WanFiles:
    """A directory of Wan's; `key` is the config key that named it, for errors."""

    path: str
    key: str = "model"

    @property
    def folder(self) -> Path:
        """The directory, there or not."""
        return Path(self.path).expanduser()

    @property
    def name(self) -> str:
        """How an error begins."""
        return f"{self.key} is {self.path!r}"

    def index(self) -> dict[str, Any]:
        """What model_index.json says; ValueError for a directory that is no text-to-video Wan of diffusers."""
        file = self.folder / INDEX
        if not file.is_file():
            raise ValueError(
                f"{self.name}: there is no file {file}; needed: the directory of a Wan pipeline in diffusers' layout "
                "(transformer, vae, text_encoder, tokenizer, scheduler)"
            )
        index = self._said(file)
        if index.get("_class_name") not in PIPELINES:
            raise ValueError(
                f"{self.name}: {file} names the pipeline {index.get('_class_name')!r}; allowed: {', '.join(PIPELINES)}"
            )
        return index

    def boundary(self) -> float | None:
        """Noise level from which the expert of high noise is used, in (0, 1); None for a model without experts."""
        ratio = self.index().get("boundary_ratio")
        if ratio is None:
            return None
        if not isinstance(ratio, int | float) or not 0 < ratio < 1:
            raise ValueError(f"{self.name}: boundary_ratio of {INDEX} is {ratio!r}; needed: between 0 and 1")
        return float(ratio)

    def time_range(self, expert: Expert) -> tuple[float, float]:
        """Flow times (low, high) that an expert is used for; ValueError for one that the model has not."""
        boundary = self.boundary()
        if (boundary is None) != (expert == "only"):
            has = "one transformer" if boundary is None else f"two experts with the boundary {boundary}"
            allowed = "only" if boundary is None else "high_noise, low_noise"
            raise ValueError(f"backbone.expert is {expert!r}, but {self.folder} has {has}; allowed: {allowed}")
        if boundary is None:
            return 0.0, 1.0
        return (0.0, 1 - boundary) if expert == "high_noise" else (1 - boundary, 1.0)

    def part(self, folder: str) -> Path:
        """A component's folder; ValueError where it is missing."""
        found = self.folder / folder
        if not found.is_dir():
            raise ValueError(f"{self.name}: the folder {found} is missing; needed: the component {folder!r} of Wan")
        return found

    def transformer_config(self, expert: Expert = "only") -> dict[str, Any]:
        """What config.json says of a transformer; ValueError for a missing or foreign one."""
        folder = self.part(FOLDERS[expert])
        check_config(folder / CONFIG, self.name)
        config = self._said(folder / CONFIG)
        if config.get("_class_name") != "WanTransformer3DModel":
            raise ValueError(f"{self.name}: {folder / CONFIG} is of {config.get('_class_name')!r}, no Wan transformer")
        if config.get("image_dim") is not None:
            raise ValueError(f"{self.name}: {folder} is conditioned on images; what is trained is text to video")
        return config

    def num_blocks(self, expert: Expert) -> int | None:
        """Blocks that an alignment can name, from 1; None while the directory is not there."""
        if not (self.folder / FOLDERS[expert] / CONFIG).is_file():
            return None
        return int(self.transformer_config(expert)["num_layers"])

    def transformer(self, expert: Expert, dtype: str) -> nn.Module:
        """A frozen WanTransformer3DModel; norms, tables of modulation and the embedding of times stay float32.

        Raises ValueError for files that are missing, damaged or of another network.
        """
        kind = import_diffusers("video.finetune").WanTransformer3DModel
        self.transformer_config(expert)
        folder = self.part(FOLDERS[expert])
        weights = sorted(folder.glob(f"{WEIGHTS}*.safetensors"))
        if not weights:
            raise ValueError(f"{self.name}: {folder} has no {WEIGHTS}*.safetensors")
        check_safetensors(weights, self.name)
        reading = {"use_safetensors": True, "local_files_only": True, "output_loading_info": True}
        try:
            with warnings.catch_warnings(), told_to([], "diffusers"):
                warnings.simplefilter("ignore", FutureWarning)
                model, report = kind.from_pretrained(str(folder), torch_dtype=DTYPES[dtype], **reading)
        except Exception as error:  # a damaged file fails in ways that diffusers does not name
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise ValueError(f"{self.name}: {folder} holds no readable Wan transformer: {reason}") from error
        check_loaded(report, f"{self.name}: {folder}")
        check_finite_weights(model, f"{self.name}: {folder}")
        return model.requires_grad_(False).eval()

    def _said(self, file: Path) -> dict[str, Any]:
        try:
            return read_mapping(file)
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from error
