"""Files that are whole or absent: what survives a failure, what damage is noticed, and which weights can be read."""

import argparse
import json
import os
import pickle
import signal
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import core.storage.atomic
import core.storage.checkpoint
from core.storage.atomic import atomic_dir, sha256_file, write_atomic
from core.storage.checkpoint import MANIFEST, SCHEMA_VERSION, CheckpointStore, read_checkpoint
from core.storage.weights import load_into, load_weights


def state(seed=0):
    """Tensors of every kind that a checkpoint must keep."""
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(4, 3, generator=generator)
    return {
        "a.weight": matrix,
        "a.transposed": matrix.t(),
        "a.half": matrix.bfloat16(),
        "step": torch.tensor(7 + seed),
        "mask": matrix > 0,
        "empty": torch.zeros(0, 3),
    }


def assert_same_state(actual, expected):
    assert set(actual) == set(expected)
    for name, value in expected.items():
        assert actual[name].dtype == value.dtype
        assert torch.equal(actual[name], value), name


def names_in(folder):
    """Everything in a folder, hidden files too."""
    return sorted(path.name for path in Path(folder).iterdir())


def contents(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


# atomic_dir and write_atomic


def fill(folder, text):
    (folder / "sub").mkdir()
    (folder / "sub" / "file").write_text(text)


def text_in(folder):
    return (folder / "sub" / "file").read_text()


def test_a_folder_appears_when_the_block_ends(tmp_path):
    target = tmp_path / "deep" / "target"
    with atomic_dir(target) as temporary:
        fill(temporary, "new")
        assert not target.exists()
    assert text_in(target) == "new"
    assert names_in(target.parent) == ["target"]


def test_a_folder_is_replaced_by_the_complete_new_one(tmp_path):
    target = tmp_path / "target"
    for text in ("old", "new"):
        with atomic_dir(target) as temporary:
            fill(temporary, text)
            assert not target.exists() or text_in(target) == "old"
    assert text_in(target) == "new"
    assert names_in(tmp_path) == ["target"]


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("before", [True, False], ids=["replacing", "new"])
def test_a_block_that_fails_leaves_what_was_there(tmp_path, failure, before):
    target = tmp_path / "target"
    if before:
        with atomic_dir(target) as temporary:
            fill(temporary, "old")
    with pytest.raises(failure), atomic_dir(target) as temporary:
        fill(temporary, "half")
        raise failure
    assert names_in(tmp_path) == (["target"] if before else [])
    assert not before or text_in(target) == "old"


@pytest.mark.parametrize("failing", [1, 2])
def test_a_rename_that_fails_leaves_what_was_there(tmp_path, monkeypatch, failing):
    target, calls, rename = tmp_path / "target", [], Path.rename
    with atomic_dir(target) as temporary:
        fill(temporary, "old")

    def unreliable(self, other):
        calls.append(other)
        if len(calls) == failing:
            raise OSError(28, "No space left on device")
        return rename(self, other)

    monkeypatch.setattr(Path, "rename", unreliable)
    with pytest.raises(OSError, match="No space left"), atomic_dir(target) as temporary:
        fill(temporary, "new")
    assert len(calls) >= failing
    assert names_in(tmp_path) == ["target"]
    assert text_in(target) == "old"


def killed_while(body, *args):
    """Run `body` in a process of its own, in which it must kill itself."""
    code = f"import os, signal, sys\nfrom pathlib import Path\n{body}\n"
    root = Path(core.storage.checkpoint.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code, *map(str, args)], cwd=root, timeout=120)
    assert done.returncode == -signal.SIGKILL


DIE = "os.kill(os.getpid(), signal.SIGKILL)"


def test_killed_in_the_middle_leaves_nothing_with_the_final_name(tmp_path):
    store = CheckpointStore(tmp_path)
    store.save(1, {"model": state()}, {})
    body = f"""
import core.storage.checkpoint as c
save = c.save_file
def save_file(tensors, file):
    save(tensors, file)
    if file.name.startswith("ema"):
        {DIE}
c.save_file = save_file
import torch
store = c.CheckpointStore(sys.argv[1])
store.save(2, {{"model": {{"w": torch.ones(3)}}, "ema": {{"w": torch.ones(3)}}}}, {{}})
"""
    killed_while(body, tmp_path)
    assert not (tmp_path / "step_00000002").exists()
    assert [path.name for path in store.paths()] == ["step_00000001"]
    store.save(2, {"model": state(2)}, {})
    assert read_checkpoint(store.latest()).step == 2


