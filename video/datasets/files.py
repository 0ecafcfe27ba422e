"""What is a clip's source in a folder: a video file, or a folder of frames; one index and one way to read for both.

Letters: F frames of a file, n positions. Position g of a file that is resampled to a rate is the frame that a player
shows g / rate seconds after the first; of one that is not, it is frame g.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from core.data.index import MediaKind
from video.datasets.containers import OTHER_SUFFIXES, VIDEO_SUFFIXES, examine, map_frames, probe, stamps_of
from video.datasets.facts import FOLDER, LEAST_TICKS, UNEVEN, VideoFacts
from video.datasets.frames import find_clips, map_folder, probe_folder

ROUNDING = 0.01  # of a position, by which the end of a file may miss it


def probe_clip(path: Path) -> VideoFacts:
    """What a video file or a folder of frames holds, by its packets or names."""
    return probe_folder(path) if path.is_dir() else probe(path)


def examine_clip(path: Path) -> VideoFacts:
    """As `probe_clip`, after every frame was decoded."""
    if not path.is_dir():
        return examine(path)
    facts = probe_folder(path)
    for number in range(facts.frames):
        map_folder(path, facts, [number], lambda pixels: pixels[:0])
    return facts


VIDEO = MediaKind("video", VIDEO_SUFFIXES, VideoFacts, probe_clip, OTHER_SUFFIXES, find_clips)
DECODED_VIDEO = replace(VIDEO, probe=examine_clip, index="decoded_video")


def map_clip(
    path: Path,
    facts: VideoFacts,
    wanted: Sequence[int],
    function: Callable[[np.ndarray], np.ndarray],
    threads: int = 1,
) -> dict[int, np.ndarray]:
    """`function` of each frame `wanted` of a file or a folder, RGB (H, W, 3) uint8, by its number."""
    if facts.access == FOLDER:
        return map_folder(path, facts, wanted, function)
    return map_frames(path, facts, wanted, function, threads)


def positions_of(facts: VideoFacts, fps: float | None, frame_rate: float | None) -> int:
    """How many positions a file has at `fps`, its frames where that is None; frame_rate: of folders of frames.

    Raises ValueError, naming the config keys, for a rate asked of what tells no time.
    """
    if fps is None:
        return facts.frames
    return max(1, int(facts.frames * _interval(facts, fps, frame_rate) * fps + ROUNDING))


def frames_shown(
    path: Path, facts: VideoFacts, positions: np.ndarray, fps: float | None, frame_rate: float | None
) -> np.ndarray:
    """The frames (n,) int64 that a player shows at positions (n,)."""
    if fps is None:
        return positions
    seconds = positions / fps
    if facts.access == UNEVEN:
        stamps = stamps_of(path, facts, np.arange(facts.frames)) - facts.first
        shown = np.searchsorted(stamps, seconds / facts.tick + _tolerance(facts), side="right") - 1
    else:
        interval = _interval(facts, fps, frame_rate)
        early = _tolerance(facts) * facts.tick if facts.timed else interval * 1e-6
        shown = np.floor((seconds + early) / interval).astype(np.int64)
    return np.clip(shown, 0, facts.frames - 1)


def seconds_of(path: Path, facts: VideoFacts, numbers: np.ndarray, frame_rate: float | None) -> np.ndarray | None:
    """Seconds (n,) after the first frame at which frames (n,) are shown; None where that is not known."""
    if facts.timed:
        return (stamps_of(path, facts, numbers) - facts.first) * facts.tick
    return None if frame_rate is None else numbers / frame_rate


def _tolerance(facts: VideoFacts) -> float:
    """Ticks by which a frame may be stamped too late: stamps are rounded."""
    return 1.0 if facts.interval >= LEAST_TICKS else 1e-6


def _interval(facts: VideoFacts, fps: float, frame_rate: float | None) -> float:
    """Seconds from a frame to the next, in the mean."""
    if facts.timed:
        return facts.interval * facts.tick
    if frame_rate is None:
        raise ValueError(
            f"data.clip.fps is {fps}, and a folder of frames tells no time; data.frame_rate says how many frames a "
            "second it has, or data.clip.fps=null takes its frames as they are"
        )
    return 1 / frame_rate
