"""The folder of a run: what it is called, whether it can be written, and whose it is."""

import copy
import dataclasses
import json
import os
import shutil

import pytest
import torch

from core.storage.checkpoint import CheckpointStore
from core.storage.run_folder import RunDirectory
from tests.rows import every_row

CONFIG = {
    "name": "a",
    "seed": 0,
    "device": "cpu",
    "trainer": {"steps": 10, "batch_size": 4, "num_workers": 0, "preview_every": 0},
    "optimizer": {"lr": 1e-4, "schedule": "constant", "betas": [0.9, 0.999]},
    "sampler": {"solver": "heun", "num_steps": 50},
}
FREE = ("device", "trainer.num_workers", "trainer.preview_every", "sampler")


def claim(run, config, *free_and_allowed):
    """What a run does that goes on with `config`, or is refused."""
    told = run.compare(config, *free_and_allowed)
    run.write_config(config)
    return told


def changed(**values):
    """CONFIG with other values, given as trainer__steps=20."""
    config = copy.deepcopy(CONFIG)
    for path, value in values.items():
        node, *rest = path.split("__")
        if rest:
            config[node][rest[0]] = value
        else:
            config[node] = value
    return config


@pytest.fixture
def run(tmp_path):
    """A run with a checkpoint."""
    run = RunDirectory.create(str(tmp_path), "image", "a")
    claim(run, CONFIG, FREE)
    (run.checkpoints / "step_00000005").mkdir(parents=True)
    (run.checkpoints / "step_00000005" / "checkpoint.json").write_text("{}")
    return run


def test_a_run_has_its_folder_by_domain_and_name(tmp_path):
    run = RunDirectory.create(str(tmp_path / "new" / "runs"), "image", "a-1.5_b+c")
    assert run.path == tmp_path / "new" / "runs" / "image" / "a-1.5_b+c"
    assert list(run.path.iterdir()) == []
    assert RunDirectory.create(str(tmp_path / "new" / "runs"), "image", "a-1.5_b+c") == run


@every_row("name", ["", "a/b", "..", ".", "a b", "../a", "a\n", "$HOME"])
def test_a_name_that_is_no_folder_name_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="a run's name has letters, digits and"):
        RunDirectory.create(str(tmp_path), "image", name)
    assert list(tmp_path.iterdir()) == []


@every_row("name", ["a\udcff", "a\0b"])
def test_a_place_whose_name_no_library_writes_is_refused_before_it_is_made(tmp_path, name):
    with pytest.raises(ValueError, match=r"^runs_dir is .*in UTF-8"):
        RunDirectory.create(str(tmp_path / name), "image", "a")
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_named_with_its_key(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"run directory .*file/image/a cannot be written .*; see runs_dir"):
        RunDirectory.create(str(tmp_path / "file"), "image", "a")


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_without_permission_is_named(tmp_path):
    (tmp_path / "image").mkdir(mode=0o500)
    with pytest.raises(OSError, match=r"cannot be written \(Permission denied\)"):
        RunDirectory.create(str(tmp_path), "image", "a")


@every_row(
    ("change", "words"),
    [
        ({"seed": 1}, r"seed \(0 before, 1 now\)"),
        ({"optimizer__betas": [0.9, 0.99]}, r"optimizer.betas \(\[0.9, 0.999\] before, \[0.9, 0.99\] now\)"),
        ({"trainer__batch_size": 8}, r"trainer.batch_size \(4 before, 8 now\)"),
        ({"optimizer__eps": 1e-8}, r"optimizer.eps \(none before, 1e-08 now\)"),
        ({"devices": 1}, r"devices \(none before, 1 now\)"),  # begins like a free key
        ({"samplers": 1}, r"samplers \(none before, 1 now\)"),
        (
            {"seed": 1, "optimizer__lr": 1.0, "device": "cuda"},
            r"optimizer.lr \(0.0001 before, 1.0 now\), seed \(0 before, 1 now\)",
        ),
    ],
)
def test_a_change_of_what_is_computed_is_refused_with_its_keys(run, change, words):
    with pytest.raises(ValueError, match=rf"holds a run with another {words}; choose another name"):
        claim(run, changed(**change), FREE)
    assert run.config() == CONFIG, "the refused config was written"


