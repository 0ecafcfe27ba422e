"""VideoMAE: transformers' directory and the published file give what their networks compute, of the right pixels."""

import json
import shutil

import numpy as np
import pytest
import torch
from torch.nn import functional

from core.storage.atomic import sha256_file
from tests.end_to_end.image_runs import save_malicious
from tests.video.encoders.networks import published_videomae, save_videomae
from video.encoders.videomae import VideoMaeFeatures

CPU = torch.device("cpu")


def clips(count=2, frames=4, side=12, channels=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, frames, side, side, channels), generator=generator, dtype=torch.uint8)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videomae")
    return folder, save_videomae(folder)


def pixels(rows, side):
    """(B, F, 3, side, side) in [0, 1]."""
    frames = rows.permute(0, 1, 4, 2, 3).float().flatten(0, 1)
    small = functional.interpolate(frames, (side, side), mode="bilinear", align_corners=False) / 255
    return small.unflatten(0, rows.shape[:2])


def test_a_directory_gives_the_mean_of_its_tokens_after_the_norm(directory):
    folder, network = directory
    extractor, rows = VideoMaeFeatures(folder, None, CPU), clips()
    with torch.no_grad():
        tokens = network.videomae(pixels(rows, 8)).last_hidden_state
        expected = network.fc_norm(tokens.mean(1))
        logits = network(pixels(rows, 8)).logits
    found = extractor(rows)
    assert found.keys() == {"features"}
    torch.testing.assert_close(found["features"], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(network.classifier(found["features"]), logits, rtol=1e-4, atol=1e-5)
    assert "in [0, 1];" in extractor.preprocessing


def test_a_directorys_own_mean_and_deviation_are_taken_and_told(directory, tmp_path):
    folder = tmp_path / "scaled"
    shutil.copytree(directory[0], folder)
    mean, std = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": mean, "image_std": std}))
    scaled, rows = VideoMaeFeatures(folder, None, CPU), clips()
    by_hand = (pixels(rows, 8) - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    with torch.no_grad():
        expected = directory[1].fc_norm(directory[1].videomae(by_hand).last_hidden_state.mean(1))
    torch.testing.assert_close(scaled(rows)["features"], expected, rtol=1e-4, atol=1e-5)
    assert f"mean {mean}, std {std}" in scaled.facts()["preprocessing"]
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": 0.5, "image_std": std}))
    with pytest.raises(ValueError, match=r"image_mean 0\.5"):
        VideoMaeFeatures(folder, None, CPU)


def by_hand(state, rows, heads):
    """What the published network computes of clips, written out: float64, blocks before the norm of the mean."""
    state = {name: value.double() for name, value in state.items()}
    media = pixels(rows, 224).double().transpose(1, 2)
    tubelet, patch = state["patch_embed.proj.weight"].shape[2:4]
    x = functional.conv3d(
        media, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], (tubelet, patch, patch)
    ).flatten(2)
    x = x.transpose(1, 2)
    width = x.shape[-1]
    places = torch.arange(x.shape[1], dtype=torch.float64)[:, None]
    angles = places / 10000 ** (2 * (torch.arange(width) // 2) / width)
    x = x + torch.where(torch.arange(width) % 2 == 0, angles.sin(), angles.cos())

    def norm(x, name):
        return functional.layer_norm(x, (width,), state[f"{name}.weight"], state[f"{name}.bias"], 1e-6)

    def linear(x, name):
        return functional.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    for block in range(len([name for name in state if name.endswith("q_bias")])):
        at = f"blocks.{block}"
        zeros = torch.zeros(width, dtype=torch.float64)
        bias = torch.cat([state[f"{at}.attn.q_bias"], zeros, state[f"{at}.attn.v_bias"]])
        qkv = functional.linear(norm(x, f"{at}.norm1"), state[f"{at}.attn.qkv.weight"], bias)
        q, k, v = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) / (width // heads) ** 0.5).softmax(-1)
        x = x + linear((weights @ v).transpose(1, 2).flatten(2), f"{at}.attn.proj")
        hidden = functional.gelu(linear(norm(x, f"{at}.norm2"), f"{at}.mlp.fc1"))
        x = x + linear(hidden, f"{at}.mlp.fc2")
    return norm(x.mean(1), "fc_norm")


@pytest.mark.parametrize(("width", "heads", "wrapper"), [(64, 1, "module"), (128, 2, None)])
def test_the_published_file_computes_what_its_network_computes(tmp_path, width, heads, wrapper):
    state = published_videomae(width=width)
    file = tmp_path / "vit_g_hybrid_pt_1200e_ssv2_ft.pth"
    torch.save(state if wrapper is None else {wrapper: state}, file)
    extractor, rows = VideoMaeFeatures(file, None, CPU), clips(frames=16, side=20)
    found = extractor(rows)["features"]
    torch.testing.assert_close(found, by_hand(state, rows, heads).float(), rtol=1e-4, atol=1e-4)
    assert found.shape == (2, width) and extractor.weights_sha256 == sha256_file(file)
    assert "bilinear to 224" in extractor.preprocessing and "in [0, 1];" in extractor.preprocessing


def test_another_number_of_frames_is_refused(directory):
    with pytest.raises(ValueError, match="have 5 frames; features=videomae needs 4 "):
        VideoMaeFeatures(directory[0], None, CPU)(clips(frames=5))


def test_what_is_no_such_network_is_refused(tmp_path):
    state, file = published_videomae(), tmp_path / "other.pth"
    for change, message in (
        ({"patch_embed.proj.weight": torch.zeros(64, 3, 4, 4)}, "it lacks patches of clips"),
        ({"blocks.0.mlp.fc2.bias": torch.zeros(5)}, "layer.0.output.dense.bias are missing, unknown or of another"),
        ({"blocks.1.gamma_1": torch.zeros(64)}, "gamma_1 are missing, unknown"),
        ({"fc_norm.bias": torch.full((64,), np.inf)}, "NaN or infinity in fc_norm.bias"),
    ):
        torch.save(state | change, file)
        with pytest.raises(ValueError, match=message):
            VideoMaeFeatures(file, None, CPU)
    torch.save({name: value for name, value in state.items() if not name.startswith("fc_norm")}, file)
    with pytest.raises(ValueError, match=r"no fine-tuned VideoMAE: it lacks fc_norm\.weight"):
        VideoMaeFeatures(file, None, CPU)
    save_videomae(tmp_path / "first", use_mean_pooling=False)
    with pytest.raises(ValueError, match="pools no tokens"):
        VideoMaeFeatures(tmp_path / "first", None, CPU)
    with pytest.raises(ValueError, match="config key 'videomae': there is no file"):
        VideoMaeFeatures(tmp_path / "nowhere.pth", None, CPU)
    with pytest.raises(ValueError, match=r"weights 'videomae-g-ssv2' are missing.*python -m eval\.weights"):
        VideoMaeFeatures(None, tmp_path, CPU)
    malicious = save_malicious(tmp_path / "code.pth", tmp_path / "made")
    with pytest.raises(ValueError, match="refused"):
        VideoMaeFeatures(malicious, None, CPU)
    assert not (tmp_path / "made").exists()
