"""Work in a thread: one piece at a time, its failure told to who asks, and an end that is not waited for."""

import threading

import pytest

from core.processes.background import AbandonedError, Background


def test_one_piece_at_a_time():
    work, free, order = Background("test"), threading.Event(), []
    assert not (work.busy or work.failed)
    work.wait()
    work.start(lambda: free.wait(10) and order.append(1))
    assert work.busy
    threading.Timer(0.02, free.set).start()
    work.start(lambda: order.append(2))
    work.wait()
    assert (order, work.busy, work.failed) == ([1, 2], False, False)


def test_a_failure_is_told_each_time_and_ends_the_work():
    work, order = Background("test"), []

    def fail():
        raise OSError(28, "No space left on device")

    work.start(fail)
    assert isinstance(work.settle(), OSError)
    assert work.failed
    for ask in (work.wait, work.wait, lambda: work.start(lambda: order.append(1))):
        with pytest.raises(OSError, match="No space left"):
            ask()
    assert order == []


def test_abandoned_work_ends_where_it_checks_and_is_waited_for_no_longer_than_said():
    work, free = Background("test"), threading.Event()

    def last():
        free.wait(10)
        work.check()

    work.start(last)
    work.check()
    work.abandon(patience=0.02)
    assert work.busy
    free.set()
    assert isinstance(work.settle(), AbandonedError)
