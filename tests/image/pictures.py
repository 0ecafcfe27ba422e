"""Small pictures as files, whole and broken, and data sets of them."""

import io

import numpy as np
import torch
from PIL import Image

from image.datasets.decode import decode_image
from image.datasets.files import FolderConfig

SIZE = 16


def picture(height=SIZE, width=SIZE, seed=0):
    """Noise of 8 bits, (H, W, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(image, kind="PNG", **options):
    """An array or a Pillow image as the bytes of a file."""
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def write(path, data):
    """Bytes into a file, its folders made; returns the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def folder(root, **options):
    """The data set of a folder of class folders."""
    return FolderConfig(root=str(root), **{"size": SIZE, "flip": False, **options}).build()


def bytes_of(media):
    """(C, H, W) in [-1, 1] -> (H, W, C) uint8."""
    return (media * 127.5 + 128).clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()


def decoded(data, channels=3):
    """(H, W, C) uint8 of an encoded image."""
    return np.atleast_3d(np.asarray(decode_image(data, channels)))


def truncated_jpeg():
    """The first half of a file."""
    data = encoded(picture(64, 64), "JPEG", quality=95)
    return data[: len(data) // 2]


BROKEN = {
    "cut.jpg": truncated_jpeg(),
    "cut.png": encoded(picture(64, 64))[:3000],
    "cut.webp": encoded(picture(64, 64), "WEBP")[:500],
    "text.png": b"<html>404 Not Found</html>",
    "empty.png": b"",
}
