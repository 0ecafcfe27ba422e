"""Folders of pictures that several files of tests share."""

import pytest

from tests.image.pictures import encoded, picture, write


@pytest.fixture
def two_classes(tmp_path):
    """Three cats (one nested) and two dogs in three formats, with files that are no images."""
    write(tmp_path / "cat" / "b.png", encoded(picture(seed=1)))
    write(tmp_path / "cat" / "a.JPEG", encoded(picture(seed=2), "JPEG"))
    write(tmp_path / "cat" / "more" / "deep" / "c.WebP", encoded(picture(seed=3), "WEBP", lossless=True))
    write(tmp_path / "dog" / "n02_1.jpg", encoded(picture(40, 24, seed=4), "JPEG"))
    write(tmp_path / "dog" / "n02_2.PNG", encoded(picture(24, 40, seed=5)))
    write(tmp_path / "dog" / "notes.txt", b"not an image")
    write(tmp_path / "dog" / "._n02_1.jpg", b"what a mac leaves behind")
    write(tmp_path / ".cache" / "x.png", b"hidden")
    write(tmp_path / "LICENSE", b"free")
    return tmp_path
