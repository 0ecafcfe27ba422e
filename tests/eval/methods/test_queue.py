"""The queue of runs under a budget of time, and one that outlives runs that fail."""

from __future__ import annotations

import time
from pathlib import Path

from eval.methods.queue import QueuedRun, RunQueue


def job(name: str, place: Path, program: str) -> QueuedRun:
    """A run that is a line of Python."""
    return QueuedRun(name, place / name, ("-c", program))


def test_when_the_time_is_over_its_run_is_told_to_stop_and_nothing_is_begun(tmp_path: Path):
    """The one under way gets SIGTERM and is waited for; the answer is that not all is done."""
    ready, saved, begun = (tmp_path / name for name in ("ready", "saved", "begun"))
    program = (
        f"import signal, sys, time; signal.signal(15, lambda *_: (open({str(saved)!r}, 'w'), sys.exit(143))); "
        f"open({str(ready)!r}, 'w'); time.sleep(60)"
    )
    jobs = [job("long", tmp_path, program), job("waits", tmp_path, f"open({str(begun)!r}, 'w')")]
    queue = RunQueue(tmp_path / "logs", 1, [].append)

    class Over(float):
        """A deadline that has come once the run is ready."""

        def __le__(self, now: float) -> bool:
            return ready.exists()

    queue.deadline = Over()
    start = time.monotonic()
    assert not queue.make(jobs)
    assert saved.exists() and not begun.exists() and time.monotonic() - start < 30
    done = RunQueue(tmp_path / "logs", 1, [].append, deadline=time.monotonic() + 60)
    assert done.make(jobs[1:]) and begun.exists()
    late = RunQueue(tmp_path / "logs", 1, [].append, deadline=time.monotonic())
    begun.unlink()
    assert not late.make(jobs[1:]) and not begun.exists()


def test_a_forgiving_queue_goes_on_and_keeps_the_last_words(tmp_path: Path):
    told: list[str] = []
    failing = "import sys; print('error: loss is nan', file=sys.stderr); sys.exit(1)"
    begun = tmp_path / "begun"
    jobs = [job("fails", tmp_path, failing), job("next", tmp_path, f"open({str(begun)!r}, 'w')")]
    queue = RunQueue(tmp_path / "logs", 2, told.append, forgiving=True)
    assert queue.make(jobs) and begun.exists()
    assert queue.failed == {"fails": "error: loss is nan"} and "fails failed: error: loss is nan" in told
