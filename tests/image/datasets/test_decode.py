"""Decoding: long images in little memory and to the same bytes, and what Pillow raises for damaged files."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from core.data.pixels import from_uint8
from image.datasets import decode
from image.datasets.decode import center_crop, decode_image, image_size, naming, to_bytes
from tests.rows import every_row

BICUBIC, BOX = Image.Resampling.BICUBIC, Image.Resampling.BOX


def noise(*shape, seed=0):
    """Bytes of that shape."""
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encoded(array, kind="PNG", **options):
    """An array as the bytes of a file."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind, **options)
    return buffer.getvalue()


def resized_as_a_whole(image, size):
    """The crop of ADM, step by step."""
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def test_a_crop_of_a_long_image_has_the_bytes_of_the_image_resized_as_a_whole(monkeypatch):
    monkeypatch.setattr(decode, "LONG", 1)  # so that short ones, of which there are more, go the way of long ones
    rng, enlarged = np.random.default_rng(0), 0
    for trial in range(400):
        short, size = rng.integers(1, 60), int(rng.integers(1, 64))
        sides = (short, rng.integers(short, 40 * short + 2))
        image = Image.fromarray(noise(*sides[:: 1 - 2 * (trial % 2)], *[3] * (trial % 3 > 0), seed=trial))
        cropped, whole = center_crop(image, size), resized_as_a_whole(image, size)
        assert cropped.mode == whole.mode and cropped.size == (size, size)
        assert np.array_equal(np.asarray(cropped), np.asarray(whole)), (image.size, image.mode, size)
        enlarged += short < size
    assert enlarged > 100


def test_the_kept_box_has_the_bytes_of_the_image_resized_as_a_whole():
    rng, cut = np.random.default_rng(1), 0
    sides = [(500, 375, 256), (375, 500, 256), (1024, 769, 256), (333, 1000, 128), (40, 40, 64), (64, 64, 64)]
    sides += [(*rng.integers(8, 220, 2).tolist(), int(rng.integers(4, 130))) for _ in range(300)]
    for trial, (width, height, size) in enumerate(sides):
        image = Image.fromarray(noise(height, width, *[3] * (trial % 3 > 0), seed=trial))
        cropped, whole = center_crop(image, size), resized_as_a_whole(image, size)
        assert cropped.mode == whole.mode
        assert np.array_equal(np.asarray(cropped), np.asarray(whole)), (image.size, image.mode, size)
        cut += width > height
    assert cut > 100


MODES = {
    **{mode: "PNG" for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")},
    **{"CMYK": "JPEG", "YCbCr": "JPEG", "grey JPEG": "JPEG"},
}


def test_a_file_of_any_mode_has_the_floats_of_the_old_way():
    """Decoded, resized as a whole, divided by 127.5 on the way: what training saw before bytes were handed on."""
    rng = np.random.default_rng(2)
    for trial, (mode, kind) in enumerate(MODES.items()):
        for side in ((90, 60), (60, 90), (131, 70)):
            if mode == "I;16":
                image = Image.fromarray(rng.integers(0, 2**16, side, dtype=np.uint16))
            else:
                image = Image.fromarray(noise(*side, 3, seed=trial)).convert("L" if mode == "grey JPEG" else mode)
            buffer = io.BytesIO()
            image.save(buffer, kind)
            for channels in (1, 3):
                whole = np.atleast_3d(resized_as_a_whole(decode_image(buffer.getvalue(), channels), 32))
                wanted = torch.as_tensor(whole.transpose(2, 0, 1).copy()).float() / 127.5 - 1
                found = to_bytes(center_crop(decode_image(buffer.getvalue(), channels), 32))
                assert found.dtype == torch.uint8 and torch.equal(from_uint8(found), wanted), (mode, side, channels)


@every_row("sides", [(60_000, 1), (1, 60_000), (20_000, 2), (2, 20_000), (3, 1_000_000), (255, 30_000)])
def test_a_long_image_is_never_resized_as_a_whole(sides):
    image, largest, resize = Image.fromarray(noise(sides[1], sides[0], 3)), [], Image.Image.resize
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image.Image, "resize", lambda self, size, *how: largest.append(size) or resize(self, size, *how))
        assert center_crop(image, 256).size == (256, 256)
    assert max(width * height for width, height in largest) <= 256 * 600


