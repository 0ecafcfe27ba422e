"""The lock of a run's folder: who may write there, how that is asked, and what lies in its way."""

import contextlib
import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from core.processes.failures import LostFolderError
from core.storage.run_folder import RunDirectory
from tests.rows import every_row


@pytest.fixture
def run(tmp_path):
    """A run that has not begun."""
    return RunDirectory.create(str(tmp_path), "image", "a")


LOCK = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'a'), fcntl.LOCK_EX | fcntl.LOCK_NB)"


def is_free(run):
    """Whether another process could take the lock."""
    done = subprocess.run([sys.executable, "-c", LOCK, run.path / ".lock"], capture_output=True, text=True)
    assert done.returncode == 0 or "BlockingIOError" in done.stderr, done.stderr
    return done.returncode == 0


@contextlib.contextmanager
def held_by_another(run, writes=""):
    """Inside the block another process holds the lock, in which it has written who it is."""
    hold = LOCK.replace("fcntl.lockf(open(sys.argv[1], 'a')", "f = open(sys.argv[1], 'a'); fcntl.lockf(f")
    hold += f"; f.write({writes!r}); f.flush(); print('held', flush=True); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", hold, run.path / ".lock"], **pipes) as holder:
        assert holder.stdout.readline() == "held\n"
        try:
            yield
        finally:
            holder.kill()


def test_a_run_is_locked_inside_the_block_only(run):
    with run.locked():
        assert not is_free(run)
        assert f"process {os.getpid()} on " in (run.path / ".lock").read_text()
    assert is_free(run)
    with pytest.raises(RuntimeError), run.locked():
        raise RuntimeError
    assert is_free(run)
    with run.locked():
        pass


def test_the_same_process_is_refused_too_and_loses_nothing_by_asking(run):
    with run.locked():
        with (
            pytest.raises(ValueError, match=rf"is being written by this process, {os.getpid()}; wait for it, or"),
            RunDirectory(run.path.parent / "." / run.path.name).locked(),
        ):
            pass
        assert not is_free(run)


def test_the_process_that_holds_the_lock_is_named(run):
    refused = pytest.raises(ValueError, match="is being written by process 7 on x; wait")
    with held_by_another(run, writes="process 7 on x"), refused, run.locked():
        pass
    with run.locked():
        pass


def remove(run):
    (run.path / ".lock").unlink()


def replace(run):
    remove(run)
    (run.path / ".lock").touch()


def rename(run):
    run.path.rename(run.path.with_name("b"))


@every_row(
    ("take", "words"),
    [(remove, "its .lock was moved"), (replace, "another process's lock"), (rename, "its .lock was moved"), (None, "")],
)
def test_a_run_that_was_taken_from_its_process_is_told(tmp_path, take, words):
    run = RunDirectory.create(str(tmp_path / words), "image", "a")
    run.check_held()
    with run.locked():
        run.check_held()
        if take is not None:
            take(run)
            with pytest.raises(LostFolderError, match=f"does not belong to this process any more, .*{words}"):
                run.check_held()


@every_row(
    ("name", "kind"),
    [(".lock", "file"), ("metrics.jsonl", "file"), ("config.yaml", "file"), ("checkpoints", "folder")],
)
def test_a_folder_in_a_files_place_is_told_and_the_other_way_round(tmp_path, name, kind):
    run = RunDirectory.create(str(tmp_path / name), "image", "a")
    (run.path / name).mkdir() if kind == "file" else (run.path / name).touch()
    with pytest.raises(ValueError, match=f"{name} is no {kind}; move it away"), run.locked():
        pass


@every_row("name", [".lock", "metrics.jsonl", "config.yaml", "checkpoints", "ema_snapshots"])
def test_a_link_to_a_disk_that_is_not_there_is_told_and_stays(tmp_path, name):
    run = RunDirectory.create(str(tmp_path / name), "image", "a")
    (run.path / name).symlink_to(tmp_path / "scratch")
    with pytest.raises(ValueError, match=f"{name} is a link to {tmp_path}/scratch, which is not there"), run.locked():
        pass
    assert (run.path / name).is_symlink() and not (tmp_path / "scratch").exists()


def test_whether_a_run_is_written_is_asked_without_writing(run, monkeypatch):
    opened, real = [], Path.open
    monkeypatch.setattr(Path, "open", lambda path, mode: opened.append(mode) or real(path, mode))
    (run.path / ".lock").touch()
    with held_by_another(run):
        assert run.is_locked()
    assert not run.is_locked()
    assert opened == ["rb", "rb"]  # of a run of somebody else's
    (run.path / ".lock").unlink()
    os.mkfifo(run.path / ".lock")
    assert not run.is_locked()


def test_a_disk_without_locks_is_named(run, monkeypatch):
    def none(*args):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.lockf", none)
    with pytest.raises(OSError, match=r"\.lock cannot be locked \(No locks available\); runs_dir"), run.locked():
        pass
