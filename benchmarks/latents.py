"""`python -m benchmarks.latents`: cached latents per second of the loader.

Letters: B batch, M mirrors, Z latent channels, H W latent rows and columns, T latent frames.
"""

from __future__ import annotations

import argparse
import math
import os
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

from benchmarks import measure
from core.data.stream import StepPositions, step_batches
from core.latents.cache import CacheSpec, LatentShards, array_facts, shard_file
from core.latents.writer import LatentWriter

AIM = 20_000  # latents/s of one core, of the image kind


@dataclass(frozen=True)
class Kind:
    """What one domain's cache holds: the shape of a latent and of the media behind it, and how many mirrors."""

    latent_shape: tuple[int, ...]
    media_shape: tuple[int, ...]
    mirrors: int


KINDS = {
    "image": Kind((4, 32, 32), (3, 256, 256), mirrors=2),  # (Z, H, W) of the SD VAE at 256 pixels
    "audio": Kind((64, 215), (2, 440_320), mirrors=1),  # (Z, T) of Stable Audio's VAE, 10 s at 44.1 kHz
}

DESCRIPTION = """\
Measure how many cached latents per second the training loader gives: moments in float16, of 4x32x32 latents in both
mirrors (--kind image) or of 64x215 (--kind audio), shuffled and collated as for a training step. The cache is made in a
temporary folder. Three cases take turns: in the main process; with one worker process; and in the main process right
after the files were dropped from the system's memory, which measures the disk, on a part of the rows.

The aim is 20 000 latents/s of images in the main process with one thread, and as many bytes of sound."""

EXAMPLES = """\
examples:
  python -m benchmarks.latents
  python -m benchmarks.latents --kind audio --rows 4096
  python -m benchmarks.latents --rows 100000 --folder shared/scratch --rounds 3     another disk"""


@dataclass(frozen=True)
class Setting:
    """What is measured, and how often."""

    rows: int
    batch: int
    batches: int
    rows_per_shard: int
    rounds: int
    seed: int
    threads: int
    kind: str = "image"
    device: str = "cpu"

    @property
    def holds(self) -> Kind:
        """What its cache holds."""
        return KINDS[self.kind]

    @property
    def aim(self) -> float:
        """Latents/s: the aim's bytes a second, whatever the size of a latent."""
        return AIM * math.prod(KINDS["image"].latent_shape) / math.prod(self.holds.latent_shape)


def make_cache(root: Path, setting: Setting) -> None:
    """Write a cache of random moments; the shards hold the same numbers, which costs and saves a reader nothing."""
    labels = np.arange(setting.rows) % 1000
    spec = CacheSpec(
        kind="benchmark",
        rows=setting.rows,
        rows_per_shard=setting.rows_per_shard,
        mirrors=setting.holds.mirrors,
        latent_shape=setting.holds.latent_shape,
        media_shape=setting.holds.media_shape,
        dtype="float16",
        class_names=[str(label) for label in range(1000)],
        conditions=array_facts(labels),
        data={},
        transform={},
        tokenizer={},
    )
    writer = LatentWriter(root, spec, {"conditions": labels}, {}, (0, 1))
    (part,) = spec.parts()
    moments = np.random.default_rng(setting.seed).standard_normal(spec.shard_shape(0, part), dtype=np.float32)
    moments = moments.astype(np.float16)
    for shard in writer.missing():
        with writer.write(shard, part) as add:
            add(moments[: spec.shard_shape(shard, part)[0]])


