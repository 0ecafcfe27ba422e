"""What ends a run in its middle: one line that says what to do, the last good state saved, and the same end later."""

import json
import multiprocessing
import os
import re
import signal

import pytest
import torch
from torch.utils.data import get_worker_info

from core.step import TrainingLoss
from core.storage.checkpoint import read_checkpoint
from core.train.trainer import Trainer
from image.datasets.digits import DigitsDataset
from tests.end_to_end.commands import is_one_line_error, newest, same_run, steps_of
from tests.end_to_end.image_runs import RUN, uninterrupted

BAD_STEP = 8  # steps before it are made


@pytest.fixture(scope="module")
def whole(zygote, tmp_path_factory):
    """Undisturbed runs by their number of workers."""
    numbers = (0, 2)
    return {n: uninterrupted(zygote, tmp_path_factory.mktemp("whole"), f"trainer.num_workers={n}") for n in numbers}


def goes_on(train, whole, tmp_path, monkeypatch, workers=0):
    """Without the fault, the same command comes to the end of a run that had none."""
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    outcome = train(f"trainer.num_workers={workers}")
    assert outcome.code == 0, outcome
    for file in (tmp_path / RUN).glob("nonfinite_*"):
        file.unlink()
    same_run(tmp_path / RUN, whole[workers])


# --- memory


def no_gpu_memory():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB.")


def no_allocation():
    torch.empty(2**50)  # a petabyte and more: the allocator of the CPU itself refuses it


def no_memory():
    raise MemoryError


@pytest.mark.parametrize("fail", [no_gpu_memory, no_allocation, no_memory])
def test_no_memory_is_told_with_what_to_turn_down(train, whole, tmp_path, monkeypatch, fail):
    original = TrainingLoss.__call__

    def loss(self, batch, random, step):
        if step == BAD_STEP - 1:
            fail()
        return original(self, batch, random, step)

    monkeypatch.setattr(TrainingLoss, "__call__", loss)
    parts = ["cpu ran out of memory in step 8 with 6 of trainer.batch_size 6", "media (1, 8, 8)", "latents (1, 8, 8)"]
    parts += ["16 tokens", "Turn down trainer.batch_size", "trainer.accumulate=2", "trainer.checkpoint_blocks=true"]
    is_one_line_error(train(), *parts, "trainer.precision=bf16", code=1)
    assert steps_of(tmp_path / RUN)[-1] == BAD_STEP - 1
    goes_on(train, whole, tmp_path, monkeypatch)


# --- workers


def test_a_worker_that_is_killed_is_told_with_what_to_turn_down(train, whole, tmp_path, monkeypatch):
    original = DigitsDataset.item

    def item(self, index, rng):
        if get_worker_info() is not None and rng.random() < 0.02:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, index, rng)

    monkeypatch.setattr(DigitsDataset, "item", item)
    outcome = train("trainer.num_workers=2")
    is_one_line_error(outcome, "a worker process of the data loader died", "trainer.num_workers, now 2", code=1)
    goes_on(train, whole, tmp_path, monkeypatch, workers=2)


@pytest.mark.parametrize("where", ["_log", "preview"])
def test_a_worker_may_die_while_the_main_process_does_something_else(train, whole, tmp_path, monkeypatch, where):
    """Nothing is cut off there: the step is recorded in full, and the run ends where the worker's batch is missing."""
    original = getattr(Trainer, where)

    def interrupted(self, *args):
        if self.step == 10:
            kill_a_worker()
        return original(self, *args)

    monkeypatch.setattr(Trainer, where, interrupted)
    parts = ["a worker process of the data loader died", "trainer.num_workers, now 2"]
    is_one_line_error(train("trainer.num_workers=2"), *parts, code=1)
    assert steps_of(tmp_path / RUN)[-1] >= 10
    goes_on(train, whole, tmp_path, monkeypatch, workers=2)


def test_a_killed_worker_is_told_where_another_error_comes_of_it(train, whole, tmp_path, monkeypatch):
    original = Trainer._log

    def interrupted(self, *args):
        if self.step == 10:
            kill_a_worker()
            raise ConnectionResetError("Connection reset by peer")
        return original(self, *args)

    monkeypatch.setattr(Trainer, "_log", interrupted)
    parts = ["step 11: a worker process of the data loader died", "trainer.num_workers, now 2"]
    is_one_line_error(train("trainer.num_workers=2"), *parts, code=1)
    goes_on(train, whole, tmp_path, monkeypatch, workers=2)


def kill_a_worker() -> None:
    """One of the loader's, and wait for its end."""
    worker = next(child for child in multiprocessing.active_children() if isinstance(child, multiprocessing.Process))
    worker.kill()
    worker.join()


def test_an_error_of_the_data_set_is_the_one_line_that_it_was(train, monkeypatch):
    def item(self, index, rng):
        raise ValueError(f"data.root: image {index} of digits is broken")

    monkeypatch.setattr(DigitsDataset, "item", item)
    is_one_line_error(train("trainer.num_workers=1"), "error: data.root: image ", " of digits is broken (")


# --- numbers that are not finite


@pytest.mark.filterwarnings("error")  # a warning would stand on the user's screen beside the one line
def test_a_loss_that_is_not_finite_leaves_the_names_of_its_samples(train, whole, tmp_path, monkeypatch):
    original, seen = DigitsDataset.item, []

    def item(self, index, rng):
        sample = original(self, index, rng)
        seen.append(index)
        if len(seen) == 6 * (BAD_STEP - 1) + 3:
            sample["media"][0, 3, 3] = torch.nan
        return sample

    monkeypatch.setattr(DigitsDataset, "item", item)
    file = tmp_path / RUN / f"nonfinite_step_{BAD_STEP:08d}.json"
    is_one_line_error(train(), f"step {BAD_STEP}: loss nan", "Nothing was updated", str(file.name), code=1)
    facts = json.loads(file.read_text())
    batch = seen[-6:]
    assert facts["step"] == BAD_STEP
    assert (facts["loss"], facts["gradient_norm"]) == ("nan", "nan")
    assert [sample["index"] for sample in facts["samples"]] == batch
    assert [sample["name"] for sample in facts["samples"]] == [f"digit {index} of train" for index in batch]
    assert [sample["flow_loss"] == "nan" for sample in facts["samples"]] == [i == 2 for i in range(6)]
    assert steps_of(tmp_path / RUN)[-1] == BAD_STEP - 1
    goes_on(train, whole, tmp_path, monkeypatch)


def test_a_learning_rate_that_explodes_is_told_with_its_step(train, tmp_path):
    outcome = train("optimizer.lr=1e30", "optimizer.warmup_steps=0", "optimizer.clip_norm=null")
    is_one_line_error(outcome, "error: step ", "loss nan", code=1)
    step = int(re.search(r"step (\d+): loss", outcome.err)[1])
    saved = read_checkpoint(newest(tmp_path / RUN))
    assert saved.step == step - 1
    assert all(value.isfinite().all() for value in saved.groups["model"].values())
