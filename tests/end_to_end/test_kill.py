"""SIGKILL at any moment, and the same command again: the run ends as if nothing had happened, in every byte.

Sessions are forks of a process that has everything imported, each really killed. What is random is drawn from a seed.
"""

import itertools
import random
import signal

import pytest

from tests.end_to_end.commands import same_run
from tests.end_to_end.image_runs import MINUTE, RUN, uninterrupted

STEPS = 24  # of MINUTE
SHORT = ["trainer.steps=4", "trainer.checkpoint_every=2", "trainer.preview_every=3", "trainer.keep_checkpoints=1"]
SHORT += ["trainer.keep_every=0", "ema.snapshot_every=2", "ema.decays=[0.9]"]


@pytest.fixture(scope="module")
def whole(zygote, tmp_path_factory):
    """Uninterrupted runs without and with a worker process."""
    settings = ["trainer.num_workers=0", "trainer.num_workers=1"]
    return {setting: uninterrupted(zygote, tmp_path_factory.mktemp("whole"), setting) for setting in settings}


@pytest.fixture(scope="module")
def short(zygote, tmp_path_factory):
    """An uninterrupted run with few steps and all kinds of files."""
    return uninterrupted(zygote, tmp_path_factory.mktemp("short"), *SHORT)


def kill_once(session, place, chance):
    """Kill a session at a random moment; True if it was alive.

    One in four in the time that it needs to start, the others after some steps, which come on any machine.
    metrics.jsonl is another file once the session has dropped the lines of steps that it makes again.
    """
    metrics = place / RUN / "metrics.jsonl"
    before = metrics.stat().st_ino if metrics.exists() else None
    if chance.random() < 0.25:
        session.rest(chance.uniform(0, 0.4))
        return session.kill()
    if session.until(lambda: metrics.exists() and metrics.stat().st_ino != before):
        target = min(lines(metrics) + chance.randint(0, 12), STEPS)
        session.until(lambda: lines(metrics) >= target)
        session.rest(chance.uniform(0, 0.4 if target == STEPS else 0.04))
    return session.kill()


def lines(file):
    """How many lines a file has by now."""
    return file.read_bytes().count(b"\n")


def kill_until_complete(zygote, place, chance, *overrides):
    """Sessions of one run, each killed, until one comes to the end first, the sixteenth undisturbed; the kills."""
    place.mkdir()
    for kills in range(15):
        session = zygote.train(*MINUTE, *overrides, cwd=place)
        if not kill_once(session, place, chance):
            assert session.code == 0, session.said()
            return kills
    uninterrupted(zygote, place, *overrides)
    return 15


@pytest.mark.slow
def test_kills_at_random_moments_change_nothing(zygote, whole, tmp_path):
    """Runs with and without a worker, until thirty kills have hit."""
    chance, kills, runs = random.Random(1), 0, 0
    while kills < 30 or runs < 2:
        setting = f"trainer.num_workers={runs % 2}"
        kills += kill_until_complete(zygote, tmp_path / str(runs), chance, setting)
        same_run(tmp_path / str(runs) / RUN, whole[setting])
        runs += 1


def died_before(zygote, place, number):
    """A session that dies before its operation `number`; False if it came to its end, having made fewer."""
    place.mkdir(exist_ok=True)
    session = zygote.train(*MINUTE, *SHORT, cwd=place, die_at=number)
    assert session.wait() in (0, -signal.SIGKILL), session.said()
    return session.code != 0


def test_a_kill_before_each_operation_of_a_session_changes_nothing(zygote, short, tmp_path):
    """Session n dies before its operation 2 n, goes on where the last one died, and begins anew after a whole run."""
    runs, fresh, kills = 0, True, 0
    for number in itertools.count(step=2):
        place = tmp_path / str(runs)
        if died_before(zygote, place, number):
            fresh, kills = False, kills + 1
            continue
        same_run(place / RUN, short)
        if fresh:  # a whole run has fewer operations
            break
        runs, fresh = runs + 1, True
    assert kills > 25
    assert runs > 3


@pytest.mark.slow
def test_a_kill_in_a_run_that_begins_changes_nothing(zygote, short, tmp_path):
    """Before every sixth of its operations, other ones than above; the session after it makes the rest of the run."""
    for number in itertools.count(1, step=6):
        if not died_before(zygote, tmp_path / str(number), number):
            break
        uninterrupted(zygote, tmp_path / str(number), *SHORT)
        same_run(tmp_path / str(number) / RUN, short)
    assert number > 60


def test_a_kill_while_a_checkpoint_is_written_beside_the_loop_changes_nothing(zygote, short, tmp_path):
    """Files of tensors come late, so that the loop has recorded steps after the one whose checkpoint is cut off."""
    ahead, metrics = 0, tmp_path / RUN / "metrics.jsonl"
    for number in itertools.count(20, step=9):
        session = zygote.train(*MINUTE, *SHORT, cwd=tmp_path, die_at=number, slow=0.05)
        if session.wait() == 0:
            break
        assert session.code == -signal.SIGKILL, session.said()
        half = [int(path.name[6:14]) for path in (tmp_path / RUN / "checkpoints").glob(".step_*.tmp")]
        ahead += any(lines(metrics) > step for step in half)
    same_run(tmp_path / RUN, short)
    assert ahead
