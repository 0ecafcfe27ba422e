"""What media look like to a network: features of all of them, taken on all processes.

Letters: n pieces of media, B batch, B' rows of features of a batch (n' of all), D features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.generate import StoppedError
from core.processes.world import World
from eval.measure.media import Media, Piece, Rows


class Extractor:
    """A network as an eye.

    name            of the protocol
    main            which of its features distances are taken in
    preprocessing   what happens to a piece of media before the network, in words
    weights_sha256  hex, of the file, or over the files of a folder
    takes_floats    whether generated media are shown to it as they are, float32 in [-1, 1], not as a file holds them
    """

    name: str
    main: str
    preprocessing: str
    weights_sha256: str
    takes_floats = False

    def facts(self) -> dict[str, Any]:
        """What must be equal for features to be comparable."""
        return {"name": self.name, "weights_sha256": self.weights_sha256, "preprocessing": self.preprocessing}

    def __call__(self, rows: Rows) -> dict[str, Tensor]:
        """A batch of media -> (B', D) float32 by name, on the CPU; ValueError for what it cannot look at.

        B' is B, or more where a piece of media has several rows, such as the windows of a clip: those of the first
        piece, those of the second, ...; never fewer.
        """
        raise NotImplementedError


Take = Callable[[Media, Extractor], dict[str, np.ndarray] | None]


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


def taker(world: World, batch_size: int, stop: Callable[[], bool], progress: Callable) -> Take:
    """How features are taken on all processes: checked, and with a bar from `progress(total, what)`."""

    def take(media: Media, extractor: Extractor) -> dict[str, np.ndarray] | None:
        with progress(len(media), f"{extractor.name} of {media.name}") as bar:
            features = extract(media, extractor, batch_size, world, bar.update, stop)
        world.on_main(lambda: check_finite(features, extractor.name, media))
        return features

    return take


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


def _differ(rows: Rows, first: Rows) -> bool:
    """Whether any of the rows, (B, *media) or B pieces, differs from the first piece of all, in a batch of its own."""
    if isinstance(rows, Tensor):
        return bool((rows != first).any())
    return not all(_same(row, first[0]) for row in rows)


def _same(piece: Tensor | Piece, other: Tensor | Piece) -> bool:
    return torch.equal(piece, other) if isinstance(piece, Tensor) else piece.same(other)
