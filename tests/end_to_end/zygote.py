"""Sessions of a training command without the seconds of a start: a process that has imported all forks each.

The process, this file as a program, stays single-threaded and never trains itself, so a fork of it is a fresh process
that runs the real entry in a session (of the system) of its own, as a command in a terminal or a SLURM step does.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import gc
import importlib
import json
import multiprocessing.util
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path


class Session:
    """One run of the command, in the process `pid`; what it says goes to files."""

    def __init__(self, zygote: Zygote, pid: int, out: Path, err: Path):
        self.zygote, self.pid, self.out, self.err = zygote, pid, out, err
        self.code: int | None = None

    def poll(self) -> int | None:
        """The exit code, as subprocess counts; None while it runs. It keeps its pid until it was asked for."""
        if self.code is None:
            self.code = self.zygote.ask({"poll": self.pid})
        return self.code

    def wait(self, timeout: float = 60) -> int:
        """The exit code, when it has ended."""
        self.until(lambda: False, timeout)
        return self.code

    def rest(self, seconds: float) -> None:
        """Let it work for a while, or until it ends."""
        deadline = time.monotonic() + seconds
        self.until(lambda: time.monotonic() > deadline)

    def until(self, condition: Callable[[], bool], timeout: float = 60) -> bool:
        """Wait until `condition()` holds or the process ends; whether it holds. One that hangs is killed."""
        deadline = time.monotonic() + timeout
        while not condition():
            if self.poll() is not None:
                return condition()
            if time.monotonic() > deadline:
                self.kill()
                raise TimeoutError(f"it did not end in {timeout} s: {self.said()}")
            time.sleep(0.002)
        return True

    def kill(self) -> bool:
        """SIGKILL, and wait until it is dead; whether it was alive."""
        if self.poll() is not None:
            return False
        os.kill(self.pid, signal.SIGKILL)
        while self.poll() is None:
            time.sleep(0.001)
        return self.code == -signal.SIGKILL

    def said(self) -> str:
        """What stands on its screen."""
        return self.out.read_text() + self.err.read_text()


# A fork has one thread of its parent's: neither BLAS nor pyarrow (which scikit-learn imports) may start others.
SINGLE = {"OMP_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"}


class Zygote:
    """The process that forks."""

    def __init__(self):
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | SINGLE
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen([sys.executable, __file__], env=environment, **pipes)
        self.started = 0

    def ask(self, what: dict):
        """One question and its answer."""
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def train(self, *args: str, cwd: Path, die_at: int | None = None, slow: float = 0.0) -> Session:
        """`python -m image.train args` in the folder `cwd`; the first session waits for the imports.

        die_at: it kills itself before its operation on files of that number, from 0; see `mortal`. slow: seconds before
        each file of tensors, in which the loop goes on.
        """
        self.started += 1
        out, err = (cwd / f"{self.started:04d}.{name}" for name in ("out", "err"))
        out.touch()
        err.touch()
        place = {"cwd": str(cwd), "out": str(out), "err": str(err)}
        return Session(self, self.ask({"args": args, "die_at": die_at, "slow": slow, **place}), out, err)

    def close(self) -> None:
        """End it; its sessions have ended."""
        self.process.stdin.close()
        self.process.wait(20)


OPERATIONS = ("rename", "replace", "fsync", "unlink", "rmdir", "mkdir")


def mortal(die_at: int, slow: float) -> None:
    """From now on this process kills itself before operation number `die_at`, counted from 0, on files.

    Operations are the calls of `OPERATIONS` in os, which pathlib, shutil and our own code make, and the writing of a
    safetensors file, of which half is left.
    """
    import core.storage.checkpoint
    import core.train.posthoc

    calls = iter(range(10**9))

    def fatal(function, last_words=lambda *args: None):
        def call(*args, **kwargs):
            if next(calls) == die_at:
                last_words(*args)
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return call

    for name in OPERATIONS:
        setattr(os, name, fatal(getattr(os, name)))
    for module in (core.storage.checkpoint, core.train.posthoc):
        save = module.save_file
        late = functools.partial(_late, save, slow)
        module.save_file = fatal(late, lambda tensors, file, *rest, save=late: _half(save, tensors, file))


def _late(save, seconds, *args):
    time.sleep(seconds)
    return save(*args)


def _half(save, tensors, file) -> None:
    save(tensors, file)
    os.truncate(file, file.stat().st_size // 2)


def _session(asked: dict) -> int:
    """The child: the entry as `python -m image.train` calls it."""
    entry = sys.modules["image.train"].ENTRY
    os.setsid()
    for stream, name in ((sys.stdout, "out"), (sys.stderr, "err")):
        file = os.open(asked[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(file, stream.fileno())
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(asked["cwd"])
    if asked["die_at"] is not None:
        mortal(asked["die_at"], asked["slow"])
    try:
        entry.run(asked["args"])
        return 0
    except SystemExit as exit_:
        return exit_.code


def _fork(asked: dict) -> int:
    threads = len(os.listdir("/proc/self/task"))
    if threads != 1:
        raise RuntimeError(f"{threads} threads: a fork would be no fresh process")
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        code = _session(asked)
        multiprocessing.util._exit_function()  # ends the workers
    finally:
        if sys.exc_info()[0] is not None:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # taking the interpreter down would copy most of its parent's memory, for seconds
    return 0


def _poll(pid: int) -> int | None:
    done, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if done else None


def copy_records(metrics: Path, target: Path) -> None:
    """In place of a picture of the records: they themselves, to be compared."""
    if metrics.exists():
        shutil.copyfile(metrics, target)


SPARED = {  # half a second of products for a column of speed.jsonl, and half a small session's time for a picture
    "core.train.trainer.matmul_peak": lambda device, dtype: 1e12,
    "core.train.tracking.draw_curves": copy_records,
}


def warm_up() -> None:
    """Import and find out what a session sooner or later needs."""
    import matplotlib.figure
    import sklearn.datasets  # noqa: F401
    import torch._dynamo
    import torch.distributed.fsdp
    import torch.utils.data

    import image.train  # noqa: F401
    from core.storage.provenance import code_version

    torch.set_num_threads(1)
    code_version()
    for name, instead in SPARED.items():
        module, _, function = name.rpartition(".")
        setattr(importlib.import_module(module), function, instead)
    remember_configs()
    matplotlib.figure.Figure().subplots().set_title("fonts are found once").figure.savefig(os.devnull, format="png")
    gc.collect()
    gc.freeze()  # a collection would copy what a fork shares


def remember_configs() -> None:
    """Compose each config once, in the process that forks: half the time of a small session."""
    import core.commands.entry

    compose, known = core.commands.entry.compose_config, {}

    def remembered(module, name, overrides=(), *, complete=True):
        key = (module, name, tuple(overrides), complete)
        if key not in known:
            known[key] = compose(module, name, overrides, complete=complete)
        return copy.deepcopy(known[key])

    core.commands.entry.compose_config = remembered


def serve() -> None:
    """Do what is asked, a line of JSON at a time."""
    warm_up()
    entry = sys.modules["image.train"].ENTRY
    while line := sys.stdin.readline():
        asked = json.loads(line)
        if "poll" in asked:
            answer = _poll(asked["poll"])
        else:
            with contextlib.suppress(ValueError):  # which the session says itself
                entry.config(asked["args"])
            answer = _fork(asked)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
