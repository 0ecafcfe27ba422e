"""The commands on several processes: what they write does not depend on their number, and none is left waiting.

Most are started as torchrun starts them, but as forks of a process that has imported everything; torchrun itself, which
takes seconds, starts one.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from core.storage.checkpoint import CheckpointStore, read_checkpoint
from tests.core.processes.started import Launched

QUICK = [
    "trainer.steps=6",
    "trainer.batch_size=7",
    "trainer.log_every=2",
    "trainer.preview_every=0",
    "trainer.num_previews=10",
    "trainer.checkpoint_every=100",
    "backbone.depth=2",
    "backbone.hidden_size=16",
    "backbone.num_heads=2",
    "alignment.pairs=[[1,2]]",
    "optimizer.schedule=constant",
    "optimizer.warmup_steps=0",
    "sampler.num_steps=2",
    "sample_batch_size=4",
    "evaluation.num_samples=17",
    "evaluation.classifier_steps=20",
    'tracking.tensorboard="off"',
    "device=cpu",
]
LONG = [*(item for item in QUICK if not item.startswith("evaluation.")), "trainer.steps=5000", "evaluation=none"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
RUN = "runs/image/digits"


def errors(outcome):
    """What a process says went wrong, a line each; a traceback has more than one."""
    lines = [line for line in outcome.err.replace("\r", "\n").splitlines() if line.strip()]
    first = next((at for at, line in enumerate(lines) if line.startswith(("error", "Traceback"))), len(lines))
    return lines[first:]


def ended_well(launched):
    """The outcomes of processes that all did."""
    outcomes = launched.wait()
    assert [outcome.code for outcome in outcomes] == [0] * len(outcomes), outcomes
    return outcomes


def steps_of(place):
    return [read_checkpoint(path).step for path in CheckpointStore(place / RUN / "checkpoints").paths()]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A user's folder with a run that one process made."""
    place = tmp_path_factory.mktemp("one")
    (outcome,) = ended_well(Launched(1, "image.train", *QUICK, cwd=place))
    assert "class accuracy" in outcome.out
    return place


# --- the number of processes is not seen in the results


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_metrics_and_previews_are_those_of_one_process(trained, tmp_path, size, strategy):
    """A run that was killed while it was measured: the processes sample and measure the weights it had."""
    shutil.copytree(trained, place := tmp_path / "user")
    (place / RUN / "summary.json").unlink()
    shutil.rmtree(place / RUN / "previews")
    outcomes = ended_well(Launched(size, "image.train", *QUICK, f"parallel.strategy={strategy}", cwd=place))
    ours, one = (json.loads((where / RUN / "summary.json").read_text()) for where in (place, trained))
    assert (ours["processes"], one["processes"]) == (size, 1)
    metrics = {"frechet_distance", "class_accuracy", "num_samples", "frechet_floor", "classifier_accuracy"}
    assert metrics <= one.keys()
    assert {name: ours[name] for name in metrics} == {name: one[name] for name in metrics}
    picture = f"{RUN}/previews/step_00000006.png"
    assert (place / picture).read_bytes() == (trained / picture).read_bytes()
    assert "class accuracy" in outcomes[0].out
    assert [outcome.out for outcome in outcomes[1:]] == [""] * (size - 1)
    assert [errors(outcome) for outcome in outcomes] == [[]] * size


def sampling(place, *args):
    return ["image.sample", f"run={RUN}", "num=10", "batch_size=3", "device=cpu", f"out={place / 'samples'}", *args]


@pytest.mark.parametrize("size", [2, 3])
def test_samples_are_those_of_one_process_to_the_byte(trained, tmp_path, size):
    for number in (1, size):
        (tmp_path / str(number)).mkdir()
        outcomes = ended_well(Launched(number, *sampling(tmp_path / str(number)), cwd=trained))
        assert [("10 images" in outcome.out) for outcome in outcomes] == [True] + [False] * (number - 1)
    one, ours = (tmp_path / str(number) / "samples" for number in (1, size))
    files = sorted(path.relative_to(one) for path in one.rglob("*") if path.suffix in (".npz", ".png"))
    assert len(files) == 1 + 1 + 10
    for file in files:
        assert (ours / file).read_bytes() == (one / file).read_bytes(), file
    assert sorted(path.relative_to(ours) for path in ours.rglob("*")) == sorted(
        path.relative_to(one) for path in one.rglob("*")
    )


# --- what goes wrong in one process


def lose_a_picture(rank):
    """The data set of process 1 cannot read what the third step needs."""
    import image.data

    if rank == 1:
        read, counter = image.datasets.digits.DigitsDataset.pixels, iter(range(8))

        def pixels(self, index, mirror=False):
            if next(counter, None) is None:
                raise ValueError(f"digit {index} cannot be read")
            return read(self, index, mirror)

        image.datasets.digits.DigitsDataset.pixels = pixels


def spoil_a_picture(rank):
    """One of the pictures that process 1 reads for the third step is infinite."""
    import image.data

    if rank == 1:
        read, counter = image.datasets.digits.DigitsDataset.pixels, iter(range(100000))

        def pixels(self, index, mirror=False):
            return read(self, index, mirror) * (float("inf") if next(counter) == 9 else 1.0)

        image.datasets.digits.DigitsDataset.pixels = pixels


def fill_the_disk(rank):
    """The main process cannot write a picture."""
    import image.preview

    if rank == 0:
        image.preview.write_atomic = lambda path, content: (_ for _ in ()).throw(OSError(28, "No space left on device"))