def test_everything_is_on_disk_before_it_has_the_final_name(tmp_path, monkeypatch):
    synced, target = [], tmp_path / "target"
    monkeypatch.setattr(core.storage.atomic, "sync", lambda path: synced.append((path.name, target.exists())))
    with atomic_dir(target) as temporary:
        fill(temporary, "new")
    assert {("file", False), ("sub", False), (temporary.name, False)} <= set(synced)
    assert synced[-1] == (tmp_path.name, True)


def test_whoever_reads_a_file_reads_the_old_or_the_new(tmp_path):
    file = write_atomic(tmp_path / "facts.json", "old")
    with file.open() as reader:
        write_atomic(file, "something new")
        assert reader.read() == "old"
    assert file.read_text() == "something new"


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    file = tmp_path / "deep" / "facts.json"
    assert write_atomic(file, "old") == file
    write_atomic(file, b"\x00new")
    assert file.read_bytes() == b"\x00new"
    monkeypatch.setattr(core.storage.atomic, "sync", lambda path: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_atomic(file, "never")
    assert file.read_bytes() == b"\x00new"
    assert names_in(file.parent) == ["facts.json"]


# the store


def test_what_is_saved_is_read_back(tmp_path):
    notes = {"config": {"lr": 1e-4, "pairs": [[2, 4]]}, "tokenizer": {"scale": 0.18215}, "none": None}
    path = CheckpointStore(tmp_path).save(12, {"model": state(), "ema": state(1)}, notes)
    assert path == tmp_path / "step_00000012"
    loaded = read_checkpoint(path)
    assert (loaded.step, loaded.notes, set(loaded.groups)) == (12, notes, {"model", "ema"})
    assert_same_state(loaded.groups["model"], state())
    assert_same_state(loaded.groups["ema"], state(1))
    assert names_in(path) == [MANIFEST, "ema.safetensors", "model.safetensors"]


def test_only_the_groups_asked_for_are_read(tmp_path):
    path = CheckpointStore(tmp_path).save(1, {"model": state(), "ema": state(1)}, {})
    (path / "model.safetensors").unlink()
    assert set(read_checkpoint(path, only=("ema",)).groups) == {"ema"}


def test_the_manifest_tells_sizes_and_hashes(tmp_path):
    path = CheckpointStore(tmp_path).save(1, {"model": state()}, {})
    manifest, file = json.loads((path / MANIFEST).read_text()), path / "model.safetensors"
    assert manifest["files"] == {file.name: {"bytes": file.stat().st_size, "sha256": sha256_file(file)}}
    assert (manifest["step"], manifest["schema_version"]) == (1, SCHEMA_VERSION)


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_newest_are_kept(tmp_path, keep):
    store = CheckpointStore(tmp_path, keep)
    assert store.latest() is None
    for step in (5, 10, 100, 1000):
        assert store.save(step, {"model": state()}, {}) == store.latest()
    kept = [f"step_{step:08d}" for step in (5, 10, 100, 1000)][-keep:]
    assert names_in(tmp_path) == ["latest", *kept]
    assert [path.name for path in store.paths()] == kept


def test_a_checkpoint_just_written_is_kept_beside_later_ones(tmp_path):
    store = CheckpointStore(tmp_path, keep=1)
    store.save(20, {"model": state()}, {})
    path = store.save(10, {"model": state(1)}, {})
    assert read_checkpoint(path).step == 10


def test_the_same_step_again_replaces_it(tmp_path):
    store = CheckpointStore(tmp_path)
    store.save(5, {"model": state(), "ema": state()}, {})
    path = store.save(5, {"model": state(3)}, {})
    assert_same_state(read_checkpoint(path).groups["model"], state(3))
    assert names_in(tmp_path) == ["latest", "step_00000005"]


def test_tensors_that_share_memory_are_saved_each_for_itself(tmp_path):
    matrix = torch.arange(12.0).reshape(4, 3)
    tied = {"embed": matrix, "head": matrix, "rows": matrix[1:], "spread": matrix[0].expand(2, 3)}
    assert_same_state(read_checkpoint(CheckpointStore(tmp_path).save(1, {"model": tied}, {})).groups["model"], tied)


def test_every_nth_is_kept_for_good(tmp_path):
    store = CheckpointStore(tmp_path, keep=2, keep_every=20)
    for step in range(10, 80, 10):
        store.save(step, {"model": state()}, {})
    assert [path.name[-2:] for path in store.paths()] == ["20", "40", "60", "70"]


def test_latest_names_the_newest_and_is_followed(tmp_path):
    store = CheckpointStore(tmp_path)
    for step in (5, 10):
        store.save(step, {"model": state(step), "ema": state(step + 1)}, {})
        assert read_checkpoint(tmp_path / "latest").step == step
        assert_same_state(load_weights(tmp_path / "latest"), state(step + 1))


def test_what_a_killed_process_had_left_to_do_is_done_later(tmp_path):
    """Killed between the rename of the newest folder and what follows it: `latest`, and the end of the oldest."""
    for step in (5, 10, 15):
        CheckpointStore(tmp_path, keep=3).save(step, {"model": state()}, {})
    (tmp_path / "latest").write_text("step_00000010\n")
    store = CheckpointStore(tmp_path, keep=2)
    store.settle(store.newest_sound())
    assert names_in(tmp_path) == ["latest", "step_00000010", "step_00000015"]
    assert read_checkpoint(tmp_path / "latest").step == 15


def test_a_checkpoint_that_is_being_removed_has_not_its_name_any_more(tmp_path, monkeypatch):
    store = CheckpointStore(tmp_path, keep=1)
    store.save(5, {"model": state()}, {})
    monkeypatch.setattr(core.storage.checkpoint.shutil, "rmtree", lambda path: (path / MANIFEST).unlink())
    store.save(10, {"model": state()}, {})
    assert [path.name for path in store.paths()] == ["step_00000010"]
    monkeypatch.undo()
    store.clean()
    assert names_in(tmp_path) == ["latest", "step_00000010"]


def test_cleaning_puts_back_what_was_about_to_be_replaced(tmp_path):
    store = CheckpointStore(tmp_path)
    path = store.save(5, {"model": state()}, {})
    before = contents(path)
    path.rename(tmp_path / ".step_00000005.12345678.old")
    (tmp_path / ".step_00000005.87654321.tmp").mkdir()
    (tmp_path / ".latest.87654321.tmp").touch()
    store.clean()
    assert names_in(tmp_path) == ["latest", "step_00000005"]
    assert contents(path) == before


def test_cleaning_removes_what_was_replaced(tmp_path):
    store = CheckpointStore(tmp_path)
    path = store.save(5, {"model": state(1)}, {})
    (tmp_path / ".step_00000005.12345678.old").mkdir()
    store.clean()
    assert names_in(tmp_path) == ["latest", "step_00000005"]
    assert_same_state(read_checkpoint(path).groups["model"], state(1))


def test_a_file_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(
        core.storage.atomic.os, "fsync", lambda descriptor: os.open(tmp_path / "absent" / "x", os.O_RDONLY)
    )
    with pytest.raises(OSError, match=r"facts\.json could not be written: No such file"):
        write_atomic(tmp_path / "facts.json", "new")
    assert names_in(tmp_path) == []


def test_keeping_none_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"trainer\.keep_checkpoints is 0 and trainer\.keep_every 3; at least 1 and 0"):
        CheckpointStore(tmp_path, keep=0, keep_every=3)


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_save_that_fails_keeps_the_earlier_ones(tmp_path, monkeypatch, failure):
    store = CheckpointStore(tmp_path, keep=1)
    old = contents(store.save(5, {"model": state()}, {}))

    def full(tensors, file):
        file.write_bytes(b"half")
        raise failure

    monkeypatch.setattr(core.storage.checkpoint, "save_file", full)
    for step in (5, 6):
        with pytest.raises(type(failure)):
            store.save(step, {"model": state(1)}, {})
    assert names_in(tmp_path) == ["latest", "step_00000005"]
    assert contents(store.latest()) == old


