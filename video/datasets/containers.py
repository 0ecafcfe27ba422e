"""Video files, by PyAV: what they hold, and any of their frames without decoding all that stands before.

A file is entered at the key frame before the first frame that is asked for, and left after the last. Frames are found
by their time stamps, so that they are those of a full decode, to the byte:

    mp4 mkv webm       packets tell the time stamps; whatever the decoder gives before the key frame's own is dropped,
                       as it may refer to what was not decoded (open groups of pictures)
    avi gif, and VP8   packets are not frames: decoded once when they are probed, and entered by seeking only where that
                       gave the same frames; else they are decoded from the start, and counted if they have no time
                       stamps of their own

Where seeking does not find all frames, the file is decoded from the start. A file that announces more than is there
is broken. FFmpeg is given local files of the containers named here alone: no playlists, no network.

Letters: F frames, H height, W width in pixels.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from core.data.files import check_regular
from video.datasets.endings import check_bytes
from video.datasets.facts import (
    COUNTED,
    EVEN,
    MAX_FRAMES,
    TRANSPOSED,
    UNEVEN,
    VideoFacts,
    check_size,
    is_even,
    turn_of,
    turned,
)

if TYPE_CHECKING:
    import av

VIDEO_SUFFIXES = (".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".webm")
OTHER_SUFFIXES = (  # of video that is not read
    *(".3g2", ".3gp", ".asf", ".f4v", ".flv", ".m2ts", ".m2v", ".mpeg", ".mpg", ".mts", ".mxf", ".ogm", ".ogv", ".rm"),
    *(".ts", ".vob", ".wmv", ".y4m"),
)
CONTAINERS = "mov,matroska,webm,avi,gif"  # FFmpeg's names of them
STAMPED = ("mov", "matroska")  # whose packets tell the time stamp of each frame
HIDES_FRAMES = "vp8"  # has packets that show nothing
INTRA = 1  # FFmpeg's number of a picture that refers to no other
ENTRIES = 8  # key frames that are tried, each before the last
TABLES = 64  # files of uneven time stamps whose tables a process keeps


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors about the content of a file become a ValueError that names the file, once."""
    try:
        yield
    except ValueError as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"video file {path}: {error}") from error


@contextlib.contextmanager
def open_video(path: Path, threads: int = 1) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """The container at `path` and its video stream; ValueError, without the path, for what is none."""
    import av  # all of FFmpeg

    only = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
    try:
        with av.open(str(path.absolute()), options=only, metadata_errors="ignore") as container:
            yield container, _video_stream(container, threads)
    except av.FFmpegError as error:
        raise ValueError(f"FFmpeg cannot decode it: {error.strerror}") from error
    except OverflowError as error:
        raise ValueError(f"its header tells a time that is none: {error}") from error


def _video_stream(container: av.container.InputContainer, threads: int) -> av.VideoStream:
    import av

    pictures = av.stream.Disposition.attached_pic | av.stream.Disposition.still_image
    streams = [each for each in container.streams.video if not each.disposition & pictures]
    if not streams:
        kinds = sorted({each.type for each in container.streams})
        raise ValueError(f"it has no video stream; it holds {' and '.join(kinds) or 'nothing'}")
    stream = max(streams, key=lambda each: (bool(each.disposition & av.stream.Disposition.default), -each.index))
    if stream.codec_context is None:
        raise ValueError("FFmpeg knows no decoder of its video stream")
    check_size(stream.codec_context.height, stream.codec_context.width)
    stream.thread_count, stream.thread_type = threads, "NONE" if threads == 1 else "AUTO"
    return stream


# What a file holds


