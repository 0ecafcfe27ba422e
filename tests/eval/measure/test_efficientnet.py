"""EfficientNet-Lite0: the package's weights recognise photographs, and are the extractor's and the encoder's."""

import sys

import pytest
import torch
from einops import rearrange
from PIL import Image
from sklearn.datasets import load_sample_image

from core.contracts import Batch
from core.storage.atomic import sha256_file
from eval.inside.patches import image_encoder
from eval.measure.efficientnet import FOLDER, SHA256, WEIGHTS, EfficientNetFeatures, read_efficientnet

CPU = torch.device("cpu")
DAISY, PALACE = 985, 698  # of ImageNet's classes


def photograph(name):
    """A sample image of scikit-learn, its middle as ImageNet's protocol has it: uint8 (3, 224, 224)."""
    picture = Image.fromarray(load_sample_image(f"{name}.jpg"))
    side = 224 * min(picture.size) // 256
    left, top = ((size - side) // 2 for size in picture.size)
    crop = picture.crop((left, top, left + side, top + side)).resize((224, 224), Image.Resampling.BICUBIC)
    return rearrange(torch.tensor(list(crop.tobytes()), dtype=torch.uint8), "(h w c) -> c h w", h=224, c=3)


@pytest.fixture(scope="module")
def photographs():
    return torch.stack([photograph("flower"), photograph("china")])


def test_the_packages_weights_recognise_photographs(photographs):
    network, sha256 = read_efficientnet(None, "this")
    with torch.no_grad():
        chances = network((photographs - 127.0) / 128).softmax(1)
    assert chances.argmax(1).tolist() == [DAISY, PALACE] and chances.max(1).values.min() > 0.25
    assert sha256 == SHA256 and FOLDER not in sys.modules  # its code does not run


def batch_of(media):
    rows = torch.arange(len(media))
    return Batch(media, rows, rows)


def test_extractor_and_encoder_see_the_same_map(photographs):
    pool = EfficientNetFeatures(None, CPU)(photographs)["pool"]
    encoder = image_encoder("efficientnet_lite0", CPU, images=2)
    media = photographs / 127.5 - 1
    places = encoder(batch_of(media))
    assert places.shape == (2, encoder.width, 7, 7) and encoder.flops > 2 * 7e8
    torch.testing.assert_close(places.mean((2, 3)), pool, rtol=1e-4, atol=1e-4)
    clip = torch.stack([media[0], media[1]], dim=1)[None]  # of two frames
    torch.testing.assert_close(encoder(batch_of(clip))[0].transpose(0, 1), places)
    grey = photographs[:1, :1]
    torch.testing.assert_close(
        EfficientNetFeatures(None, CPU)(grey)["pool"][0],
        encoder(batch_of(grey / 127.5 - 1))[0].mean((1, 2)),
        rtol=1e-4,
        atol=1e-4,
    )


def test_other_weights_are_recorded_where_they_are_given_and_refused_of_the_package(tmp_path, monkeypatch):
    network, _ = read_efficientnet(None, "this")
    file = tmp_path / FOLDER / WEIGHTS
    file.parent.mkdir(parents=True)
    network._fc.bias.add_(1)
    torch.save(network.state_dict(), file)
    assert EfficientNetFeatures(file, CPU).facts()["weights_sha256"] == sha256_file(file) != SHA256
    (tmp_path / FOLDER / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r"features=efficientnet_lite0: .*pth has the sha256 .*; install efficientnet"):
        EfficientNetFeatures(None, CPU)
    torch.save({"weight": torch.zeros(1)}, file)
    with pytest.raises(ValueError, match=r"efficientnet-lite0-57934424.pth is of another architecture"):
        EfficientNetFeatures(file, CPU)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "empty")])
    with pytest.raises(ImportError, match=r"needs the extra 'efficientnet'"):
        EfficientNetFeatures(None, CPU)
    with pytest.raises(ValueError, match="config key 'efficientnet_lite0': there is no file"):
        EfficientNetFeatures(tmp_path / "nowhere", CPU)