def test_notes_that_cannot_be_written_leave_nothing(tmp_path):
    with pytest.raises(TypeError):
        CheckpointStore(tmp_path).save(5, {"model": state()}, {"device": torch.device("cpu")})
    assert names_in(tmp_path) == []


# damage


@pytest.fixture
def saved(tmp_path):
    return CheckpointStore(tmp_path).save(3, {"model": state(), "ema": state(1)}, {"note": 1})


def refused(path, *parts):
    with pytest.raises(ValueError) as caught:
        read_checkpoint(path)
    assert all(str(part) in str(caught.value) for part in parts), caught.value


def test_a_truncated_file_is_named(saved):
    file = saved / "ema.safetensors"
    size = file.stat().st_size
    for left in (size - 1, size // 2, 0):
        os.truncate(file, left)
        refused(saved, file, f"{left} bytes", f"{size} were written")


def test_a_flipped_byte_is_named(saved):
    file = saved / "ema.safetensors"
    whole = file.read_bytes()
    for place in (0, 9, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        refused(saved, file, "SHA-256")


def test_a_lost_file_is_named(saved):
    (saved / "model.safetensors").unlink()
    refused(saved, saved / "model.safetensors", "damaged")


def test_a_lost_manifest_is_named(saved):
    (saved / MANIFEST).unlink()
    refused(saved, saved / MANIFEST, "not a complete checkpoint")


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "{}", '{"schema_version": 1, "step": 3}'])
def test_a_damaged_manifest_is_named(saved, text):
    (saved / MANIFEST).write_text(text)
    refused(saved, saved)


