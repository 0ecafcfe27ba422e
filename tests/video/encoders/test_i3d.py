"""I3D in both forms: what is asked of the TorchScript detector, and the network of the published names."""

import numpy as np
import pytest
import torch
from torch import nn

from core.storage.atomic import sha256_file
from tests.end_to_end.image_runs import save_malicious
from tests.video.encoders.networks import save_detector, save_i3d
from video.encoders.i3d import I3D, I3DDetector, I3DNetwork, Mixed, SamePool, Unit, pad_same, read_i3d

CPU = torch.device("cpu")


def clips(count=2, frames=10, side=12, channels=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, frames, side, side, channels), generator=generator, dtype=torch.uint8)


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    return save_detector(tmp_path_factory.mktemp("detector") / "i3d_torchscript.pt")


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    path = tmp_path_factory.mktemp("i3d") / "i3d_pretrained_400.pt"
    return path, save_i3d(path)


# --- the detector


def test_the_detector_is_called_as_stylegan_v_calls_it(detector, caplog):
    extractor = I3DDetector(detector, None, CPU)
    assert "is a program, and not the published one" in caplog.text
    rows = clips(3)
    script = torch.jit.load(str(detector))
    media = rows.permute(0, 4, 1, 2, 3)  # uint8 (B, C, F, H, W)
    expected = script(media, rescale=True, resize=True, return_features=True)
    found = extractor(rows)
    assert found.keys() == {"logits"} and found["logits"].dtype == torch.float32
    torch.testing.assert_close(found["logits"], expected, rtol=1e-5, atol=1e-5)  # the second call is optimised
    for option in ("rescale", "resize", "return_features"):  # each option changes what it gives
        other = script(media, **{**{"rescale": True, "resize": True, "return_features": True}, option: False})
        assert not torch.allclose(other, expected, atol=1e-4)
    grey = clips(2, channels=1)
    torch.testing.assert_close(extractor(grey)["logits"], extractor(grey.repeat(1, 1, 1, 1, 3))["logits"])
    assert extractor.weights_sha256 == sha256_file(detector)


def test_fewer_than_ten_frames_are_refused(detector, state):
    for extractor in (I3DDetector(detector, None, CPU), I3DNetwork(state[0], None, CPU)):
        with pytest.raises(ValueError, match=rf"have 9 frames; features={extractor.name} needs 10 at least"):
            extractor(clips(frames=9))


def test_what_is_no_detector_is_refused(tmp_path, state):
    for content, message in ((b"text", "is no TorchScript file"), (state[0].read_bytes(), "is no TorchScript file")):
        (tmp_path / "other.pt").write_bytes(content)
        with pytest.raises(ValueError, match=message):
            I3DDetector(tmp_path / "other.pt", None, CPU)
    torch.jit.script(nn.Linear(2, 2)).save(str(tmp_path / "linear.pt"))
    with pytest.raises(ValueError, match="no rescale, resize, return_features"):
        I3DDetector(tmp_path / "linear.pt", None, CPU)
    with pytest.raises(ValueError, match="config key 'i3d': there is no file"):
        I3DDetector(tmp_path / "nowhere.pt", None, CPU)


def test_of_the_registry_only_the_published_program_is_run(tmp_path, detector):
    with pytest.raises(ValueError, match=r"weights 'i3d' are missing.*python -m eval\.weights"):
        I3DDetector(None, tmp_path, CPU)
    file = tmp_path / "i3d" / "i3d_torchscript.pt"
    file.parent.mkdir()
    content = detector.read_bytes()
    file.write_bytes(content + bytes(51_235_320 - len(content)))  # of the published size
    with pytest.raises(ValueError, match=r"is not i3d_torchscript\.pt: its SHA-256 is"):
        I3DDetector(None, tmp_path, CPU)


@pytest.mark.parametrize("shape", [(2, 3, 10, 8, 8), (10, 8, 8, 3), (2, 10, 8, 8, 4)])
def test_what_is_no_batch_of_clips_is_refused(detector, shape):
    with pytest.raises(ValueError, match=r"needed: uint8 \(clips, frames, height, width, 1 or 3\)"):
        I3DDetector(detector, None, CPU)(torch.zeros(shape, dtype=torch.uint8))
    with pytest.raises(ValueError, match="float32"):
        I3DDetector(detector, None, CPU)(torch.zeros(2, 10, 8, 8, 3))


# --- the network


