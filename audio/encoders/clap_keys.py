"""A published CLAP file as transformers has it: the sizes that its tensors tell, and each tensor's other name.

LAION's is a training checkpoint: a state dict under `state_dict`, each name after `module.`, with HTSAT (a Swin
transformer on a mel spectrogram) as audio_branch and RoBERTa as text_branch; the optimizer's state is left alone.
Microsoft's file has the same HTSAT under another name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.storage.weights import load_weights

State = dict[str, Tensor]

# A learning rate that NumPy computed stands in the optimizer's state: a float64 scalar, under its module's old or new
# name. These build numbers, nothing else.
NUMPY_SCALARS = [
    (np._core.multiarray.scalar, "numpy.core.multiarray.scalar"),
    (np._core.multiarray.scalar, "numpy._core.multiarray.scalar"),
    np.dtype,
    np.dtypes.Float64DType,
]
# In LAION's model and not in transformers': heads for training, the spectrogram as a convolution, masks, counters.
DROPPED = (
    re.compile(r"(text|audio)_transform\."),
    re.compile(r"audio_branch\.(tscam_conv|head|spectrogram_extractor|logmel_extractor)\."),
    re.compile(r"audio_branch\.layers\.\d+\.blocks\.\d+\.attn_mask$"),
    re.compile(r"text_branch\.embeddings\.(position_ids|token_type_ids)$"),
)
LAION_BRANCH, MS_BRANCH = "audio_branch.", "audio_encoder.base.htsat."  # where HTSAT is
MEL_FILTERS = "audio_branch.logmel_extractor.melW"  # (frequencies, mels)
NAMES = (
    (re.compile(r"^(text|audio)_projection\.0\."), r"\1_projection.linear1."),
    (re.compile(r"^(text|audio)_projection\.2\."), r"\1_projection.linear2."),
    (re.compile(r"^text_branch\."), "text_model."),
    (re.compile(r"^audio_branch\.bn0\."), "audio_branch.batch_norm."),
    (re.compile(r"\.norm1\."), ".layernorm_before."),
    (re.compile(r"\.norm2\."), ".layernorm_after."),
    (re.compile(r"\.attn\.proj\."), ".attention.output.dense."),
    (re.compile(r"\.attn\.(?=relative_position|qkv)"), ".attention.self."),
    (re.compile(r"\.mlp\.fc1\."), ".intermediate.dense."),
    (re.compile(r"\.mlp\.fc2\."), ".output.dense."),
    (re.compile(r"^audio_branch\."), "audio_model.audio_encoder."),
)
COMPUTED = {f"text_model.embeddings.{name}" for name in ("position_ids", "token_type_ids")}  # by transformers
SPEC_SIZE = 256  # the square that HTSAT folds a spectrogram into
HEAD_WIDTH = 64  # of RoBERTa
ROBERTA_EPS = 1e-5  # of its layer norms; ClapTextConfig's default is another


def read_laion(path: Path) -> State:
    """The state dict of a LAION file, without `module.`; ValueError for a damaged file or one with foreign objects.

    Raises ValueError for a fused model too, which takes four spectrograms at once.
    """
    with torch.serialization.safe_globals(NUMPY_SCALARS):
        state = load_weights(path, prefer=None)
    patches = state.get("audio_branch.patch_embed.proj.weight")
    fused = [name for name in state if "fusion" in name or "mel_conv" in name]
    if fused or (patches is not None and patches.shape[1] != 1):
        named = fused[0] if fused else "audio_branch.patch_embed.proj.weight with 4 channels"
        raise ValueError(f"{path} is a fused CLAP ({named}); needed: one without fusion, as published FAD takes it")
    return state


def laion_config(state: State, path: Path) -> dict[str, Any]:
    """ClapConfig's arguments, by the sizes in a state dict of `read_laion`; ValueError where one is absent."""
    sizes = _Sizes(state, path, "CLAP of LAION")
    return {
        "audio_config": htsat_config(state, path, LAION_BRANCH, sizes.whose),
        "text_config": _text_config(sizes),
        "projection_dim": sizes.of("text_projection.2.weight")[0],
    }


