"""`python -m benchmarks.image_decoding`: JPEG files to training tensors, against the published trainers' pipeline."""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms

from benchmarks import measure
from core.data.pixels import from_uint8
from core.draws import numpy_rng
from image.datasets.decode import center_crop, decode_image, to_bytes
from image.datasets.files import FileDataset, FolderConfig

AIM = 2.0  # times as many images/s of one core as the published pipeline, landscapes
SIDES = {"landscape": (500, 375), "portrait": (375, 500)}  # width, height: ImageNet's most frequent
QUALITY = 90
BICUBIC, BOX = Image.Resampling.BICUBIC, Image.Resampling.BOX

DESCRIPTION = """\
Measure how many JPEG files of 500x375 pixels one core makes training's tensors of 256x256, mirrors included: our data
set as a loader's worker reads it (bytes, floats being made on the device), and the pipeline of published trainers (DiT,
SiT, guided-diffusion: Pillow, conversion to RGB, halvings and a bicubic filter of the whole image, cut, ToTensor,
Normalize). They take turns, and are timed by their seconds on a processor. The pixels are compared: all bytes must be
equal. Beside it the parts: decoding alone, the crop, the copy, and the floats. Files are noise under waves, about as
large as ImageNet's, in the system's memory.

The aim is a factor of 2 for landscapes, which most of ImageNet is."""

EXAMPLES = """\
examples:
  python -m benchmarks.image_decoding
  python -m benchmarks.image_decoding --size 512 --images 16"""


@dataclass(frozen=True)
class Setting:
    """What is measured, and how often."""

    size: int
    images: int
    rounds: int
    seed: int
    threads: int
    device: str = "cpu"


def make_folder(root: Path, sides: tuple[int, int], setting: Setting) -> list[Path]:
    """Write JPEG files of one class; their paths."""
    (root / "a").mkdir(parents=True)
    width, height = sides
    y, x = np.mgrid[:height, :width]
    paths = [root / "a" / f"{number:04d}.jpg" for number in range(setting.images)]
    for number, path in enumerate(paths):
        rng = np.random.default_rng([setting.seed, number])
        coarse = rng.integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
        noise = np.asarray(Image.fromarray(coarse).resize(sides, BICUBIC), dtype=float)
        waves = np.stack([np.sin(x / 37 + channel) + np.cos(y / 23 - channel) for channel in range(3)], axis=-1)
        pixels = 75 + 35 * waves + 0.4 * noise + rng.normal(0, 6, noise.shape)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=QUALITY)
    return paths


def published_crop(image: Image.Image, size: int) -> Image.Image:
    """The centre of an image as guided-diffusion cuts it, by its description: the whole image is resized."""
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), BOX)
    scale = size / min(image.size)
    pixels = np.array(image.resize((round(image.width * scale), round(image.height * scale)), BICUBIC))
    top, left = (pixels.shape[0] - size) // 2, (pixels.shape[1] - size) // 2
    return Image.fromarray(pixels[top : top + size, left : left + size])


def published_pipeline(size: int) -> Callable[[Path], Tensor]:
    """From a path to (3, size, size) float32 in [-1, 1]."""
    transform = transforms.Compose(
        [
            transforms.Lambda(lambda image: published_crop(image, size)),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(mean=[0.5] * 3, std=[0.5] * 3, inplace=True),
        ]
    )

    def read(path: Path) -> Tensor:
        with path.open("rb") as file:
            return transform(Image.open(file).convert("RGB"))

    return read


def per_image(function: Callable[[Any], Any], items: Sequence[Any]) -> float:
    """Seconds of a processor for one of the items."""
    started = time.process_time()
    for item in items:
        function(item)
    return (time.process_time() - started) / len(items)


def different_bytes(dataset: FileDataset, paths: Sequence[Path], size: int) -> int:
    """How many bytes of our tensors are not those of the published pipeline."""
    total = 0
    for index, path in enumerate(paths):
        wanted = np.asarray(published_crop(Image.open(path).convert("RGB"), size)).transpose(2, 0, 1)
        found = (127.5 * (dataset.pixels(index) + 1)).round().to(torch.uint8).numpy()
        total += int((found != wanted).sum())
    return total