@dataclass
class Scan:
    """What one pass over a file has seen.

    packets     time stamps of the packets that are to be shown, ticks, None where one has none
    frames      time stamps of the frames that were decoded: the first, or all
    first       the first frame
    last        the last frame that was decoded
    sampled     checksums of the pixels of frames 1, 2, 4, 8, ... by their number
    tick, rate  seconds; frames a second that the header says
    announced   frames that an MP4 says it has, 0 where nothing is said
    guessed     whether FFmpeg makes the time stamps up, and not the container
    """

    packets: list[int | None] = field(default_factory=list)
    frames: list[int | None] = field(default_factory=list)
    first: av.VideoFrame | None = None
    last: av.VideoFrame | None = None
    sampled: dict[int, int] = field(default_factory=dict)
    tick: Fraction = Fraction(0)
    rate: Fraction = Fraction(0)
    announced: int = 0
    guessed: bool = False

    def see(self, frame: av.VideoFrame) -> None:
        """Take note of a decoded frame."""
        number = len(self.frames)
        self.first, self.last = self.first or frame, frame
        self.frames.append(frame.pts)
        if number & (number - 1) == 0:
            self.sampled[number] = _checksum(frame)

    def checksums(self) -> dict[int, int]:
        """Checksums of the last frame and of one near the middle, by their number."""
        last = len(self.frames) - 1
        return {last: _checksum(self.last)} | dict([max(self.sampled.items())])

    def stamps(self, decoded: bool) -> np.ndarray | None:
        """Ascending time stamps (F,) of the frames; None where they do not tell them apart."""
        found = self.frames if decoded else self.packets
        if None in found or not self.tick:
            return None
        if decoded and found != sorted(found):
            return None
        stamps = np.array(sorted(found), dtype=np.int64)
        told = {*self.packets} == {*found}  # so that they can be read without decoding
        return stamps if len(stamps) and told and (np.diff(stamps) > 0).all() else None


def probe(path: Path | str) -> VideoFacts:
    """What a file holds, from its packets and its first frame; AVI, GIF and VP8 are decoded as a whole.

    Raises ValueError, naming the file, for one that is empty, holds no video, is of another kind, is cut off, or tells
    no rate; OSError for one that cannot be read.
    """
    return _probe(Path(path), whole=False)


def examine(path: Path | str) -> VideoFacts:
    """As `probe`, after every frame was decoded: damage in the middle of a file is found too."""
    return _probe(Path(path), whole=True)


def _probe(path: Path, whole: bool) -> VideoFacts:
    with naming(path):
        check_regular(path)
        check_bytes(path)
        scan, decoded = _scan(path, whole)
        stamps = scan.stamps(decoded)
        if not decoded and (stamps is None or scan.frames[:1] != [int(stamps[0])]):
            scan, decoded = _scan(path, whole=True)
            stamps = scan.stamps(decoded)
        count = len(scan.frames) if decoded else len(scan.packets)
        announced = max(scan.announced, len(scan.packets) if whole and stamps is not None else 0)
        if count < announced:
            raise ValueError(f"it is cut off: {count} of {announced} frames are there")
        if scan.first is None:
            raise ValueError("its video stream holds no frame")
        return _facts(path, scan, stamps, decoded)


def _scan(path: Path, whole: bool) -> tuple[Scan, bool]:
    """One pass over the packets of a file, decoding the first frame or all, and whether all were."""
    scan = Scan()
    with open_video(path) as (container, stream):
        scan.guessed = not any(name in container.format.name for name in STAMPED)
        whole = whole or scan.guessed or stream.codec_context.name == HIDES_FRAMES
        scan.tick, scan.rate = stream.time_base or Fraction(0), stream.average_rate or Fraction(0)
        scan.announced = stream.frames if "mov" in container.format.name else 0
        for packet in container.demux(stream):
            if packet.size and not packet.is_discard:
                scan.packets.append(packet.pts)
                if len(scan.packets) > MAX_FRAMES:
                    raise ValueError(f"it has more than {MAX_FRAMES:,} packets")
            if packet.is_discard and packet.size:
                scan.announced = max(0, scan.announced - 1)
            if packet.is_corrupt:
                raise ValueError("it is cut off: a packet is not whole")
            if whole or scan.first is None:
                for frame in packet.decode():
                    scan.see(frame)
    return scan, whole


