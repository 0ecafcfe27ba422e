"""`--local`: the same jobs on this machine, by submitit's own executor, in real processes."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.slurm.commands import ROOT, STEPS, ToySweep, has_same_end, launch
from tests.slurm.held import HOLDS

pytestmark = pytest.mark.slow
PATIENCE = 120


class Launcher:
    """`python slurm/launch.py ...` in its own process and group, as in a terminal."""

    def __init__(self, folder, *arguments):
        self.output = folder / "launcher.txt"
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, ROOT / "slurm" / "launch.py", *arguments],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        """Nothing outlives the test: controllers and tasks are of the group."""
        if self.process.poll() is None or self.members():
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def members(self):
        """Processes of the group that are alive."""
        return [pid for pid, group, state in processes() if group == self.process.pid and state != "Z"]

    def interrupt(self):
        """Ctrl-C: the terminal tells all processes of the group."""
        os.killpg(self.process.pid, signal.SIGINT)

    def wait_for(self, condition, what):
        """Until it holds."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert self.process.poll() is None and time.monotonic() < deadline, f"no {what}: {self.said()}"
            time.sleep(0.05)

    def wait(self):
        """The exit code."""
        return self.process.wait(PATIENCE)

    def said(self):
        """What stands in the terminal."""
        return self.output.read_text()


def processes():
    """(id, group, state) of every process."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, group = path.read_text().rpartition(")")[2].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        yield int(path.parent.name), int(group), state


def tasks(sweep, case):
    """The processes of a run: children of its job's controller; none before it has begun."""
    controllers = sweep.jobs(case)[-1:]
    files = [Path(f"/proc/{controller}/task/{controller}/children") for controller in controllers]
    return [int(pid) for file in files for pid in file.read_text().split()]


def takes_warnings(pid):
    """It has a handler for SLURM's warning: submitit's is there before the run is imported."""
    caught = re.search(r"SigCgt:\s+(\w+)", Path(f"/proc/{pid}/status").read_text())[1]
    return bool(int(caught, 16) >> (signal.SIGUSR2 - 1) & 1)


def logs(sweep):
    """What all processes have said."""
    return [file.read_text() for file in sorted((sweep.folder / "logs").glob("*_log.out"))]


def most_at_once(said):
    """How many runs were under way at the same time."""
    counts, now = [], 0
    for line in said.splitlines():
        now += (": started" in line) - bool(re.search(r": (done|stopped, see)", line))
        counts.append(now)
    return max(counts)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Three runs: one undisturbed, one that fails, one that is disturbed twice."""
    cases = ["through", {"case": "failing", "optimizer.lr": 1e30}, "held"]
    return ToySweep(tmp_path_factory.mktemp("local"), "local", cases)


@pytest.fixture(scope="module")
def interrupted(sweep):
    """The sweep, two runs at a time: the held run gets SLURM's warning, and when it is back, Ctrl-C ends all."""
    with Launcher(sweep.file.parent, sweep.file, "--local", "2") as launcher:
        launcher.wait_for(lambda: sweep.jobs("through"), "start")
        seen = {"start": sweep.table()}
        launcher.wait_for(lambda: sweep.step("held") == HOLDS[0], "first hold")
        seen["hold"] = sweep.table()
        for task in tasks(sweep, "held"):
            os.kill(task, signal.SIGUSR2)
        launcher.wait_for(lambda: sweep.step("held") == HOLDS[1], "second hold")
        launcher.interrupt()
        seen["code"], seen["said"] = launcher.wait(), launcher.said()
        seen["members"] = launcher.members()
    seen["end"] = sweep.table()
    return seen


@pytest.fixture(scope="module")
def resumed(sweep, interrupted):
    """The same sweep once more, and then what has stopped, but for the failing run, which its file no longer names."""
    again = launch(sweep.file, "--local", 10**18)
    ToySweep(sweep.file.parent, "local", ["through", "held"])
    with Launcher(sweep.file.parent, "resubmit", sweep.file, "--local", "1") as launcher:
        return {"again": again, "code": launcher.wait(), "said": launcher.said(), "end": sweep.table()}


