"""From the bytes of an image file to a tensor, by the rules that published ImageNet numbers assume.

Letters: C channels, H height, W width in pixels.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

from core.data.pixels import opened_image

EIGHT_BIT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
LONG = 16  # an image so many times as long as wide is not enlarged as a whole
BAND_ROWS = 1024
MAX_BYTES = 2**30  # of a file; Pillow refuses more than 179 million pixels
WEIGHT_BITS = 22  # of the fixed-point weights of Pillow's resampling


def decode_image(data: bytes, channels: int) -> Image.Image:
    """PNG, JPEG, WebP or what else Pillow reads -> an 8-bit image of mode "L" (channels 1) or "RGB" (channels 3).

    Transparent pixels, also those of a palette, are laid over white. 16-bit grey is rescaled to 8 bits, CMYK converted
    without its colour profile, RGB made grey by Rec. 601 luma. The EXIF orientation is not applied: ImageNet results,
    from the ADM pipeline on, are for the pixels as they are stored. Of an animation, the first frame is taken.

    Raises ValueError with the reason for bytes that are no whole image, and for 32-bit and float images.
    """
    with opened_image(data) as image:
        image.load()
        rgb = _to_rgb(image)
    return rgb.convert("L") if channels == 1 else rgb


def image_size(data: bytes) -> tuple[int, int]:
    """(W, H) of an image, of which only the header is read; ValueError with the reason for bytes that are none."""
    with opened_image(data) as image:
        return image.size


@contextmanager
def naming(place: str) -> Iterator[None]:
    """What goes wrong with an image says where that is: ValueError for a broken one, OSError for disk or memory."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"broken image {place}: {error}") from error
    except MemoryError as error:
        raise OSError(errno.ENOMEM, "no memory for the image", place) from error


def read_bytes(path: str | Path) -> bytes:
    """All bytes of a file; OSError for one that went away.

    Raises ValueError for a link that leads nowhere, and for a file larger than any image that Pillow opens.
    """
    try:
        with Path(path).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_BYTES:
                raise ValueError(f"{size:,} bytes; image files have {MAX_BYTES:,} at most")
            return file.read()
    except OSError as error:
        if os.path.islink(path) and error.errno in (errno.ENOENT, errno.ELOOP):
            raise ValueError("the link leads nowhere") from error
        raise


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return _in_bands(image, _eight_bits)
    if image.mode not in EIGHT_BIT_MODES:
        raise ValueError(f"pixel format {image.mode!r} has no known range; allowed: 8 bits, or 16-bit grey")
    if image.has_transparency_data:
        return _in_bands(image, _over_white)
    return image if image.mode == "RGB" else image.convert("RGB")


def _in_bands(image: Image.Image, to_rgb: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """What `to_rgb` makes of an image, some rows at a time, so that a large one is not in memory five times."""
    if image.height <= BAND_ROWS:
        return to_rgb(image)
    whole = Image.new("RGB", image.size)
    for top in range(0, image.height, BAND_ROWS):
        band = image.crop((0, top, image.width, min(top + BAND_ROWS, image.height)))
        whole.paste(to_rgb(band), (0, top))
    return whole


def _eight_bits(image: Image.Image) -> Image.Image:
    """16-bit grey; Pillow's own conversion clips at 255."""
    eight_bits = (np.asarray(image).astype(np.uint32) + 128) // 257  # 65535 = 255 * 257, rounded to nearest
    return Image.fromarray(eight_bits.astype(np.uint8)).convert("RGB")


def _over_white(image: Image.Image) -> Image.Image:
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA")).convert("RGB")


def center_crop(image: Image.Image, size: int) -> Image.Image:
    """The central square of an image at `size` pixels, resampled as ADM did, which FID references assume.

    Halve with a box filter while the shorter side is at least twice `size`, bring it to `size` with a bicubic one, cut.
    """
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    width, height = round(image.width * scale), round(image.height * scale)
    if scale > 1 and max(width, height) > LONG * size:
        return _crop_of_long(image, width, height, size)
    return _crop_of_resized(image, width, height, size)


def _crop_of_resized(image: Image.Image, width: int, height: int, size: int) -> Image.Image:
    """The central square of the image resized to (width, height), the columns beside it made by one pass only.

    Of an image that is not taller than wide Pillow's horizontal pass comes first and rounds to bytes, so the passes can
    be asked for one by one and columns cut between them. Its own `box` would begin the kernels at float32 numbers, and
    give other bytes.
    """
    left, top = (width - size) // 2, (height - size) // 2
    if width > height:
        image = image.resize((width, image.height), Image.Resampling.BICUBIC).crop((left, 0, left + size, image.height))
        return image.resize((size, size), Image.Resampling.BICUBIC)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    return image.crop((left, top, left + size, top + size))


def _crop_of_long(image: Image.Image, width: int, height: int, size: int) -> Image.Image:
    """The central square of the image resized to (width, height), of which only that square is made.

    A strip of 60,000 pixels would take gigabytes. The bytes are those that Pillow gives when it enlarges all of it: the
    horizontal pass first, then the vertical one.
    """
    if width > height:
        places, weights = _bicubic_taps(image.width, width, (width - size) // 2, size)
        first, last = int(places.min()), int(places.max()) + 1
        part = rearrange(np.asarray(image.crop((first, 0, last, image.height))), "h w ... -> w h ...")
        part = rearrange(_weighted(part, places - first, weights), "w h ... -> h w ...")
        return Image.fromarray(np.ascontiguousarray(part)).resize((size, height), Image.Resampling.BICUBIC)
    places, weights = _bicubic_taps(image.height, height, (height - size) // 2, size)
    first, last = int(places.min()), int(places.max()) + 1
    part = image.crop((0, first, image.width, last)).resize((width, last - first), Image.Resampling.BICUBIC)
    return Image.fromarray(_weighted(np.asarray(part), places - first, weights))


def _bicubic_taps(length: int, resized: int, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Places (count, K) among `length` pixels, and their weights, of the pixels from `first` on of `resized` ones.

    Keys' kernel with a = -1/2, wider where an image shrinks, its weights in units of 2^-22, as Pillow has it.
    """
    scale = length / resized
    width = max(scale, 1.0)
    centres = (np.arange(first, first + count) + 0.5) * scale
    low = np.maximum((centres - 2 * width + 0.5).astype(np.int64), 0)
    high = np.minimum((centres + 2 * width + 0.5).astype(np.int64), length)
    places = low[:, None] + np.arange((high - low).max())
    x = np.abs((places - centres[:, None] + 0.5) / width)
    near, far = (1.5 * x - 2.5) * x * x + 1, ((5 - x) * x - 8) * x / 2 + 2
    weights = np.where(places < high[:, None], np.where(x < 1, near, np.where(x < 2, far, 0)), 0)
    weights /= weights.sum(1, keepdims=True)
    return np.minimum(places, length - 1), np.rint(weights * 2**WEIGHT_BITS).astype(np.int64)


def _weighted(pixels: np.ndarray, places: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Rows (count, ...) uint8, sums of the rows of `pixels` (length, ...) at `places`, rounded and cut to 0..255."""
    total = np.einsum("ok,ok...->o...", weights, pixels[places].astype(np.int64)) + 2 ** (WEIGHT_BITS - 1)
    return (total >> WEIGHT_BITS).clip(0, 255).astype(np.uint8)


def to_bytes(image: Image.Image) -> Tensor:
    """An image of mode "L" or "RGB" -> (C, H, W) uint8."""
    return torch.from_numpy(np.array(rearrange(np.atleast_3d(np.asarray(image)), "h w c -> c h w"), order="C"))
