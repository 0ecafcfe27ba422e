"""`python -m benchmarks.decoding`: random windows of long audio files, by seeking and by decoding the whole file."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile
import torch

from audio.sounds.files import probe, read, read_all
from benchmarks import measure
from core.draws import numpy_rng

AIM = 10  # times as fast as decoding the whole file, for MP3
RATE = 44100
SUFFIXES = (".mp3", ".flac", ".m4a")

DESCRIPTION = """\
Measure how long it takes to read a random window of a long audio file, as a training step does: by seeking, and by
decoding the whole file and cutting. A file of each format (MP3, FLAC, M4A) is made in a temporary folder: stereo,
44.1 kHz, gliding tones under noise. Files are read from the system's memory, so that decoding is measured and not the
disk.

The aim is a factor of 10 for windows of 10 s of an MP3 of four minutes."""

EXAMPLES = """\
examples:
  python -m benchmarks.decoding
  python -m benchmarks.decoding --minutes 10 --seconds 5"""


@dataclass(frozen=True)
class Setting:
    """What is measured, and how often."""

    minutes: float
    seconds: float
    windows: int
    rounds: int
    seed: int
    threads: int
    device: str = "cpu"


def make_file(path: Path, setting: Setting) -> None:
    """Write gliding tones under noise as the format that the suffix names."""
    t = np.arange(round(setting.minutes * 60 * RATE)) / RATE
    noise = np.random.default_rng(setting.seed).standard_normal((2, len(t)))
    tones = np.stack([np.sin(2 * np.pi * base * t + 20 * np.sin(0.7 * t)) for base in (220, 330)])
    samples = (0.3 * tones + 0.05 * noise).astype(np.float32)
    if path.suffix == ".m4a":
        _write_aac(path, samples)
        return
    with soundfile.SoundFile(path, "w", RATE, 2) as file:
        for start in range(0, len(t), RATE):
            file.write(samples.T[start : start + RATE])


def _write_aac(path: Path, samples: np.ndarray) -> None:
    frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="stereo")
    frame.sample_rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
    fifo = av.AudioFifo()
    fifo.write(frame)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=RATE, options={"b": "128k"})
        stream.layout = "stereo"
        for part in fifo.read_many(stream.codec_context.frame_size, partial=True):
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))


def by_seeking(path: Path, setting: Setting, round_of: list[int]) -> float:
    """Seconds for one window, over `windows` of them at random places; `round_of` counts the turns."""
    frames = round(setting.seconds * RATE)
    rng = numpy_rng(setting.seed, "windows", len(round_of))
    round_of.append(0)
    starts = rng.integers(probe(path).frames - frames + 1, size=setting.windows).tolist()
    started = time.perf_counter()
    for start in starts:
        read(path, start, frames)
    return (time.perf_counter() - started) / setting.windows


def by_whole(path: Path, setting: Setting) -> float:
    """Seconds for one window, cut out of the whole decoded file."""
    frames = round(setting.seconds * RATE)
    started = time.perf_counter()
    read_all(path).samples[:, -frames:].clone()
    return time.perf_counter() - started


def run(setting: Setting, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Measure everything; the `results` of the record."""
    torch.set_num_threads(setting.threads)
    formats = {}
    with tempfile.TemporaryDirectory(prefix="decoding-") as temporary:
        for suffix in SUFFIXES:
            path = Path(temporary) / f"sound{suffix}"
            say(f"{path.name}: writing {setting.minutes:g} minutes ...")
            make_file(path, setting)
            cases = {"seek": partial(by_seeking, path, setting, []), "whole": partial(by_whole, path, setting)}
            for case in cases.values():
                case()  # warms up
            times = measure.interleave(cases, setting.rounds)
            formats[suffix[1:]] = {
                "file_mib": path.stat().st_size / measure.MIB,
                "seek_ms": measure.spread(times["seek"], 1000),
                "whole_ms": measure.spread(times["whole"], 1000),
                "ratio": measure.spread(measure.pair_ratios(times["whole"], times["seek"])),
            }
    return {"formats": formats, "aim": AIM, "aim_met": formats["mp3"]["ratio"]["median"] >= AIM}


def report(measured: Mapping[str, Any]) -> str:
    """The record as the table that is printed last."""
    setting, results = measured["settings"], measured["results"]
    rows = [
        [name, f"{each['file_mib']:.1f}", *(_span(each[key], 1) for key in ("seek_ms", "whole_ms", "ratio"))]
        for name, each in results["formats"].items()
    ]
    verdict = "met" if results["aim_met"] else "not met"
    return "\n".join(
        [
            measure.headline(measured),
            f"windows of {setting['seconds']:g} s of files of {setting['minutes']:g} minutes, stereo, {RATE} Hz",
            "",
            measure.table(["format", "MiB", "seek, ms (low-high)", "whole file, ms", "whole / seek"], rows),
            "",
            f"aim: a factor of {AIM} for MP3: {verdict}",
        ]
    )


def _span(each: Mapping[str, float], digits: int) -> str:
    return f"{each['median']:.{digits}f} ({each['low']:.{digits}f}-{each['high']:.{digits}f})"


def make_parser() -> argparse.ArgumentParser:
    """The command line; --help is written for people."""
    parser = measure.plain_parser("decoding", DESCRIPTION, EXAMPLES)
    add = parser.add_argument
    add("--minutes", type=float, default=4.0, help="length of the files (default 4)")
    add("--seconds", type=float, default=10.0, help="length of a window (default 10)")
    add("--windows", type=measure.positive, default=16, help="of a turn by seeking (default 16)")
    add("--rounds", type=measure.positive, default=7, help="times that both ways have their turn (default 7)")
    add("--threads", type=measure.positive, default=1, help="of PyTorch (default 1)")
    add("--seed", type=int, default=0, help="of sounds and places (default 0)")
    add("--out", metavar="FILE", help="the JSON, default benchmarks/results/<date>-decoding-cpu.json")
    return parser


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, write the JSON, print the table; returns the record."""
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = make_parser()
    options = parser.parse_args(argv)
    if not 0 < options.seconds <= options.minutes * 60:
        parser.error(
            f"--seconds is {options.seconds}; allowed: above 0, up to the {options.minutes} minutes of --minutes"
        )
    names = ("minutes", "seconds", "windows", "rounds", "seed", "threads")
    setting = Setting(**{name: getattr(options, name) for name in names})
    measured = measure.record("decoding", argv, setting, run(setting))
    return measure.conclude(measured, "decoding", options.out, report)


if __name__ == "__main__":
    main()
