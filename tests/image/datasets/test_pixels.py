"""From the file of an image to its pixels: the crop, and every kind of image that collections have."""

import io

import numpy as np
import pytest
from PIL import Image

from core.data.pixels import from_uint8
from image.datasets.decode import center_crop, decode_image, to_bytes
from tests.image.pictures import SIZE, bytes_of, decoded, encoded, picture

# crop


@pytest.mark.parametrize(("height", "width"), [(96, 64), (64, 96), (67, 64), (500, 131), (33, 200), (8, 12)])
def test_crop_keeps_the_centre(height, width):
    rows, columns = np.mgrid[:height, :width]
    distance = np.hypot((rows - (height - 1) / 2), (columns - (width - 1) / 2)) / min(height, width)
    disc = Image.fromarray(np.where(distance < 0.25, 255, 0).astype(np.uint8))
    cropped = np.asarray(center_crop(disc, 32), dtype=np.float64)
    assert cropped.shape == (32, 32)
    centre = [(cropped * axis).sum() / cropped.sum() for axis in np.mgrid[:32, :32]]
    assert np.abs(np.array(centre) - 15.5).max() <= 0.75  # an odd margin leaves half a pixel
    assert cropped.sum() / 255 == pytest.approx(np.pi * (0.25 * 32) ** 2, rel=0.15)


def test_crop_cuts_the_longer_side_only():
    image = np.zeros((SIZE, 3 * SIZE, 3), dtype=np.uint8)
    image[:, SIZE : 2 * SIZE] = picture()
    assert np.array_equal(np.asarray(center_crop(Image.fromarray(image), SIZE)), picture())


def test_crop_halves_with_a_box():
    fine = picture(4 * SIZE, 4 * SIZE)[..., 0]
    half = np.rint(fine.reshape(2 * SIZE, 2, 2 * SIZE, 2).mean((1, 3)))
    quarter = half.reshape(SIZE, 2, SIZE, 2).mean((1, 3))
    assert np.abs(np.asarray(center_crop(Image.fromarray(fine), SIZE)) - quarter).max() <= 2  # rounded up to four times
    bicubic = np.asarray(Image.fromarray(fine).resize((SIZE, SIZE), Image.Resampling.BICUBIC), dtype=np.float64)
    assert np.abs(bicubic - quarter).max() > 10  # the other way to shrink is another image


def test_crop_is_bicubic_below_twice_the_size():
    image = Image.fromarray(picture(31, 31))
    expected = image.resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    assert np.array_equal(np.asarray(center_crop(image, SIZE)), np.asarray(expected))


def test_pixels_keep_every_grey_level():
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    media = from_uint8(to_bytes(Image.fromarray(levels)))
    assert media.shape == (1, 16, 16) and media.min() == -1 and media.max() == 1
    assert np.array_equal(bytes_of(media)[..., 0], levels)


# kinds of images


def test_grey_becomes_three_equal_channels():
    grey = picture()[..., 0]
    assert np.array_equal(decoded(encoded(grey)), np.repeat(grey[..., None], 3, axis=2))
    assert np.array_equal(decoded(encoded(grey), channels=1)[..., 0], grey)


def test_bilevel():
    bits = picture()[..., 0] > 127
    assert np.array_equal(decoded(encoded(Image.fromarray(bits)))[..., 1], bits * np.uint8(255))


def test_palette_shows_its_colours():
    image = Image.fromarray(picture()).quantize(16)
    data = encoded(image)
    assert Image.open(io.BytesIO(data)).mode == "P"
    assert np.array_equal(decoded(data), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("transparency", [3, bytes([255, 255, 255, 0])])
def test_transparent_palette_entry_is_white(transparency):
    indices = np.arange(SIZE * SIZE, dtype=np.uint8).reshape(SIZE, SIZE) % 8
    image = Image.frombytes("P", (SIZE, SIZE), indices.tobytes())
    palette = np.arange(24, dtype=np.uint8).reshape(8, 3) * 10
    image.putpalette(palette.tobytes())
    expected = palette.copy()
    expected[3] = 255
    assert np.array_equal(decoded(encoded(image, transparency=transparency)), expected[indices])


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_alpha_is_laid_over_white(kind):
    rgba = np.dstack([picture(), picture(seed=1)[..., 0]])
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    alpha = rgba[..., 3:] / 255
    expected = rgba[..., :3] * alpha + 255 * (1 - alpha)
    assert np.abs(decoded(encoded(rgba, kind, **options)) - expected).max() <= 1


def test_grey_with_alpha_is_laid_over_white():
    grey_alpha = np.dstack([np.zeros((SIZE, SIZE), np.uint8), np.arange(256, dtype=np.uint8).reshape(SIZE, SIZE)])
    data = encoded(Image.fromarray(grey_alpha, "LA"))
    assert Image.open(io.BytesIO(data)).mode == "LA"
    expected = np.arange(255, -1, -1).reshape(SIZE, SIZE)
    assert np.array_equal(decoded(data, channels=1)[..., 0], expected)


@pytest.mark.parametrize(("mode", "key"), [("L", 0), ("RGB", (0, 0, 0))])
def test_transparent_colour_key_is_white(mode, key):
    image = Image.new(mode, (SIZE, SIZE), 200 if mode == "L" else (200, 200, 200))
    image.paste(key, (0, 0, 4, 4))
    array = decoded(encoded(image, transparency=key))
    assert (array[:4, :4] == 255).all() and (array[4:] == 200).all()


def test_cmyk_jpeg_has_the_right_colours():
    red = Image.new("RGB", (SIZE, SIZE), (200, 40, 90)).convert("CMYK")
    data = encoded(red, "JPEG", quality=95)
    assert Image.open(io.BytesIO(data)).mode == "CMYK"
    assert np.abs(decoded(data).astype(int) - [200, 40, 90]).max() <= 3


def test_sixteen_bit_grey_is_rescaled_not_clipped():
    values = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    data = encoded(values)
    assert Image.open(io.BytesIO(data)).mode == "I;16"
    array = decoded(data)
    assert np.array_equal(array[..., 0], np.rint(values / 257)) and np.array_equal(array[..., 0], array[..., 2])
    assert (array.min(), array.max()) == (0, 255)


def test_exif_orientation_is_not_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # a viewer would turn it by a quarter
    array = picture(SIZE, 2 * SIZE)
    assert np.array_equal(decoded(encoded(array, exif=exif)), array)


def test_float_images_have_no_known_range():
    with pytest.raises(ValueError, match="pixel format 'F'"):
        decode_image(encoded(np.ones((4, 4), np.float32), "TIFF"), 3)