@every_row(
    "change",
    [
        {},
        {"device": "cuda"},
        {"trainer__num_workers": 4},
        {"trainer__preview_every": 5},
        {"sampler__num_steps": 100},
        {"sampler": {"solver": "dopri5"}},
    ],
)
def test_a_change_of_what_is_not_computed_is_taken_over(run, change):
    claim(run, changed(**change), FREE)
    assert run.config() == RunDirectory.find(run.path).config() == changed(**change)


@every_row("leftover", ["config.yaml", "metrics.jsonl", "checkpoints/.step_00000005.1234.tmp/model.safetensors"])
def test_a_run_that_died_before_its_first_checkpoint_binds_nobody(tmp_path, leftover):
    """A first try that failed, at a wrong pair for example, must not stand in the way of the second."""
    run = RunDirectory.create(str(tmp_path), "image", "a")
    claim(run, changed(seed=1), FREE)
    (run.path / leftover).parent.mkdir(parents=True, exist_ok=True)
    (run.path / leftover).touch()
    claim(run, CONFIG, FREE)
    assert run.config() == CONFIG


def test_a_summary_binds_even_when_the_checkpoints_were_deleted(run):
    run.summary_file.write_text(json.dumps({"steps": 10}))
    shutil.rmtree(run.checkpoints)
    with pytest.raises(ValueError, match="another seed"):
        claim(run, changed(seed=1), FREE)


@every_row("make", [lambda path: None, lambda path: path.mkdir()])
def test_what_is_no_run_is_refused_with_its_key(tmp_path, make):
    make(tmp_path / "run")
    with pytest.raises(ValueError, match=r"^run is '.*run'; it must be the folder of a run, with a config.yaml"):
        RunDirectory.find(tmp_path / "run")
    with pytest.raises(ValueError, match=r"^checkpoint is"):
        RunDirectory.find(tmp_path / "run", key="checkpoint")


def test_a_run_is_complete_when_it_has_a_summary(run):
    assert run.summary() is None
    run.summary_file.write_text(json.dumps({"steps": 10}))
    assert run.summary() == {"steps": 10}


