"""Cached latents: what a tokenizer makes of a data set, encoded once and read from memory-mapped files.

A cache is a folder:

    manifest.json      what it holds and what that was made from
    conditions.npy     (n, ...) the condition of each row
    lengths.npy        (n,) real frames of each row, where the ends of some are padding
    shard_00000.npy    (rows, M, 2, *latent) mean and standard deviation of the posterior, of each mirror of each row
    shard_00000.json   size and SHA-256 of that shard, written after it: a shard with its facts is whole

The moments are kept and not a draw, so that each step draws anew. `core.latents.writer` makes the files.

Letters: n rows of the data set, M mirrors (1, or 2: as it is, mirrored), B batch.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from core.schema import plain, strict
from core.storage.arrays import map_array, read_array
from core.storage.atomic import sha256_file
from core.storage.json_files import read_json, read_mapping
from core.storage.provenance import json_sha256

SCHEMA_VERSION = 1
MANIFEST, CONDITIONS, LENGTHS = "manifest.json", "conditions.npy", "lengths.npy"
MOMENTS = 2  # mean and standard deviation
SHAPES = ("latent_shape", "media_shape")
StoredType = Literal["float16", "float32"]


@dataclass(frozen=True)
class CacheSpec:
    """What a cache holds and what it was made from; two caches with equal specs are interchangeable.

    kind            what an item is; the domain's word
    rows            n
    rows_per_shard  of every shard but the last
    mirrors         M
    latent_shape    of one latent
    media_shape     of the item it was made from
    dtype           of the moments
    class_names     of the data set
    conditions      dtype, shape and sha256 of the array in conditions.npy
    data            `core.data.stream.fingerprint` of the data set
    transform       how the files became media
    tokenizer       what decides the latents: its constants without its path, and its precision
    lengths         of the array in lengths.npy, as of the conditions; None: nothing is padding
    """

    kind: str
    rows: int
    rows_per_shard: int
    mirrors: int
    latent_shape: tuple[int, ...]
    media_shape: tuple[int, ...]
    dtype: StoredType
    class_names: list[str]
    conditions: dict
    data: dict
    transform: dict
    tokenizer: dict
    lengths: dict | None = None

    def __post_init__(self) -> None:
        numbers = {name: getattr(self, name) for name in ("rows", "rows_per_shard", "mirrors")}
        numbers |= {f"{name}[{i}]": n for name in SHAPES for i, n in enumerate(getattr(self, name))}
        for name, number in numbers.items():
            if number < 1:
                raise ValueError(f"{name} is {number}; needed: 1 or more")
        for file, facts in self.arrays().items():
            shape = facts.get("shape")
            if not isinstance(shape, list) or shape[:1] != [self.rows]:
                raise ValueError(f"rows is {self.rows}, but the array of {file} has shape {shape!r:.80}")

    @property
    def num_shards(self) -> int:
        """Shards of the complete cache."""
        return math.ceil(self.rows / self.rows_per_shard)

    def shard_rows(self, shard: int) -> tuple[int, int]:
        """Rows first <= row < last of a shard."""
        return shard * self.rows_per_shard, min(self.rows, (shard + 1) * self.rows_per_shard)

    def shard_shape(self, shard: int) -> tuple[int, ...]:
        """(rows, M, 2, *latent) of a shard."""
        first, last = self.shard_rows(shard)
        return last - first, self.mirrors, MOMENTS, *self.latent_shape

    def identity(self) -> str:
        """Hex SHA-256 over all of it; a shard's facts name the cache that it belongs to."""
        return json_sha256({key: value for key, value in plain(self).items() if value is not None})

    def arrays(self) -> dict[str, dict]:
        """Facts of the arrays that lie beside the shards, by file name."""
        return {CONDITIONS: self.conditions} | ({} if self.lengths is None else {LENGTHS: self.lengths})


def array_facts(array: np.ndarray) -> dict[str, Any]:
    """dtype, shape and hex SHA-256 of an array's bytes."""
    digest = hashlib.sha256(np.ascontiguousarray(array)).hexdigest()
    return {"dtype": str(array.dtype), "shape": list(array.shape), "sha256": digest}


def read_spec(root: Path) -> CacheSpec:
    """The spec of the cache at `root`; FileNotFoundError for none, ValueError for a damaged or newer manifest."""
    file = root / MANIFEST
    content = read_json(file)
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA_VERSION:
        raise ValueError(f"{file} has schema_version {version!r}; this version reads {SCHEMA_VERSION}")
    names = {field.name for field in fields(CacheSpec)}
    try:
        return strict(CacheSpec, {name: value for name, value in content.items() if name in names})
    except ValueError as error:
        raise ValueError(f"{file} is damaged: {error}") from error


