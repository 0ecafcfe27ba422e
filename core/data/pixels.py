"""The one rule from numbers in [-1, 1] to bytes, and the one way to open the bytes of an image file."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL import Image

UINT8_RULE = "uint8: 127.5 x + 128, cut to 0..255, truncated"  # what `to_uint8` does, for a protocol
RUNS_A_PROGRAM = "EPS"  # which Pillow has Ghostscript draw
# What Pillow's decoders raise for bytes that are no image, only the beginning of one, or damaged.
DECODE_ERRORS = (
    *(OSError, EOFError, ValueError, SyntaxError, LookupError, TypeError, AttributeError, AssertionError),
    *(ArithmeticError, RuntimeError, struct.error, zlib.error),
)


def to_uint8(media: Tensor) -> Tensor:
    """Media in [-1, 1] as uint8: clamp(127.5 x + 128, 0, 255), truncated: the rule of published SiT and ADM numbers."""
    return (127.5 * media.float() + 128.0).clamp(0, 255).to(torch.uint8)


def from_uint8(pixels: np.ndarray | Tensor) -> Tensor:
    """Bytes as float32 in [-1, 1], x / 127.5 - 1; `to_uint8` gives the same bytes back.

    The divisor is a tensor: by a number a GPU multiplies with the reciprocal, whose last bit is another.
    """
    values = torch.as_tensor(pixels).float()
    return values / torch.full((), 127.5, device=values.device) - 1


@contextmanager
def opened_image(data: bytes) -> Iterator[Image.Image]:
    """The image in the bytes of a file, of which the header is read; its pixels are, where they are asked for within.

    Raises ValueError with the reason for bytes that are no image, or a damaged one.
    """
    from PIL import Image, UnidentifiedImageError  # which most of what core serves has no use for

    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.format == RUNS_A_PROGRAM:
                raise ValueError(f"{RUNS_A_PROGRAM} is a program that draws, not an image")
            yield image
    except UnidentifiedImageError:  # whose own message is the address of a buffer
        raise ValueError(f"no image format that Pillow knows, in {len(data)} bytes") from None
    except (*DECODE_ERRORS, Image.DecompressionBombError) as error:
        raise ValueError(str(error) or f"damaged ({type(error).__name__})") from error