def test_a_strip_has_the_bytes_of_its_enlarged_centre():
    """Rows of one colour stay so, and the colours of a ramp change by a known step: a closed form for 1 x 60,000."""
    ramp = (np.arange(60_000) // 400).astype(np.uint8)[None]
    cropped = np.asarray(center_crop(Image.fromarray(ramp), 256))
    assert (cropped == cropped[:1]).all()
    assert set(cropped[0].tolist()) <= {int(ramp[0, 29_998]), int(ramp[0, 30_001])}


def test_large_images_are_converted_in_bands_to_the_same_bytes(monkeypatch):
    sixteen_bits = noise(45, 7, 2).view(np.uint16)[..., 0]
    colour_key = encoded(noise(45, 7, 3), transparency=(3, 2, 1))
    palette = io.BytesIO()
    Image.fromarray(noise(45, 7, 3)).quantize(9).save(palette, "PNG", transparency=bytes(range(0, 250, 30)))
    files = [encoded(noise(45, 7, 4)), encoded(noise(45, 7, 2)), encoded(sixteen_bits), colour_key, palette.getvalue()]
    whole = [np.asarray(decode_image(data, 3)) for data in files]
    monkeypatch.setattr(decode, "BAND_ROWS", 8)
    for data, expected in zip(files, whole, strict=True):
        assert np.array_equal(np.asarray(decode_image(data, 3)), expected)


def without_palette():
    """A PNG that says its pixels are places in a palette, and has none."""

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 2, 8, 3, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(6))) + chunk(b"IEND", b"")


def test_a_palette_image_without_its_palette_is_broken():
    with pytest.raises(ValueError, match=r"\w"):
        decode_image(without_palette(), 3)


def test_a_bomb_is_broken():
    data = bytearray(encoded(noise(2, 2)))
    data[16:24] = struct.pack(">II", 30_000, 30_000)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    with pytest.raises(ValueError, match="decompression bomb"):
        image_size(bytes(data))


def test_a_program_that_draws_is_not_run():
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\nshowpage\n"
    with pytest.raises(ValueError, match="EPS is a program"):
        decode_image(eps, 3)


FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "TGA", "ICO", "PCX", "SGI", "DDS", "JPEG2000", "AVIF")


def test_damage_in_any_format_is_a_value_error():
    """Bytes changed, cut, put in, left out; checksums of PNG mended, so that the damage is looked at."""
    rng, refused = np.random.default_rng(1), 0
    Image.init()
    originals = [encoded(noise(9, 7, 3), kind) for kind in FORMATS if kind in Image.SAVE]
    originals += [encoded(noise(9, 7), "PNG"), without_palette(), encoded(noise(9, 7, 4), "DDS")]
    for trial in range(3000):
        data = bytearray(originals[trial % len(originals)])
        for _ in range(rng.integers(1, 4)):
            place = rng.integers(len(data) if rng.random() < 0.5 else min(40, len(data)))
            data[place : place + rng.integers(2)] = bytes(rng.integers(0, 256, rng.integers(1, 3), dtype=np.uint8))
        try:
            with warnings.catch_warnings(action="ignore"):
                small = max(image_size(bytes(data))) < 2000
                decode_image(bytes(data), 3) if small else None
        except ValueError:
            refused += 1
    assert refused > 1000


def test_what_the_machine_lacks_is_not_the_file_s_fault():
    with pytest.raises(OSError, match=r"no memory for the image: 'a\.png'"), naming("a.png"):
        raise MemoryError
    with pytest.raises(FileNotFoundError), naming("a.png"):
        raise FileNotFoundError(2, "No such file", "a.png")
    with pytest.raises(ValueError, match=r"broken image a\.png: cut off"), naming("a.png"):
        raise ValueError("cut off")