def test_a_manifest_that_is_no_text_is_named(saved):
    (saved / MANIFEST).write_bytes(b"\xff\xfe\x00{")
    refused(saved, saved)


@pytest.mark.parametrize("version", [0, SCHEMA_VERSION + 1, None, str(SCHEMA_VERSION)])
def test_another_schema_version_is_named(saved, version):
    manifest = json.loads((saved / MANIFEST).read_text())
    (saved / MANIFEST).write_text(json.dumps({**manifest, "schema_version": version}))
    refused(saved, saved, f"schema {version}", f"reads {SCHEMA_VERSION}")


def test_the_newest_sound_one_is_found_and_damaged_ones_are_set_aside(tmp_path, caplog):
    store = CheckpointStore(tmp_path, keep=3)
    for step in (5, 10, 15):
        store.save(step, {"model": state(), "ema": state()}, {})
    for step in (10, 15):
        (tmp_path / f"step_{step:08d}" / "model.safetensors").unlink()
    assert store.newest_sound(only=("ema",)).name == "step_00000015"
    assert store.newest_sound().name == "step_00000005"
    assert len(store.paths()) == 3, "looking moves nothing"
    assert store.newest_sound(set_aside=True).name == "step_00000005"
    assert names_in(tmp_path) == ["latest", "step_00000005", "step_00000010.damaged", "step_00000015.damaged"]
    assert "step_00000015.damaged, and the one before it is used" in caplog.text


def test_there_is_no_newest_sound_one_without_any(tmp_path):
    assert CheckpointStore(tmp_path / "none").newest_sound() is None


def test_a_second_damaged_one_of_the_same_step_is_set_aside_too(tmp_path):
    store = CheckpointStore(tmp_path)
    store.save(5, {"model": state()}, {})
    for _ in range(2):
        (store.save(10, {"model": state()}, {}) / MANIFEST).unlink()
        assert store.newest_sound(set_aside=True).name == "step_00000005"
    assert len([name for name in names_in(tmp_path) if name.startswith("step_00000010.damaged")]) == 2


def test_a_folder_or_file_that_is_no_checkpoint_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path, tmp_path / "file", tmp_path / "absent"):
        refused(path, path, "not a complete checkpoint")


# weights that others published


