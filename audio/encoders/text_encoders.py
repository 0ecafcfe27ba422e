"""Captions as vectors for conditioning: CLAP's text branch, T5's encoder or MiniLM, computed once and kept in a cache.

They come from a local directory, MiniLM from a package; nothing is downloaded. Letters: n texts, E numbers of a vector.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from audio.encoders.clap import MAX_TOKENS, PREPROCESSOR, ClapFeatures, ClapSource
from core.conditioning import encoders
from core.conditioning.encoders import (
    DIRECTORY,
    MiniLMEncoder,
    T5Encoder,
    TextEncoder,
    encoder_named,
    of_names,
    warn_of_long,
)

Kind = Literal["clap", "t5", "minilm"]


class ClapTextEncoder(TextEncoder):
    """The text branch of a CLAP: a directory of transformers, or LAION's .pt with the tokenizer's files beside it."""

    name, needed = "clap", f"{DIRECTORY} or LAION's .pt"
    recipe = f"text branch, projected, length 1, at most {MAX_TOKENS} tokens"

    def is_there(self, place: Path) -> bool:
        """A folder or a file."""
        return place.exists()

    def files(self, place: Path) -> set[Path]:
        """Those of the folder, or the file and what is beside it but other weights."""
        folder = place if place.is_dir() else place.parent
        files = {file for file in super().files(folder) if file.name != PREPROCESSOR}
        return files if place.is_dir() else {file for file in files if file.suffix != ".safetensors"} | {place}

    def embed(self, place: Path, texts: list[str], device: torch.device) -> Tensor:
        """Embeddings (n, 512), of length 1."""
        features = ClapFeatures(ClapSource("clap", place), device=device)
        warn_of_long(features.tokenizer(), texts, MAX_TOKENS)
        return features.text_embedding(texts)


ENCODERS = of_names(ClapTextEncoder(), T5Encoder(), MiniLMEncoder())


def embed_texts(
    kind: Kind, path: str | None, texts: list[str], cache: Path | None, device: torch.device | str = "cpu"
) -> Tensor:
    """`core.conditioning.encoders.embed_texts` by the encoder of that name; ValueError for another."""
    return encoders.embed_texts(encoder_named(kind, ENCODERS), path, texts, cache, device)