def htsat_config(state: State, path: Path, branch: str, whose: str) -> dict[str, Any]:
    """ClapAudioConfig's arguments, by the sizes of the tensors under `branch`; ValueError where one is absent.

    whose: which network's file it should be, for the error.
    """
    sizes = _Sizes(state, path, whose)
    layers = sizes.count(f"{branch}layers.{{}}.")
    depths = [sizes.count(f"{branch}layers.{layer}.blocks.{{}}.") for layer in range(layers)]
    tables = [sizes.of(f"{branch}layers.{layer}.blocks.0.attn.relative_position_bias_table") for layer in range(layers)]
    width, _, patch, _ = sizes.of(f"{branch}patch_embed.proj.weight")
    return {
        "patch_embeds_hidden_size": width,
        "patch_size": patch,
        "patch_stride": [patch, patch],
        "num_mel_bins": sizes.of(f"{branch}bn0.weight")[0],
        "hidden_size": sizes.of(f"{branch}norm.weight")[0],
        "depths": depths,
        "num_attention_heads": [table[1] for table in tables],
        "num_hidden_layers": layers,
        "window_size": (round(tables[0][0] ** 0.5) + 1) // 2,
        "mlp_ratio": sizes.of(f"{branch}layers.0.blocks.0.mlp.fc1.weight")[0] / width,
        "spec_size": SPEC_SIZE,
    }


def _text_config(sizes: _Sizes) -> dict[str, Any]:
    vocabulary, width = sizes.of("text_branch.embeddings.word_embeddings.weight")
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_hidden_layers": sizes.count("text_branch.encoder.layer.{}."),
        "num_attention_heads": width // HEAD_WIDTH,
        "intermediate_size": sizes.of("text_branch.encoder.layer.0.intermediate.dense.weight")[0],
        "max_position_embeddings": sizes.of("text_branch.embeddings.position_embeddings.weight")[0],
        "type_vocab_size": sizes.of("text_branch.embeddings.token_type_embeddings.weight")[0],
        "layer_norm_eps": ROBERTA_EPS,
    }


class _Sizes:
    """Shapes of a state dict, by name."""

    def __init__(self, state: State, path: Path, whose: str):
        self.state, self.path, self.whose = state, path, whose

    def of(self, name: str) -> tuple[int, ...]:
        if name not in self.state:
            raise ValueError(f"{self.path} is no {self.whose}: it lacks {name}")
        return tuple(self.state[name].shape)

    def count(self, pattern: str) -> int:
        """How many of `pattern` there are, numbered from 0; ValueError for none."""
        found = 0
        while any(name.startswith(pattern.format(found)) for name in self.state):
            found += 1
        if not found:
            raise ValueError(f"{self.path} is no {self.whose}: it lacks {pattern.format(0)}*")
        return found


def transformers_state(state: State) -> State:
    """The tensors of `read_laion` under transformers' names; the joint query, key and value matrix becomes three."""
    renamed: State = {}
    for name, value in state.items():
        if any(pattern.match(name) for pattern in DROPPED):
            continue
        other = transformers_name(name)
        if ".attention.self.qkv." in other:
            parts = value.chunk(3, dim=0)
            for part, tensor in zip(("query", "key", "value"), parts, strict=True):
                renamed[other.replace(".qkv.", f".{part}.")] = tensor
        else:
            renamed[other] = value
    return renamed


def transformers_name(name: str) -> str:
    """transformers' name of a tensor of LAION's."""
    for pattern, replacement in NAMES:
        name = pattern.sub(replacement, name)
    return name


def check_names(found: State, wanted: State, path: Path, origins: Mapping[str, str] | None = None) -> None:
    """Raise ValueError unless `found` has what a network's state dict `wanted` has, in its shapes, and nothing else.

    origins: what names of `found` are called in the file, for the error.
    """
    missing = sorted(wanted.keys() - found.keys() - COMPUTED)
    unknown = [(origins or {}).get(name, name) for name in sorted(found.keys() - wanted.keys())]
    shapes = [
        f"{name} {tuple(found[name].shape)}, needed {tuple(wanted[name].shape)}"
        for name in sorted(found.keys() & wanted.keys())
        if found[name].shape != wanted[name].shape
    ]
    problems = [("it lacks", missing), ("it has the unknown", unknown), ("of another shape:", shapes)]
    if missing or unknown or shapes:
        said = "; ".join(f"{what} {_some(names)}" for what, names in problems if names)
        raise ValueError(f"{path} does not hold the network's tensors: {said}")


def _some(names: Sequence[str], limit: int = 3) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
