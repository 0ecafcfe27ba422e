"""Pictures, a small tokenizer, and a cache made of both, for the tests that ask for them."""

import numpy as np
import pytest
from PIL import Image

from image.cache import main
from tests.image.caches import IMAGES, SIZE, config, save_conv_kl


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Eleven PNGs of noise in two classes."""
    root = tmp_path_factory.mktemp("pictures")
    for number in range(IMAGES):
        folder = root / ("cat" if number < 6 else "dog")
        folder.mkdir(exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (SIZE + number, SIZE + 3, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    return root


@pytest.fixture(scope="module")
def conv_kl(tmp_path_factory):
    return save_conv_kl(tmp_path_factory.mktemp("conv_kl"))


@pytest.fixture
def cache(pictures, conv_kl, tmp_path):
    main(config(pictures, conv_kl, tmp_path / "cache"))
    return tmp_path / "cache"
