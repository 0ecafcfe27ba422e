"""Image data sets on real files, in the formats and with the damage that real collections have."""

import dataclasses
import io
import logging
import pickle
import socket
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from core.data.pixels import from_uint8
from core.draws import fold_seed, numpy_rng
from core.schema import choice, plain, strict
from image.data import DATASETS, LatentsConfig
from image.datasets.decode import center_crop, decode_image, to_bytes
from image.datasets.digits import DigitsConfig
from image.datasets.files import FolderConfig, ParquetConfig

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


# digits


def test_digits_are_the_real_ones_in_range():
    data = DigitsConfig(split="all").build()
    assert data.images.shape == (len(data), *data.media_shape) == (1797, 1, 8, 8)
    assert (data.images.min(), data.images.max()) == (-1, 1)
    assert data.class_names == list("0123456789")
    assert data.labels[:10].tolist() == list(range(10))
    item = data.item(3, numpy_rng(0))
    assert torch.equal(item["media"], data.images[3]) and item["condition"] == 3 and type(item["condition"]) is int
    grey = (data.images[0, 0, 0] * 8 + 8).tolist()
    assert grey == [0, 0, 5, 13, 9, 1, 0, 0]  # the first row of the first digit that scikit-learn documents


def test_digits_split_is_disjoint_complete_and_stratified():
    train, heldout, everything = (DigitsConfig(split=split).build() for split in ("train", "heldout", "all"))
    assert len(train) + len(heldout) == len(everything)
    both = torch.cat([train.images, heldout.images]).flatten(1)
    assert torch.equal(_sorted_rows(both), _sorted_rows(everything.images.flatten(1)))
    counts = torch.bincount(everything.labels)
    assert torch.equal(torch.bincount(heldout.labels), (counts * 0.2).round().long())


def _sorted_rows(rows):
    return torch.tensor(sorted(rows.tolist()))


def test_digits_split_never_changes():
    heldout = DigitsConfig(split="heldout").build()
    assert len(heldout) == 359
    assert fold_seed(*heldout.labels.tolist()) == 6373324681388999246
    assert fold_seed(*(heldout.images.sum((1, 2, 3)) * 8).long().tolist()) == 3657353959267459567


def test_digits_are_not_flipped_and_items_are_copies():
    data = DigitsConfig().build()
    assert not data.flip
    before = data.images[0].clone()
    for seed in range(8):
        media = data.item(0, numpy_rng(seed))["media"]
        assert torch.equal(media, before)
        media.zero_()
    assert torch.equal(data.images[0], before)
    assert torch.equal(data.pixels(0, mirror=True), before.flip(-1))


# folders


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


# broken files


def truncated_jpeg():
    data = encoded(picture(64, 64), "JPEG", quality=95)
    return data[: len(data) // 2]


BROKEN = {
    "cut.jpg": truncated_jpeg(),
    "cut.png": encoded(picture(64, 64))[:3000],
    "cut.webp": encoded(picture(64, 64), "WEBP")[:500],
    "text.png": b"<html>404 Not Found</html>",
    "empty.png": b"",
}


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


# parquet


@pytest.fixture
def hub(tmp_path):
    """`hub(name, rows, labels)` writes one shard as the hub does, with ClassLabel names or (None) bare numbers."""
    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq

    def shard(name, images, labels, names=("tench", "goldfish", "shark")):
        path = tmp_path / ".hub [1]" / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [{"bytes": data, "path": f"{name}_{i}.JPEG"} for i, data in enumerate(images)]
        if names is None:
            pq.write_table(pa.table({"image": rows, "label": labels}), path)
        else:
            features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(names))}
            table = datasets.Dataset.from_dict({"image": rows, "label": labels}, datasets.Features(features))
            table.to_parquet(path)
        return path

    shard.config = lambda **options: ParquetConfig(
        root=str(tmp_path / ".hub [1]"),
        **{"size": SIZE, "flip": False, "cache_dir": str(tmp_path / ".arrow"), **options},
    )
    return shard


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_parquet_shards_of_a_split(hub, no_network):
    hub("train-00000-of-00002.parquet", [encoded(picture(seed=i)) for i in range(3)], [2, 0, 1])
    hub("train-00001-of-00002.parquet", [encoded(picture(40, 60, seed=3), "JPEG")], [2])
    hub("validation-00000-of-00001.parquet", [encoded(picture(seed=8))], [1])
    data = hub.config().build()
    assert data.class_names == ["tench", "goldfish", "shark"]
    assert data.labels.tolist() == [2, 0, 1, 2] and data.media_shape == (3, SIZE, SIZE)
    assert all(np.array_equal(bytes_of(data.pixels(index)), picture(seed=index)) for index in range(3))
    assert data.item(3, numpy_rng(0))["condition"] == 2
    assert data.name(3).endswith("train-00001-of-00002.parquet, row 0")
    assert torch.equal(pickle.loads(pickle.dumps(data)).pixels(3), data.pixels(3))
    validation = hub.config(split="validation", flip=True, channels=1).build()
    assert len(validation) == 1 and validation.pixels(0).shape == (1, SIZE, SIZE)
    assert torch.equal(validation.pixels(0, mirror=True), validation.pixels(0).flip(-1))


