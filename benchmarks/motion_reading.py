"""`python -m benchmarks.motion_reading`: a folder of motions of HumanML3D's size: seconds to open, items a second."""

from __future__ import annotations

import argparse
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
from core.draws import numpy_rng
from core.latents.cache import LastAxisMasks
from motion.datasets.humanml3d import MOST_FRAMES, HumanML3D, HumanML3DConfig

AIM_OPEN = 2.0  # times as fast as reading every file
AIM_ITEMS = 1.0  # times as many items a second as the plain reader, which draws no caption and knows no mask
NUMBERS, SHORTEST, LONGEST = 263, 40, 200
CAPTIONS = 3  # of a motion
CAPTION = "a person walks forward and then turns around to the left.#a/DET person/NOUN walk/VERB left/NOUN#0.0#0.0\n"

DESCRIPTION = """\
Measure how long it takes to open a folder in the format of HumanML3D, with as many motions, and how many items a second
one process reads of it, as a training step does. A folder is made in a temporary place: files of 40 to 199 frames of
263 numbers, of which only some are different (the others are links to them), and a text file of three captions each.

Opening: the first time, when every file is looked at; again, when the index knows them; and by a plain reader that
loads every file into memory, as the published programs do. Items: ours, which reads the window that is asked for from
its file, beside a plain reader that loads the file, normalises the window and pads it.

The aims: opened again in half the time of the plain reader, and as many items a second."""

EXAMPLES = """\
examples:
  python -m benchmarks.motion_reading
  python -m benchmarks.motion_reading --motions 2000 --rounds 3"""


@dataclass(frozen=True)
class Setting:
    """What is measured, and how often."""

    motions: int
    different: int
    items: int
    rounds: int
    seed: int
    threads: int
    device: str = "cpu"


def make_folder(root: Path, setting: Setting) -> None:
    """Write the motions, their texts, the list and the statistics."""
    for name in ("new_joint_vecs", "texts"):
        (root / name).mkdir(parents=True)
    names = [f"{number:06d}" for number in range(setting.motions)]
    rng = np.random.default_rng(setting.seed)
    for number, name in enumerate(names):
        file = root / "new_joint_vecs" / f"{name}.npy"
        if number < setting.different:
            np.save(file, rng.standard_normal((rng.integers(SHORTEST, LONGEST), NUMBERS), dtype=np.float32))
        else:
            os.link(root / "new_joint_vecs" / f"{names[number % setting.different]}.npy", file)
        (root / "texts" / f"{name}.txt").write_text(CAPTION * CAPTIONS)
    (root / "train.txt").write_text("\n".join(names))
    for name, value in (("Mean", 0), ("Std", 1)):
        np.save(root / f"{name}.npy", np.full(NUMBERS, value, np.float32))


def open_folder(root: Path) -> HumanML3D:
    """The data set."""
    config = HumanML3DConfig(root=str(root), cache_dir=str(root / "cache"))
    return config.build(LastAxisMasks(MOST_FRAMES, 1))


def load_rows(file: Path) -> np.ndarray:
    """A whole file, as NumPy reads it."""
    with file.open("rb") as stream:
        return np.lib.format.read_array(stream)


def load_plainly(root: Path) -> list[tuple[np.ndarray, list[str]]]:
    """Every motion with its lines, in memory."""
    loaded = []
    for name in (root / "train.txt").read_text().split():
        lines = (root / "texts" / f"{name}.txt").read_text().splitlines()
        captions = [line.split("#")[0] for line in lines]
        loaded.append((load_rows(root / "new_joint_vecs" / f"{name}.npy"), captions))
    return loaded


def item_plainly(file: Path, rng: np.random.Generator) -> torch.Tensor:
    """A window of a file (C, F), normalised and padded, the whole file loaded."""
    rows = load_rows(file)
    length = len(rows) // 4 * 4
    first = rng.integers(len(rows) - length + 1)
    window = (rows[first : first + length] - np.float32(0)) / np.float32(1)
    padded = np.zeros((MOST_FRAMES, NUMBERS), np.float32)
    padded[:length] = window[:MOST_FRAMES]
    return torch.from_numpy(padded.T.copy())