def _facts(path: Path, scan: Scan, stamps: np.ndarray | None, decoded: bool) -> VideoFacts:
    frame, access = scan.first, COUNTED
    tick, ends = scan.tick, (0, 0)
    if stamps is not None:
        access, ends = EVEN if is_even(stamps) else UNEVEN, (int(stamps[0]), int(stamps[-1]))
    elif len(scan.frames) > 1:
        if not scan.rate or scan.rate < 0 or len({*scan.frames}) == 1:
            raise ValueError("neither its header nor its time stamps tell a rate: 0 frames/s")
        tick, ends = 1 / scan.rate, (0, len(scan.frames) - 1)
    turn = turn_of(_display_matrix(frame))
    height, width = (frame.width, frame.height) if turn & TRANSPOSED else (frame.height, frame.width)
    count = len(scan.frames) if decoded else len(scan.packets)
    facts = VideoFacts(count, height, width, turn, tick.numerator, tick.denominator, *ends, access)
    return replace(facts, seekable=int(access != COUNTED and (not scan.guessed or _is_found(path, facts, scan))))


def _display_matrix(frame: av.VideoFrame) -> np.ndarray | None:
    data = frame.side_data.get("DISPLAYMATRIX")
    return None if data is None else np.frombuffer(bytes(data), np.int32).reshape(3, 3)


def _checksum(frame: av.VideoFrame) -> int:
    return zlib.crc32(np.ascontiguousarray(frame.to_ndarray(format="rgb24")))


def _is_found(path: Path, facts: VideoFacts, scan: Scan) -> bool:
    """Whether seeking gives the frames of a full decode: the last, and the middle one.

    Not trusted is a file whose packets are not in the order of its frames: FFmpeg guesses their time stamps.
    """
    if scan.packets != sorted(scan.packets):
        return False
    for number, checksum in scan.checksums().items():
        found = [
            zlib.crc32(np.ascontiguousarray(pixels))
            for _, pixels in _by_stamps(path, facts, [number], seek=True, threads=1)
        ]
        if found != [checksum]:
            return False
    return True


# Frames of a file


def map_frames(
    path: Path | str,
    facts: VideoFacts,
    wanted: Sequence[int],
    function: Callable[[np.ndarray], np.ndarray],
    threads: int = 1,
) -> dict[int, np.ndarray]:
    """`function` of each frame `wanted`, RGB (H, W, 3) uint8 as a player shows it, by its number.

    Frames are handed over one by one, so that not all of them are in memory. Raises ValueError, naming the file, for
    frames that are not there, cannot be decoded, or are of another size than the first.
    """
    path, wanted = Path(path), sorted(set(wanted))
    with naming(path):
        if not wanted or wanted[0] < 0 or wanted[-1] >= facts.frames:
            raise ValueError(f"asked for frames {wanted}; it has {facts.frames}")
        check_regular(path)
        found: dict[int, np.ndarray] = {}
        for seek in (True, False) if facts.seekable else (False,):
            find = _by_number if facts.access == COUNTED else functools.partial(_by_stamps, seek=seek)
            left = [number for number in wanted if number not in found]
            with contextlib.suppress(ValueError) if seek else contextlib.nullcontext():  # from the start it is told
                for number, pixels in find(path, facts, left, threads=threads) if left else ():
                    _check_size(pixels, facts, number)
                    found[number] = function(turned(pixels, facts.turn))
        lost = [number for number in wanted if number not in found]
        if lost:
            raise ValueError(f"frames {lost[0]} to {lost[-1]} of {facts.frames} cannot be decoded; damaged or cut off?")
        return found


def _check_size(pixels: np.ndarray, facts: VideoFacts, number: int) -> None:
    if pixels.shape[:2] != ((facts.width, facts.height) if facts.turn & TRANSPOSED else (facts.height, facts.width)):
        raise ValueError(f"frame {number} is of another size, {pixels.shape[1]} x {pixels.shape[0]} pixels")