def shard_file(root: Path, shard: int) -> Path:
    """Where a shard is; its facts lie beside it with the suffix .json."""
    return root / f"shard_{shard:05d}.npy"


def shard_facts(root: Path, shard: int, identity: str) -> dict[str, Any] | None:
    """Size and SHA-256 of a shard, or None while it is not there, cut off, or of another cache."""
    file = shard_file(root, shard)
    try:
        facts = read_mapping(file.with_suffix(".json"))
        size = file.stat().st_size
    except (FileNotFoundError, ValueError):
        return None
    whole = (facts.get("bytes"), facts.get("cache")) == (size, identity) and isinstance(facts.get("sha256"), str)
    return facts if whole else None


def missing_shards(root: Path, spec: CacheSpec) -> list[int]:
    """Shards that are not there or not whole, by their sizes."""
    identity = spec.identity()
    return [shard for shard in range(spec.num_shards) if shard_facts(root, shard, identity) is None]


def damaged_files(root: Path, spec: CacheSpec, shards: Iterable[int]) -> list[Path]:
    """Files whose bytes are not those that were written: conditions, lengths, and those of `shards` that are there."""
    identity = spec.identity()
    found = [root / name for name, facts in spec.arrays().items() if not same_array(root / name, facts)]
    for shard in shards:
        file, facts = shard_file(root, shard), shard_facts(root, shard, identity)
        if facts is not None and sha256_file(file) != facts["sha256"]:
            found.append(file)
    return found


def same_array(file: Path, facts: dict) -> bool:
    """Whether an array is there and as the manifest says."""
    try:
        return array_facts(read_array(file)) == facts
    except ValueError:
        return False


class TokenMasks(Protocol):
    """Which tokens of a row are real.

    frames  the largest length of a row
    """

    frames: int

    def mask(self, length: int) -> Tensor | None:
        """(N,) bool, true for the tokens that hold any of a row's `length` real frames; None where all do."""
        ...