def run_case(root: Path, sides: tuple[int, int], setting: Setting) -> dict[str, Any]:
    """Everything of images of one size, in turns."""
    paths = make_folder(root, sides, setting)
    dataset = FolderConfig(root=str(root), size=setting.size, cache_dir=None).build()
    files = [path.read_bytes() for path in paths]
    images = [decode_image(content, 3) for content in files]
    crops = [center_crop(image, setting.size) for image in images]
    stored = [to_bytes(crop) for crop in crops]
    rows = range(len(paths))
    cases = {
        "published": partial(per_image, published_pipeline(setting.size), paths),
        "ours": partial(per_image, lambda row: dataset.stored(row, numpy_rng(setting.seed, row)), rows),
        "decoding": partial(per_image, lambda content: Image.open(io.BytesIO(content)).load(), files),
        "crop": partial(per_image, lambda image: center_crop(image, setting.size), images),
        "published crop": partial(per_image, lambda image: published_crop(image, setting.size), images),
        "copy": partial(per_image, to_bytes, crops),
        "floats": partial(per_image, from_uint8, stored),
    }
    for case in cases.values():
        case()  # warms up
    times = measure.interleave(cases, setting.rounds)
    ratio = measure.pair_ratios(times["published"], times["ours"])
    return {
        "file_kib": sum(map(len, files)) / len(files) / 1024,
        "milliseconds": {name: measure.spread(each, 1000) for name, each in times.items()},
        "images_per_second": {name: measure.spread([1 / t for t in times[name]]) for name in ("published", "ours")},
        "ratio": measure.spread(ratio),
        "different_bytes": different_bytes(dataset, paths, setting.size),
    }


def run(setting: Setting, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Measure everything; the `results` of the record."""
    torch.set_num_threads(setting.threads)
    cases = {}
    with tempfile.TemporaryDirectory(prefix="image_decoding-") as temporary:
        for name, sides in SIDES.items():
            say(f"{name}, {sides[0]}x{sides[1]}: {setting.images} images, {setting.rounds} rounds ...")
            cases[name] = run_case(Path(temporary) / name, sides, setting)
    return {"cases": cases, "aim": AIM, "aim_met": cases["landscape"]["ratio"]["median"] >= AIM}


def report(measured: Mapping[str, Any]) -> str:
    """The record as the table that is printed last."""
    setting, results = measured["settings"], measured["results"]
    names = list(results["cases"]["landscape"]["milliseconds"])
    rows = [
        [name, *(measure.spread_cell(case["milliseconds"][name]) for case in results["cases"].values())]
        for name in names
    ]
    lines = [
        f"{name}: {case['images_per_second']['ours']['median']:.0f} images/s, published "
        f"{case['images_per_second']['published']['median']:.0f}: {measure.spread_cell(case['ratio'])} times; "
        f"{case['different_bytes']} bytes differ"
        for name, case in results["cases"].items()
    ]
    verdict = "met" if results["aim_met"] else "not met"
    return "\n".join(
        [
            measure.headline(measured),
            f"ms an image of {setting['size']} pixels, median (low-high)",
            "",
            measure.table(["part", *results["cases"]], rows),
            "",
            *lines,
            f"aim: {AIM:g} times the published pipeline for landscapes: {verdict}",
        ]
    )


def make_parser() -> argparse.ArgumentParser:
    """The command line; --help is written for people."""
    parser = measure.plain_parser("image_decoding", DESCRIPTION, EXAMPLES)
    add = parser.add_argument
    add("--size", type=measure.positive, default=256, help="side of the tensors, pixels (default 256)")
    add("--images", type=measure.positive, default=32, help="files of a turn (default 32)")
    add("--rounds", type=measure.positive, default=9, help="times that all have their turn (default 9)")
    add("--threads", type=measure.positive, default=1, help="of PyTorch (default 1)")
    add("--seed", type=int, default=0, help="of the images (default 0)")
    add("--out", metavar="FILE", help="the JSON, default benchmarks/results/<date>-image_decoding-cpu.json")
    return parser


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, write the JSON, print the table; returns the record."""
    argv = sys.argv[1:] if argv is None else list(argv)
    options = make_parser().parse_args(argv)
    names = ("size", "images", "rounds", "seed", "threads")
    setting = Setting(**{name: getattr(options, name) for name in names})
    measured = measure.record("image_decoding", argv, setting, run(setting))
    return measure.conclude(measured, "image_decoding", options.out, report)


if __name__ == "__main__":
    main()
