"""Extractors, networks that turn media into features, and the features of all media, taken on all processes.

Letters: n pieces of media, B batch, B' rows of features of a batch (n' of all), D features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from core.generate import StoppedError
from core.processes.world import World
from eval.measure.media import Media, MediaRows, Piece
from eval.statistics.neighbours import Blocks


class Extractor:
    """A network whose features metrics are computed from.

    name            of the protocol
    main            which of its features distances are taken in
    preprocessing   what happens to a piece of media before the network, in words
    weights_sha256  hex, of the file, or over the files of a folder
    takes_floats    whether it is given generated media as they are, float32 in [-1, 1], not as a file holds them
    """

    name: str
    main: str
    preprocessing: str
    weights_sha256: str
    takes_floats = False

    def facts(self) -> dict[str, Any]:
        """A record's entries for the features: what must be equal for them to be comparable."""
        return {"name": self.name, "weights_sha256": self.weights_sha256, "preprocessing": self.preprocessing}

    def __call__(self, rows: MediaRows) -> dict[str, Tensor]:
        """A batch of media -> (B', D) float32 by name, on the CPU; ValueError for what it cannot look at.

        B' is B, or more where a piece of media has several rows, such as the windows of a clip: those of the first
        piece, those of the second, ...; never fewer.
        """
        raise NotImplementedError

    def distance_blocks(self, device: torch.device) -> Blocks:
        """How distances between its features are taken, for neighbours: in float32."""
        return Blocks(device=str(device))


@dataclass(frozen=True)
class ExtractedFeatures:
    """The features of media by one extractor, in the main process.

    arrays  (n', D) float32 by name
    device  for what is worth moving there
    shared  what metrics compute together
    repeats (T, R, D) float32 by name, of R media of each of T conditions; empty where there are none
    """

    extractor: Extractor
    media: Media
    arrays: Mapping[str, np.ndarray]
    device: torch.device = torch.device("cpu")  # noqa: RUF009, immutable
    shared: dict[Any, Any] = field(default_factory=dict)
    repeats: Mapping[str, np.ndarray] = field(default_factory=dict)


class FeatureExtraction:
    """Features taken on all processes of a job, a batch at a time, with a bar in the main process.

    unit  what a piece of media is called
    stop  whether to stop, in this process
    """

    def __init__(self, world: World, batch_size: int, unit: str, stop: Callable[[], bool] = lambda: False):
        self.world, self.batch_size, self.unit, self.stop = world, batch_size, unit, stop

    def bar(self, total: int, what: str) -> tqdm:
        """A bar in the main process."""
        return tqdm(total=total, desc=what, unit=self.unit, mininterval=0.5, disable=not self.world.is_main)

    def extract_features(self, media: Media, extractor: Extractor) -> ExtractedFeatures | None:
        """The features of all media in the main process, None in the others.

        Raises ValueError for features that are not finite, and as `extract` does.
        """
        arrays = self.extract_arrays(media, extractor)
        repeats = {} if media.repeats is None else self.extract_arrays(media.repeats.media, extractor)
        if arrays is None:
            return None
        grouped = {name: rows.reshape(-1, media.repeats.count, rows.shape[1]) for name, rows in repeats.items()}
        return ExtractedFeatures(extractor, media, arrays, self.world.device, repeats=grouped)

    def extract_arrays(self, media: Media, extractor: Extractor) -> dict[str, np.ndarray] | None:
        """The features of all media by name in the main process, None in the others; errors as above."""
        with self.bar(len(media), f"{extractor.name} of {media.name}") as bar:
            arrays = extract(media, extractor, self.batch_size, self.world, bar.update, self.stop)
        self.world.on_main(lambda: check_finite(arrays, extractor.name, media))
        return arrays


@torch.no_grad()
def extract(
    media: Media,
    extractor: Extractor,
    batch_size: int,
    world: World,
    on_batch: Callable[[int], None] = lambda count: None,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, np.ndarray] | None:
    """Features (n', D) float32 of all media by name, in the main process; None in the others.

    The processes take turns at the batches, so what is in a batch does not depend on their number; `on_batch` is told
    how many pieces of media are done. Raises ValueError for media that are all equal, or have fewer rows than pieces,
    StoppedError when `stop()` says so in any process.
    """
    parts: dict[str, list[Tensor]] = {}
    first_piece, differ = media.rows(0, 1), False
    for start in range(0, len(media), batch_size * world.size):
        if world.any(stop())[0]:
            raise StoppedError
        own = start + world.rank * batch_size
        found, count = {}, 0
        if own < len(media):
            rows = media.rows(own, min(own + batch_size, len(media)))
            differ = differ or _differ(rows, first_piece)
            found, count = extractor(rows), len(rows)
            check_rows(found, count, extractor.name, media)
        for made in world.gather((found, count)) or ():
            for name, values in made[0].items():
                parts.setdefault(name, []).append(values)
            on_batch(made[1])
    if not world.any(differ)[0]:
        raise ValueError(f"all {len(media)} {media.unit}s of {media.name} are equal; nothing can be measured of them")
    if not world.is_main:
        return None
    return {name: torch.cat(values).numpy() for name, values in parts.items()}


def check_rows(found: Mapping[str, Tensor], count: int, extractor: str, media: Media) -> None:
    """Raises ValueError for features of a batch that have fewer rows than it has pieces of media."""
    for name, values in found.items():
        if len(values) < count:
            raise ValueError(
                f"features '{name}' ({extractor}) of {media.name} have {len(values)} rows for {count} {media.unit}s; "
                f"each {media.unit} needs at least one"
            )


def check_finite(features: Mapping[str, np.ndarray], extractor: str, media: Media) -> None:
    """Raises ValueError for features (n', D) that are NaN or infinite."""
    for name, values in features.items():
        bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if len(bad):
            row = media.unit if len(values) == len(media) else f"{media.unit}'s row"
            raise ValueError(
                f"features '{name}' ({extractor}) of {len(bad)} {row}s of {media.name} are NaN or infinite, "
                f"first at {row} {bad[0]}; are the weights damaged?"
            )


def _differ(rows: MediaRows, first: MediaRows) -> bool:
    """Say whether any of the rows, (B, *media) or B pieces, differs from the first piece of all, a batch of its own."""
    if isinstance(rows, Tensor):
        return bool((rows != first).any())
    return not all(_same(row, first[0]) for row in rows)


def _same(piece: Tensor | Piece, other: Tensor | Piece) -> bool:
    return torch.equal(piece, other) if isinstance(piece, Tensor) else piece.same(other)
