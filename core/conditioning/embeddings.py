"""Embeddings of texts, computed once and kept in files that know what made them. Letters: n texts, E their numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

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
        return _read(file, key, len(texts))
    embedded = embed(texts)
    if not embedded.isfinite().all():
        raise ValueError(f"the text encoder {encoder} gives NaN or infinity")
    if file is not None:
        embedded = embedded.contiguous()
        write_atomic(file, save({NAME: embedded}, metadata={"key": key, "sha256": _sha256(embedded)}))
    return embedded


def _read(file: Path, key: str, count: int) -> Tensor:
    try:
        if not file.is_file():
            raise OSError("it is no file")
        with safe_open(file, framework="pt") as opened:
            notes, embedded = opened.metadata() or {}, opened.get_tensor(NAME)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"the cached embeddings {file} are damaged ({error}); {ADVICE}") from error
    intact = notes.get("key") == key and embedded.ndim == 2 and len(embedded) == count
    if not intact or notes.get("sha256") != _sha256(embedded):
        raise ValueError(f"the cached embeddings {file} are not what was written; {ADVICE}")
    return embedded


def _sha256(embedded: Tensor) -> str:
    return hashlib.sha256(embedded.numpy().tobytes()).hexdigest()
