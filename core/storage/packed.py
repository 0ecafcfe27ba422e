"""Tensors in host memory as the bytes of a safetensors file, and their way to the disk in one pass.

A file is a number of 8 bytes, a JSON header of that length, and the tensors' bytes one after the other, large numbers
before small ones and then by name: what safetensors itself writes, to the last byte. Laid out so in memory, a group of
tensors is written, hashed and compared with plain calls that let go of Python's lock, so a thread can do it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

State = dict[str, Tensor]

# What a file calls the numbers, in the order in which it holds them.
TYPES = {
    **{torch.uint64: "U64", torch.int64: "I64", torch.float64: "F64", torch.complex64: "C64"},
    **{torch.float32: "F32", torch.uint32: "U32", torch.int32: "I32"},
    **{torch.bfloat16: "BF16", torch.float16: "F16", torch.uint16: "U16", torch.int16: "I16"},
    **{torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2"},
    **{torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL"},
}
RANK = {dtype: number for number, dtype in enumerate(TYPES)}
BLOCK = 1 << 28  # bytes of memory taken at once: PyTorch takes pinned memory in powers of two
AHEAD = 1 << 26  # bytes that are written before the disk is made to take them
CHUNK = 1 << 22  # bytes hashed, written or compared at once
Piece = memoryview | bytes


@dataclass(frozen=True)
class Kind:
    """What a tensor of a file is, apart from its numbers."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @classmethod
    def of(cls, state: Mapping[str, Tensor]) -> dict[str, Kind]:
        """Of each tensor, whole where it is shared between processes; ValueError naming one that no file can hold."""
        for name, value in state.items():
            if value.dtype not in TYPES:
                known = ", ".join(str(dtype).removeprefix("torch.") for dtype in TYPES)
                raise ValueError(f"tensor '{name}' is {value.dtype}; a checkpoint holds {known}")
        return {name: cls(value.dtype, tuple(value.shape)) for name, value in state.items()}

    @property
    def bytes(self) -> int:
        """Of all numbers."""
        return self.dtype.itemsize * int(np.prod(self.shape, dtype=np.int64))


class Packed:
    """Memory for one group of tensors, laid out as their file; `views` are the tensors in it, by name.

    pinned  page-locked, which a GPU writes to faster and without the processor
    """

    def __init__(self, kinds: Mapping[str, Kind], pinned: bool = False):
        self.kinds = dict(kinds)
        order = sorted(kinds, key=lambda name: (RANK[kinds[name].dtype], name))
        self.header = _header({name: kinds[name] for name in order})
        self.blocks: list[Tensor] = []
        self.views: State = {}
        for names in _blocks(order, kinds):
            ends = np.cumsum([kinds[name].bytes for name in names]).tolist()
            block = _memory(ends[-1], pinned)
            for name, begin, end in zip(names, [0, *ends], ends, strict=False):
                self.views[name] = block[begin:end].view(kinds[name].dtype).view(kinds[name].shape)
            self.blocks.append(block)

    @classmethod
    def of(cls, state: Mapping[str, Tensor]) -> Packed:
        """A copy of a state dict of whole tensors."""
        packed = cls(Kind.of(state))
        for name, value in state.items():
            packed.views[name].copy_(value.detach())
        return packed

    @property
    def bytes(self) -> int:
        """Of all tensors."""
        return sum(len(block) for block in self.blocks)

    def pieces(self) -> Iterator[Piece]:
        """The bytes of the file, in its order."""
        yield self.header
        for block in self.blocks:
            memory = memoryview(block.numpy())
            for begin in range(0, len(memory), CHUNK):
                yield memory[begin : begin + CHUNK]


def save_file(tensors: Mapping[str, Tensor] | Packed, file: Path, check: Callable[[], None] = lambda: None) -> dict:
    """Write a group, hash it beside that, and read each piece back: size and SHA-256, for a manifest.

    check  called between pieces; what it raises ends the writing

    Raises OSError where the disk does not take it or gives back something else.
    """
    packed = tensors if isinstance(tensors, Packed) else Packed.of(tensors)
    digest, size, synced = hashlib.sha256(), 0, 0
    held = np.empty(max(CHUNK, len(packed.header)), np.uint8)
    with file.open("wb+", buffering=0) as opened, ThreadPoolExecutor(2) as beside:
        syncing = beside.submit(lambda: None)
        for piece in packed.pieces():
            check()
            hashed = beside.submit(digest.update, piece)
            _write(opened, piece)
            if not _is_written(opened, size, piece, held):
                raise OSError(f"{file.name} is not what was written")
            hashed.result()
            size += len(piece)
            if size - synced >= AHEAD and syncing.done():  # else the disk rests until all is written
                syncing.result()
                syncing, synced = beside.submit(os.fsync, opened.fileno()), size
        syncing.result()
    return {"bytes": size, "sha256": digest.hexdigest()}


def _write(opened: IO[bytes], piece: Piece) -> None:
    left = memoryview(piece)
    while len(left):
        left = left[opened.write(left) :]


def _is_written(opened: IO[bytes], place: int, piece: Piece, held: np.ndarray) -> bool:
    """Whether the file has this piece there; `held` is memory for it."""
    read = os.preadv(opened.fileno(), [held[: len(piece)].data], place)
    return np.array_equal(held[:read], np.frombuffer(piece, np.uint8))


def _header(kinds: Mapping[str, Kind]) -> bytes:
    """The first bytes of a file with these tensors in this order, up to a multiple of 8."""
    facts: dict[str, Any] = {}
    end = 0
    for name, kind in kinds.items():
        begin, end = end, end + kind.bytes
        facts[name] = {"dtype": TYPES[kind.dtype], "shape": list(kind.shape), "data_offsets": [begin, end]}
    text = json.dumps(facts, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _blocks(order: list[str], kinds: Mapping[str, Kind]) -> Iterator[list[str]]:
    """The names in runs that fit into a block each; a tensor larger than one has its own."""
    names, size = [], 0
    for name in order:
        if names and size + kinds[name].bytes > BLOCK:
            yield names
            names, size = [], 0
        names, size = [*names, name], size + kinds[name].bytes
    if names:
        yield names


def _memory(size: int, pinned: bool) -> Tensor:
    """Bytes that the system has really given: the first touch takes longer than a copy."""
    memory = torch.empty(size, dtype=torch.uint8, pin_memory=pinned)
    if not pinned:
        touched = memory.numpy()
        for begin in range(0, size, CHUNK):
            touched[begin : begin + CHUNK] = 0
    return memory
