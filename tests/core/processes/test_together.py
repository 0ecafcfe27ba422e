"""What the tests' own way of starting processes promises: no end goes untold, and after a crash all begin once more."""

import os
import re
import signal

import pytest

from tests.core.processes.started import together


def crashing(world, folder, times, number=signal.SIGSEGV):
    """Which files of `folder` this process finds; a signal ends the last process the first `times` times."""
    found = sorted(path.name for path in folder.iterdir() if path.is_file())
    world.barrier()
    if not world.is_main:
        (folder / "left behind").touch()
        crashes = folder.parent / "crashes"
        crashes.touch()
        if crashes.stat().st_size < times:
            with crashes.open("a") as file:
                file.write("x")
            os.kill(os.getpid(), number)
    world.barrier()
    return found


def raising(world):
    """The last process raises; the others wait for it."""
    if not world.is_main:
        raise ValueError("no luck")
    world.barrier()


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "runs"
    folder.mkdir()
    (folder / "begun").touch()
    return folder


def test_after_a_crash_all_begin_again_with_the_folder_as_it_was(folder, caplog):
    assert together(2, {"crash": (crashing, folder, 1)}, folder) == [{"crash": ["begun"]}] * 2
    (told,) = caplog.messages
    assert "process 1 ended with -11\nFatal Python error: Segmentation fault" in told
    assert 'test_together.py", line' in told, "where it was"


def test_a_second_crash_fails_the_test(folder):
    with pytest.raises(pytest.fail.Exception, match=r"process 1 ended with -11\nFatal Python error"):
        together(2, {"crash": (crashing, folder, 2)}, folder)


def test_a_process_that_was_killed_is_not_tried_again(folder, caplog):
    with pytest.raises(pytest.fail.Exception, match="process 1 ended with -9\n"):
        together(2, {"kill": (crashing, folder, 1, signal.SIGKILL)}, folder)
    assert caplog.messages == []


def test_what_every_process_has_to_say_is_told_and_an_error_is_not_tried_again(folder, caplog):
    with pytest.raises(pytest.fail.Exception) as failed:
        together(2, {"raise": (raising,)}, folder)
    told = str(failed.value)
    assert re.search(r"process 1 ended with 1\nTraceback [\s\S]*ValueError: no luck\n", told)
    assert re.search(r"process 0 ended with 1\nTraceback [\s\S]*gloo", told), "it lost the other"
    assert caplog.messages == []
