"""Embeddings of texts, computed once and kept in files that know what made them.

A vector for each of n texts is in one file, a sequence of tokens in a file of its own: those are large, and read one by
one. Letters: n texts, L tokens of a text, E numbers of a vector.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from core.storage.atomic import write_atomic
from core.storage.provenance import json_sha256

NAME = "embeddings"
ADVICE = "remove it, and it is made again"


def cached_embeddings(
    encoder: str,
    made_by: Mapping[str, Any],
    texts: Sequence[str],
    cache: Path | None,
    embed: Callable[[list[str]], Tensor],
) -> Tensor:
    """What `embed` makes of the texts, (n, E) float32 on the CPU: from the cache where it is there, else made and kept.

    encoder  its name, and the beginning of the file's
    made_by  what the embeddings are a function of besides the texts: recipe, hash of the encoder's files
    cache    folder of the files; None: nothing is kept

    Raises ValueError for no text, for a damaged file, and for embeddings that are not finite.
    """
    if not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"the text encoder needs a list of texts, at least one; got {texts!r:.80}")
    texts = list(texts)
    key = json_sha256({**made_by, "texts": texts})
    file = None if cache is None else Path(cache) / f"{encoder}-{key[:32]}.safetensors"
    if file is not None and file.exists():
        embedded = _read(file, key)
        return _checked(embedded, len(embedded) == len(texts), file)
    embedded = embed(texts)
    if not embedded.isfinite().all():
        raise ValueError(f"the text encoder {encoder} gives NaN or infinity")
    if file is not None:
        _write(file, key, embedded)
    return embedded


class SequenceFiles:
    """Sequences (L, E) of texts, a file each; made_by: see `cached_embeddings`."""

    def __init__(self, encoder: str, made_by: Mapping[str, Any], folder: Path):
        self.encoder, self.made_by, self.folder = encoder, dict(made_by), Path(folder)

    def missing(self, texts: Sequence[str]) -> list[str]:
        """Those of the texts, each once, that have no file yet."""
        return [text for text in dict.fromkeys(texts) if not self._file(text)[0].exists()]

    def write(self, text: str, tokens: Tensor) -> None:
        """Keep the tokens (L, E) of a text; ValueError for numbers that are not finite."""
        if not tokens.isfinite().all():
            raise ValueError(f"the text encoder {self.encoder} gives NaN or infinity for {text!r:.80}")
        _write(*self._file(text), tokens.cpu())

    def read(self, text: str) -> Tensor:
        """The tokens (L, E) of a text, in the type that was written; ValueError for a damaged file."""
        return _read(*self._file(text))

    def _file(self, text: str) -> tuple[Path, str]:
        key = json_sha256({**self.made_by, "text": text})
        return self.folder / self.encoder / key[:2] / f"{key[:32]}.safetensors", key


def _write(file: Path, key: str, embedded: Tensor) -> None:
    embedded = embedded.contiguous()
    write_atomic(file, save({NAME: embedded}, metadata={"key": key, "sha256": _sha256(embedded)}))


def _read(file: Path, key: str) -> Tensor:
    try:
        if not file.is_file():
            raise OSError("it is no file")
        with safe_open(file, framework="pt") as opened:
            notes, embedded = opened.metadata() or {}, opened.get_tensor(NAME)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"the cached embeddings {file} are damaged ({error}); {ADVICE}") from error
    same = notes.get("key") == key and notes.get("sha256") == _sha256(embedded)
    return _checked(embedded, same and embedded.ndim == 2, file)


def _checked(embedded: Tensor, intact: bool, file: Path) -> Tensor:
    if not intact:
        raise ValueError(f"the cached embeddings {file} are not what was written; {ADVICE}")
    return embedded


def _sha256(embedded: Tensor) -> str:
    return hashlib.sha256(embedded.reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()