def _by_number(path: Path, facts: VideoFacts, wanted: Sequence[int], threads: int) -> Iterator[tuple[int, np.ndarray]]:
    """Frames by counting all of them from the start."""
    asked, to_rgb = set(wanted), _ToRGB()
    with open_video(path, threads) as (container, stream):
        for number, frame in enumerate(itertools.islice(container.decode(stream), wanted[-1] + 1)):
            if number in asked:
                yield number, to_rgb(frame, number)


def _by_stamps(
    path: Path, facts: VideoFacts, wanted: Sequence[int], seek: bool, threads: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Frames by their time stamps, from the key frame before the first, or from the start; those that are there."""
    stamps = stamps_of(path, facts, wanted)
    numbers, to_rgb = dict(zip(stamps.tolist(), wanted, strict=True)), _ToRGB()
    with open_video(path, threads) as (container, stream):
        packets, start = (
            _entered(container, stream, int(stamps[0]) - facts.slack) if seek else (container.demux(stream), None)
        )
        for packet in packets:
            for frame in packet.decode():
                if frame.pts is None or (start is not None and frame.pts < start):
                    continue
                if (
                    frame.pts == start and frame.pict_type != INTRA
                ):  # the container calls it a key frame, and it is none
                    return
                near = next((frame.pts + d for d in (0, -facts.slack, facts.slack) if frame.pts + d in numbers), None)
                if near is not None:
                    number = numbers.pop(near)
                    yield number, to_rgb(frame, number)
                if not numbers or frame.pts > stamps[-1] + facts.slack:
                    return


def _entered(
    container: av.container.InputContainer, stream: av.VideoStream, stamp: int
) -> tuple[Iterator[av.Packet], int | None]:
    """The packets from a key frame on that is shown at `stamp` or before, and its time stamp; None: from the start."""
    import av

    target = stamp
    for _ in range(ENTRIES):
        try:
            container.seek(target, stream=stream, backward=True)
        except av.FFmpegError:  # before the first key frame, or there is no way to seek
            break
        packets = container.demux(stream)
        first = next(packets)
        if first.is_keyframe and first.pts is not None and first.pts <= stamp:
            return itertools.chain([first], packets), first.pts
        if first.dts is None or first.dts - 1 >= target:
            break
        target = first.dts - 1
    return iter(()), None  # the caller starts again from the start


def stamps_of(path: Path, facts: VideoFacts, numbers: Sequence[int]) -> np.ndarray:
    """Time stamps of frames, ticks: (n,) int64; of uneven ones from the file's packets."""
    if facts.access == UNEVEN:
        return _table(path, facts.frames, facts.first, facts.last)[np.asarray(numbers)]
    return np.rint(facts.first + np.asarray(numbers) * facts.interval).astype(np.int64)


@functools.lru_cache(TABLES)
def _table(path: Path, frames: int, first: int, last: int) -> np.ndarray:
    """All time stamps (F,) of a file in ascending order, read without decoding."""
    with open_video(path) as (container, stream):
        found = {packet.pts for packet in container.demux(stream) if packet.size and not packet.is_discard}
    stamps = np.array(sorted(found - {None}), dtype=np.int64)
    stamps = stamps[(stamps >= first) & (stamps <= last)]
    if len(stamps) != frames:
        raise ValueError(f"it has changed: it has {len(stamps)} frames, and had {frames}")
    return stamps


class _ToRGB:
    """Frames as RGB (H, W, 3) uint8, by one converter, in one thread."""

    def __init__(self) -> None:
        from av.video.reformatter import VideoReformatter

        self._converter = VideoReformatter()

    def __call__(self, frame: av.VideoFrame, number: int) -> np.ndarray:
        if frame.is_corrupt:
            raise ValueError(f"frame {number} is damaged")
        return self._converter.reformat(frame, format="rgb24", threads=1).to_ndarray()
