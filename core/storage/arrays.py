"""The one reader of arrays, .npy and .npz: a header is held against the bytes that are there before memory is taken.

What is read whole has its checksum checked. Python objects are never read. Raised is ValueError, naming the file.
"""

from __future__ import annotations

import contextlib
import lzma
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

CHUNK = 1 << 20  # bytes read at once
LARGEST_FREE, LARGEST_RATIO = 1 << 28, 200  # an array above so many bytes that deflates so well is a bomb
LARGEST_EMPTY = 1_000_000  # rows of an array without a number: nothing in a file bears witness to them
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
# What zipfile and NumPy raise for files that are damaged or built to harm.
DAMAGE = (
    *(EOFError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, ArithmeticError, SyntaxError),
    *(zipfile.BadZipFile, zlib.error, struct.error, lzma.LZMAError, tokenize.TokenError),
)


@dataclass(frozen=True)
class Header:
    """What an array says of itself."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype

    @classmethod
    def read(cls, file: IO[bytes], size: int) -> Header:
        """From the beginning of an array of `size` bytes, whose numbers follow; ValueError for one that lies."""
        version = np.lib.format.read_magic(file)
        if version not in HEADERS:
            raise ValueError(f"its version is {version}; read are {', '.join(map(str, HEADERS))}")
        header = cls(*HEADERS[version](file))
        held = size - file.tell()
        if header.dtype.hasobject:
            raise ValueError("Object arrays are not read")
        if header.bytes != held or min(header.shape, default=0) < 0 or not header.dtype.itemsize:
            raise ValueError(f"its header says {header}, {header.bytes} bytes, and {held} are there")
        if not held and max(header.shape, default=0) > LARGEST_EMPTY:
            raise ValueError(f"its header says {header}, without a number in it")
        return header

    @property
    def bytes(self) -> int:
        """Of all numbers."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{self.dtype} {self.shape}"

    def mapped(self, file: IO[bytes], offset: int) -> np.ndarray:
        """The array whose numbers begin at a byte of a file, read as they are needed."""
        if not self.bytes:
            return np.empty(self.shape, self.dtype)
        return np.memmap(file, self.dtype, "r", offset, self.shape, "F" if self.fortran else "C")

    def filled(self, file: IO[bytes]) -> np.ndarray:
        """The array in memory, its numbers those that follow in a file."""
        flat = np.empty(math.prod(self.shape), self.dtype)
        memory, done = memoryview(flat.view(np.uint8)), 0
        while count := file.readinto(memory[done : done + CHUNK]):
            done += count
        if done != self.bytes or file.read(1):
            raise EOFError(f"{done} of {self.bytes} bytes could be read")
        return flat.reshape(self.shape, order="F" if self.fortran else "C")


def read_array(path: Path) -> np.ndarray:
    """The array of an .npy, in memory."""
    with _reading(path), path.open("rb") as file:
        return Header.read(file, path.stat().st_size).filled(file)


def map_array(path: Path) -> np.ndarray:
    """The array of an .npy, read from the disk as it is needed."""
    with _reading(path), path.open("rb") as file:
        header = Header.read(file, path.stat().st_size)
        return header.mapped(file, file.tell())


def npz_keys(path: Path) -> Sequence[str]:
    """Names of the arrays in an .npz."""
    with _reading(path), zipfile.ZipFile(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
        if len(set(names)) < len(names):
            raise ValueError("a name stands in it twice")
        for member in archive.infolist():
            archive.open(member).close()  # raises where its name beside its bytes is another: a name has no checksum
        return names


def npz_array(path: Path, key: str) -> np.ndarray:
    """An array of an .npz, after all of its bytes were read; mapped where it is stored uncompressed."""
    keys = npz_keys(path)
    if key not in keys:
        raise ValueError(f"{path} has no {key}; it holds: {', '.join(keys) or 'nothing'}")
    with _reading(path), path.open("rb") as file, zipfile.ZipFile(file) as archive:
        member = archive.getinfo(f"{key}.npy")
        if member.file_size > max(LARGEST_FREE, LARGEST_RATIO * member.compress_size):
            sizes = f"{member.compress_size} bytes are to become {member.file_size}"
            raise ValueError(f"{sizes} of {key}, which no array of measurements does")
        with archive.open(member) as stream:
            header = Header.read(stream, member.file_size)
            if member.compress_type != zipfile.ZIP_STORED:
                return header.filled(stream)
            begin = stream.tell()
            while stream.read(CHUNK):  # to its end, where the checksum is compared
                pass
        return header.mapped(file, _first_byte(file, member) + begin)


def check_archive(file: IO[bytes]) -> None:
    """Read a zip without compression, as PyTorch writes them, to its end; ValueError for what is not as it was."""
    try:
        with zipfile.ZipFile(file) as archive:
            packed = [member.filename for member in archive.infolist() if member.compress_type != zipfile.ZIP_STORED]
            if packed:
                raise ValueError(f"{packed[0]} in it is compressed")
            summed = any(member.CRC for member in archive.infolist())  # torch.serialization.set_crc32_options(False)
            broken = archive.testzip() if summed else None
    except DAMAGE as error:
        raise ValueError(_reason(error)) from error
    if broken is not None:
        raise ValueError(f"the checksum of {broken} in it is wrong")


def _first_byte(file: IO[bytes], member: zipfile.ZipInfo) -> int:
    """Where a member begins: a zip's local header has 30 bytes, then name and extra field, of the lengths at 26."""
    file.seek(member.header_offset + 26)
    return member.header_offset + 30 + sum(struct.unpack("<HH", file.read(4)))


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    if not path.is_file():  # nor a pipe, which would be waited for
        raise ValueError(f"{path} is {'no file' if path.exists() else 'not there'}")
    try:
        yield
    except DAMAGE as error:
        raise ValueError(f"{path} is truncated or damaged: {_reason(error)}") from error
    except MemoryError as error:
        raise ValueError(f"{path} holds an array that memory has no room for; uncompressed, it need not") from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def _reason(error: BaseException) -> str:
    return str(error) or type(error).__name__