@dataclass(frozen=True)
class LastAxisMasks:
    """Tokens of `patch` latent frames each, whose lengths are counted in latent frames."""

    frames: int
    patch: int

    def mask(self, length: int) -> Tensor:
        """(N,) bool, true for the tokens that hold any of the first `length` latent frames."""
        return torch.arange(self.frames // self.patch) < -(-length // self.patch)


class LatentShards:
    """The moments of a complete cache as a data set; fulfils `core.contracts.Dataset`.

    spec         what the cache holds
    media_shape  of the items that were encoded, not of the moments
    class_names  of the data set that was encoded
    labels       (n,) int64 where the conditions are classes, else None
    flip         True when `item` mirrors at random

    The constructor looks at names and sizes only. Shards are mapped when first read, in each process by itself; a
    process that reads them all keeps as many files open. Raises ValueError, naming the config key `data.root`, for a
    folder that holds no cache, not all of one, or one of another `kind` of media; `make_command` makes one. Items
    have masks after `mask_tokens`.
    """

    def __init__(self, root: Path | str, *, kind: str, make_command: str, flip: bool = False):
        self.root = Path(root).expanduser()
        try:
            self.spec = read_spec(self.root)
        except (FileNotFoundError, NotADirectoryError):
            raise ValueError(
                f"data.root is {str(root)!r}, which holds no latent cache ({MANIFEST}); `{make_command}` makes one"
            ) from None
        if self.spec.kind != kind:
            raise ValueError(f"data.root is {str(root)!r}, a cache of kind {self.spec.kind!r}; allowed: {kind!r}")
        _check_complete(self.root, self.spec, make_command)
        if flip and self.spec.mirrors < 2:
            raise ValueError(
                f"data.flip is true, but the cache {self.root} holds no mirrored latents; allowed there: false"
            )
        self.media_shape, self.class_names, self.flip = self.spec.media_shape, self.spec.class_names, flip
        self.conditions = _numbers(self.root / CONDITIONS)
        is_class = self.conditions.dim() == 1 and not self.conditions.is_floating_point()
        self.labels = self.conditions if is_class else None
        count = len(self.class_names)
        if is_class and count and not ((self.labels >= 0) & (self.labels < count)).all():
            raise ValueError(f"{self.root / CONDITIONS} is damaged: there are labels outside the {count} classes")
        self._shards: dict[int, np.ndarray] = {}
        self._masks: Tensor | None = None  # (n, N) bool

    def mask_tokens(self, masks: TokenMasks) -> None:
        """Give items the masks that the lengths of their rows mean; a cache without lengths has none.

        ValueError for a file of lengths that is damaged.
        """
        if self.spec.lengths is None:
            return
        lengths, frames = _numbers(self.root / LENGTHS).long(), masks.frames
        if lengths.shape != (len(self),) or not ((lengths >= 1) & (lengths <= frames)).all():
            raise ValueError(f"{self.root / LENGTHS} is damaged: needed are ({len(self)},) numbers from 1 to {frames}")
        kinds, rows = lengths.unique(return_inverse=True)
        found = [masks.mask(length) for length in kinds.tolist()]
        known = next((mask for mask in found if mask is not None), None)
        if known is not None:
            self._masks = torch.stack([torch.ones_like(known) if mask is None else mask for mask in found])[rows]

    def __len__(self) -> int:
        return self.spec.rows

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_shards": {}}  # a worker maps the files for itself

    def item(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """`media` (2, *latent), mean and standard deviation in the stored type, `condition` and, with lengths, `mask`.

        `rng` decides the flip, as for the data set that was encoded, so that both give the same samples.
        """
        return {name: value[0] for name, value in self.items(np.array([index]), [rng]).items()}

    def items(self, indices: np.ndarray, rngs: Iterable[np.random.Generator]) -> dict[str, Tensor]:
        """`media` (B, 2, *latent), `condition` (B, ...) and, with lengths, `mask` (B, N)."""
        shape = len(indices), MOMENTS, *self.spec.latent_shape
        media = torch.empty(shape, dtype=getattr(torch, self.spec.dtype))
        rows = media.numpy()
        mirrors = [int(rng.random() < 0.5) for rng in rngs] if self.flip else [0] * len(indices)
        for position, (index, mirror) in enumerate(zip(indices.tolist(), mirrors, strict=True)):
            shard, row = divmod(index, self.spec.rows_per_shard)
            array = self._shards.get(shard)
            rows[position] = (self._map(shard) if array is None else array)[row, mirror]
        chosen = torch.from_numpy(indices)
        masks = {} if self._masks is None else {"mask": self._masks[chosen]}
        return {"media": media, "condition": self.conditions[chosen], **masks}

    def name(self, index: int) -> str:
        """The shard and the row within it, from 0."""
        shard, row = divmod(index, self.spec.rows_per_shard)
        return f"{shard_file(self.root, shard)}, row {row}"

    def _map(self, shard: int) -> np.ndarray:
        """A shard, mapped once: a plain view, since np.memmap costs microseconds at each indexing."""
        self._shards[shard] = _mapped(self.root, self.spec, shard)
        return self._shards[shard]


def _mapped(root: Path, spec: CacheSpec, shard: int) -> np.ndarray:
    file = shard_file(root, shard)
    try:
        array = np.asarray(map_array(file))
    except ValueError as error:
        raise ValueError(f"the shard {file} is damaged: {error}") from error
    expected = spec.shard_shape(shard), np.dtype(spec.dtype)
    if (array.shape, array.dtype) != expected:
        raise ValueError(f"the shard {file} is damaged: {array.dtype} {array.shape}, needed {expected}")
    return array


def _numbers(file: Path) -> Tensor:
    """An array that lies beside the shards; ValueError for what is no number, or not finite."""
    array = read_array(file)
    if array.dtype.kind not in "biuf" or not array.dtype.isnative or not np.isfinite(array).all():
        raise ValueError(f"{file} is damaged: {array.dtype} {array.shape}, needed: finite numbers")
    return torch.from_numpy(array)


def _check_complete(root: Path, spec: CacheSpec, make_command: str) -> None:
    for name, facts in spec.arrays().items():  # first: they bear witness to as many rows as the manifest says
        if not same_array(root / name, facts):
            raise ValueError(f"{root / name} is missing or damaged; the same `{make_command} ...` writes it again")
    missing = missing_shards(root, spec)
    if missing:
        raise ValueError(
            f"{len(missing)} of {spec.num_shards} shards of the cache {root} are missing or cut off, such as "
            f"{shard_file(root, missing[0]).name}; the same `{make_command} ...` that began it continues"
        )
    _mapped(root, spec, 0)  # whose shape says whether the manifest's is true
