"""Weights of ours and of others: what can be read, what is refused, and how they reach a model."""

import argparse
import os
import pickle
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from core.storage.checkpoint import CheckpointStore
from core.storage.weights import load_into, load_weights
from tests.core.storage.states import assert_same_state, state
from tests.rows import every_row


def published(prefix=""):
    """A training checkpoint as SiT and LayerSync publish it."""
    model, ema = ({prefix + name: value for name, value in state(seed).items()} for seed in (1, 2))
    args = argparse.Namespace(model="SiT-XL/2", reg_weight=0.2, wandb=False, results_dir="r", cfg=None)
    optimizer = {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-4, "betas": (0.9, 0.999)}]}
    return {"model": model, "ema": OrderedDict(ema), "opt": optimizer, "args": args}


FORMATS = every_row("zip_format", [True, False])  # of PyTorch's files, today's and that before 1.6


def write_pickle(path, content, zip_format=True):
    torch.save(content, path, _use_new_zipfile_serialization=zip_format)
    return path


def test_weights_of_a_checkpoint_folder(tmp_path):
    saved = CheckpointStore(tmp_path).save(3, {"model": state(), "ema": state(1)}, {})
    assert_same_state(load_weights(saved), state(1))
    assert_same_state(load_weights(saved, prefer="model"), state())
    with pytest.raises(ValueError, match="holds no 'average' weights"):
        load_weights(saved, prefer="average")
    with pytest.raises(ValueError, match=r"no checkpoint at .*x\.pt"):
        load_weights(tmp_path / "x.pt")


def test_weights_of_a_safetensors_file(tmp_path):
    file = tmp_path / "model.safetensors"
    tensors = {name: value.contiguous() for name, value in state().items()}
    save_file(tensors, file)
    assert_same_state(load_weights(file), tensors)
    whole = file.read_bytes()
    for left in (0, 4, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:left])
        with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
            load_weights(file)


@FORMATS
@every_row(("suffix", "prefix"), [(".pt", ""), (".pth", "module."), (".ckpt", ""), (".tar", "module.")])
def test_weights_of_a_published_training_checkpoint(tmp_path, zip_format, prefix, suffix):
    file = write_pickle(tmp_path / f"x{suffix}", published(prefix), zip_format)
    assert_same_state(load_weights(file), state(2))
    assert_same_state(load_weights(file, prefer="ema"), state(2))
    assert_same_state(load_weights(file, prefer="model"), state(1))


@FORMATS
@every_row("wrap", [dict, OrderedDict, lambda s: {"state_dict": s}, lambda s: {"model": s, "epoch": 3}])
def test_weights_of_a_state_dict(tmp_path, zip_format, wrap):
    file = write_pickle(tmp_path / "x.pt", wrap(state()), zip_format)
    assert_same_state(load_weights(file), state())


def test_only_a_leading_prefix_is_taken_off(tmp_path):
    names = {"module.a.module.b": torch.ones(1), "my_module.c": torch.ones(2)}
    assert set(load_weights(write_pickle(tmp_path / "x.pt", names))) == {"a.module.b", "my_module.c"}


ONES = torch.ones(2)


@every_row(
    "content", [{}, {"args": argparse.Namespace()}, [ONES], ONES, {"model": {}}, {"epoch": 3}, {0: ONES}, {"a": 3}]
)
def test_a_file_without_a_state_dict_is_refused(tmp_path, content):
    with pytest.raises(ValueError, match=r"x\.pt holds no state dict"):
        load_weights(write_pickle(tmp_path / "x.pt", content))


class Malicious:
    """Creates a file when it is unpickled without care."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.mkdir, (str(self.file),)


@every_row("write", ["zip", "legacy", "plain"])
def test_a_malicious_file_is_refused_and_not_executed(tmp_path, write):
    proof, file = tmp_path / "proof", tmp_path / "x.pt"
    content = {**published(), "extra": Malicious(proof)}
    if write == "plain":
        file.write_bytes(pickle.dumps(content["extra"], protocol=2))
    else:
        write_pickle(file, content, write == "zip")
    with pytest.raises(ValueError, match=r"x\.pt is refused, it holds more than tensors.*mkdir") as caught:
        load_weights(file)
    assert not proof.exists()
    assert "weights_only" not in str(caught.value)  # torch's own message advises to switch the protection off
    if write == "plain":
        pickle.loads(file.read_bytes())
        assert proof.exists()  # it would have


@FORMATS
def test_a_truncated_file_is_damaged_wherever_it_ends(tmp_path, zip_format):
    file = write_pickle(tmp_path / "x.pt", published(), zip_format)
    whole = file.read_bytes()
    for left in [*range(0, len(whole), 41), len(whole) - 1]:
        file.write_bytes(whole[:left])
        with pytest.raises(ValueError, match=r"x\.pt is (damaged|refused)"):
            load_weights(file)


@every_row("content", [b"<html>404 Not Found</html>", b"version https://git-lfs", b"\x00" * 64, b'{"a": 1}'])
def test_a_file_that_is_no_pytorch_file_is_called_so(tmp_path, content):
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.pt is damaged or not a PyTorch file"):
        load_weights(tmp_path / "x.pt")


# Into a model


def network(width=4, depth=2):
    return nn.Sequential(*(nn.Linear(width, width) for _ in range(depth)))


def test_weights_reach_the_model():
    model, other = network(), network()
    load_into(model, other.state_dict(), "x.pt")
    assert_same_state(model.state_dict(), other.state_dict())


@every_row(
    ("other", "parts"),
    [
        (network(depth=1), ["missing 1.bias, 1.weight"]),
        (network(depth=6), ["unexpected 2.bias, 2.weight, 3.bias and 5 more"]),
        (network(width=5), ["0.weight is (5, 5), the model has (4, 4)", "and 1 more"]),
        (nn.ModuleDict({"head": nn.Linear(4, 4)}), ["missing 0.bias", "unexpected head.bias, head.weight"]),
    ],
)
def test_another_architecture_is_told_by_its_differences(other, parts):
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"^x\.pt is of another architecture") as caught:
        load_into(model, other.state_dict(), "x.pt")
    assert all(part in str(caught.value) for part in parts), caught.value
    assert_same_state(model.state_dict(), before)
