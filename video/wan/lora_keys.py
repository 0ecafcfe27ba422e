"""LoRA files of Wan in the key formats that programs read: diffusers, original (ComfyUI) and kohya (musubi).

    diffusers  transformer.blocks.0.attn1.to_q.lora_A.weight, lora_B; rank and alpha in the file's metadata
    original   diffusion_model.blocks.0.self_attn.q.lora_down.weight, lora_up, alpha; or lora_A, lora_B
    kohya      lora_unet_blocks_0_self_attn_q.lora_down.weight, lora_up, alpha

The change of a weight is alpha / rank * up @ down. Letters: r rank, I inputs, O outputs of a linear map.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from core.storage.atomic import write_atomic

log = logging.getLogger(__name__)

Format = Literal["diffusers", "original", "kohya"]
FORMATS: tuple[Format, ...] = get_args(Format)
PREFIXES: dict[Format, tuple[str, ...]] = {
    "diffusers": ("transformer.", "base_model.model."),
    "original": ("diffusion_model.",),
    "kohya": ("lora_unet_",),
}
METADATA = "lora_adapter_metadata"  # under which diffusers keeps rank and alpha
# Modules of a block: diffusers' name, and that of the original code.
ORIGINAL = {
    **{f"attn1.to_{name}": f"self_attn.{name}" for name in "qkv"},
    "attn1.to_out.0": "self_attn.o",
    **{f"attn2.to_{name}": f"cross_attn.{name}" for name in "qkv"},
    "attn2.to_out.0": "cross_attn.o",
    "ffn.net.0.proj": "ffn.0",
    "ffn.net.2": "ffn.2",
}
DIFFUSERS = {original: own for own, original in ORIGINAL.items()}
BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")
KOHYA_BLOCK = re.compile(r"blocks_(\d+)_(.+)")
PARTS = {"lora_A.weight": "down", "lora_down.weight": "down", "lora_B.weight": "up", "lora_up.weight": "up"}
ALPHA = "alpha"


@dataclass(frozen=True)
class Adapter:
    """The matrices of one linear map: down (r, I), up (O, r); its weight changes by alpha / r * up @ down."""

    down: Tensor
    up: Tensor
    alpha: float

    @property
    def rank(self) -> int:
        """r."""
        return len(self.down)

    @property
    def scale(self) -> float:
        """alpha / r."""
        return self.alpha / self.rank

    def delta_norm(self) -> float:
        """Frobenius norm of the change, without the (O, I) matrix: |U D|^2 = tr(U^T U D D^T)."""
        down, up = self.down.double(), self.up.double()
        square = ((up.T @ up) * (down @ down.T)).sum().clamp_min(0)
        return abs(self.scale) * float(square.sqrt())

    def delta(self) -> Tensor:
        """The change (O, I)."""
        return self.scale * (self.up @ self.down)


LoRA = dict[str, Adapter]  # by the module's name in diffusers: blocks.0.attn1.to_q


def lora_tensors(lora: Mapping[str, Adapter], form: Format) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors by the keys of a format, and the file's metadata; ValueError for what its readers cannot take.

    kohya's readers need all ten modules of every block from 0 on. diffusers has one rank and one alpha in a file:
    where adapters differ, their scale goes into the down matrices.
    """
    reason = unwritable(lora, form)
    if reason is not None:
        raise ValueError(f"the LoRA cannot be written in the format {form}: {reason}")
    if form == "diffusers":
        return _diffusers_tensors(lora)
    tensors: dict[str, Tensor] = {}
    for module, adapter in lora.items():
        key = _key(module, form)
        tensors |= {f"{key}.lora_down.weight": adapter.down, f"{key}.lora_up.weight": adapter.up}
        tensors[f"{key}.{ALPHA}"] = torch.tensor(float(adapter.alpha))
    return tensors, {}


def unwritable(lora: Mapping[str, Adapter], form: Format) -> str | None:
    """Why the readers of a format cannot take this LoRA; None where they can."""
    if form != "kohya":
        return None
    numbers = {int(BLOCK.fullmatch(module)[1]) for module in lora}
    wanted = {f"blocks.{number}.{name}" for number in range(max(numbers) + 1) for name in ORIGINAL}
    missing = sorted(wanted - lora.keys())
    if not missing:
        return None
    return (
        f"its readers need all {len(ORIGINAL)} modules of every block from 0 on; {len(missing)} are not adapted, "
        + (f"such as {missing[0]}")
    )


def _diffusers_tensors(lora: Mapping[str, Adapter]) -> tuple[dict[str, Tensor], dict[str, str]]:
    kinds = {(adapter.rank, float(adapter.alpha)) for adapter in lora.values()}
    prefix, metadata = PREFIXES["diffusers"][0], {}
    if len(kinds) == 1:
        rank, alpha = kinds.pop()
        facts = {f"{prefix}r": rank, f"{prefix}lora_alpha": alpha, f"{prefix}target_modules": sorted(lora)}
        metadata = {METADATA: json.dumps(facts, indent=2, sort_keys=True)}
    tensors = {}
    for module, adapter in lora.items():
        down = adapter.down if metadata else adapter.down * adapter.scale
        tensors |= {f"{prefix}{module}.lora_A.weight": down, f"{prefix}{module}.lora_B.weight": adapter.up}
    return tensors, metadata


