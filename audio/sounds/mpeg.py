"""MPEG audio before it is decoded: the tags around it, where its frames begin and end, what its first frame announces.

Tags come in any number and order in front (ID3v2, with or without a footer, APE, zeros, the rest of a frame) and at the
end (ID3v1, APE, Lyrics3, ID3v2). A frame counts as one when the headers that follow it, each where the one before says,
are of the same version, layer and rate.
"""

from __future__ import annotations

import io
import mmap
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

HEADER = 4  # bytes
CHAIN = 3  # headers in a row that agree
FRONT_TAGS, ZEROS = 32, 2**20  # things in front, and bytes of zeros, at most: a file reserved in advance is all zeros
JUNK = 2**22  # bytes between two frames at most, such as the tag with a picture of a file that another one follows
START = re.compile(rb"\xff[\xe2-\xff][\x10-\xef]")  # of a frame that may have a length
SEARCHED = (2**12, 2**18)  # bytes after the tags in which the first frame is looked for: at first, and at most
BLOCK = 2**16  # bytes read at once
LONGEST_FRAME = 2881  # bytes
TAIL_TAGS = 8  # at most; each is looked for at the end of what is left

KBITS = {  # per second, by (MPEG-1, layer), for the indices 1 to 14
    (True, 1): tuple(range(32, 449, 32)),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}  # Hz, by the bits of the version


@dataclass(frozen=True)
class Frame:
    """A frame by its header: what the frames of a stream share, its length in bytes, and its samples."""

    kind: tuple[int, int, int]  # version, layer, sample rate in Hz
    length: int
    samples: int


@dataclass(frozen=True)
class Stream:
    """The frames of a file without the tags around them, and what the first one announces.

    first, last   bytes first <= i < last of the file
    plain         nothing is in front but one ID3v2 tag at most
    sound         the first frame of sound; the one at `first`, or the one after a Xing frame
    announced     samples, by a Xing frame; None: it has none, or one that does not say how many frames and bytes follow
    there         whether what is announced is there, and nothing more
    cut           whether some of what is announced is not there
    """

    first: int
    last: int
    plain: bool
    sound: int
    announced: int | None = None
    there: bool = False
    cut: bool = False


