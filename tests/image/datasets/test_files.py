"""Which image files are trained on and measured: the same ones, however folders are linked, and never a pipe."""

import os

import numpy as np
import pytest
from PIL import Image

from image import media
from image.datasets.files import FolderConfig
from image.media import open_images
from tests.image.datasets.test_decode import without_palette
from tests.rows import every_row

SIDE = 4


def picture(path, seed=0, side=SIDE):
    """A file of noise, its folders made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)).save(path)
    return path


def trained(root, **options):
    """The data set of class folders."""
    return FolderConfig(str(root), SIDE, flip=False, **options).build()


@pytest.fixture
def root(tmp_path):
    """A folder of two classes, of three and two images."""
    return two_classes(tmp_path / "root")


def two_classes(root):
    """Three cats and two dogs."""
    for number in range(5):
        picture(root / ("cat" if number < 3 else "dog") / f"{number % 3}.png", number)
    return root


def paths_of(dataset):
    """Of all rows."""
    return [dataset.name(row) for row in range(len(dataset))]


def linked_classes(root, elsewhere):
    for number in range(3):
        picture(elsewhere / "eel" / f"{number}.png", 9 + number)
    (root / "eel").symlink_to(elsewhere / "eel")
    (root / "dog" / "more").symlink_to(elsewhere / "eel")  # which are eels
    return 8


def folder_called_as_an_image(root, elsewhere):
    picture(root / "cat" / "y.png" / "in.png")
    return 6


def links_to_where_they_are(root, elsewhere):
    for place, target in (("cat/self", "."), ("cat/up", ".."), ("back", "."), ("around", "..")):
        (root / place).symlink_to(target)
    return 5


def pipes(root, elsewhere):
    os.mkfifo(root / "dog" / "pipe.png")
    (root / "dog" / "zero.jpg").symlink_to("/dev/zero")
    return 5


@every_row("odd", [linked_classes, folder_called_as_an_image, pipes, links_to_where_they_are])
def test_training_and_evaluation_find_the_same_files(tmp_path_factory, odd):
    place = tmp_path_factory.mktemp(odd.__name__)
    root = two_classes(place / "root")
    found = odd(root, place / "elsewhere")
    dataset, images = trained(root), open_images(root, "reference")
    assert len(dataset) == len(images) == found
    assert paths_of(dataset) == list(map(str, images.paths))
    assert images.rows(0, found).shape == (found, 3, SIDE, SIDE)


def test_a_link_that_leads_nowhere_is_a_broken_image(root):
    (root / "cat" / "lost.png").symlink_to("gone.png")
    (root / "cat" / "circle.png").symlink_to("circle.png")
    data = trained(root)
    with pytest.raises(ValueError, match=r"broken image .*circle\.png \(index 3\): the link leads nowhere"):
        data.pixels(3)
    assert trained(root, max_broken=2).num_broken == 2
    with pytest.raises(ValueError, match=r"broken image .*cat/circle\.png: the link leads nowhere"):
        open_images(root, "samples").rows(0, 7)


def test_a_file_larger_than_any_image_is_not_read(root):
    picture(root / "cat" / "3.png")
    os.truncate(root / "cat" / "3.png", 2**33)
    assert trained(root, max_broken=1).num_broken == 1
    with pytest.raises(ValueError, match=r"broken image .*3\.png: 8,589,934,592 bytes; image files have"):
        open_images(root, "samples").rows(0, 4)


def test_a_palette_image_without_its_palette_is_counted(root):
    (root / "cat" / "n.png").write_bytes(without_palette())
    assert trained(root, max_broken=3).num_broken == 1
    with pytest.raises(ValueError, match=r"broken image .*n\.png \(index 3\): damaged"):
        trained(root).pixels(3)


def test_images_of_other_kinds_are_told(root, caplog):
    (root / "dog" / "moving.gif").write_bytes(b"GIF89a")
    trained(root)
    assert f"left out in {root}: 1 .gif; read are .jpeg, .jpg, .png, .webp" in caplog.messages


def test_images_of_another_size_and_huge_ones_are_refused_before_they_are_decoded(root, monkeypatch):
    picture(root / "dog" / "9.png", side=SIDE + 1)
    monkeypatch.setattr(media, "decode_image", lambda *_: pytest.fail("decoded"))
    with pytest.raises(ValueError, match=r"9\.png is 5x5 pixels, 0\.png is 4x4; all must be alike"):
        open_images(root, "samples").rows(5, 6)
    monkeypatch.setattr(media, "MAX_PIXELS", SIDE * SIDE - 1)
    with pytest.raises(ValueError, match=r"0\.png is 4x4 pixels; images to be measured have 15 at most"):
        open_images(root, "samples").rows(0, 1)
