"""Folders of class folders: labels, mirrors, broken files, and roots that are none."""

import logging
import pickle

import numpy as np
import pytest
import torch

from core.data.pixels import from_uint8
from core.draws import numpy_rng
from image.datasets.decode import decode_image
from image.datasets.digits import DigitsConfig
from image.datasets.files import FolderConfig, ParquetConfig
from tests.image.pictures import BROKEN, SIZE, bytes_of, encoded, folder, picture, write


def test_folder_labels_follow_sorted_folders_and_files(two_classes):
    data = folder(two_classes)
    assert data.class_names == ["cat", "dog"]
    assert data.labels.tolist() == [0, 0, 0, 1, 1] and data.labels.dtype == torch.int64
    assert len(data) == 5 and data.media_shape == (3, SIZE, SIZE) and data.num_broken == 0
    assert np.array_equal(bytes_of(data.pixels(1)), picture(seed=1))  # cat/b.png
    assert np.array_equal(bytes_of(data.pixels(2)), picture(seed=3))  # cat/more/deep/c.WebP, lossless
    for index in range(5):
        media = data.item(index, numpy_rng(0))["media"]
        assert media.shape == data.media_shape and media.dtype == torch.float32 and media.is_contiguous()
        assert media.min() >= -1 and media.max() <= 1


def test_folder_takes_linked_folders_and_odd_names(two_classes, tmp_path_factory):
    root = tmp_path_factory.mktemp("linked [set] é")
    (root / "cat").symlink_to(two_classes / "cat")
    write(root / "ü #1" / "ä [0] 100%.png", encoded(picture(seed=9)))
    (root / "ü #1" / "ö").symlink_to(two_classes / "dog")
    data = folder(root)
    assert data.class_names == ["cat", "ü #1"] and data.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert np.array_equal(bytes_of(data.pixels(3)), picture(seed=9))


def test_samples_are_named_by_where_they_are(two_classes):
    assert folder(two_classes).name(1) == str(two_classes / "cat" / "b.png")
    assert DigitsConfig(split="heldout").build().name(17) == "digit 17 of heldout"


def test_data_set_travels_to_a_worker(two_classes):
    data = folder(two_classes)
    copy = pickle.loads(pickle.dumps(data))
    assert torch.equal(copy.pixels(4), data.pixels(4))


@pytest.mark.parametrize("channels", [1, 3])
def test_channels(two_classes, channels):
    data = folder(two_classes, channels=channels)
    assert data.media_shape == data.pixels(0).shape == (channels, SIZE, SIZE)
    luma = picture(seed=1) @ np.array([0.299, 0.587, 0.114])
    if channels == 1:
        assert np.abs(bytes_of(data.pixels(1))[..., 0] - luma).max() <= 1


# flip


def test_flip_is_the_exact_mirror_half_of_the_time(two_classes):
    data = folder(two_classes, flip=True)
    plain_pixels, mirrored = data.pixels(1), data.pixels(1, mirror=True)
    assert torch.equal(mirrored, plain_pixels.flip(-1)) and not torch.equal(mirrored, plain_pixels)
    draws = [data.item(1, numpy_rng("flip", seed))["media"] for seed in range(200)]
    flips = sum(torch.equal(media, mirrored) for media in draws)
    assert flips + sum(torch.equal(media, plain_pixels) for media in draws) == 200
    assert 70 < flips < 130  # 4.2 standard deviations of a fair coin


def test_flip_comes_from_the_generator_alone(two_classes):
    data = folder(two_classes, flip=True)
    first = [data.item(index, numpy_rng(7, index))["media"] for index in range(5)]
    np.random.seed(1)
    torch.manual_seed(1)
    assert all(torch.equal(data.item(index, numpy_rng(7, index))["media"], first[index]) for index in (4, 2, 0, 1, 3))


def test_without_flip_nothing_is_drawn(two_classes):
    rng, untouched = numpy_rng(3), numpy_rng(3)
    data = folder(two_classes)
    assert torch.equal(data.item(1, rng)["media"], data.pixels(1))
    stored = data.stored(1, rng)
    assert stored["media"].dtype == torch.uint8 and torch.equal(from_uint8(stored["media"]), data.pixels(1))
    assert rng.random() == untouched.random()