def test_no_more_runs_than_asked_for_are_under_way(interrupted, resumed):
    assert interrupted["end"]["through"]["state"] == "done"
    assert most_at_once(interrupted["said"]) == 2
    assert most_at_once(resumed["said"]) == 1


def test_status_follows_a_run_from_its_start(interrupted):
    """It runs while its processes are still importing; what waits for its turn has not begun."""
    start, hold = interrupted["start"], interrupted["hold"]
    assert [start[case]["state"] for case in ("through", "held")] == ["running", "missing"]
    assert (hold["held"]["state"], hold["held"]["step"]) == ("running", str(HOLDS[0]))
    assert re.fullmatch(r"\d+ s", hold["held"]["left"])
    assert float(hold["held"]["loss"]) > 0


def test_a_failing_run_is_told_and_the_others_go_on(interrupted):
    """By the launcher, and by `status` with the run's own error."""
    assert re.search(r"failing-seed0: stopped, see \S+_0_log.out", interrupted["said"])
    row = interrupted["end"]["failing"]
    assert row["state"] == "stopped"
    assert re.match(r"error( in process 0)?: step \d+: loss ", row["problem"])


def test_a_warning_queues_a_run_again(sweep, interrupted):
    """It came to the second hold, which it only does in a second session of the same job."""
    assert len(sweep.jobs("held")) == 2, "the first command's, and resubmit's"
    log = (sweep.folder / "logs" / f"{sweep.jobs('held')[0]}_0_log.out").read_text()
    assert log.count("Requeued job") == 1
    assert f"after step {HOLDS[0] + 1} of {STEPS}" in log


def test_an_interrupt_saves_and_ends_everything(interrupted):
    assert interrupted["code"] == 130
    assert interrupted["said"].splitlines()[-1] == "interrupted"
    assert interrupted["members"] == []
    assert (interrupted["end"]["held"]["state"], interrupted["end"]["held"]["step"]) == ("stopped", str(HOLDS[1] + 1))


def test_the_same_command_starts_nothing_that_has_stopped_and_resubmit_does(sweep, resumed):
    """A run that was disturbed twice ends as one that was not, and both are collected."""
    again = resumed["again"]
    assert again.code == 0
    assert "1 runs are done" in again.out
    assert "2 runs have stopped before their end; `resubmit` starts them again" in again.out
    assert ": started" not in again.out
    assert resumed["code"] == 0
    assert resumed["end"]["held"]["state"] == "done"
    assert has_same_end(sweep.run("held"), sweep.run("through"))
    assert launch("collect", sweep.file).code == 0
    lines = (sweep.folder / "summary.csv").read_text().splitlines()
    assert lines[0].startswith("run,seed,steps,")
    assert [line.split(",")[:3] for line in lines[1:]] == [[case, "0", str(STEPS)] for case in ("through", "held")]


def test_an_interrupt_at_the_start_is_not_lost(tmp_path):
    """Two processes that are still importing bypass signals: they are told again. The lines of `setup` come before."""
    setup = ["export ROOM='4 2'", 'echo "set up in room $ROOM"']
    sweep = ToySweep(tmp_path, "early", ["held"], setup=setup, tasks_per_node=2)
    with Launcher(tmp_path, sweep.file, "--local", "1") as launcher:
        launcher.wait_for(lambda: sum(map(takes_warnings, tasks(sweep, "held"))) == 2, "start")
        launcher.interrupt()
        assert launcher.wait() == 130
        assert launcher.members() == []
    assert [log.partition("\n")[0] for log in logs(sweep)] == ["set up in room 4 2"] * 2
    assert not sweep.is_complete("held")
    assert sweep.table()["held"]["state"] == "stopped"


def test_several_machines_and_no_run_at_a_time_are_refused(tmp_path):
    sweep = ToySweep(tmp_path, "many", ["through"], nodes=2)
    assert launch(sweep.file, "--local", 1).is_error("resources.nodes is 2; --local runs on one machine")
    sweep = ToySweep(tmp_path, "none", ["through"])
    assert launch(sweep.file, "--local", 0).is_error("--local is 0; it must be at least 1")
    assert not (tmp_path / "runs").exists()
