"""What the bytes of a video file tell before FFmpeg sees them: whether it is cut off, and an AVI of no rate.

AVI       the last RIFF chunk is longer than the file; one of a recorder that was stopped announces nothing
GIF       the last byte is not the one that ends it
MP4, Matroska  see `core.data.endings`
"""

from __future__ import annotations

import mmap
from pathlib import Path

from core.data.endings import EBML, Content, matroska_is_cut, mp4_is_cut

RIFF_HEAD = 8
HEADERS = 2**16  # bytes from the start of an AVI that hold its headers
GIF_END, GIF_TAIL = b"\x3b", 64  # bytes at the end, of which some may be zeros


def check_bytes(path: Path) -> None:
    """Raises ValueError for a container that announces more bytes than there are, and for an AVI of no rate."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if _is_cut_off(content):
            raise ValueError("it is cut off: its end is not there")
        if content[:4] == b"RIFF" and _tells_no_rate(content[:HEADERS]):
            raise ValueError("its header says 0 frames/s")


def _is_cut_off(content: Content) -> bool:
    if content[:4] == b"RIFF":
        return _avi_is_cut(content)
    if content[:4] == EBML:
        return matroska_is_cut(content)
    if content[:3] == b"GIF":
        return not content[max(0, len(content) - GIF_TAIL) :].rstrip(b"\0").endswith(GIF_END)
    return mp4_is_cut(content)


def _tells_no_rate(headers: bytes) -> bool:
    """Whether the video stream of an AVI has no rate, in place of which FFmpeg takes 25 frames/s."""
    place = headers.find(b"strh")
    while place >= 0 and headers[place + 8 : place + 12] != b"vids":
        place = headers.find(b"strh", place + 4)
    scale, rate = headers[place + 28 : place + 32], headers[place + 32 : place + 36]
    return place >= 0 and len(rate) == 4 and not (any(scale) and any(rate))


def _avi_is_cut(content: Content) -> bool:
    """Whether the last of the RIFF chunks is longer than what is there; a large AVI has several."""
    place = 0
    while content[place : place + 4] == b"RIFF" and place + RIFF_HEAD <= len(content):
        size = int.from_bytes(content[place + 4 : place + 8], "little")
        if not size:  # of a recorder that was stopped: FFmpeg reads what is there
            return False
        place += RIFF_HEAD + size + size % 2
    return place > len(content) + 1
