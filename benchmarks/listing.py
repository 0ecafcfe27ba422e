"""`python -m benchmarks.listing`: a folder of ImageNet's size opened for the first time and again."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import measure
from core.data.files import files_under
from core.data.listing import LEAST_FILES, SETTLED
from image.datasets.files import IMAGE_SUFFIXES, FolderSource

AIM = 2.0  # seconds, of 1.28 million files
FILES, A_CLASS = 1_280_000, 1280
SUFFIX = ".JPEG"

DESCRIPTION = """\
Measure how long it takes to open a folder of empty files in class folders, as a run with data=folder does: by a walk,
for the first time (a walk, and its list written), and again (the list read, each folder looked at). What is opened is
compared. The tree is made in a temporary folder and removed; names are in the system's memory, so a disk, or a file
server, makes the walk slower and leaves the second opening as it is but for one question for each folder.

The aim is 2 s for the second opening of 1.28 million files; a smaller tree is extrapolated in proportion."""

EXAMPLES = """\
examples:
  python -m benchmarks.listing
  python -m benchmarks.listing --files 200000 --rounds 9
  TMPDIR=/mnt/disk python -m benchmarks.listing            the tree is made there"""


@dataclass(frozen=True)
class Setting:
    """What is measured, and how often."""

    files: int
    rounds: int
    threads: int = 1
    device: str = "cpu"


def make_tree(root: Path, files: int) -> None:
    """Write empty files, `A_CLASS` in each class folder."""
    for start in range(0, files, A_CLASS):
        folder = root / f"n{start // A_CLASS:08d}"
        folder.mkdir(parents=True)
        place = os.open(folder, os.O_RDONLY)
        for number in range(start, min(start + A_CLASS, files)):
            name = f"{folder.name}_{number * 37 % 100_003}_{number}{SUFFIX}"
            os.close(os.open(name, os.O_CREAT | os.O_WRONLY, dir_fd=place))
        os.close(place)


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """((seconds, those of a processor), what it gave)."""
    started, used = time.perf_counter(), time.process_time()
    given = function()
    return (time.perf_counter() - started, time.process_time() - used), given


def run(setting: Setting, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Measure everything; the `results` of the record."""
    with tempfile.TemporaryDirectory(prefix="listing-") as temporary:
        root, cache = Path(temporary) / "root", str(Path(temporary) / "cache")
        say(f"making {setting.files:,} files ...")
        make_tree(root, setting.files)
        time.sleep(1.5 * SETTLED / 1e9)  # until the folders have settled
        say(f"opening them, {setting.rounds} rounds ...")
        (first, _), opened = timed(lambda: FolderSource(root, cache))
        cases = {
            "walk": lambda: timed(lambda: FolderSource(root, None))[0],
            "again": lambda: timed(lambda: FolderSource(root, cache))[0],
        }
        times = measure.interleave(cases, setting.rounds)
        paths = [os.fspath(path) for path in files_under(root, IMAGE_SUFFIXES)]
        again = FolderSource(root, cache)
        same = [again.where(row) for row in range(len(again.labels))] == paths and (again.labels == opened.labels).all()
        kept = sum(path.stat().st_size for path in Path(cache).iterdir())
    wall = {name: [turn[0] for turn in turns] for name, turns in times.items()}
    processor = {f"{name}_processor_s": measure.spread([turn[1] for turn in turns]) for name, turns in times.items()}
    seconds = measure.spread(wall["again"])
    extrapolated = seconds["median"] * FILES / setting.files
    return {
        "first_s": first,
        "walk_s": measure.spread(wall["walk"]),
        "again_s": seconds,
        "ratio": measure.spread(measure.pair_ratios(wall["walk"], wall["again"])),
        **processor,
        "list_mib": kept / measure.MIB,
        "same_files": bool(same),
        "again_s_of_1280000": extrapolated,
        "aim": AIM,
        "aim_met": extrapolated <= AIM and bool(same),
    }


def report(measured: Mapping[str, Any]) -> str:
    """The record as the table that is printed last."""
    setting, results = measured["settings"], measured["results"]
    rows = [
        ["first time", f"{results['first_s']:.2f}", "", ""],
        ["by a walk", *(measure.spread_cell(results[key]) for key in ("walk_s", "walk_processor_s")), ""],
        ["again", *(measure.spread_cell(results[key]) for key in ("again_s", "again_processor_s"))],
    ]
    rows[-1].append(measure.spread_cell(results["ratio"], 1))
    verdict = "met" if results["aim_met"] else "not met"
    return "\n".join(
        [
            measure.headline(measured),
            f"{setting['files']:,} files, {A_CLASS} a folder; the list is {results['list_mib']:.1f} MiB",
            "",
            measure.table(["opened", "s (low-high)", "of a processor", "walk / again"], rows),
            "",
            f"the same files: {results['same_files']}",
            f"aim: {AIM:g} s for {FILES:,} files, here {results['again_s_of_1280000']:.2f} s: {verdict}",
        ]
    )


def make_parser() -> argparse.ArgumentParser:
    """The command line; --help is written for people."""
    parser = measure.plain_parser("listing", DESCRIPTION, EXAMPLES)
    add = parser.add_argument
    add("--files", type=measure.positive, default=FILES, help=f"of the tree, at least {LEAST_FILES} (default {FILES})")
    add("--rounds", type=measure.positive, default=5, help="times that both ways have their turn (default 5)")
    add("--out", metavar="FILE", help="the JSON, default benchmarks/results/<date>-listing-cpu.json")
    return parser


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, write the JSON, print the table; returns the record."""
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = make_parser()
    options = parser.parse_args(argv)
    if options.files < LEAST_FILES:
        parser.error(f"--files is {options.files}; of fewer than {LEAST_FILES} no list is kept")
    setting = Setting(options.files, options.rounds)
    measured = measure.record("listing", argv, setting, run(setting))
    return measure.conclude(measured, "listing", options.out, report)


if __name__ == "__main__":
    main()
