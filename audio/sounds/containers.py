"""Sound in the containers that soundfile does not read (MP4, ADTS, Matroska) and in MP3 without a length, by PyAV.

MP4 and Matroska hold an index and are entered by seeking. ADTS and MP3 do not: their packets are passed over from the
start, undecoded, which costs a few milliseconds a minute of sound. Decoding begins `LEAD_IN` seconds early and drops
them, because a frame of AAC, Opus or MP3 needs the ones before it. Of an MP3 FFmpeg is shown the frames alone, without
the tags around them, in which it would look for frames.

Letters: C channels, n samples in time.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from audio.sounds.mpeg import Part, count_frames, find_stream

if TYPE_CHECKING:
    import av

CONTAINER_SUFFIXES = (".aac", ".m4a", ".mka", ".mp4", ".webm")
LEAD_IN = 1.0  # seconds
TAIL = 2.0  # seconds before the announced end from which `end_of_stream` decodes
MATROSKA_SLACK = 0.002  # seconds by which a time stamp in milliseconds may be wrong, with the rounding of its origin
INDEXED = ("mov", "matroska")  # in FFmpeg's names of the containers


@dataclass(frozen=True)
class Block:
    """Samples (C, n) float32 that were decoded together, and the position of the first one in the stream."""

    position: int
    samples: np.ndarray

    @property
    def end(self) -> int:
        """The position after its last sample."""
        return self.position + self.samples.shape[1]


@contextlib.contextmanager
def open_stream(path: Path, whole: bool = False) -> Iterator[tuple[av.container.InputContainer, av.AudioStream]]:
    """The container at `path` and its first audio stream; ValueError, without the path, for what is none.

    whole: of an MP3, up to the last whole frame, for which its frames are counted, and not what stands behind it.
    """
    import av  # all of FFmpeg, which most sound files do not need

    try:
        with _source(path, whole) as (source, kind), av.open(source, format=kind) as container:
            if not container.streams.audio:
                raise ValueError("it has no audio stream")
            if container.streams.audio[0].codec_context is None:
                raise ValueError("FFmpeg knows no decoder of its audio stream")
            yield container, container.streams.audio[0]
    except av.FFmpegError as error:
        raise ValueError(f"FFmpeg cannot decode it: {error.strerror}") from error
    except OverflowError as error:
        raise ValueError(f"its header tells a time that is none: {error}") from error


@contextlib.contextmanager
def _source(path: Path, whole: bool) -> Iterator[tuple[str | Part, str | None]]:
    """What FFmpeg is given to read, and the format where that is known: the frames of an MP3, or else the file."""
    stream = None if path.suffix.lower() in CONTAINER_SUFFIXES else find_stream(path)
    if stream is None:
        yield str(path), None
        return
    with path.open("rb") as file:
        last = count_frames(path, stream)[1] if whole else stream.last
        yield Part(file, stream.sound, last), "mp3"


def end_of_stream(path: Path) -> tuple[int, int, int]:
    """Samples, sample rate and channels; only the last seconds are decoded. ValueError, without the path, for none."""
    import av

    with open_stream(path, whole=True) as (container, stream):
        seconds = (container.duration or 0) / av.time_base if _is_indexed(container) else _count(container, stream)
    last = None
    with open_stream(path, whole=True) as (container, stream):
        rate = stream.codec_context.sample_rate
        slack = math.ceil(MATROSKA_SLACK * rate) if "matroska" in container.format.name else 0
        for last in blocks_from(container, stream, seconds - TAIL):  # noqa: B007  the last one is wanted
            pass
    if last is None:
        raise ValueError("its audio stream holds no samples, or is cut off before the end that it announces")
    return last.end - slack, rate, len(last.samples)


def read_stream(path: Path, start: int, frames: int) -> tuple[np.ndarray, int]:
    """Samples (C, n) start <= i < start + frames, fewer where the stream ends, and their rate."""
    with open_stream(path) as (container, stream):
        rate = stream.codec_context.sample_rate
        parts = []
        for block in blocks_from(container, stream, start / rate):
            if not parts and block.position > start:
                raise ValueError(f"it cannot be entered before sample {block.position}; needed: sample {start}")
            first, last = max(0, start - block.position), max(0, start + frames - block.position)
            parts.append(block.samples[:, first:last])
            if block.end >= start + frames:
                break
    return (np.concatenate(parts, axis=1) if parts else np.zeros((1, 0), np.float32)), rate


def blocks_from(container: av.container.InputContainer, stream: av.AudioStream, seconds: float) -> Iterator[Block]:
    """Decoded blocks in order, the first of them `LEAD_IN` before `seconds` or earlier.

    The first block's position is its time stamp, which MP4, ADTS and MP3 give to the sample and Matroska to the
    millisecond; the others follow without a gap. ValueError where the rate or the channels change on the way.
    """
    import av

    entry = _stamp(stream, max(0.0, seconds - LEAD_IN))
    indexed = _is_indexed(container)
    if indexed and seconds > LEAD_IN:
        container.seek(entry, stream=stream, backward=True)
    to_float = av.AudioResampler(format="fltp")
    position, rate = None, stream.codec_context.sample_rate
    for packet in container.demux(stream):
        if not indexed and packet.pts is not None and packet.pts < entry:
            continue
        for frame in packet.decode():
            if frame.sample_rate != rate:
                raise ValueError(f"its frames have {frame.sample_rate} samples/s, its header says {rate}")
            if position is None:
                position = _position(stream, frame)
            for converted in to_float.resample(frame):
                block = Block(position, converted.to_ndarray())
                yield block
                position = block.end


def _is_indexed(container: av.container.InputContainer) -> bool:
    return any(name in container.format.name for name in INDEXED)


def _stamp(stream: av.AudioStream, seconds: float) -> int:
    return (stream.start_time or 0) + int(seconds / stream.time_base)


def _position(stream: av.AudioStream, frame: av.AudioFrame) -> int:
    if frame.pts is None:
        raise ValueError("its frames have no time stamps")
    return round((frame.pts - (stream.start_time or 0)) * stream.time_base * frame.sample_rate)


def _count(container: av.container.InputContainer, stream: av.AudioStream) -> float:
    """Seconds up to the end of the last packet; reads the whole file and decodes nothing."""
    end = 0
    for packet in container.demux(stream):
        if packet.pts is not None:
            end = max(end, packet.pts + (packet.duration or 0))
    return float((end - (stream.start_time or 0)) * stream.time_base)
