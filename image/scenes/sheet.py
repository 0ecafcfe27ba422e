"""`python -m image.scenes.sheet FILE`: one scene of each class as a picture, the shapes from top to bottom."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from einops import rearrange
from PIL import Image

from image.datasets.scenes import ScenesConfig
from image.scenes.classes import CLASS_NAMES


def sheet(size: int, seed: int, columns: int) -> Image.Image:
    """The first scene of each class, in the order of the classes; a whole number of rows."""
    scenes = ScenesConfig(split="train", num_images=len(CLASS_NAMES), size=size, seed=seed).build()
    pictures = scenes.bytes_at(range(len(scenes))).numpy()
    return Image.fromarray(np.ascontiguousarray(rearrange(pictures, "(r k) c y x -> (r y) (k x) c", k=columns)))


def main(argv: Sequence[str] | None = None) -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser("python -m image.scenes.sheet", description="One rendered scene of each class.")
    parser.add_argument("file", type=Path, help="the picture to write, .png or .jpg")
    parser.add_argument("--size", type=int, default=64, help="pixels of a side of each scene (default 64)")
    parser.add_argument("--seed", type=int, default=0, help="of the scenes (default 0)")
    parser.add_argument("--columns", type=int, default=20, choices=(10, 12, 15, 20, 24, 30), help="default 20")
    options = parser.parse_args(argv)
    try:
        picture = sheet(options.size, options.seed, options.columns)
    except ValueError as error:
        parser.error(str(error))
    picture.save(options.file)


if __name__ == "__main__":
    main()
