"""Whether a file is cut off: what its container announces against the bytes that are there, without decoding any.

RIFF RF64     the chunk of samples is longer than what is there; sizes as recorders of streams write them, who do
              not know the end (the largest, or 0 before samples), announce nothing
Ogg           the last page is torn, or not marked as the last of a stream
Matroska      the segment is longer than the file; a live one announces nothing
MP4           a box is longer than the file
ADTS MPEG     the last frame is torn, where no Xing frame says that all bytes are there
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from pathlib import Path

from audio.sounds.mpeg import count_frames, find_stream
from core.data.endings import EBML, Content, matroska_is_cut, mp4_is_cut

UNKNOWN = 0x7FFF0000  # sizes in RIFF from here on are those of streams whose end was not known
OGG_TAIL = 2**17  # bytes from the end that hold the last page, which has 65,307 at most
FIRST_PAGE, LAST_PAGE = 2, 4  # flags of Ogg
CHAINED = "it is a chain of several streams, or its last page is damaged; streams are read from a file each"


def is_cut_off(path: Path) -> bool:
    """Whether bytes that a file announces are not there. False too for what announces nothing, or is no such file.

    Raises ValueError, without the path, for a chain of Ogg streams, of which the first alone would be read.
    """
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return False
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            start = content[:12]
            if start[:4] in (b"RIFF", b"RIFX", b"RF64") and start[8:12] == b"WAVE":
                return _riff(content)
            if start[:4] == b"OggS":
                return _ogg(content)
            if start[:4] == EBML:
                return matroska_is_cut(content)
            if start[:4] == b"fLaC":
                return False  # its samples are counted
            if start[4:8] == b"ftyp":
                return mp4_is_cut(content)
            if len(start) > 1 and start[0] == 0xFF and start[1] & 0xF6 == 0xF0:
                return _adts(content)
    stream = find_stream(path)
    return stream is not None and not stream.there and count_frames(path, stream)[2]


def wave_samples(path: Path) -> int:
    """Bytes of samples that a WAV file announces, or that are there where its recorder did not know the end."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return _wave_data(content)[0]


def _riff(content: Content) -> bool:
    announced, start = _wave_data(content)
    end = start + announced
    return end > len(content) or _lost(content[end : end + 9])


def _wave_data(content: Content) -> tuple[int, int]:
    """Bytes of samples that RIFF or RF64 announces, and where the first stands; all that are there if it is unknown."""
    order = "big" if content[:4] == b"RIFX" else "little"
    place, large = 12, None
    while place + 8 <= len(content):
        name, size = content[place : place + 4], int.from_bytes(content[place + 4 : place + 8], order)
        if name == b"ds64":
            large = int.from_bytes(content[place + 16 : place + 24], order)
        if name == b"data":
            announced = large if size == 0xFFFFFFFF and large is not None else size
            start = place + 8
            unknown = announced == size and (size >= UNKNOWN or (not size and _lost(content[start : start + 9])))
            return len(content) - start if unknown else announced, start
        place += 8 + size + size % 2
    return 0, len(content)


def _lost(behind: bytes) -> bool:
    """Whether the bytes behind a chunk are neither padding nor the name of another chunk, at an even place or not."""
    names = (behind[:4], behind[1:5])
    return len(behind) == 9 and any(behind) and not any(all(32 <= byte < 127 for byte in name) for name in names)


def _ogg(content: Content) -> bool:
    tail = content[max(0, len(content) - OGG_TAIL) :]
    place = tail.rfind(b"OggS")
    if place < 0:
        return True
    page = tail[place:]
    if len(page) < 27 or len(page) < 27 + page[26]:
        return True
    length = 27 + page[26] + sum(page[27 : 27 + page[26]])
    known = _serials(content)
    if known and page[14:18] not in known:
        raise ValueError(CHAINED)
    return len(page) < length or not page[5] & LAST_PAGE


def _serials(content: Content) -> set[bytes]:
    """The numbers of the streams that begin where an Ogg file does; those of a chain begin later."""
    place, found = 0, set()
    while content[place : place + 4] == b"OggS" and place + 27 <= len(content) and content[place + 5] & FIRST_PAGE:
        found.add(content[place + 14 : place + 18])
        place += 27 + content[place + 26] + sum(content[place + 27 : place + 27 + content[place + 26]])
    return found


def _adts(content: Sequence[int]) -> bool:
    place = 0
    while place + 7 <= len(content) and content[place] == 0xFF and content[place + 1] & 0xF6 == 0xF0:
        length = (content[place + 3] & 3) << 11 | content[place + 4] << 3 | content[place + 5] >> 5
        if length < 7:
            return False
        place += length
    return place > len(content)
