"""`python -m benchmarks.video_decoding`: random clips of video files, by seeking and by decoding the whole file."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch

from benchmarks import measure
from core.draws import numpy_rng
from video.datasets.containers import map_frames, probe
from video.datasets.facts import VideoFacts
from video.datasets.fit import Fit

AIM = 5  # times as fast as decoding the whole file, for the longest MP4
RATE, HEIGHT, WIDTH = 25, 320, 480
CODECS = {  # of each format: codec, options
    ".mp4": ("libx264", {"preset": "veryfast", "bf": "2"}),
    ".webm": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"}),
    ".avi": ("mpeg4", {}),
}

DESCRIPTION = """\
Measure how many random clips a second one worker reads of video files, as a training step does: by seeking to the key
frame before a clip, and by decoding the whole file and cutting. Files of each format (MP4 with H.264 and B-frames, WebM
with VP9, AVI with MPEG-4) are made in a temporary folder: 480 x 320 pixels, 25 frames/s, noisy squares that move. Clips
are cropped and resized in both ways, files are read from the system's memory, and one thread decodes. The bytes of both
ways are compared first.

The aim is a factor of 5 for the longest MP4."""

EXAMPLES = """\
examples:
  python -m benchmarks.video_decoding
  python -m benchmarks.video_decoding --seconds 60 --frames 32 --gop 12"""


@dataclass(frozen=True)
class Setting:
    """What is measured, and how often."""

    seconds: tuple[float, ...]
    frames: int
    size: int
    gop: int
    clips: int
    rounds: int
    seed: int
    threads: int
    device: str = "cpu"


def make_file(path: Path, seconds: float, setting: Setting) -> None:
    """Write squares that move over noise as the format that the suffix names."""
    codec, options = CODECS[path.suffix]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=RATE, options={**options, "g": str(setting.gop)})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.time_base = Fraction(1, RATE)
        for number, pixels in enumerate(pictures(round(seconds * RATE), setting.seed)):
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def pictures(count: int, seed: int) -> Iterator[np.ndarray]:
    """Frames (H, W, 3) uint8: six squares that move over a noisy ground that stands still."""
    rng = np.random.default_rng(seed)
    ground = rng.integers(90, 130, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    colours = rng.integers(0, 256, (6, 3), dtype=np.uint8)
    places, speeds = rng.random((6, 2)), rng.uniform(-0.01, 0.01, (6, 2))
    for number in range(count):
        frame = ground.copy()
        for colour, (down, right) in zip(colours, (places + number * speeds) % 1, strict=True):
            top, left = int(down * (HEIGHT - 60)), int(right * (WIDTH - 60))
            frame[top : top + 60, left : left + 60] = colour
        yield frame


@dataclass(frozen=True)
class Reading:
    """Random clips of one file, read by seeking or from its start."""

    path: Path
    facts: VideoFacts
    setting: Setting

    def starts(self, turn: int) -> list[int]:
        """First frames of the clips of a turn."""
        rng = numpy_rng(self.setting.seed, "clips", turn)
        return rng.integers(self.facts.frames - self.setting.frames + 1, size=self.setting.clips).tolist()

    def clip(self, start: int, whole: bool) -> np.ndarray:
        """A clip (F, C, size, size) uint8."""
        wanted, fit = range(start, start + self.setting.frames), Fit(self.setting.size, self.setting.size)
        if not whole:
            return np.stack([*map_frames(self.path, self.facts, wanted, fit).values()])
        every = map_frames(self.path, replace(self.facts, seekable=0), range(self.facts.frames), np.array)
        return np.stack([fit(every[number]) for number in wanted])

    def seconds(self, turns: list[int], whole: bool) -> float:
        """Seconds for a clip; `turns` counts them."""
        starts = self.starts(len(turns))[: 1 if whole else None]
        turns.append(0)
        started = time.perf_counter()
        for start in starts:
            self.clip(start, whole)
        return (time.perf_counter() - started) / len(starts)


def measure_file(path: Path, seconds: float, setting: Setting) -> dict[str, Any]:
    """What one file gives; AssertionError where both ways do not give the same bytes."""
    make_file(path, seconds, setting)
    reading = Reading(path, probe(path), setting)
    start = reading.starts(0)[-1]
    if not np.array_equal(reading.clip(start, whole=False), reading.clip(start, whole=True)):
        raise AssertionError(f"{path.name}: a clip by seeking is not the one of a full decode")
    cases = {name: partial(reading.seconds, [], name == "whole") for name in ("seek", "whole")}
    times = measure.interleave(cases, setting.rounds)
    return {
        "format": path.suffix[1:],
        "seconds": seconds,
        "frames": reading.facts.frames,
        "file_mib": path.stat().st_size / measure.MIB,
        "clips_per_second": measure.spread([1 / each for each in times["seek"]]),
        "whole_clips_per_second": measure.spread([1 / each for each in times["whole"]]),
        "ratio": measure.spread(measure.pair_ratios(times["whole"], times["seek"])),
    }


def run(setting: Setting, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Measure everything; the `results` of the record."""
    torch.set_num_threads(setting.threads)
    files = []
    with tempfile.TemporaryDirectory(prefix="decoding-") as temporary:
        for seconds in sorted(setting.seconds):
            for suffix in CODECS:
                path = Path(temporary) / f"video{seconds:g}{suffix}"
                say(f"{path.name}: writing and reading {seconds:g} seconds ...")
                files.append(measure_file(path, seconds, setting))
    longest = [each for each in files if each["format"] == "mp4"][-1]
    return {"files": files, "aim": AIM, "aim_met": longest["ratio"]["median"] >= AIM}


