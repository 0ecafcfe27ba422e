"""Features of clean media that a cache holds beside its latents: a run on latents can be aligned with their encoder.

Which encoder made them is known by its kind and by the hash of its files, which a run reads; its network is not built.

Letters: B batch, E features of a place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from core.contracts import Batch, FeatureEncoder
from core.latents.cache import CacheSpec, LatentShards, read_spec


class CachedFeatures:
    """The encoder whose features come with the rows of a cache; fulfils `core.contracts.FeatureEncoder`."""

    flops = 0  # they were spent when the cache was made

    def __init__(self, width: int):
        self.width = width

    def __call__(self, batch: Batch) -> Tensor:
        """Features (B, E, *grid) in the stored type."""
        if batch.features is None:
            raise ValueError("alignment.encoder takes features from a cache, but these rows have none")
        return batch.features


def check_encoder(key: str, name: str, forms: Sequence[str]) -> None:
    """Raises ValueError, naming the config key, for a name of none of the forms: kind:<folder>, or a package's kind."""
    kind, _, folder = name.partition(":")
    if (f"{kind}:<folder>" if folder else name) not in forms:
        raise ValueError(f"{key} is {name!r}; allowed: {', '.join(forms) or 'no encoder in this domain'}")


def encoders_for(
    dataset: Any, make: Callable[[str], FeatureEncoder], files_sha256: Callable[[str], str]
) -> Callable[[str], FeatureEncoder]:
    """What gives an encoder of its name: `make` for a data set of media, `cached_encoder` for the rows of a cache."""
    if isinstance(dataset, LatentShards):
        return partial(cached_encoder, cache=dataset, files_sha256=files_sha256)
    return make


def cached_encoder(name: str, cache: LatentShards, files_sha256: Callable[[str], str]) -> CachedFeatures:
    """The encoder kind:folder, if it is the one of the cache, whose rows have its features from now on.

    files_sha256  hex SHA-256 of the files that a name means; ValueError for no such files

    ValueError, beginning with the option `encoder`, for another encoder, and a cache without features.
    """
    check_kind(name, cache.spec, cache.root)
    found = files_sha256(name)
    if found != cache.spec.features.sha256:
        raise ValueError(
            f"encoder is {name!r}, whose files have SHA-256 {found}, but the features of the cache {cache.root} were "
            f"made by files with {cache.spec.features.sha256}; allowed there: that encoder"
        )
    cache.with_features = True
    return CachedFeatures(cache.spec.features.shape[0])


def check_cached(name: str, root: str) -> None:
    """Raises ValueError where the cache at `root` has no features of such an encoder; says nothing of no cache."""
    place = Path(root).expanduser()
    try:
        spec = read_spec(place)
    except (FileNotFoundError, NotADirectoryError):
        return  # it is opened later, which says so
    check_kind(name, spec, place)


def check_kind(name: str, spec: CacheSpec, root: Path) -> None:
    """Raises ValueError, beginning with the option `encoder`, for features of another kind of encoder, or none."""
    if spec.features is None:
        raise ValueError(
            f"encoder is {name!r}, which sees media, but the cache {root} holds latents alone; the command that made "
            f"it adds the features with encoder={name}"
        )
    kind = spec.features.encoder
    if name.partition(":")[0] != kind:
        raise ValueError(f"encoder is {name!r}, but the features of the cache {root} are of {kind}; allowed: {kind}")
