"""From the bytes of an image file to a tensor, by the rules that published ImageNet numbers assume.

Letters: C channels, H height, W width in pixels.
"""

from __future__ import annotations

import io
import struct

import numpy as np
import torch
from einops import rearrange
from PIL import Image, UnidentifiedImageError
from torch import Tensor

EIGHT_BIT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
# What Pillow raises for bytes that are no image, or only the beginning of one.
DECODE_ERRORS = (OSError, ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError)


def decode_image(data: bytes, channels: int) -> Image.Image:
    """PNG, JPEG, WebP or what else Pillow reads -> an 8-bit image of mode "L" (channels 1) or "RGB" (channels 3).

    Transparent pixels, also those of a palette, are laid over white. 16-bit grey is rescaled to 8 bits, CMYK converted
    without its colour profile, RGB made grey by Rec. 601 luma. The EXIF orientation is not applied: ImageNet results,
    from the ADM pipeline on, are for the pixels as they are stored. Of an animation, the first frame is taken.

    Raises ValueError with the reason for bytes that are no whole image, and for 32-bit and float images.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            rgb = _to_rgb(image)
    except UnidentifiedImageError:  # whose own message is the address of a buffer
        raise ValueError(f"no image format that Pillow knows, in {len(data)} bytes") from None
    except DECODE_ERRORS as error:
        raise ValueError(str(error) or type(error).__name__) from error
    return rgb.convert("L") if channels == 1 else rgb


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):  # Pillow's own conversion clips at 255
        eight_bits = (np.asarray(image).astype(np.uint32) + 128) // 257  # 65535 = 255 * 257, rounded to nearest
        return Image.fromarray(eight_bits.astype(np.uint8)).convert("RGB")
    if image.mode not in EIGHT_BIT_MODES:
        raise ValueError(f"pixel format {image.mode!r} has no known range; allowed: 8 bits, or 16-bit grey")
    if image.has_transparency_data:
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def center_crop(image: Image.Image, size: int) -> Image.Image:
    """The central square of an image at `size` pixels, resampled as ADM did, which FID references assume.

    Halve with a box filter while the shorter side is at least twice `size`, bring it to `size` with a bicubic one, cut.
    """
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def to_media(image: Image.Image) -> Tensor:
    """An image of mode "L" or "RGB" -> (C, H, W) float32 in [-1, 1]."""
    array = np.atleast_3d(np.asarray(image, dtype=np.float32)) / np.float32(127.5) - 1
    return torch.from_numpy(np.ascontiguousarray(rearrange(array, "h w c -> c h w")))