def published(prefix=""):
    """A training checkpoint as SiT and LayerSync publish it."""
    model, ema = ({prefix + name: value for name, value in state(seed).items()} for seed in (1, 2))
    args = argparse.Namespace(model="SiT-XL/2", reg_weight=0.2, wandb=False, results_dir="r", cfg=None)
    optimizer = {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-4, "betas": (0.9, 0.999)}]}
    return {"model": model, "ema": OrderedDict(ema), "opt": optimizer, "args": args}


zipped = pytest.mark.parametrize("zip_format", [True, False], ids=["zip", "legacy"])


def write_pickle(path, content, zip_format=True):
    torch.save(content, path, _use_new_zipfile_serialization=zip_format)
    return path


def test_weights_of_a_checkpoint_folder(saved):
    assert_same_state(load_weights(saved), state(1))
    assert_same_state(load_weights(saved, prefer="model"), state())
    with pytest.raises(ValueError, match="holds no 'average' weights"):
        load_weights(saved, prefer="average")


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


@zipped
@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".tar"])
def test_weights_of_a_published_training_checkpoint(tmp_path, zip_format, prefix, suffix):
    file = write_pickle(tmp_path / f"x{suffix}", published(prefix), zip_format)
    assert_same_state(load_weights(file), state(2))
    assert_same_state(load_weights(file, prefer="ema"), state(2))
    assert_same_state(load_weights(file, prefer="model"), state(1))


@zipped
@pytest.mark.parametrize("wrap", [dict, OrderedDict, lambda s: {"state_dict": s}, lambda s: {"model": s, "epoch": 3}])
def test_weights_of_a_state_dict(tmp_path, zip_format, wrap):
    file = write_pickle(tmp_path / "x.pt", wrap(state()), zip_format)
    assert_same_state(load_weights(file), state())


def test_only_a_leading_prefix_is_taken_off(tmp_path):
    names = {"module.a.module.b": torch.ones(1), "my_module.c": torch.ones(2)}
    assert set(load_weights(write_pickle(tmp_path / "x.pt", names))) == {"a.module.b", "my_module.c"}


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"args": argparse.Namespace()},
        [torch.ones(2)],
        torch.ones(2),
        {"model": {}},
        {"epoch": 3},
        {0: torch.ones(2)},
    ],
)
def test_a_file_without_a_state_dict_is_refused(tmp_path, content):
    with pytest.raises(ValueError, match=r"x\.pt holds no state dict"):
        load_weights(write_pickle(tmp_path / "x.pt", content))


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"no checkpoint at .*x\.pt"):
        load_weights(tmp_path / "x.pt")


class Malicious:
    """Creates a file when it is unpickled without care."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.mkdir, (str(self.file),)


@pytest.mark.parametrize("write", ["zip", "legacy", "plain"])
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


@zipped
def test_a_truncated_file_is_damaged_wherever_it_ends(tmp_path, zip_format):
    file = write_pickle(tmp_path / "x.pt", published(), zip_format)
    whole = file.read_bytes()
    for left in [*range(0, len(whole), 41), len(whole) - 1]:
        file.write_bytes(whole[:left])
        with pytest.raises(ValueError, match=r"x\.pt is (damaged|refused)"):
            load_weights(file)


@pytest.mark.parametrize(
    "content", [b"<html>404 Not Found</html>", b"version https://git-lfs", b"\x00" * 64, b'{"a": 1}']
)
def test_a_file_that_is_no_pytorch_file_is_called_so(tmp_path, content):
    file = tmp_path / "x.pt"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.pt is damaged or not a PyTorch file"):
        load_weights(file)


# into a model


def network(width=4, depth=2):
    return nn.Sequential(*(nn.Linear(width, width) for _ in range(depth)))


def test_weights_reach_the_model():
    model, other = network(), network()
    load_into(model, other.state_dict(), "x.pt")
    assert_same_state(model.state_dict(), other.state_dict())


@pytest.mark.parametrize(
    ("other", "parts"),
    [
        (network(depth=1), ["missing 1.bias, 1.weight"]),
        (network(depth=3), ["unexpected 2.bias, 2.weight"]),
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