def _key(module: str, form: Format) -> str:
    """The key of a module of a block in the original's or kohya's format."""
    number, name = BLOCK.fullmatch(module).groups()
    original = f"blocks.{number}.{ORIGINAL[name]}"
    return PREFIXES[form][0] + (original.replace(".", "_") if form == "kohya" else original)


def write_lora(path: Path, lora: Mapping[str, Adapter], form: Format, notes: Mapping[str, str] | None = None) -> Path:
    """Write a LoRA file in a format, whole or not at all; `notes` go into its metadata. See `lora_tensors`."""
    tensors, metadata = lora_tensors(lora, form)
    kept = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    return write_atomic(path, save(kept, metadata={"format": "pt", **(notes or {}), **metadata}))


def read_lora(path: Path | str) -> tuple[LoRA, Format]:
    """A LoRA file of any of the formats, and which it is; ValueError, naming the file, for another or a damaged one.

    A file of diffusers without metadata has lost its alpha, which is then taken as the rank, as diffusers does.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise ValueError(f"there is no LoRA file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, no mapping
    except (SafetensorError, OSError) as error:
        raise ValueError(f"the LoRA file {path} is damaged, or no safetensors: {error}") from error
    return lora_of(tensors, metadata, str(path))


def lora_of(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], source: str) -> tuple[LoRA, Format]:
    """What `read_lora` makes of the tensors and the metadata of a file called `source`."""
    form = _format(tensors, source)
    found: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        module, part = _place(key, form, source)
        found.setdefault(module, {})[part] = value
    alpha = _metadata_alpha(metadata, source) if form == "diffusers" else None
    lora = {module: _adapter(module, parts, alpha, source) for module, parts in sorted(found.items())}
    if form == "diffusers" and alpha is None:
        log.info("%s says no alpha: it is taken as the rank, so the change is up @ down", source)
    return lora, form


def _format(tensors: Mapping[str, Tensor], source: str) -> Format:
    for form, prefixes in PREFIXES.items():
        if tensors and all(key.startswith(prefixes) for key in tensors):
            return form
    shown = ", ".join(sorted(tensors)[:2]) or "no tensors"
    heads = ", ".join(f"{prefix}... ({form})" for form, prefixes in PREFIXES.items() for prefix in prefixes)
    raise ValueError(f"{source} is no LoRA of Wan in a known format: it has {shown}; known keys begin with {heads}")


def _place(key: str, form: Format, source: str) -> tuple[str, str]:
    """The module, by its name in diffusers, and the part of an adapter that a key means."""
    bare = key
    for prefix in PREFIXES[form]:
        bare = bare.removeprefix(prefix)
    ending = next((ending for ending in (*PARTS, ALPHA) if bare.endswith(f".{ending}")), None)
    module = None if ending is None else _module(bare.removesuffix(f".{ending}"), form)
    if module is None:
        raise ValueError(
            f"{source} has {key}, which is no low-rank matrix of a linear map in Wan's blocks; known are "
            f"{', '.join(ORIGINAL.values())} of each block"
        )
    return module, PARTS.get(ending, ALPHA)


def _module(name: str, form: Format) -> str | None:
    match = (KOHYA_BLOCK if form == "kohya" else BLOCK).fullmatch(name)
    if match is None:
        return None
    number, inner = match.groups()
    names = {
        "diffusers": {own: own for own in ORIGINAL},
        "original": DIFFUSERS,
        "kohya": {original.replace(".", "_"): own for original, own in DIFFUSERS.items()},
    }[form]
    return f"blocks.{number}.{names[inner]}" if inner in names else None


def _metadata_alpha(metadata: Mapping[str, str], source: str) -> float | None:
    """Alpha by diffusers' metadata, or by peft's own."""
    if METADATA not in metadata:
        return None
    try:
        facts = json.loads(metadata[METADATA])
        alphas = [facts[key] for key in ("transformer.lora_alpha", "lora_alpha") if key in facts]
        patterns = [key for key, value in facts.items() if key.endswith("alpha_pattern") and value]
        if patterns:
            raise ValueError("it has an alpha for each module (alpha_pattern)")
        return float(alphas[0]) if alphas else None
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{source}: its metadata {METADATA!r} are not understood: {error}") from error


def _adapter(module: str, parts: Mapping[str, Tensor], alpha: float | None, source: str) -> Adapter:
    if not {"down", "up"} <= parts.keys():
        raise ValueError(f"{source} has not both matrices of {module}")
    down, up = parts["down"], parts["up"]
    if down.ndim != 2 or up.ndim != 2 or up.shape[1] != len(down):
        raise ValueError(f"{source}: {module} has matrices {tuple(down.shape)} and {tuple(up.shape)}, which do not fit")
    if not (down.isfinite().all() and up.isfinite().all()):
        raise ValueError(f"{source}: {module} holds NaN or infinity")
    own = float(parts[ALPHA]) if ALPHA in parts else float(len(down)) if alpha is None else alpha
    return Adapter(down, up, own)
