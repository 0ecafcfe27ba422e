"""Folders of frames: images of one size whose names count, each folder a clip.

H height, W width in pixels.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from core.data.files import files_under
from core.data.index import NUM_LISTED
from core.data.pixels import opened_image
from video.datasets.containers import OTHER_SUFFIXES, VIDEO_SUFFIXES
from video.datasets.facts import FOLDER, VideoFacts

log = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
EIGHT_BIT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")


def find_clips(root: Path, files_of: Callable[..., list[Path]] | None = None) -> list[Path]:
    """Sorted paths of the video files below `root` and of the folders that hold frames.

    files_of: what gives the files there for suffixes and others; None: `core.data.files.files_under`.
    Images beside video files, or in the root itself, are no frames: how many there are is told.
    """
    files = (files_of or partial(files_under, root))(VIDEO_SUFFIXES + IMAGE_SUFFIXES, OTHER_SUFFIXES)
    videos = [path for path in files if path.suffix.lower() in VIDEO_SUFFIXES]
    images = [path.parent for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    beside = {path.parent for path in videos} | {root}
    left = sum(folder in beside for folder in images)
    if left:
        log.warning("left out in %s: %d images beside video files or in the root itself", root, left)
    return sorted([*videos, *(set(images) - beside)])


def frame_names(folder: Path) -> list[str]:
    """Names of the images of a folder by the numbers in them: frame2 before frame10.

    Raises ValueError, naming the folder, for one that holds none, or images of several series (rgb_1, depth_1).
    """
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.name.lower().endswith(IMAGE_SUFFIXES)]
    names = [name for name in names if name[0] != "."]
    series = sorted({re.sub(r"\d+", "#", name) for name in names})
    if len(series) != 1:
        what = f"images of {len(series)} series, such as {series[:NUM_LISTED]}" if series else "no images"
        raise ValueError(f"folder of frames {folder}: it holds {what}; needed: one, such as frame1.png, frame2.png")
    return sorted(names, key=lambda name: ([int(number) for number in re.findall(r"\d+", name)], name))


def probe_folder(folder: Path) -> VideoFacts:
    """How many frames a folder holds, and the size of the first; ValueError, naming it, for a folder of none."""
    names = frame_names(folder)
    height, width = _read(folder / names[0], lambda image: image.size)[::-1]
    return VideoFacts(len(names), height, width, 0, 0, 1, 0, len(names) - 1, FOLDER, 1)


def map_folder(
    folder: Path, facts: VideoFacts, wanted: Sequence[int], function: Callable[[np.ndarray], np.ndarray]
) -> dict[int, np.ndarray]:
    """`function` of each frame `wanted`, RGB (H, W, 3) uint8, by its number from 0.

    The orientation that EXIF tells is not applied, transparency is dropped. Raises ValueError, naming the file, for an
    image that cannot be decoded, is not of 8 bits, or of another size than the first.
    """
    names = frame_names(folder)
    if len(names) != facts.frames:
        raise ValueError(f"folder of frames {folder}: it has changed: it holds {len(names)}, and held {facts.frames}")
    found = {}
    for number in sorted(set(wanted)):
        pixels = _read(folder / names[number], _pixels)
        if pixels.shape[:2] != (facts.height, facts.width):
            raise ValueError(
                f"frame {folder / names[number]}: it is of {pixels.shape[1]} x {pixels.shape[0]} pixels, the first of "
                f"{facts.width} x {facts.height}"
            )
        found[number] = function(pixels)
    return found


def _read(file: Path, function: Callable) -> object:
    try:
        with opened_image(file.read_bytes()) as image:
            return function(image)
    except FileNotFoundError as error:
        raise ValueError(f"frame {file}: it is not there") from error
    except ValueError as error:
        raise ValueError(f"frame {file}: {error}") from error


def _pixels(image: object) -> np.ndarray:
    if image.mode not in EIGHT_BIT_MODES:
        raise ValueError(f"pixel format {image.mode!r}; allowed: 8 bits")
    return np.asarray(image.convert("RGB"))