def test_the_network_has_the_published_size_and_names():
    with torch.device("meta"):
        network = I3D()
    assert sum(value.numel() for value in network.parameters()) == 12_697_264  # 12.7 M, with 400 logits
    names = network.state_dict().keys()
    for name in ("Conv3d_1a_7x7.conv3d.weight", "Conv3d_2c_3x3.bn.running_var", "Mixed_4d.b2b.bn.bias"):
        assert name in names
    assert {name.split(".")[0] for name in names} == {
        *("Conv3d_1a_7x7", "Conv3d_2b_1x1", "Conv3d_2c_3x3", "logits"),
        *(f"Mixed_{block}" for block in ("3b", "3c", "4b", "4c", "4d", "4e", "4f", "5b", "5c")),
    }
    assert {name.split(".")[1] for name in names if name.startswith("Mixed_3b")} == {
        *("b0", "b1a", "b1b", "b2a", "b2b", "b3b")
    }
    assert [name for name in names if name.startswith("logits")] == ["logits.conv3d.weight", "logits.conv3d.bias"]


def test_zeros_are_put_around_as_tensorflow_puts_them():
    x = torch.ones(1, 1, 16, 5, 6)
    padded = pad_same(x, (7, 3, 2), (2, 2, 2))
    assert padded.shape == (1, 1, 21, 7, 6)
    assert padded[0, 0, :, 1, 0].tolist() == [0.0] * 2 + [1.0] * 16 + [0.0] * 3  # the odd one comes last
    pooled = SamePool((1, 3, 3), (1, 2, 2))(torch.arange(16.0).reshape(1, 1, 1, 4, 4))
    assert pooled.flatten().tolist() == [10, 11, 14, 15]  # rows and columns 0 to 2 and 2 to 3: nothing before the first


def test_a_block_joins_its_branches_in_order():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        block, x = Mixed(4, (2, 3, 5, 2, 3, 4)).eval(), torch.rand(2, 4, 3, 6, 6)
        pooled = nn.functional.max_pool3d(x, 3, 1, padding=1)  # of numbers above 0, -inf or zeros around are alike
        with torch.no_grad():
            parts = [block.b0(x), block.b1b(block.b1a(x)), block.b2b(block.b2a(x)), block.b3b(pooled)]
            assert torch.equal(block(x), torch.cat(parts, dim=1))
            unit = Unit(4, 2, (3, 3, 3))
            unit.bn.running_mean.uniform_()
            unit.eval()
            by_hand = unit.bn(nn.functional.conv3d(x, unit.conv3d.weight, padding=1)).clamp_min(0)
            torch.testing.assert_close(unit(x), by_hand)
    assert unit.bn.eps == 1e-5


def test_a_clip_goes_through_the_whole_network_as_cdfvd_prepares_it(state):
    path, network = state
    rows, extractor = clips(1, frames=10, side=20), I3DNetwork(path, None, CPU)
    found = extractor(rows)["logits"]
    frames = rows[0].permute(0, 3, 1, 2).float()
    frames = torch.stack([nn.functional.interpolate(frame[None], (224, 224), mode="bilinear")[0] for frame in frames])
    media = (frames / 127.5 - 1).permute(1, 0, 2, 3)[None]
    with torch.no_grad():
        x = media
        for name in network.trunk:
            x = network.get_submodule(name)(x)
        assert x.shape == (1, 1024, 2, 7, 7)
        expected = network.logits["conv3d"](x.mean((2, 3, 4), keepdim=True)).flatten(1)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    assert found.shape == (1, 400) and found.std() > 0.01
    assert extractor.weights_sha256 == sha256_file(path)


def test_a_state_dict_of_another_network_is_refused(state, tmp_path):
    network = state[1]
    content = network.state_dict()
    for change, message in (
        ({"logits.conv3d.weight": torch.zeros(600, 1024, 1, 1, 1)}, "logits.conv3d.weight are missing"),
        ({"Mixed_6b.b0.conv3d.weight": torch.zeros(1)}, "Mixed_6b.b0.conv3d.weight are missing, unknown"),
        ({"logits.conv3d.bias": torch.full((400,), np.nan)}, "NaN or infinity in logits.conv3d.bias"),
    ):
        torch.save(content | change, tmp_path / "other.pt")
        with pytest.raises(ValueError, match=message):
            read_i3d(tmp_path / "other.pt")
    torch.save({name: value for name, value in content.items() if "num_batches" not in name}, tmp_path / "old.pt")
    assert torch.equal(read_i3d(tmp_path / "old.pt").logits["conv3d"].bias, network.logits["conv3d"].bias)
    file = save_malicious(tmp_path / "code.pt", tmp_path / "made")
    with pytest.raises(ValueError, match="refused"):
        I3DNetwork(file, None, CPU)
    assert not (tmp_path / "made").exists()
    with pytest.raises(ValueError, match="config key 'i3d_cdfvd': there is no file"):
        I3DNetwork(tmp_path / "nowhere.pt", None, CPU)
