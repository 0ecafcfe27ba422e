"""Film strips of what will be trained: some items of a data set, as they go into training, with names and captions.

Letters: C numbers of a frame, F frames, J joints.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from core.contracts import Requests
from core.draws import numpy_rng
from motion.data import MotionFormat, lengths_of

ITEMS = 8
DATA_SHEET = "data.png"  # in the folder of a run, written before its first step
STREAM = "data sheet"


def write_data_sheet(dataset: Any, clips: MotionFormat, path: Path, items: int = ITEMS) -> Path:
    """A PNG at `path`: a strip for each of some items, spread over the data set; above it its name and its captions.

    Items are drawn as in training, and end where their mask does. ValueError, naming the file, for an item that cannot
    be read or drawn: a run is better ended before it begins.
    """
    from motion.pictures.strips import check_finite, save_png, sheet

    rows = np.linspace(0, len(dataset) - 1, min(items, len(dataset))).round().astype(int).tolist()
    joints, titles = [_joints(dataset, row, clips) for row in rows], [title(dataset, row) for row in rows]
    check_finite(joints, titles)
    return save_png(sheet(joints, titles, clips.skeleton, clips.fps), path)


def title(dataset: Any, row: int) -> str:
    """The name of an item, its action where it has one, and its captions that are not in the name."""
    parts = [dataset.name(row)]
    if getattr(dataset, "captions", None):
        first, last = dataset.caption_rows[row], dataset.caption_rows[row + 1]
        parts += [text for text in dict.fromkeys(dataset.captions[int(first) : int(last)]) if text not in parts[0]]
    elif getattr(dataset, "labels", None) is not None and dataset.class_names:
        parts.append(dataset.class_names[int(dataset.labels[row])])
    return " · ".join(parts)


def _joints(dataset: Any, row: int, clips: MotionFormat) -> np.ndarray:
    """The joints (F, J, 3) of an item as training sees it."""
    item = dataset.item(row, numpy_rng(STREAM, row))
    media, mask = item["media"], item.get("mask")
    (length,) = lengths_of(media[None], Requests(torch.zeros(1), None if mask is None else mask[None]))
    return clips.joints(media[:, :length]).double().numpy()
