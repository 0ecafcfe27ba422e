"""Inception: the right layer in the right order, and weights that are what they should be.

It has its real size and random weights in torch-fidelity's own file format.
"""

import os
import pickle
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file, save_file

from eval.measure.inception import InceptionFeatures, as_channels_first
from tests.end_to_end.image_runs import save_malicious
from tests.image.networks import save_inception

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def inception(tmp_path_factory):
    return save_inception(tmp_path_factory.mktemp("inception") / "weights.pth")


@pytest.fixture(scope="module")
def adm(inception):
    return InceptionFeatures("inception_adm", inception, None, CPU)


def images(count=3, channels=3, side=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, channels, side, side), generator=generator, dtype=torch.uint8)


def test_the_spatial_features_are_seven_channels_of_mixed_6_conv_in_the_order_h_w_c(adm):
    seen = {}
    block = adm.network.Mixed_6d
    handle = block.register_forward_hook(lambda module, inputs, output: seen.update(x=inputs[0], out=output))
    found = adm(images())
    handle.remove()
    assert found["spatial"].shape == (3, 2023)
    conv, norm = block.branch1x1.conv, block.branch1x1.bn
    maps = norm(conv(seen["x"])).clamp_min(0)  # (3, 192, 17, 17)
    torch.testing.assert_close(maps, seen["out"][:, :192], rtol=0, atol=0)  # branch1x1 comes first in the block
    by_hand = torch.empty(3, 2023)
    for row in range(17):
        for column in range(17):
            for channel in range(7):
                by_hand[:, (row * 17 + column) * 7 + channel] = maps[:, channel, row, column]
    torch.testing.assert_close(found["spatial"], by_hand, rtol=0, atol=0)
    assert not torch.equal(found["spatial"], maps[:, :7].flatten(1))
    assert by_hand.std(0).gt(0).float().mean() > 0.2  # not a dead layer


def test_the_logits_have_no_bias(adm):
    found = adm(images())
    assert found["logits"].shape == (3, 1008)
    full = adm.network.fc(found["pool"])
    torch.testing.assert_close(found["logits"], full - adm.network.fc.bias)
    assert adm.network.fc.bias.abs().max() > 1e-3


def test_both_protocols_share_the_network_and_not_the_name(adm, inception):
    other = InceptionFeatures("inception_torch_fidelity", inception, None, CPU)
    found, theirs = adm(images()), other(images())
    assert theirs.keys() == {"pool", "logits"}
    for name in theirs:
        assert torch.equal(found[name], theirs[name])
    assert found["pool"].shape == (3, 2048)
    assert adm.facts()["weights_sha256"] == other.facts()["weights_sha256"]
    assert adm.facts() != other.facts()


def test_layout_and_grey_do_not_matter(adm):
    grey = images(2, channels=1)
    first, *others = (adm(x)["pool"] for x in (grey, grey.repeat(1, 3, 1, 1), grey.permute(0, 2, 3, 1)))
    assert all(torch.equal(first, other) for other in others)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(2, 3, 8, 8), "float32"),
        (torch.zeros(2, 8, 8, dtype=torch.uint8), r"\(2, 8, 8\)"),
        (torch.zeros(2, 3, 8, 3, dtype=torch.uint8), "not both"),
        (torch.zeros(2, 4, 8, 8, dtype=torch.uint8), "1 or 3 channels"),
    ],
)
def test_what_is_no_batch_of_images_is_refused(x, message):
    with pytest.raises(ValueError, match=message):
        as_channels_first(x)


def test_weights_of_another_network_are_refused(tmp_path):
    torch.save({"fc.weight": torch.zeros(10, 4)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="is not the Inception-v3"):
        InceptionFeatures("inception_adm", tmp_path / "other.pth", None, CPU)


def test_weights_that_would_run_code_are_refused_and_not_run(tmp_path):
    file = save_malicious(tmp_path / "weights.pth", tmp_path / "made")
    with pytest.raises(ValueError, match="refused"):
        InceptionFeatures("inception_adm", file, None, CPU)
    assert not (tmp_path / "made").exists()


def save_both(path, target):
    """A file of safetensors whose bytes are a pickle too, one that makes the folder `target`.

    The length of the header begins with the opcode of a string, so that strings pass over the header to the tensor.
    """
    first, code = 96, b"cos\nmkdir\n(S'" + str(target).encode() + b"'\ntR."
    size, string, head = ord("U") + 256 * first, b"U~" + b"." * 126, b'{"__metadata__":{"x":"'
    count = -(-(8 + size - 2 - first) // len(string))  # strings after the first, the last of which ends in the tensor
    data = b"." * (2 + first + count * len(string) - 8 - size) + code
    last = b'"},"w":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}' % (len(data), len(data))
    header = head.ljust(first - 6, b".") + string * count
    path.write_bytes(size.to_bytes(8, "little") + header[: size - len(last)] + last + data)
    return path


def test_a_file_that_is_checked_as_one_kind_is_not_opened_as_another(tmp_path):
    file = save_both(tmp_path / "weights.safetensors", tmp_path / "made")
    assert list(load_file(file)) == ["w"]
    with pytest.raises(ValueError, match=r"weights\.safetensors is not the Inception-v3.*Missing key"):
        InceptionFeatures("inception_adm", file, None, CPU)
    assert not (tmp_path / "made").exists()
    pickle.loads(file.read_bytes())
    assert (tmp_path / "made").exists()  # it would have


def test_weights_of_safetensors_are_those_of_pytorchs_file(inception, adm, tmp_path):
    save_file(torch.load(inception, weights_only=True), tmp_path / "weights.safetensors")
    same = InceptionFeatures("inception_adm", tmp_path / "weights.safetensors", None, CPU)
    state = adm.network.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in same.network.state_dict().items())


def test_absent_weights_and_weights_of_another_hash_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"weights 'inception' are missing.*python -m eval\.weights"):
        InceptionFeatures("inception_adm", None, tmp_path, CPU)
    file = tmp_path / "inception" / "weights-inception-2015-12-05-6726825d.pth"
    file.parent.mkdir()
    file.touch()
    os.truncate(file, 95_628_359)  # the published size, and zeros
    with pytest.raises(ValueError, match=r"SHA-256 is .* instead of 6726825d"):
        InceptionFeatures("inception_adm", None, tmp_path, CPU)


def test_an_absent_extra_is_one_sentence(tmp_path):
    with (
        mock.patch.dict("sys.modules", {"torch_fidelity.feature_extractor_inceptionv3": None}),
        pytest.raises(ImportError, match=r"features=inception_adm needs the extra 'eval'"),
    ):
        InceptionFeatures("inception_adm", None, tmp_path, CPU)
