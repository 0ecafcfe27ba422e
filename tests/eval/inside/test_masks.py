"""Label maps that lie beside images: brought to the image's size by nearest pixels, at little cost for a strip."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from eval.inside.masks import label_map


def written(folder, labels):
    """A label map for row 0 of a data set, and that data set."""
    folder.mkdir(exist_ok=True)
    Image.fromarray(labels).save(folder / "a.png")
    return SimpleNamespace(name=lambda row: "somewhere/cat/a.jpg")


def test_a_map_is_what_pillow_makes_of_it_as_a_whole(tmp_path):
    rng = np.random.default_rng(0)
    for _ in range(60):
        labels, size = rng.integers(0, 256, rng.integers(1, 300, 2), dtype=np.uint8), int(rng.integers(1, 128))
        found = label_map(tmp_path, written(tmp_path, labels), 0, size)
        scale = size / min(labels.shape)
        height, width = (round(side * scale) for side in labels.shape)
        whole = Image.fromarray(labels).resize((width, height), Image.Resampling.NEAREST)
        left, top = (width - size) // 2, (height - size) // 2
        assert np.array_equal(found, np.asarray(whole.crop((left, top, left + size, top + size)))), labels.shape


def test_a_strip_is_not_enlarged(tmp_path, monkeypatch):
    monkeypatch.setattr(Image.Image, "resize", lambda *_: pytest.fail("resized as a whole"))
    labels = np.repeat(np.arange(60, dtype=np.uint8), 1000)[None]
    found = label_map(tmp_path, written(tmp_path, labels), 0, 64)
    assert found.shape == (64, 64) and set(found.unique().tolist()) <= {29, 30}


def test_a_damaged_map_is_named(tmp_path):
    data_set = written(tmp_path, np.zeros((4, 4), dtype=np.uint8))
    file = tmp_path / "a.png"
    file.write_bytes(re.sub(rb"IDAT.", b"IDAT?", file.read_bytes(), flags=re.S))
    with pytest.raises(ValueError, match=r"the label map .*a\.png cannot be read"):
        label_map(tmp_path, data_set, 0, 4)