def test_parquet_equals_the_same_files_in_folders(hub, two_classes):
    files = sorted((two_classes / "cat").rglob("*.*")) + sorted((two_classes / "dog").glob("n02*"))
    hub("train-0.parquet", [path.read_bytes() for path in files], [0, 0, 0, 1, 1], names=["cat", "dog"])
    shards, folders = hub.config().build(), folder(two_classes)
    assert shards.labels.tolist() == folders.labels.tolist() and shards.class_names == folders.class_names
    assert all(torch.equal(shards.pixels(index), folders.pixels(index)) for index in range(5))


@pytest.mark.parametrize("labels", [[70, 3, 70], ["b", "a", "b"]])
def test_parquet_without_class_names_takes_the_distinct_labels(hub, labels):
    hub("train.parquet", [encoded(picture())] * 3, labels, names=None)
    data = hub.config().build()
    assert data.class_names == [str(label) for label in sorted(set(labels))]
    assert data.labels.tolist() == [1, 0, 1] and data.labels.dtype == torch.int64


def test_parquet_broken_rows(hub, caplog):
    good = encoded(picture())
    hub("train-0.parquet", [good, good], [0, 1], names=None)
    path = hub("train-1.parquet", [truncated_jpeg(), good, None], [0, 1, 2], names=None)
    data = hub.config().build()
    with pytest.raises(ValueError, match=r"train-1\.parquet, row 0 \(index 2\)"):
        data.item(2, numpy_rng(0))
    with pytest.raises(ValueError, match=r"row 2 \(index 4\): the row holds no bytes"):
        data.pixels(4)
    hub("train-1.parquet", [good, truncated_jpeg(), good], [0, 1, 2], names=None)
    with caplog.at_level(logging.WARNING, logger="image.data"):
        kept = hub.config(max_broken=1).build()
    assert kept.num_broken == 1 and kept.labels.tolist() == [0, 1, 0, 2]
    assert f"{path}, row 1" in caplog.text


def test_parquet_layouts_that_are_refused(hub, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    good = encoded(picture())
    path = hub("train.parquet", [good], [0])
    with pytest.raises(ValueError, match=r"data\.root is .* data\.split is 'val': no file val\*\.parquet"):
        hub.config(split="val").build()
    hub("hidden-labels.parquet", [good], [-1])
    with pytest.raises(ValueError, match=r"'label' holds -1 .* allowed: 0\.\.2"):
        hub.config(split="hidden").build()
    hub("empty-rows.parquet", [good, good], [1, None], names=None)
    with pytest.raises(ValueError, match="a class in every row"):
        hub.config(split="empty").build()
    pq.write_table(pa.table({"img": [good]}), path.with_name("odd.parquet"))
    with pytest.raises(ValueError, match=r"lacks the columns \['image', 'label'\]"):
        hub.config(split="odd").build()
    write(path.with_name("cut.parquet"), path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"damaged parquet file .*cut\.parquet"):
        hub.config(split="cut").build()


def test_parquet_without_the_extra_names_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"pip install 'layersync\[hf\]'") as caught:
        ParquetConfig(root=str(tmp_path)).build()
    assert "\n" not in str(caught.value)


# configs


@pytest.mark.parametrize(
    ("schema", "values", "message"),
    [
        (DigitsConfig, {"split": "test"}, r"data\.split.*'test'.*train.*heldout.*all"),
        (FolderConfig, {"root": ""}, r"data\.root is ''"),
        (FolderConfig, {"root": "x", "size": 0}, r"data\.size is 0"),
        (FolderConfig, {"root": "x", "channels": 4}, r"data\.channels.*4.*1.*3"),
        (LatentsConfig, {"root": ""}, r"data\.root is ''; needed: the folder of a latent cache"),
        (LatentsConfig, {"root": "x", "channels": 4}, r"data\.channels.*4.*1.*3"),
        (ParquetConfig, {"root": "x", "max_broken": -1}, r"data\.max_broken is -1"),
        (ParquetConfig, {"root": "x", "split": "data/train"}, r"data\.split is 'data/train'"),
    ],
)
def test_configs_refuse_values(schema, values, message):
    with pytest.raises(ValueError, match=message):
        schema(**values)
    with pytest.raises(ValueError, match=message):
        strict(schema, values, "data")


@pytest.mark.parametrize("name", DATASETS)
def test_configs_refuse_unknown_and_missing_keys(name):
    with pytest.raises(ValueError, match=r"unknown config key 'data\.sise'.*allowed: .*split|root"):
        strict(DATASETS[name], {"root": "x", "sise": 32}, "data")
    if name not in ("digits", "scenes"):  # which come without files
        with pytest.raises(ValueError, match=r"missing config key 'data\.root'"):
            strict(DATASETS[name], {}, "data")


def test_config_is_chosen_by_name_and_written_back():
    schema = dataclasses.make_dataclass("Run", [("data", object, choice(DATASETS))])
    node = {"data": {"name": "parquet", "root": "/data", "size": 64, "split": "validation"}}
    config = strict(schema, node)
    assert config.data == ParquetConfig(root="/data", size=64, split="validation")
    assert strict(schema, plain(config)) == config
