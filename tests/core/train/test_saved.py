"""Checkpoints that are written beside the loop: what is in them, when they are there, and what their failure does."""

import contextlib
import functools
import json
import threading

import pytest
import torch

import core.storage.checkpoint
from core.processes.failures import LostFolderError
from core.storage.checkpoint import MANIFEST, read_checkpoint
from core.storage.packed import Kind
from core.train.saved import Copies
from core.train.trainer import Trainer
from tests.core.train.small import batch_of, make_trainer

QUICK = ["trainer.preview_every=0", "trainer.log_every=1", "tracking.tensorboard=off"]
save_file = core.storage.checkpoint.save_file


@pytest.fixture
def make(tmp_path, monkeypatch):
    """A trainer of a tiny run; what only a picture or a machine's speed needs is left out."""
    monkeypatch.setattr("core.train.trainer.matmul_peak", lambda device, dtype: 1e12)
    monkeypatch.setattr("core.train.tracking.draw_curves", lambda metrics, target: None)
    return functools.partial(make_trainer, tmp_path, *QUICK)


@contextlib.contextmanager
def held_up(monkeypatch):
    """Inside, no file of tensors is written before the event is set; at the end it is."""
    free = threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr(core.storage.checkpoint, "save_file", lambda *args: free.wait(10) and save_file(*args))
        yield free
        free.set()


def stepped(trainer, steps=1):
    """The trainer some steps on."""
    for _ in range(steps):
        trainer.update(batch_of(trainer, trainer.step))
    return trainer


def tensors_of(path):
    return {file.name: file.read_bytes() for file in path.glob("*.safetensors")}


def test_a_checkpoint_has_the_same_bytes_whether_the_loop_waits_or_not(make):
    found = []
    for beside in ("true", "false"):
        trainer = stepped(make(f"trainer.async_checkpoint={beside}", f"name=beside-{beside}"), 2)
        assert (trainer.saved.copies is not None) == (beside == "true")
        trainer.save()
        path = trainer.saved.store.latest()
        manifest = json.loads((path / MANIFEST).read_text())
        found.append((tensors_of(path), manifest["files"], list(manifest), list(manifest["notes"])))
    assert found[0] == found[1]
    assert found[0][0].keys() == {"model.safetensors", "ema.safetensors", "optimizer.safetensors"}


def test_what_is_written_is_the_state_of_its_step_however_far_the_loop_is(make, monkeypatch):
    trainer, measure = stepped(make()), stepped(make("name=measure", "trainer.async_checkpoint=false"))
    measure.save()
    with held_up(monkeypatch):
        trainer.saved.begin(trainer.step, trainer._notes)
        stepped(trainer, 2)
        assert trainer.saved.writer.busy
        assert trainer.saved.store.latest() is None
    trainer.saved.wait()
    assert [path.name for path in trainer.saved.store.paths()] == ["step_00000001"]
    assert tensors_of(trainer.saved.store.latest()) == tensors_of(measure.saved.store.latest())


def test_a_save_waits_for_the_one_before_and_memory_is_taken_once(make, monkeypatch):
    trainer = stepped(make())
    trainer.saved.reserve()
    with held_up(monkeypatch) as free:
        trainer.saved.begin(1, trainer._notes)
        memory = {name: packed.views for name, packed in trainer.saved.copies.packed.items()}
        threading.Timer(0.02, free.set).start()
        stepped(trainer).saved.begin(2, trainer._notes)
    assert free.is_set()
    trainer.saved.wait()
    assert [path.name for path in trainer.saved.store.paths()] == ["step_00000001", "step_00000002"]
    assert all(trainer.saved.copies.packed[name].views is views for name, views in memory.items())


def fail_after(monkeypatch, count, error):
    """The writing of files of tensors fails after `count` of them."""
    calls = iter(range(1000))

    def full(*args):
        if next(calls) >= count:
            raise error
        return save_file(*args)

    monkeypatch.setattr(core.storage.checkpoint, "save_file", full)


def test_a_disk_that_is_full_is_told_at_the_next_step_and_the_checkpoint_before_stays(make, monkeypatch):
    trainer = make("trainer.checkpoint_every=5", "trainer.steps=20")
    fail_after(monkeypatch, 3, OSError(28, "No space left on device"))
    update = Trainer.update

    def slowly(self, batch):
        if self.step == 10:
            self.saved.writer.settle()  # so that the failure lies before the next step
        return update(self, batch)

    monkeypatch.setattr(Trainer, "update", slowly)
    told = r"step_00000010 could not be written .*No space left.*step_00000005 is intact"
    with pytest.raises(OSError, match=told):
        trainer.fit()
    assert trainer.step == 11
    store = trainer.saved.store
    assert [path.name for path in store.paths()] == ["step_00000005"]
    assert (store.root / "latest").read_text() == "step_00000005\n"
    assert not list(store.root.glob(".*"))


def test_another_error_does_not_hide_that_a_checkpoint_could_not_be_written(make, monkeypatch, caplog):
    trainer = stepped(make())
    fail_after(monkeypatch, 0, OSError(28, "No space left on device"))
    with pytest.raises(ZeroDivisionError), trainer.saved:
        trainer.saved.begin(1, trainer._notes)
        _ = 1 / 0
    assert "step_00000001 could not be written" in caplog.text


def test_a_second_interrupt_lets_go_of_what_is_under_way(make, monkeypatch):
    trainer = stepped(make())
    with pytest.raises(KeyboardInterrupt), held_up(monkeypatch) as free, trainer.saved:
        trainer.saved.begin(1, trainer._notes)
        threading.Timer(0.02, free.set).start()
        raise KeyboardInterrupt
    assert trainer.saved.store.paths() == []
    assert not list(trainer.saved.store.root.glob("*"))


def test_a_folder_that_was_taken_meanwhile_gets_no_checkpoint(make, monkeypatch):
    trainer = stepped(make())

    def taken():
        raise LostFolderError("it does not belong to this process any more")

    with held_up(monkeypatch):
        trainer.saved.begin(1, trainer._notes)
        trainer.saved.check = taken
    with pytest.raises(LostFolderError, match="does not belong"):
        trainer.saved.wait()
    assert trainer.saved.store.paths() == []


def test_without_memory_for_a_copy_the_loop_waits_and_that_is_told(make, monkeypatch, caplog):
    trainer = stepped(make())

    def none(*args):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("core.train.saved.Packed", none)
    trainer.saved.reserve()
    trainer.saved.begin(1, trainer._notes)
    assert read_checkpoint(trainer.saved.store.latest()).step == 1
    assert "no memory for a copy of the checkpoint, the loop waits" in caplog.text


def test_other_tensors_get_other_memory():
    copies = Copies(pinned=False)
    for shape in ((2, 3), (2, 3), (4,)):
        copies.reserve({"model": Kind.of({"a": torch.zeros(shape)})})
        assert copies.packed["model"].views["a"].shape == shape
    assert not copies.missing
