"""The grid a person looks at: where each sample stands, how large, in which bytes."""

import numpy as np
import pytest
import torch
from PIL import Image

from core.data.pixels import to_uint8
from image.preview import MIN_TILE, ImagePreview, grid, to_images


def flat(values, channels=1, side=8):
    """Images (B, C, side, side), each of one value."""
    return torch.tensor(values).reshape(-1, 1, 1, 1).expand(-1, channels, side, side)


def saved(tmp_path, media, labels):
    file = ImagePreview().save(media, torch.tensor(labels), tmp_path / "step_00000010")
    assert file == tmp_path / "step_00000010.png"
    assert [each.name for each in tmp_path.iterdir()] == [file.name]
    with Image.open(file) as picture:
        picture.load()
        return picture


def tiles(picture, rows, columns):
    """The value in the middle of every tile, (rows, columns)."""
    pixels = np.asarray(picture)
    height, width = pixels.shape[0] // rows, pixels.shape[1] // columns
    assert (height * rows, width * columns) == pixels.shape[:2]
    return pixels[height // 2 :: height, width // 2 :: width]


def test_samples_stand_row_by_row(tmp_path):
    values = [-1 + 0.25 * i for i in range(6)]
    picture = grid(flat(values), columns=3)
    assert tiles(picture, 2, 3).tolist() == to_uint8(torch.tensor(values)).reshape(2, 3).tolist()


@pytest.mark.parametrize(
    ("labels", "rows", "columns"),
    [
        (list(range(4)) * 3, 3, 4),  # balanced labels: a class in each column
        ([3] * 9, 3, 3),
        ([3] * 8, 3, 3),
        (list(range(30)), 6, 5),  # too many classes for columns
        ([5], 1, 1),
        ([0, 1], 1, 2),
    ],
)
def test_the_columns_are_classes_where_they_can_be(tmp_path, labels, rows, columns):
    values = [-label / 30 for label in labels]
    shown = tiles(saved(tmp_path, flat(values), labels), rows, columns).flatten().tolist()
    wanted = to_uint8(torch.tensor(values)).tolist()
    assert shown == wanted + [255] * (rows * columns - len(labels))
    if len(set(labels)) == columns:
        assert all(len(set(shown[i::columns])) == 1 for i in range(columns))


@pytest.mark.parametrize(("side", "factor"), [(8, 6), (32, 2), (48, 1), (47, 2), (64, 1)])
def test_small_images_are_enlarged_by_a_whole_factor(side, factor):
    image = torch.rand(1, 1, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    pixels = np.asarray(grid(image, 1))
    gap = (len(pixels) - factor * side) // 2
    assert gap > 0
    inner = pixels[gap:-gap, gap:-gap]
    assert len(inner) >= MIN_TILE
    assert np.array_equal(inner, np.kron(to_uint8(image)[0, 0].numpy(), np.ones((factor, factor), dtype=np.uint8)))
    assert (pixels[0] == 255).all()


def test_colours_keep_their_channels(tmp_path):
    red = torch.tensor([1.0, -1.0, -1.0]).reshape(1, 3, 1, 1).expand(1, 3, 8, 8)
    picture = saved(tmp_path, red, [0])
    assert picture.mode == "RGB"
    assert picture.getpixel((picture.width // 2, picture.height // 2)) == (255, 0, 0)


def test_images_that_are_not_square(tmp_path):
    media = torch.linspace(-1, 1, 8).reshape(1, 1, 1, 8).expand(2, 1, 4, 8)
    picture = saved(tmp_path, media, [0, 1])
    assert picture.width > 2 * picture.height


def test_single_images_have_the_bytes_of_the_rule():
    media = torch.rand(2, 3, 5, 7, generator=torch.Generator().manual_seed(0)) * 2.4 - 1.2
    for picture, wanted in zip(to_images(media), to_uint8(media), strict=True):
        assert (picture.mode, picture.size) == ("RGB", (7, 5))
        assert np.array_equal(np.asarray(picture), wanted.permute(1, 2, 0).numpy())
    assert to_images(media[:, :1])[0].mode == "L"


def test_a_name_with_a_dot_keeps_it(tmp_path):
    assert ImagePreview().save(flat([0.0]), torch.tensor([0]), tmp_path / "step_1.5").name == "step_1.5.png"