def test_a_path_is_shown_as_the_user_would_type_it(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run.shown() == "image/a"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert run.shown() == str(run.path)


# --- allow_changes


def test_a_change_is_allowed_by_its_key_or_its_group(run):
    new = changed(seed=1, optimizer__lr=2e-4, optimizer__betas=[0.9, 0.99], device="cuda")
    with pytest.raises(ValueError, match=r"another seed \(0 before, 1 now\); .*allow_changes=\[seed\] to go on"):
        claim(run, new, FREE, ["optimizer"])
    assert sorted(claim(run, new, FREE, ["seed", "optimizer"])) == ["optimizer.betas", "optimizer.lr", "seed"]
    assert run.config() == new
    assert claim(run, new, FREE) == []


@every_row("key", ["sed", "optimizer.l", "optimizer.lr.x", "", "trainer."])
def test_what_may_change_is_a_key_of_the_config(run, key):
    with pytest.raises(ValueError, match=f"allow_changes names {key}; allowed: keys of the config"):
        claim(run, CONFIG, FREE, [key])
    with pytest.raises(ValueError, match="another seed"):  # nor is one that begins like an allowed one
        claim(run, {**CONFIG, "see": 1, "seed": 1}, FREE, ["see"])


def test_every_change_that_is_taken_over_is_told(run, caplog):
    caplog.set_level("INFO")
    claim(run, changed(device="cuda", trainer__num_workers=4), FREE)
    assert "goes on with another device (cpu before, cuda now)" in caplog.text
    assert "goes on with another trainer.num_workers (0 before, 4 now)" in caplog.text


# --- damage

DAMAGES = [
    b"",
    b"seed: [0",
    b"- 1\n- 2\n",
    b"7",
    b"seed: 1\n3: x\n",
    b"a: {1: 2}",
    b"\xff\xfe\x00",
    b"a: !!python/name:os\n",
]
DAMAGES += [b"\x00", b"seed: 0\n\tname: a", b"{" * 5000, b"a: *b", b"seed: 1\nseed: 2\n"]
DAMAGES += [
    b"a0: &a0 [1]\n" + b"".join(b"a%d: &a%d [%s]\n" % (n, n, b", ".join([b"*a%d" % (n - 1)] * 9)) for n in range(1, 9))
]


@every_row("content", DAMAGES)
def test_a_config_that_is_damaged_is_named(run, content):
    run.config_file.write_bytes(content)
    with pytest.raises(ValueError, match=rf"^{run.config_file} is damaged: ") as caught:
        run.compare(CONFIG, FREE)
    assert "\n" not in str(caught.value)


@dataclasses.dataclass(frozen=True)
class Schema:
    seed: int


@dataclasses.dataclass(frozen=True)
class LaterSchema:
    seed: int
    came_later: int = 5


def test_a_key_that_came_later_has_its_default_in_a_run_that_was_begun_before(run):
    run.config_file.write_text("seed: 3")
    assert run.compare({"seed": 3, "came_later": 5}, schema=LaterSchema) == []
    with pytest.raises(ValueError, match=r"another came_later \(none before, 6 now\)"):
        run.compare({"seed": 3, "came_later": 6}, schema=LaterSchema)
    run.config_file.write_text("sed: 3")  # no config of it: its keys are compared as they are
    with pytest.raises(ValueError, match=r"another came_later .*sed .*seed"):
        run.compare({"seed": 3, "came_later": 5}, schema=LaterSchema)


@every_row(
    ("content", "words"), [("seed: x", "'seed' is 'x'"), ("sed: 1", "unknown config key 'sed'"), ("{}", "missing")]
)
def test_a_config_that_does_not_fit_is_named(run, content, words):
    run.config_file.write_text("seed: 3")
    assert (run.checked_config(Schema), run.setting("seed", int)) == (Schema(3), 3)
    run.config_file.write_text(content)
    with pytest.raises(ValueError, match=rf"^{run.config_file}: .*{words}"):
        run.checked_config(Schema)
    with pytest.raises(ValueError, match=rf"^{run.config_file} is damaged: seed is .*; needed: int"):
        run.setting("seed", int)


def test_where_the_config_is_lost_that_of_the_newest_checkpoint_binds(run, caplog):
    CheckpointStore(run.checkpoints).save(6, {"model": {"a": torch.zeros(1)}}, {"config": CONFIG})
    run.config_file.unlink()
    assert run.compare(CONFIG, FREE) == []
    assert "config.yaml is lost; the config that step_00000006 remembers stands for it" in caplog.text
    with pytest.raises(ValueError, match=r"another seed \(0 before, 1 now\)"):
        run.compare(changed(seed=1), FREE)


@every_row(
    "content",
    [
        *(b"", b"[]", b"null", b"{}", b'{"steps": "10"}', b'{"steps": 1', b"[" * 100_000, b"\xff", b'{"steps": 0}'),
        *(b'{"steps": 1, "train_seconds": "4"}', b'{"steps": 1, "wall_seconds": NaN}'),
    ],
)
def test_a_summary_that_is_damaged_is_named(run, content):
    run.summary_file.write_bytes(content)
    with pytest.raises(ValueError, match=rf"^{run.summary_file} is damaged: "):
        run.summary()


# --- cleaning


def test_the_leftovers_of_a_killed_process_are_removed_and_nothing_else(run):
    keep = [run.path / "metrics.jsonl", run.previews / "step_00000005.png", run.snapshots / "step_5.safetensors"]
    leftovers = [run.path / ".config.yaml.12345678.tmp", run.path / ".writable.12345678.tmp", run.path / ".a.jsonl.tmp"]
    leftovers += [run.previews / ".step_00000005.png.12345678.tmp", run.snapshots / ".step_5.safetensors.1.tmp"]
    leftovers += [run.snapshots / ".tmpKV6nBc"]  # safetensors writes into it first
    for file in [*keep, *leftovers]:
        file.parent.mkdir(exist_ok=True)
        file.touch()
    run.clean()
    assert all(file.exists() for file in keep)
    assert not any(file.exists() for file in leftovers)
