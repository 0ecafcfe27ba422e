"""Whether files of containers that hold sound or video are cut off: what they announce against the bytes there are.

Matroska  the segment is longer than the file; a live one announces nothing
MP4       a box is longer than the file
"""

from __future__ import annotations

import mmap

SEGMENT, VOID, EBML = b"\x18\x53\x80\x67", b"\xec", b"\x1a\x45\xdf\xa3"
BOXES = (
    *(b"free", b"ftyp", b"mdat", b"meta", b"mfra", b"moof", b"moov", b"sidx", b"skip", b"styp", b"udta", b"uuid"),
    b"wide",
)
Content = mmap.mmap | bytes


def matroska_is_cut(content: Content) -> bool:
    """Whether bytes that a Matroska or WebM file announces are not there."""
    place = 0
    while place < len(content):
        name, start = _element_id(content, place)
        size, start, known = _element_size(content, start)
        if name == SEGMENT:
            return known and start + size > len(content)
        if name not in (EBML, VOID) or not known:
            return False
        place = start + size
    return True


def _element_id(content: Content, place: int) -> tuple[bytes, int]:
    width = 9 - content[place].bit_length()
    return content[place : place + width], place + width


def _element_size(content: Content, place: int) -> tuple[int, int, bool]:
    """The size of an element, where it begins, and whether the size is known."""
    if place >= len(content):
        return 0, place, False
    width = 9 - content[place].bit_length()
    most = (1 << 7 * width) - 1
    size = int.from_bytes(content[place : place + width], "big") & most
    return size, place + width, size != most


def mp4_is_cut(content: Content) -> bool:
    """Whether bytes that an MP4 or QuickTime file announces are not there."""
    place = 0
    while place + 8 <= len(content) and content[place + 4 : place + 8] in BOXES:
        size = int.from_bytes(content[place : place + 4], "big")
        if size == 1:
            size = int.from_bytes(content[place + 8 : place + 16], "big")
        if size < 8:  # 0: up to the end of the file
            return False
        place += size
    return place > len(content)