# broken files


@pytest.mark.parametrize("name", BROKEN)
def test_broken_file_is_an_error_that_names_it(two_classes, name):
    path = write(two_classes / "cat" / name, BROKEN[name])
    data = folder(two_classes)
    assert len(data) == 6
    (index,) = data.find_broken()
    with pytest.raises(ValueError) as caught:
        data.item(index, numpy_rng(0))
    assert str(path) in str(caught.value) and f"index {index}" in str(caught.value)
    assert "0x" not in str(caught.value)


def test_damaged_bytes_never_raise_anything_but_value_error():
    rng = np.random.default_rng(0)
    originals = [encoded(picture(), kind) for kind in ("PNG", "JPEG", "WEBP")]
    refused = 0
    for trial in range(600):
        data = bytearray(originals[trial % 3])
        for _ in range(rng.integers(1, 5)):
            data[rng.integers(len(data))] = rng.integers(256)
        try:
            decode_image(bytes(data[: rng.integers(1, len(data) + 1)]), 3)
        except ValueError:
            refused += 1
    assert refused > 300


def test_allowed_broken_files_are_counted_logged_and_left_out(two_classes, caplog):
    sound = [folder(two_classes).pixels(index) for index in range(5)]
    paths = [
        write(two_classes / label / f"a{name}", BROKEN[name])
        for label, name in zip(["cat", "dog"], BROKEN, strict=False)
    ]
    with caplog.at_level(logging.WARNING, logger="image.data"):
        data = folder(two_classes, max_broken=2)
    assert len(data) == 5 and data.num_broken == 2 and data.labels.tolist() == [0, 0, 0, 1, 1]
    assert all(torch.equal(data.pixels(index), sound[index]) for index in range(5))
    for path in paths:
        assert sum(str(path) in record.getMessage() for record in caplog.records) == 1
    caplog.clear()
    for index in range(5):
        data.item(index, numpy_rng(0))
    assert not caplog.records


def test_more_broken_files_than_allowed_is_an_error(two_classes):
    paths = [write(two_classes / "cat" / name, data) for name, data in BROKEN.items()]
    with pytest.raises(ValueError, match=r"broken images: 5, data\.max_broken is 4") as caught:
        folder(two_classes, max_broken=4)
    assert all(str(path) in str(caught.value) for path in paths)


def test_a_class_that_would_vanish_is_an_error(two_classes):
    write(two_classes / "emu" / "only.png", BROKEN["text.png"])
    with pytest.raises(ValueError, match=r"every image is broken .*only.png.* in the classes \['emu'\]"):
        folder(two_classes, max_broken=3)


def test_a_file_that_went_away_is_not_a_broken_image(two_classes):
    data = folder(two_classes)
    (two_classes / "cat" / "a.JPEG").unlink()
    with pytest.raises(FileNotFoundError, match=r"a\.JPEG"):
        data.find_broken()


# roots


def test_missing_root_is_named(tmp_path):
    for config in (FolderConfig(root=str(tmp_path / "no")), ParquetConfig(root=str(tmp_path / "no"))):
        with pytest.raises(ValueError, match=r"data\.root is '.*no', which is not there"):
            config.build()
    file = write(tmp_path / "file", b"")
    with pytest.raises(ValueError, match=r"data\.root is '.*file', which is not a folder"):
        folder(file)


def test_root_without_class_folders(tmp_path):
    write(tmp_path / "loose.png", encoded(picture()))
    with pytest.raises(ValueError, match=r"data\.root is .* one folder per class"):
        folder(tmp_path)


def test_class_without_images_says_which_suffixes_count(two_classes):
    write(two_classes / "eel" / "scan.tiff", b"II*")
    with pytest.raises(ValueError, match=r"data\.root is .*\.jpeg, \.jpg, \.png, \.webp.*'eel'"):
        folder(two_classes)