def report(measured: Mapping[str, Any]) -> str:
    """The record as the table that is printed last."""
    setting, results = measured["settings"], measured["results"]
    keys = ("clips_per_second", "whole_clips_per_second", "ratio")
    rows = [
        [each["format"], f"{each['seconds']:g}", f"{each['file_mib']:.1f}", *(_span(each[key]) for key in keys)]
        for each in results["files"]
    ]
    head = ["format", "s", "MiB", "clips/s by seeking (low-high)", "clips/s by the whole file", "ratio"]
    return "\n".join(
        [
            measure.headline(measured),
            f"clips of {setting['frames']} frames at {setting['size']} pixels of files of {WIDTH} x {HEIGHT} pixels, "
            f"{RATE} frames/s, a key frame every {setting['gop']} frames; one worker, one thread",
            "",
            measure.table(head, rows),
            "",
            f"aim: a factor of {AIM} for the longest MP4: {'met' if results['aim_met'] else 'not met'}",
        ]
    )


def _span(each: Mapping[str, float]) -> str:
    return f"{each['median']:.1f} ({each['low']:.1f}-{each['high']:.1f})"


def make_parser() -> argparse.ArgumentParser:
    """The command line; --help is written for people."""
    parser = measure.plain_parser("video_decoding", DESCRIPTION, EXAMPLES)
    add = parser.add_argument
    add("--seconds", type=float, nargs="+", default=[5.0, 30.0], help="lengths of the files (default 5 30)")
    add("--frames", type=measure.positive, default=16, help="of a clip (default 16)")
    add("--size", type=measure.positive, default=128, help="of a clip, pixels (default 128)")
    add("--gop", type=measure.positive, default=25, help="frames from a key frame to the next (default 25)")
    add("--clips", type=measure.positive, default=8, help="of a turn by seeking (default 8)")
    add("--rounds", type=measure.positive, default=5, help="times that both ways have their turn (default 5)")
    add("--threads", type=measure.positive, default=1, help="of PyTorch (default 1)")
    add("--seed", type=int, default=0, help="of pictures and places (default 0)")
    add("--out", metavar="FILE", help="the JSON, default benchmarks/results/<date>-video_decoding-cpu.json")
    return parser


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, write the JSON, print the table; returns the record."""
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = make_parser()
    options = parser.parse_args(argv)
    if min(options.seconds) * RATE < options.frames:
        parser.error(f"--seconds is {min(options.seconds)}; needed: {options.frames / RATE:g}, a clip of --frames")
    names = ("frames", "size", "gop", "clips", "rounds", "seed", "threads")
    setting = Setting(tuple(options.seconds), **{name: getattr(options, name) for name in names})
    measured = measure.record("video_decoding", argv, setting, run(setting))
    return measure.conclude(measured, "video_decoding", options.out, report)


if __name__ == "__main__":
    main()
