"""Weights of ours and of others: what can be read, what is refused, and how they reach a model."""

import argparse
import os
import pickle
import zipfile
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from core.storage.checkpoint import CheckpointStore
from core.storage.weights import check_finite_weights, load_into, load_weights
from tests.core.storage.states import assert_same_state, state
from tests.rows import every_row


def published(prefix=""):
    """A training checkpoint as SiT and LayerSync publish it."""
    model, ema = ({prefix + name: value for name, value in state(seed).items()} for seed in (1, 2))
    args = argparse.Namespace(model="SiT-XL/2", reg_weight=0.2, wandb=False, results_dir="r", cfg=None)
    optimizer = {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-4, "betas": (0.9, 0.999)}]}
    return {"model": model, "ema": OrderedDict(ema), "opt": optimizer, "args": args}


def test_a_flipped_bit_of_a_pytorch_file_is_found(tmp_path):
    file = write_pickle(tmp_path / "x.pt", {"ema": {"w": torch.arange(64.0), "b": torch.ones(2)}})
    whole = bytearray(file.read_bytes())
    place = whole.index(torch.arange(64.0).numpy().tobytes()) + 100
    whole[place] ^= 4
    file.write_bytes(whole)
    with pytest.raises(ValueError, match=r"x\.pt is damaged.*checksum of x/data/\d in it is wrong"):
        load_weights(file)
    torch.serialization.set_crc32_options(False)  # then a file has no checksums, and is no damaged one
    try:
        write_pickle(file, {"w": torch.ones(2)})
    finally:
        torch.serialization.set_crc32_options(True)
    assert load_weights(file)["w"].tolist() == [1, 1]