def frame_of(header: bytes) -> Frame | None:
    """The frame that begins with these four bytes; None where no frame of a known length does."""
    if len(header) < HEADER or header[0] != 0xFF or header[1] < 0xE0:
        return None
    version, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)
    bits, rate, padding = header[2] >> 4, header[2] >> 2 & 3, header[2] >> 1 & 1
    if version == 1 or layer == 4 or bits in (0, 15) or rate == 3:
        return None
    hertz, first = RATES[version][rate], version == 3
    samples = 384 if layer == 1 else 1152 if first or layer == 2 else 576
    slots = samples // 8 * 1000 * KBITS[first, layer][bits - 1]
    length = (slots // 4 // hertz + padding) * 4 if layer == 1 else slots // hertz + padding
    return Frame((version, layer, hertz), length, samples)


def find_stream(path: Path) -> Stream | None:
    """Where the frames of a file lie; None where no three in a row are found, nor the last ones of a short file.

    Raises ValueError, without the path, for a file of zeros, in which FFmpeg would look for a frame up to its end.

    Frames are counted where the bytes that are there are fewer than a Xing frame announces.
    """
    with path.open("rb") as file:
        last = _end(file)
        start, tags = _after_tags(file, last)
        if _zeros(file, start, last) == ZEROS:
            raise ValueError("nothing but zeros stand where its sound should begin; was it never written?")
        first = _first_frame(file, start, last)
        if first is None:
            return None
        stream = Stream(first, last, first == start and tags <= 1, first)
        return _with_announcement(file, stream, _bytes(file, first, LONGEST_FRAME))


def count_frames(path: Path, stream: Stream) -> tuple[int, int, bool]:
    """Whole frames of a stream, where the last one ends, and whether a torn one follows.

    They are passed over by their lengths, undecoded; what is no frame between them is passed over too.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        count, place, end = 0, stream.first, stream.first
        kind = frame_of(content[place : place + HEADER]).kind
        while place < stream.last:
            frame = frame_of(content[place : place + HEADER])
            if frame is None or frame.kind != kind:
                place = _next_chain(content, place + 1, stream.last, kind)
                if place is None:
                    break
                continue
            place += frame.length
            if place > stream.last:
                return count, end, True
            count, end = count + 1, place
        return count, end, False


def _next_chain(content: mmap.mmap, place: int, last: int, kind: tuple[int, int, int]) -> int | None:
    """Where the next frames of a kind begin, at most `JUNK` bytes away; None for none."""
    for match in START.finditer(content, place, min(last, place + JUNK)):
        place = match.start()
        frame = frame_of(content[place : place + HEADER])
        if frame is not None and frame.kind == kind and _chained(content, place, at_end=False):
            return place
    return None


class Part:
    """Bytes first <= i < last of a file, to be read as a file of its own."""

    def __init__(self, file: BinaryIO, first: int, last: int):
        self._file, self._first, self._length, self._place = file, first, last - first, 0

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes from the place on; a negative size: all."""
        left = max(0, self._length - self._place)
        self._file.seek(self._first + self._place)
        content = self._file.read(left if size < 0 else min(size, left))
        self._place += len(content)
        return content

    def readinto(self, buffer: bytearray) -> int:
        """Fill a buffer from the place on; returns how many bytes of it."""
        content = self.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place as files do, and return it."""
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._length}[whence]
        return self._place

    def tell(self) -> int:
        """The place."""
        return self._place


def _bytes(file: BinaryIO, start: int, count: int) -> bytes:
    file.seek(start)
    return file.read(count)


def _end(file: BinaryIO) -> int:
    """Where the tags at the end begin."""
    end = file.seek(0, 2)
    for _ in range(TAIL_TAGS):
        tag = _tail_tag(_bytes(file, max(0, end - 128), 128), end)
        if not 0 < tag <= end:
            return end
        end -= tag
    return end


def _tail_tag(tail: bytes, end: int) -> int:
    """Bytes of the tag that ends with these bytes of a file; 0 for none."""
    if tail[:3] == b"TAG" and len(tail) == 128:
        return 128
    foot = tail[-32:]
    if foot[:8] == b"APETAGEX" and len(foot) == 32:
        has_header = foot[23] & 0x80
        return int.from_bytes(foot[12:16], "little") + (32 if has_header else 0)
    if tail[-9:] == b"LYRICS200" and tail[-15:-9].isdigit():
        return int(tail[-15:-9]) + 15
    if tail[-10:-7] == b"3DI":
        return _synchsafe(tail[-4:]) + 20
    return 0


def _after_tags(file: BinaryIO, last: int) -> tuple[int, int]:
    """The first byte after the tags and zeros in front, and how many things were passed over.

    An ID3v2 tag with a footer and zeros count as two, so that one means: one tag as every decoder knows it.
    """
    place = passed = 0
    while place < last and passed < FRONT_TAGS:
        head = _bytes(file, place, 32)
        if head[:3] == b"ID3" and len(head) >= 10:
            footer = head[5] & 0x10
            size, count = 10 + _synchsafe(head[6:10]) + (10 if footer else 0), 2 if footer else 1
        elif head[:8] == b"APETAGEX" and len(head) == 32:
            size, count = 32 + int.from_bytes(head[12:16], "little"), 2
        else:
            size, count = _zeros(file, place, last), 2
        if not 0 < size <= last - place:
            break
        place, passed = place + size, passed + count
    return place, passed


def _zeros(file: BinaryIO, place: int, last: int) -> int:
    """How many zeros stand from a byte on."""
    count, last = 0, min(last, place + ZEROS)
    while place + count < last:
        block = _bytes(file, place + count, min(BLOCK, last - place - count))
        other = len(block) - len(block.lstrip(b"\0"))
        count += other
        if other < len(block) or not block:
            break
    return count


def _synchsafe(four: bytes) -> int:
    return sum((byte & 0x7F) << shift for byte, shift in zip(four, (21, 14, 7, 0), strict=True))


def _first_frame(file: BinaryIO, start: int, last: int) -> int | None:
    """Where the first frame begins: followed by frames of its kind, or by the end of the file."""
    for searched in SEARCHED:
        content = _bytes(file, start, min(last - start, searched + CHAIN * LONGEST_FRAME))
        place = content.find(b"\xff")
        while 0 <= place < searched:
            if _chained(content, place, at_end=start + len(content) == last):
                return start + place
            place = content.find(b"\xff", place + 1)
    return None


def _chained(content: bytes | mmap.mmap, place: int, at_end: bool) -> bool:
    kind = None
    for number in range(CHAIN):
        if number and at_end and place == len(content):
            return True
        frame = frame_of(content[place : place + HEADER])
        if frame is None or (kind is not None and frame.kind != kind):
            return False
        kind, place = frame.kind, place + frame.length
    return True


def _with_announcement(file: BinaryIO, stream: Stream, content: bytes) -> Stream:
    """The stream, whose first frames begin `content`, with what the first one announces."""
    frame = frame_of(content)
    tag = max(content[:200].find(b"Xing"), content[:200].find(b"Info"))
    if tag < 0:
        return stream
    stream = replace(stream, sound=stream.first + frame.length)
    if content[tag + 7] & 3 != 3:
        return stream
    frames, size = (int.from_bytes(content[tag + at : tag + at + 4], "big") for at in (8, 12))
    if not _plausible(frames, size, content[frame.length :], constant=content[tag : tag + 4] == b"Info"):
        return stream
    stream = replace(stream, announced=frames * frame.samples)
    more = stream.last - stream.first - size
    if more < 0:
        counted, _, torn = count_frames(Path(file.name), stream)
        cut = torn or counted < frames
        return replace(stream, there=not cut and counted > frames, cut=cut)  # the Xing frame is one more
    after = _bytes(file, stream.first + size, CHAIN * LONGEST_FRAME)
    return replace(stream, there=more <= LONGEST_FRAME // 2 or not _chained(after, 0, at_end=False))


def _plausible(frames: int, size: int, second: bytes, constant: bool) -> bool:
    """Whether so many frames fill so many bytes: at any bit rate, or at that of the second frame where it is one."""
    frame = frame_of(second)
    if frame is None:
        return frames <= 1
    version, layer, hertz = frame.kind
    kbits = KBITS[version == 3, layer]
    bytes_of_kbit = frame.samples / 8 * 1000 / hertz
    if constant:
        kbits = [kbits[(second[2] >> 4) - 1]]
    least, most = (bytes_of_kbit * rate * frames for rate in (kbits[0], kbits[-1]))
    return least - 4 * LONGEST_FRAME <= size <= most + 4 * LONGEST_FRAME
