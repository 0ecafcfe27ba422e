"""Masks for the segmentation probe: the foreground of the pixels themselves, or label maps that lie beside the images.

Letters: n rows, B batch, C channels, F frames of a clip, Y X pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from core.contracts import Dataset, Tokenizer
from core.data.pixels import opened_image
from core.draws import SampleRandom
from eval.inside.linear import IGNORED
from eval.inside.model import ForwardOptions, TrainedModel, batches

FOREGROUND = "foreground"


def read_masks(
    model: TrainedModel, rows: Sequence[int], source: str, threshold: float, forward: ForwardOptions
) -> Tensor:
    """Masks (n, Y, X) int64 of rows that are images, (n, F, Y, X) of clips.

    source  "foreground": 1 where the mean of a pixel's channels, in [-1, 1], is above `threshold`, else 0. Otherwise,
            for images, a folder of PNG label maps, see `label_map`

    Raises ValueError for a data set of neither.
    """
    if source == FOREGROUND:
        return torch.cat([(shown.mean(1) > threshold).long() for shown in pixels(model, rows, forward)])
    folder = Path(source).expanduser()
    if not folder.is_dir():
        raise ValueError(f"masks is {source!r}; allowed: {FOREGROUND}, a folder of PNG label maps, or null")
    _, *sides = pixel_shape(model)
    if len(sides) != 2:
        raise ValueError(f"masks is {source!r}, label maps of images; allowed for clips: {FOREGROUND}, or null")
    return torch.stack([label_map(folder, model.domain.dataset, row, sides[0]) for row in rows])


def pixel_shape(model: TrainedModel) -> tuple[int, ...]:
    """(C, Y, X) or (C, F, Y, X) of the run's media; ValueError where they are neither images nor clips."""
    shape = tuple(model.domain.dataset.media_shape)
    if not is_pixels(shape):
        name = model.domain.name
        raise ValueError(f"this is for images and clips: the run's domain is {name!r}, its media are of shape {shape}")
    return shape


def is_pixels(shape: Sequence[int]) -> bool:
    """Whether media of that shape are grey or coloured images or clips."""
    return len(shape) in (3, 4) and shape[0] in (1, 3)


@torch.no_grad()
def pixels(model: TrainedModel, rows: Sequence[int], forward: ForwardOptions) -> Iterator[Tensor]:
    """Images (B, C, Y, X) or clips (B, C, F, Y, X) in [-1, 1] of rows, batch by batch; cached latents are decoded."""
    shape = pixel_shape(model)
    for batch, _, random in batches(model, rows, forward):
        yield _as_pixels(model.domain.tokenizer, batch.media, shape, random)


def _as_pixels(tokenizer: Tokenizer, media: Tensor, shape: tuple[int, ...], random: SampleRandom) -> Tensor:
    return media if tuple(media.shape[1:]) == shape else tokenizer.decode(tokenizer.encode(media, random))


def label_map(folder: Path, dataset: Dataset, row: int, size: int) -> Tensor:
    """The label map (Y, X) of a row: `<folder>/<class>/<image>.png` or `<folder>/<image>.png`, by the image's name.

    A PNG whose pixels are numbers (grey or palette): 0 to 254 are classes, 255 does not count. The shorter side is
    brought to `size` by nearest pixels and the centre is cut, which is where the images were cut. Raises ValueError for
    a row that has no map.
    """
    image = Path(dataset.name(row))
    places = [folder / image.parent.name / f"{image.stem}.png", folder / f"{image.stem}.png"]
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        raise ValueError(f"masks is {str(folder)!r}, which holds no label map of {image}; looked for {places[0]}")
    try:
        with opened_image(file.read_bytes()) as opened:
            opened.load()
            labels = opened.copy()
    except ValueError as error:
        raise ValueError(f"the label map {file} cannot be read: {error}") from error
    if labels.mode not in ("L", "P", "1"):
        raise ValueError(f"the label map {file} is of mode {labels.mode}; needed: one number a pixel (L or P)")
    scale = size / min(labels.size)
    width, height = round(labels.width * scale), round(labels.height * scale)
    rows, columns = _central(labels.height, height, size), _central(labels.width, width, size)
    return torch.from_numpy(np.array(labels, dtype=np.int64)[np.ix_(rows, columns)])


def _central(length: int, resized: int, size: int) -> np.ndarray:
    """Where the central `size` of `resized` pixels lie among `length`, by nearest pixels; a strip is never enlarged.

    The steps are added one after the other, as Pillow does, so that ties fall to the same side.
    """
    step, first = length / resized, (resized - size) // 2
    steps = np.full(first + size, step)
    steps[0] = step / 2
    return np.minimum(np.cumsum(steps)[first:].astype(np.int64), length - 1)


def count_classes(*masks: Tensor) -> int:
    """One more than the largest label that counts."""
    return max(_largest(each) for each in masks) + 1


def _largest(masks: Tensor) -> int:
    counted = masks[masks != IGNORED]
    return int(counted.max()) if len(counted) else 0