def seconds(function: Callable[[], Any]) -> float:
    """That a call takes."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


@dataclass(frozen=True)
class Reading:
    """Items of a folder, by the data set or plainly; both read the same rows in a turn."""

    data: HumanML3D
    root: Path
    setting: Setting

    def items_a_second(self, turns: list[int], plainly: bool) -> float:
        """Of a turn; `turns` counts them."""
        rng = numpy_rng(self.setting.seed, "rows", len(turns))
        rows = rng.integers(len(self.data), size=self.setting.items).tolist()
        turns.append(0)
        names = [self.root / "new_joint_vecs" / f"{row:06d}.npy" for row in rows]

        def read() -> None:
            for row, file in zip(rows, names, strict=True):
                item_plainly(file, rng) if plainly else self.data.item(row, rng)

        return len(rows) / seconds(read)


def run(setting: Setting, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Measure everything; the `results` of the record."""
    torch.set_num_threads(setting.threads)
    with tempfile.TemporaryDirectory(prefix="motions-") as temporary:
        root = Path(temporary)
        say(f"writing {setting.motions} motions ...")
        make_folder(root, setting)
        say("opening and reading them ...")
        first = seconds(partial(open_folder, root))
        cases = {
            "again": partial(seconds, partial(open_folder, root)),
            "plain": partial(seconds, partial(load_plainly, root)),
        }
        opened = measure.interleave(cases, setting.rounds)
        reading = Reading(open_folder(root), root, setting)
        items = measure.interleave(
            {name: partial(reading.items_a_second, [], name == "plain") for name in ("ours", "plain")}, setting.rounds
        )
    ratio = measure.spread(measure.pair_ratios(opened["plain"], opened["again"]))
    items_ratio = measure.spread(measure.pair_ratios(items["ours"], items["plain"]))
    return {
        "open_first_s": first,
        "open_again_s": measure.spread(opened["again"]),
        "open_plain_s": measure.spread(opened["plain"]),
        "open_ratio": ratio,
        "items_per_second": measure.spread(items["ours"]),
        "plain_items_per_second": measure.spread(items["plain"]),
        "items_ratio": items_ratio,
        "aims": {"open": AIM_OPEN, "items": AIM_ITEMS},
        "aim_met": ratio["median"] >= AIM_OPEN and items_ratio["median"] >= AIM_ITEMS,
    }


def report(measured: Mapping[str, Any]) -> str:
    """The record as the table that is printed last."""
    results, setting = measured["results"], measured["settings"]
    rows = [
        ["open, s", _span(results["open_again_s"]), _span(results["open_plain_s"]), _span(results["open_ratio"])],
        [
            "items/s",
            _span(results["items_per_second"], 0),
            _span(results["plain_items_per_second"], 0),
            _span(results["items_ratio"]),
        ],
    ]
    return "\n".join(
        [
            measure.headline(measured),
            f"{setting['motions']} motions; opened for the first time in {results['open_first_s']:.1f} s",
            "",
            measure.table(["", "ours (low-high)", "plain reader", "ratio"], rows),
            "",
            f"aims: opened {AIM_OPEN:g} times as fast, {AIM_ITEMS:g} times as many items/s: "
            f"{'met' if results['aim_met'] else 'not met'}",
        ]
    )


def _span(each: Mapping[str, float], digits: int = 2) -> str:
    return f"{each['median']:.{digits}f} ({each['low']:.{digits}f}-{each['high']:.{digits}f})"


def make_parser() -> argparse.ArgumentParser:
    """The command line; --help is written for people."""
    parser = measure.plain_parser("motion_reading", DESCRIPTION, EXAMPLES)
    add = parser.add_argument
    add("--motions", type=measure.positive, default=29_228, help="in the folder (default 29228)")
    add("--different", type=measure.positive, default=512, help="files among them that are no links (default 512)")
    add("--items", type=measure.positive, default=2000, help="of a turn (default 2000)")
    add("--rounds", type=measure.positive, default=3, help="times that both ways have their turn (default 3)")
    add("--threads", type=measure.positive, default=1, help="of PyTorch (default 1)")
    add("--seed", type=int, default=0, help="of numbers and rows (default 0)")
    add("--out", metavar="FILE", help="the JSON, default benchmarks/results/<date>-motion_reading-cpu.json")
    return parser


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, write the JSON, print the table; returns the record."""
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = make_parser()
    options = parser.parse_args(argv)
    names = ("motions", "different", "items", "rounds", "seed", "threads")
    setting = Setting(**{name: getattr(options, name) for name in names})
    measured = measure.record("motion_reading", argv, setting, run(setting))
    return measure.conclude(measured, "motion_reading", options.out, report)


if __name__ == "__main__":
    main()
