"""Cached latents: what a tokenizer makes of a data set, encoded once and read from memory-mapped files.

A cache is a folder:

    manifest.json      what it holds and what that was made from
    conditions.npy     (n, ...) the condition of each row
    lengths.npy        (n,) real frames of each row, where the ends of some are padding
    shard_00000.npy    (rows, M, 2, *latent) mean and standard deviation of the posterior, of each mirror of each row
    shard_00000.json   size and SHA-256 of that shard, written after it: a shard with its facts is whole
    features_00000.npy (rows, M, E, *grid) what a frozen encoder makes of each view, if it was asked, and its facts

The moments are kept and not a draw, so that each step draws anew. `core.latents.writer` makes the files.

Letters: n rows of the data set, M mirrors (1, or 2: as it is, mirrored), B batch, E features of a place.
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
LATENTS, FEATURES = "shard", "features"  # how the names of files begin
SHAPES = ("latent_shape", "media_shape")
StoredType = Literal["float16", "float32"]


@dataclass(frozen=True)
class StoredFeatures:
    """What an encoder of clean media gave, kept beside the latents.

    encoder  its kind, such as dinov2
    sha256   of its files
    shape    (E, *grid) of one view
    dtype    of the numbers
    """

    encoder: str
    sha256: str
    shape: tuple[int, ...]
    dtype: StoredType


@dataclass(frozen=True)
class Part:
    """What a cache keeps of every row in files of its own.

    stem      how the names of its files begin
    shape     (M, ...) of a row
    dtype     of the numbers
    identity  hex SHA-256 over what it is and was made from; the facts of a file name it
    """

    stem: str
    shape: tuple[int, ...]
    dtype: StoredType
    identity: str


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
    features        of an encoder, in files of their own; None: there are none
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
    features: StoredFeatures | None = None

    def __post_init__(self) -> None:
        numbers = {name: getattr(self, name) for name in ("rows", "rows_per_shard", "mirrors")}
        shapes = {name: getattr(self, name) for name in SHAPES}
        shapes |= {} if self.features is None else {"features.shape": self.features.shape}
        numbers |= {f"{name}[{i}]": n for name, shape in shapes.items() for i, n in enumerate(shape)}
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

    def parts(self) -> list[Part]:
        """The latents (M, 2, *latent), and the features where there are some."""
        latents = Part(LATENTS, (self.mirrors, MOMENTS, *self.latent_shape), self.dtype, self.identity())
        features = self.features
        if features is None:
            return [latents]
        identity = json_sha256({"latents": latents.identity, **plain(features)})
        return [latents, Part(FEATURES, (self.mirrors, *features.shape), features.dtype, identity)]

    def shard_shape(self, shard: int, part: Part) -> tuple[int, ...]:
        """(rows, M, ...) of a shard."""
        first, last = self.shard_rows(shard)
        return last - first, *part.shape

    def identity(self) -> str:
        """Hex SHA-256 over all of it but the features, which may come later; the facts of latents name it."""
        facts = {key: value for key, value in plain(self).items() if value is not None and key != FEATURES}
        return json_sha256(facts)

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


def shard_file(root: Path, shard: int, stem: str = LATENTS) -> Path:
    """Where a shard is, of the latents or of another part; its facts lie beside it with the suffix .json."""
    return root / f"{stem}_{shard:05d}.npy"


def shard_facts(root: Path, shard: int, part: Part) -> dict[str, Any] | None:
    """Size and SHA-256 of a part of a shard, or None while it is not there, cut off, or of another cache."""
    file = shard_file(root, shard, part.stem)
    try:
        facts = read_mapping(file.with_suffix(".json"))
        size = file.stat().st_size
    except (FileNotFoundError, ValueError):
        return None
    whole = (facts.get("bytes"), facts.get("cache")) == (size, part.identity) and isinstance(facts.get("sha256"), str)
    return facts if whole else None


def missing_shards(root: Path, spec: CacheSpec) -> list[int]:
    """Shards of which a part is not there or not whole, by the sizes."""
    parts = spec.parts()
    return [shard for shard in range(spec.num_shards) if any(shard_facts(root, shard, part) is None for part in parts)]


def damaged_files(root: Path, spec: CacheSpec, shards: Iterable[int]) -> list[Path]:
    """Files whose bytes are not those that were written: conditions, lengths, and those of `shards` that are there."""
    found = [root / name for name, facts in spec.arrays().items() if not same_array(root / name, facts)]
    parts = spec.parts()
    for shard in shards:
        for part in parts:
            file, facts = shard_file(root, shard, part.stem), shard_facts(root, shard, part)
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

    spec           what the cache holds
    media_shape    of the items that were encoded, not of the moments
    class_names    of the data set that was encoded
    labels         (n,) int64 where the conditions are classes, else None
    flip           True when `item` mirrors at random
    with_features  True when `item` has the features of an encoder too; see `core.latents.features`

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
        self.with_features, self._parts = False, self.spec.parts()
        self._shards: dict[tuple[int, str], np.ndarray] = {}
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

        And `features` (E, *grid) of the same view, `with_features`. `rng` decides the flip, as for the data set that
        was encoded, so that both give the same samples.
        """
        return {name: value[0] for name, value in self.items(np.array([index]), [rng]).items()}

    def items(self, indices: np.ndarray, rngs: Iterable[np.random.Generator]) -> dict[str, Tensor]:
        """`media` (B, 2, *latent), `condition` (B, ...), with lengths `mask` (B, N), and `features` (B, E, *grid)."""
        mirrors = [int(rng.random() < 0.5) for rng in rngs] if self.flip else [0] * len(indices)
        views = list(zip(indices.tolist(), mirrors, strict=True))
        found = {"media": self._read(self._parts[0], views), "condition": self.conditions[torch.from_numpy(indices)]}
        if self._masks is not None:
            found["mask"] = self._masks[torch.from_numpy(indices)]
        if self.with_features:
            found["features"] = self._read(self._parts[1], views)
        return found

    def _read(self, part: Part, views: list[tuple[int, int]]) -> Tensor:
        """What a part has of (row, mirror), stacked, in the stored type."""
        found = torch.empty((len(views), *part.shape[1:]), dtype=getattr(torch, part.dtype))
        rows = found.numpy()
        for position, (index, mirror) in enumerate(views):
            shard, row = divmod(index, self.spec.rows_per_shard)
            array = self._shards.get((shard, part.stem))
            rows[position] = (self._map(shard, part) if array is None else array)[row, mirror]
        return found

    def name(self, index: int) -> str:
        """The shard and the row within it, from 0."""
        shard, row = divmod(index, self.spec.rows_per_shard)
        return f"{shard_file(self.root, shard)}, row {row}"

    def _map(self, shard: int, part: Part) -> np.ndarray:
        """A shard, mapped once: a plain view, since np.memmap costs microseconds at each indexing."""
        self._shards[shard, part.stem] = array = _mapped(self.root, self.spec, shard, part)
        return array


def _mapped(root: Path, spec: CacheSpec, shard: int, part: Part) -> np.ndarray:
    file = shard_file(root, shard, part.stem)
    try:
        array = np.asarray(map_array(file))
    except ValueError as error:
        raise ValueError(f"the shard {file} is damaged: {error}") from error
    expected = spec.shard_shape(shard, part), np.dtype(part.dtype)
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
    for part in spec.parts():
        _mapped(root, spec, 0, part)  # whose shape says whether the manifest's is true
