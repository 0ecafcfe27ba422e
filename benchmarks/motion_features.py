"""`python -m benchmarks.motion_features`: joints of an hour of motion to the published numbers of a frame, and back."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks import measure
from motion.body.features import to_features, to_joints
from motion.body.placing import process
from motion.body.skeleton import SKELETONS, Skeleton

AIM = 10  # seconds for an hour of motion, one core

DESCRIPTION = """\
Measure how long an hour of motion takes on one core, clip after clip as a data set is prepared: from joints to the
published numbers of a frame (features), the whole published preparation of a clip, with other bones, floor, origin,
facing and the joints read back (process), and from the numbers to joints (joints). Clips are made up: joints that swing
about a body that stands. Joints that are read back are compared with those that went in first.

The aim is 10 s for the features of an hour."""

EXAMPLES = """\
examples:
  python -m benchmarks.motion_features
  python -m benchmarks.motion_features --skeleton kit --clip 4"""


@dataclass(frozen=True)
class Setting:
    """What is measured, and how often."""

    skeleton: str
    hours: float
    clip: float
    rounds: int
    seed: int
    threads: int
    device: str = "cpu"


def make_clips(setting: Setting, skeleton: Skeleton) -> Tensor:
    """Joints (n, F + 1, J, 3) in metres of clips of so many seconds, together as long as asked for."""
    frames = round(setting.clip * skeleton.fps)
    count = max(1, round(setting.hours * 3600 / setting.clip))
    source = torch.Generator().manual_seed(setting.seed)
    body = torch.randn(skeleton.joints, 3, generator=source)
    for hip, shoulder, side in ((0, 2, -1.0), (1, 3, 1.0)):
        body[skeleton.face[hip], 0], body[skeleton.face[shoulder], 0] = 0.1 * side, 0.3 * side
    speeds, starts = torch.rand(2, count, 1, skeleton.joints, 3, generator=source)
    times = torch.arange(frames + 1, dtype=torch.float32)[None, :, None, None]
    return body + 0.05 * (0.3 * speeds * times + 6.3 * starts).sin()


def run(setting: Setting, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Measure everything; the `results` of the record."""
    torch.set_num_threads(setting.threads)
    skeleton = SKELETONS[setting.skeleton]
    say("making clips ...")
    clips = make_clips(setting, skeleton)
    bones = skeleton.offsets(clips[0, 0])
    rows = [to_features(clip, skeleton, mend_turns=True) for clip in clips]
    start = clips[0, :1, :1] * torch.tensor((1.0, 0.0, 1.0))
    error = (to_joints(rows[0], skeleton) + start - clips[0, :-1]).abs().max().item()
    if not error < 1e-5:
        raise AssertionError(f"joints read back are {error:g} m away from those that went in")
    ways = {
        "features": lambda: [to_features(clip, skeleton) for clip in clips],
        "process": lambda: [process(clip, bones, skeleton) for clip in clips],
        "joints": lambda: [to_joints(each, skeleton) for each in rows],
    }
    say("measuring ...")
    hours = len(clips) * len(rows[0]) / skeleton.fps / 3600
    taken = measure.interleave({name: lambda way=way: _seconds(way) for name, way in ways.items()}, setting.rounds)
    found = {name: measure.spread(times, 1 / hours) for name, times in taken.items()}
    return {
        "clips": len(clips),
        "rows": len(clips) * len(rows[0]),
        "error_m": error,
        "seconds_per_hour": found,
        "aim": AIM,
        "aim_met": found["features"]["median"] < AIM,
    }


def _seconds(way: Callable[[], Any]) -> float:
    started = time.perf_counter()
    way()
    return time.perf_counter() - started


def report(measured: Mapping[str, Any]) -> str:
    """The record as the table that is printed last."""
    setting, results = measured["settings"], measured["results"]
    rows = [[name, measure.spread_cell(each)] for name, each in results["seconds_per_hour"].items()]
    return "\n".join(
        [
            measure.headline(measured),
            f"{results['clips']} clips of {setting['clip']:g} s of the skeleton {setting['skeleton']!r}, "
            f"{results['rows']} rows, one after the other; joints come back to {results['error_m']:.1g} m",
            "",
            measure.table(["", "s for an hour of motion (low-high)"], rows),
            "",
            f"aim: the features of an hour in {AIM} s: {'met' if results['aim_met'] else 'not met'}",
        ]
    )


def make_parser() -> argparse.ArgumentParser:
    """The command line; --help is written for people."""
    parser = measure.plain_parser("motion_features", DESCRIPTION, EXAMPLES)
    add = parser.add_argument
    add("--skeleton", choices=list(SKELETONS), default="t2m", help="whose joints (default t2m)")
    add("--hours", type=float, default=1.0, help="of motion (default 1)")
    add("--clip", type=float, default=10.0, help="seconds of a clip (default 10)")
    add("--rounds", type=measure.positive, default=5, help="times that all have their turn (default 5)")
    add("--threads", type=measure.positive, default=1, help="of PyTorch (default 1)")
    add("--seed", type=int, default=0, help="of the clips (default 0)")
    add("--out", metavar="FILE", help="the JSON, default benchmarks/results/<date>-motion_features-cpu.json")
    return parser


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, write the JSON, print the table; returns the record."""
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = make_parser()
    options = parser.parse_args(argv)
    shortest = 2 / SKELETONS[options.skeleton].fps
    if not options.clip >= shortest:
        parser.error(f"--clip is {options.clip:g}; needed: {shortest:g} s, two frames")
    if not 0 < options.hours <= 100:
        parser.error(f"--hours is {options.hours:g}; allowed: above 0, 100 at most")
    names = ("skeleton", "hours", "clip", "rounds", "seed", "threads")
    setting = Setting(**{name: getattr(options, name) for name in names})
    measured = measure.record("motion_features", argv, setting, run(setting))
    return measure.conclude(measured, "motion_features", options.out, report)


if __name__ == "__main__":
    main()