def forget(root: Path) -> None:
    """Ask the system to drop the shards from its memory, where it can."""
    if not hasattr(os, "posix_fadvise"):
        return
    for file in root.glob("*.npy"):
        with file.open("rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def rate(root: Path, setting: Setting, num_workers: int, batches: int, *, cold: bool = False) -> float:
    """Latents/s over `batches` batches, after a first one that starts the workers and maps the shards."""
    if cold:
        forget(root)
    dataset = LatentShards(
        root, kind="benchmark", flip=setting.holds.mirrors == 2, make_command="python -m benchmarks.latents"
    )
    positions = StepPositions(0, batches + 1, setting.batch, (0, setting.batch))
    stream = step_batches(dataset, setting.seed, positions, num_workers, pin=False)
    next(stream)
    started = time.perf_counter()
    count = sum(len(batch.media) for batch in stream)
    return count / (time.perf_counter() - started)


def run(setting: Setting, folder: str | None = None, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Measure everything; the `results` of the record."""
    torch.set_num_threads(setting.threads)
    with tempfile.TemporaryDirectory(dir=folder, prefix="latents-") as temporary:
        root = Path(temporary)
        say(f"writing {setting.rows} rows ...")
        make_cache(root, setting)
        cold_batches = min(setting.batches, max(1, setting.rows // setting.batch // 4))  # rows it has not yet met
        cases = {
            "main process": partial(rate, root, setting, 0, setting.batches),
            "1 worker": partial(rate, root, setting, 1, setting.batches),
            "from disk": partial(rate, root, setting, 0, cold_batches, cold=True),
        }
        size = sum(file.stat().st_size for file in root.glob("shard_*.npy"))
        row_bytes = shard_file(root, 0).stat().st_size / min(setting.rows, setting.rows_per_shard)
        say(f"{setting.rounds} rounds of {len(cases)} cases ...")
        cases["main process"]()  # warms up
        rates = measure.interleave(cases, setting.rounds)
    spreads = {name: measure.spread(values) for name, values in rates.items()}
    return {
        "cache_mib": size / measure.MIB,
        "bytes_per_latent": row_bytes / setting.holds.mirrors,
        "latents_per_second": spreads,
        "aim": setting.aim,
        "aim_met": spreads["main process"]["median"] >= setting.aim,
    }


def report(measured: Mapping[str, Any]) -> str:
    """The record as the table that is printed last."""
    setting, results = measured["settings"], measured["results"]
    holds = KINDS[setting["kind"]]
    mib = results["bytes_per_latent"] / measure.MIB
    rows = [
        [name, f"{each['median']:,.0f} ({each['low']:,.0f}-{each['high']:,.0f})", f"{each['median'] * mib:.0f}"]
        for name, each in results["latents_per_second"].items()
    ]
    verdict = "met" if results["aim_met"] else "not met"
    return "\n".join(
        [
            measure.headline(measured),
            f"{setting['rows']} rows, {holds.mirrors} mirrors of {'x'.join(map(str, holds.latent_shape))} in float16, "
            f"{results['cache_mib']:.0f} MiB; batch {setting['batch']}, {setting['batches']} batches a turn",
            "",
            measure.table(["loader", "latents/s (low-high)", "MiB/s"], rows),
            "",
            f"aim: {results['aim']:,.0f} latents/s in the main process: {verdict}",
        ]
    )


def make_parser() -> argparse.ArgumentParser:
    """The command line; --help is written for people."""
    parser = measure.plain_parser("latents", DESCRIPTION, EXAMPLES)
    add = parser.add_argument
    add("--kind", choices=list(KINDS), default="image", help="of latents (default image)")
    add("--rows", type=measure.positive, default=20_480, help="of the cache, 32 KiB each of images (default 20480)")
    add("--batch", type=measure.positive, default=256, help="default 256")
    add("--batches", type=measure.positive, default=200, help="of a turn (default 200)")
    add("--rows-per-shard", type=measure.positive, default=2048, help="default 2048")
    add("--folder", help="where the temporary cache is made (default: the system's folder for temporary files)")
    add("--rounds", type=measure.positive, default=5, help="times that every case has its turn (default 5)")
    add("--threads", type=measure.positive, default=1, help="of PyTorch (default 1)")
    add("--seed", type=int, default=0, help="of latents and order (default 0)")
    add("--out", metavar="FILE", help="the JSON, default benchmarks/results/<date>-latents-cpu.json")
    return parser


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, write the JSON, print the table; returns the record."""
    argv = sys.argv[1:] if argv is None else list(argv)
    options = make_parser().parse_args(argv)
    names = ("rows", "batch", "batches", "rows_per_shard", "rounds", "seed", "threads", "kind")
    setting = Setting(**{name: getattr(options, name) for name in names})
    measured = measure.record("latents", argv, setting, run(setting, options.folder))
    name = "latents" if setting.kind == "image" else f"latents-{setting.kind}"
    return measure.conclude(measured, name, options.out, report)


if __name__ == "__main__":
    main()
