"""DINOv2, tiny: the right preprocessing and weights that are what they should be; and the digits' classifier."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from core.storage.atomic import sha256_file
from eval.measure.inception import as_rgb
from image.extractors import DinoFeatures, WeightsSource, resample_positions
from image.stand_in import DigitFeatures, DigitsEvaluationConfig
from tests.image.networks import save_dinov2

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory):
    return save_dinov2(tmp_path_factory.mktemp("dinov2"))


def images(count=3, channels=3, side=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, channels, side, side), generator=generator, dtype=torch.uint8)


# --- DINOv2


def test_dinov2_looks_as_dgm_eval_does(dinov2):
    extractor = DinoFeatures(WeightsSource(dinov2=dinov2), CPU)
    x = images(2, side=40)
    batch = []
    for image in x:
        picture = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((224, 224), Image.Resampling.BICUBIC)
        scaled = np.asarray(picture, dtype=np.float64) / 255
        batch.append((scaled - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225])
    pixels = torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        expected = extractor.network(pixels).pooler_output
    found = extractor(x)
    assert found.keys() == {"cls"}
    assert found["cls"].dtype == torch.float32
    torch.testing.assert_close(found["cls"], expected, rtol=1e-5, atol=1e-5)


def test_position_embeddings_are_resampled_with_dinov2s_offset(dinov2):
    import transformers

    network = transformers.Dinov2Model.from_pretrained(dinov2)
    table = network.embeddings.position_embeddings.detach().clone()  # (1, 1 + 37 * 37, D)
    resample_positions(network)
    new = network.embeddings.position_embeddings
    assert new.shape == (1, 1 + 16 * 16, table.shape[-1])
    assert torch.equal(new[:, 0], table[:, 0])
    grid = table[:, 1:].reshape(1, 37, 37, -1).permute(0, 3, 1, 2)
    theirs = torch.nn.functional.interpolate(grid, scale_factor=(16.1 / 37, 16.1 / 37), mode="bicubic")
    torch.testing.assert_close(new[:, 1:], theirs.flatten(2).transpose(1, 2))
    plain = torch.nn.functional.interpolate(grid, size=(16, 16), mode="bicubic").flatten(2).transpose(1, 2)
    assert (new[:, 1:] - plain).abs().max() > 1e-4


def test_a_folder_that_lacks_weights_is_refused(dinov2, tmp_path):
    state = load_file(dinov2 / "model.safetensors")
    state.pop("layernorm.weight")
    (tmp_path / "config.json").write_bytes((dinov2 / "config.json").read_bytes())
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="lacks the weights"):
        DinoFeatures(WeightsSource(dinov2=tmp_path), CPU)
    with pytest.raises(ValueError, match="there is no file"):
        DinoFeatures(WeightsSource(dinov2=tmp_path / "nowhere"), CPU)


# --- digits


def test_digits_take_floats_and_bytes_and_no_colours(tmp_path):
    extractor = DigitFeatures(DigitsEvaluationConfig(classifier_steps=2), tmp_path, CPU)
    grey = images(4, channels=1, side=8)
    found = extractor(grey)
    assert {name: tuple(values.shape) for name, values in found.items()} == {"hidden": (4, 64), "logits": (4, 10)}
    same = extractor(grey.float() / 127.5 - 1)
    assert torch.equal(found["hidden"], same["hidden"])
    assert torch.equal(extractor(as_rgb(grey))["hidden"], found["hidden"])
    with pytest.raises(ValueError, match="colours"):
        extractor(images(4, side=8))
    with pytest.raises(ValueError, match=r"\(1, 8, 8\), got \(1, 9, 9\)"):
        extractor(images(4, channels=1, side=9))
    (file,) = tmp_path.glob("*.safetensors")
    assert extractor.weights_sha256 == sha256_file(file)