def fill_the_disk_of_checkpoints(rank):
    """The main process cannot write a file of tensors."""
    import core.storage.checkpoint

    if rank == 0:
        core.storage.checkpoint.save_file = lambda *args: (_ for _ in ()).throw(OSError(28, "No space left on device"))


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_a_data_set_that_fails_in_one_process_ends_all(tmp_path, strategy):
    args = [*LONG, f"parallel.strategy={strategy}"]
    main, other = Launched(2, "image.train", *args, cwd=tmp_path, before=lose_a_picture).wait()
    assert (other.code, len(errors(other))) == (2, 1), other
    assert errors(other)[0].startswith("error in process 1: digit ")
    assert "cannot be read" in errors(other)[0]
    assert (main.code, len(errors(main))) == (1, 1), main
    assert errors(main)[0].startswith("error in process 0: another process")


def test_a_loss_that_is_not_finite_in_one_process_is_told_once(tmp_path):
    main, other = Launched(2, "image.train", *LONG, cwd=tmp_path, before=spoil_a_picture).wait()
    assert (main.code, other.code) == (1, 1), (main, other)
    assert errors(other) == []
    (line,) = errors(main)
    assert re.match(r"error in process 0: step 3: loss (nan|inf), .*Nothing was updated", line)
    facts = json.loads((tmp_path / RUN / "nonfinite_step_00000003.json").read_text())
    assert [sample["flow_loss"] in ("nan", "inf") for sample in facts["samples"]] == [False] * 4 + [True] + [False] * 2
    assert steps_of(tmp_path) == [2]


def test_what_the_main_process_cannot_write_it_says_and_the_others_end(tmp_path):
    args = [*LONG, "trainer.preview_every=2"]
    main, other = Launched(2, "image.train", *args, cwd=tmp_path, before=fill_the_disk).wait()
    assert (main.code, other.code) == (2, 1), (main, other)
    assert [line.startswith("error in process 0: ") and "No space left" in line for line in errors(main)] == [True]
    assert errors(other) == []


def test_a_checkpoint_that_cannot_be_written_beside_the_loop_ends_all(tmp_path):
    args = [*LONG, "trainer.checkpoint_every=2", "parallel.strategy=fsdp2"]
    main, other = Launched(2, "image.train", *args, cwd=tmp_path, before=fill_the_disk_of_checkpoints).wait()
    assert (main.code, other.code) == (2, 1), (main, other)
    assert ["step_00000002 could not be written" in line for line in errors(main)] == [True]
    assert (errors(other), steps_of(tmp_path)) == ([], [])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("trainer.batch_size=1", "trainer.batch_size is 1; 2 processes"),
        ("parallel.strategy=zero", "parallel.strategy"),
        ("seed=1", "holds a run with another seed"),
    ],
)
def test_bad_input_ends_all_with_a_line_that_names_the_key(trained, tmp_path, change, message):
    shutil.copytree(trained, place := tmp_path / "user")
    (place / RUN / "summary.json").unlink()
    allowed = ["allow_changes=[trainer.batch_size]"] * change.startswith("trainer")
    outcomes = Launched(2, "image.train", *QUICK, change, *allowed, cwd=place).wait()
    assert outcomes[0].code == 2, outcomes
    assert outcomes[1].code in (1, 2), outcomes
    assert len(errors(outcomes[0])) == 1, outcomes
    assert message in errors(outcomes[0])[0]
    assert len(errors(outcomes[1])) <= 1, outcomes


# --- signals


def under_way(place, alive):
    """Wait until the run has recorded a step."""
    deadline, metrics = time.monotonic() + 60, place / RUN / "metrics.jsonl"
    while not (metrics.exists() and metrics.stat().st_size):
        if not alive() or time.monotonic() > deadline:
            pytest.fail("the run did not begin")
        time.sleep(0.01)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_a_signal_to_one_process_stops_all_and_another_number_continues(tmp_path, strategy):
    args = [*LONG, f"parallel.strategy={strategy}"]
    with contextlib.closing(Launched(2, "image.train", *args, cwd=tmp_path)) as launched:
        under_way(tmp_path, launched.alive)
        os.kill(launched.members[1].pid, signal.SIGUSR2)
        main, other = launched.wait()
    assert (main.code, other.code) == (143, 140), (main, other)
    (step,) = steps_of(tmp_path)
    assert f"stopped after step {step} of 5000" in main.out
    assert [errors(main), errors(other)] == [[], []]
    more = [f"trainer.steps={step + 3}", f"parallel.strategy={strategy}"]
    ended_well(Launched(3, "image.train", *LONG, *more, cwd=tmp_path))
    assert steps_of(tmp_path) == [step, step + 3]
    lines = [json.loads(line) for line in (tmp_path / RUN / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [*range(2, step + 4, 2)] + [step + 3] * ((step + 3) % 2)


@contextlib.contextmanager
def torchrun(*args, cwd):
    """torchrun in a session of its own; whatever is left of it at the end is ended."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([*TORCHRUN, *args], cwd=cwd, start_new_session=True, **pipes)
    try:
        yield process
    finally:
        process.terminate()  # it ends its workers, which are in sessions of their own, if need be by SIGKILL after 30 s
        try:
            process.communicate(timeout=45)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def test_torchrun_trains_and_sigterm_to_all_saves(tmp_path):
    with torchrun("image.train", *LONG, "parallel.strategy=fsdp2", cwd=tmp_path) as process:
        under_way(tmp_path, lambda: process.poll() is None)
        os.killpg(process.pid, signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    (step,) = steps_of(tmp_path)
    assert f"stopped after step {step} of 5000" in out, err
    assert process.returncode != 0
    assert read_checkpoint(tmp_path / RUN / "checkpoints" / "latest").notes["processes"] == 2