def test_what_is_no_plain_file_or_tensor_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.pt")
    os.mkfifo(tmp_path / "pipe.safetensors")
    for name in ("pipe.pt", "pipe.safetensors"):
        with pytest.raises(ValueError, match=rf"{name} .*no file"):
            load_weights(tmp_path / name)
    with zipfile.ZipFile(tmp_path / "packed.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("packed/data/0", bytes(1 << 20))
    with pytest.raises(ValueError, match=r"packed\.pt is damaged.*packed/data/0 in it is compressed"):
        load_weights(tmp_path / "packed.pt")
    for tensor in (torch.eye(2).to_sparse(), torch.empty(2, device="meta")):
        with pytest.raises(ValueError, match=r"x\.pt holds no state dict"):
            load_weights(write_pickle(tmp_path / "x.pt", {"w": tensor}))


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
    (tmp_path / "X.SAFETENSORS").write_bytes(whole)
    assert_same_state(load_weights(tmp_path / "X.SAFETENSORS"), tensors)
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
@every_row("wrap", [dict, OrderedDict, lambda s: {"state_dict": s}, lambda s: {"ema": s, "epoch": 3}])
def test_weights_of_a_state_dict(tmp_path, zip_format, wrap):
    file = write_pickle(tmp_path / "x.pt", wrap(state()), zip_format)
    assert_same_state(load_weights(file), state())


NAMED = [
    ({"model_avg": 2, "model": 1}, {"ema": 2, "model": 1}),
    ({"ema_state_dict": 2, "model_state_dict": 1}, {"ema": 2, "model": 1}),
    ({"model_state_dict": 1, "optimizer_state_dict": 3}, {"model": 1}),
    ({"ema_state_dict": 2, "state_dict": 1}, {"ema": 2, "model": 1}),
    ({"model": 1, "state_dict": 2}, {"model": 1}),
    ({"model_ema": 2}, {"ema": 2}),
    ({"state_dict_ema": 2, "state_dict": 1}, {"ema": 2, "model": 1}),
    ({"net": 1, "ema_model": 2}, {"ema": 2, "model": 1}),
    ({"params": 1, "params_ema": 2}, {"ema": 2, "model": 1}),
    ({"state_dict": 1, "EMA": 2}, {"model": 1}),
    ({"state_dict": 1, "ema_0.9999": 2}, {"model": 1}),
    ({"params": 1, "averaged_model": 2}, {"model": 1}),
    ({"weights": 4}, {"ema": 4, "model": 4}),
]


@every_row(("sets", "found"), NAMED)
def test_the_set_that_is_asked_for_is_read_or_refused(tmp_path, sets, found):
    """Never the raw weights as an average, nor an average as the weights."""
    file = write_pickle(tmp_path / "x.pt", {name: state(seed) for name, seed in sets.items()} | {"epoch": 3})
    for prefer in ("ema", "model"):
        if prefer in found:
            assert_same_state(load_weights(file, prefer=prefer), state(found[prefer]))
        else:
            with pytest.raises(ValueError, match=rf"x\.pt holds no '{prefer}' weights, but '\w+' weights"):
                load_weights(file, prefer=prefer)
    assert_same_state(load_weights(file, prefer=None), state(next(iter(found.values()))))


def test_an_average_that_is_not_read_is_not_passed_over(tmp_path):
    shadow = {"decay": 0.99, "shadow_params": list(state(2).values())}
    for beside in ({"callbacks": {"EMA{'decay': 0.99}": shadow}}, {"swa": shadow}):
        file = write_pickle(tmp_path / "x.pt", {"state_dict": state(1), **beside})
        with pytest.raises(ValueError, match=r"x\.pt holds no 'ema' weights, but 'model' weights"):
            load_weights(file)
        assert_same_state(load_weights(file, prefer="model"), state(1))
    plain = {"schema": {"a": torch.ones(1)}, "ema_decay": 0.99, "opt": {"state": {0: {"exp_avg": torch.ones(1)}}}}
    assert_same_state(load_weights(write_pickle(tmp_path / "x.pt", {"state_dict": state(1), **plain})), state(1))


def test_the_count_of_an_averaged_model_is_no_weight(tmp_path):
    averaged = torch.optim.swa_utils.AveragedModel(nn.Linear(2, 2)).state_dict()
    for content in (averaged, {"ema": averaged, "model": state(1)}):
        assert load_weights(write_pickle(tmp_path / "x.pt", content)).keys() == {"weight", "bias"}


def test_sets_inside_others_and_by_their_prefix(tmp_path):
    within = write_pickle(tmp_path / "within.pt", {"model": {"ema": state(2), "model": state(1)}})
    nested = {"ema": {"decay": 0.999, "state_dict": state(2)}, "model": {"model": state(1)}}
    prefixed = {f"{name}.{key}": x for name, seed in (("ema", 2), ("model", 1)) for key, x in state(seed).items()}
    files = [write_pickle(tmp_path / "nested.pt", nested), write_pickle(tmp_path / "one.pt", {"state_dict": prefixed})]
    save_file({name: value.contiguous() for name, value in prefixed.items()}, tmp_path / "one.safetensors")
    for file in [*files, within, tmp_path / "one.safetensors"]:
        assert_same_state(load_weights(file), state(2))
        assert_same_state(load_weights(file, prefer="model"), state(1))
    save_file({f"ema.{name}": value.contiguous() for name, value in state(2).items()}, tmp_path / "ema.safetensors")
    assert_same_state(load_weights(tmp_path / "ema.safetensors"), state(2))
    with pytest.raises(ValueError, match="holds no 'model' weights, but 'ema' weights"):
        load_weights(tmp_path / "ema.safetensors", prefer="model")


PREFIXES = ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model.diffusion_model.", "any.thing."]


@every_row("prefix", PREFIXES)
def test_a_prefix_of_all_names_is_taken_off(tmp_path, prefix):
    tensors = {name: value.contiguous() for name, value in network().state_dict().items()}
    prefixed = {prefix + name: value for name, value in tensors.items()}
    save_file(prefixed, tmp_path / "x.safetensors")
    for file in (tmp_path / "x.safetensors", write_pickle(tmp_path / "x.pt", {"ema": prefixed})):
        model = network()
        load_into(model, load_weights(file), file.name)
        assert_same_state(model.state_dict(), tensors)
        held = nn.ModuleDict({"net": network()})  # whose own names all begin alike
        load_into(held, load_weights(file), file.name)
        assert_same_state(held["net"].state_dict(), tensors)


def test_wrappers_of_blocks_are_taken_off_and_names_never_meet(tmp_path):
    names = [
        "blocks.0._orig_mod.a",
        "blocks.1._fsdp_wrapped_module.a",
        "b._checkpoint_wrapped_module.c",
        "_orig_modern.d",
    ]
    file = write_pickle(tmp_path / "x.pt", {name: torch.ones(1) for name in names})
    assert set(load_weights(file)) == {"blocks.0.a", "blocks.1.a", "b.c", "_orig_modern.d"}
    file = write_pickle(tmp_path / "y.pt", {"a": torch.ones(1), "module.a": torch.zeros(1), "b": torch.ones(1)})
    with pytest.raises(ValueError, match=r"y\.pt holds tensors whose names are the same"):
        load_weights(file)


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


def test_weights_of_another_kind_of_number_are_refused():
    """Quantized ones, say, whose scales lie elsewhere; a lower precision is cast."""
    model, other = network(), network()
    for kind in (torch.int8, torch.bool, torch.complex64):
        with pytest.raises(ValueError, match=rf"^x\.pt .* 0\.bias is {kind}, the model has torch\.float32, .* 1 more"):
            load_into(model, {name: value.to(kind) for name, value in other.state_dict().items()}, "x.pt")
    load_into(model, {name: value.half() for name, value in other.state_dict().items()}, "x.pt")
    assert torch.equal(model[0].weight, other[0].weight.half().float())


def test_a_pickle_of_another_protocol_is_not_called_damaged(tmp_path):
    torch.save({"w": torch.ones(2)}, tmp_path / "x.pt", pickle_protocol=4)
    with pytest.raises(ValueError, match=r"x\.pt is pickled by protocol 4; read are"):
        load_weights(tmp_path / "x.pt")


def test_weights_reach_the_model():
    model, other = network(), network()
    load_into(model, other.state_dict(), "x.pt")
    assert_same_state(model.state_dict(), other.state_dict())


def test_weights_that_are_not_finite_are_told_by_name():
    model = network()
    check_finite_weights(model, "x.pt")
    with torch.no_grad():
        model[1].bias[2] = torch.inf
    with pytest.raises(ValueError, match=r"^x\.pt holds NaN or infinity in 1\.bias$"):
        check_finite_weights(model, "x.pt")


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
