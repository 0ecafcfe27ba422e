"""The LoRA files of a run: in each format that its readers can take, read back by diffusers, counted."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from core.storage.run_folder import RunDirectory
from video.wan.backbone import WanConfig
from video.wan.files import import_diffusers
from video.wan.lora_keys import Adapter, unwritable, write_lora

log = logging.getLogger(__name__)

FOLDER = "lora"  # in the folder of a run


def write_formats(run: RunDirectory, config: WanConfig, lora: Mapping[str, Adapter]) -> list[Path]:
    """Write <run>/lora/<name>_<format>.safetensors; what a format's readers cannot take is told and left out.

    Each file is read by diffusers' own reader: matched / total is told, and ValueError raised unless they are equal.
    """
    notes = {"targets": ", ".join(config.lora.targets), "expert": config.expert}
    written = []
    for form in config.lora.formats:
        path = run.path / FOLDER / f"{run.path.name}_{form}.safetensors"
        reason = unwritable(lora, form)
        if reason is not None:
            log.info("no LoRA file in the format %s: %s", form, reason)
            continue
        write_lora(path, lora, form, notes)
        matched = matched_by_diffusers(path, lora)
        if matched < len(lora):
            raise ValueError(f"{path}: diffusers reads {matched} of {len(lora)} maps of it")
        log.info("%s: %d of %d maps matched, as diffusers reads them", RunDirectory(path).shown(), matched, len(lora))
        written.append(path)
    return written


def matched_by_diffusers(path: Path, lora: Mapping[str, Adapter]) -> int:
    """How many of the maps the reader of diffusers' pipeline finds in a file, both matrices in their shapes."""
    pipeline = import_diffusers("video.finetune").WanPipeline
    found = pipeline.lora_state_dict(
        str(path.parent), weight_name=path.name, local_files_only=True, use_safetensors=True
    )
    count = 0
    for module, adapter in lora.items():
        names = [f"transformer.{module}.lora_{letter}.weight" for letter in "AB"]
        sides = zip(names, (adapter.down, adapter.up), strict=True)
        count += all(name in found and found[name].shape == side.shape for name, side in sides)
    return count
