"""Real processes for tests: started once, joined by gloo over a file, each running many cases.

They are forks of a server that has imported everything already, so that one costs a fraction of a second, not the four
of a fresh interpreter.
"""

import contextlib
import ctypes
import datetime
import faulthandler
import logging
import multiprocessing
import os
import runpy
import shutil
import signal
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import wait
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from core.processes.world import World
from core.storage.atomic import write_atomic

log = logging.getLogger(__name__)

ROOT = str(Path(__file__).resolve().parents[3])
if ROOT not in sys.path:  # pytest may be started anywhere; the processes import the tests
    sys.path.insert(0, ROOT)
os.environ.setdefault("JE_ARROW_MALLOC_CONF", "background_thread:false")  # the server has one thread
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.core.processes.spread_runs"])
PATIENCE = datetime.timedelta(seconds=120)  # of one process for the others
GRACE = 5  # seconds that a process has to end once another has failed
CRASHES = (signal.SIGSEGV, signal.SIGABRT)  # of damaged memory; want of it is SIGKILL


def forked(function, *args) -> multiprocessing.Process:
    """A process that will run `function(*args)`."""
    with contextlib.chdir(ROOT):  # where the server, if it has yet to start, finds what it is to import
        forkserver.ensure_running()
    return FORKS.Process(target=function, args=args, daemon=True)


def together(size, calls, folder, timeout=300):
    """What each of `size` processes makes of `calls`, name -> (function, *args), one after the other; a list by rank.

    It is `function(world, *args)` by name: tensors, numbers, text, in dicts and lists; what it writes goes into
    `folder`. Fails the test with what every process has to say when one fails, and when they take longer than `timeout`
    seconds; none outlives this. Once, after a crash, all begin again with the folder as it was.
    """
    with tempfile.TemporaryDirectory() as kept:
        before = shutil.copytree(folder, Path(kept) / "folder", symlinks=True)
        try:
            return _together(size, calls, folder, timeout)
        except CrashError as crash:
            log.warning("%s", crash)
            shutil.rmtree(folder)
            shutil.copytree(before, folder, symlinks=True)
    try:
        return _together(size, calls, folder, timeout)
    except CrashError as crash:
        pytest.fail(str(crash))


class CrashError(Exception):
    """A process ended by one of the signals CRASHES.

    That is not of this code, which is Python: gloo of PyTorch 2.11 damages its heap now and then (SIGSEGV of a thread
    pt_gloo_runloop in malloc, where another such thread had just ended an all-gather; seen twice in some 4,000 steps
    of FSDP2 on a crowded machine, mostly when processes are young).
    """


def _together(size, calls, folder, timeout):
    """One attempt; raises CrashError."""
    folder = Path(tempfile.mkdtemp(dir=folder))
    members = [forked(_member, rank, size, folder, calls) for rank in range(size)]
    deadline = time.monotonic() + timeout
    for member in members:
        member.start()
    try:
        waiting = {member.sentinel for member in members}
        while waiting and time.monotonic() < deadline and not _failed(members, folder):
            waiting -= set(wait(waiting, timeout=1))
        ends = [member.join(GRACE) or member.exitcode for member in members]  # None: at work
    finally:
        for member in members:
            member.kill()
            member.join()
    if any(end != 0 for end in ends):
        words = "\n".join(_last_words(folder, rank, end) for rank, end in enumerate(ends))
        if any(-number in ends for number in CRASHES):
            raise CrashError(words)
        pytest.fail(words)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(size)]


def _failed(members, folder):
    return bool(list(folder.glob("*.error"))) or any(member.exitcode for member in members)


def _last_words(folder, rank, end):
    """How a process ended: its exit code (negative: the signal), its traceback, and where a crash found each thread."""
    words = [folder / f"{rank}.{name}" for name in ("error", "crash")]
    how = "was still at work" if end is None else f"ended with {end}"
    return f"process {rank} {how}\n" + "".join(file.read_text() for file in words if file.exists())


def _mortal():
    """This process dies with the server, which ends when the tests do, however they end."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _member(rank, size, folder, calls):
    _mortal()
    torch.set_num_threads(1)
    answers = {}
    with (folder / f"{rank}.crash").open("w") as crash:
        faulthandler.enable(crash)
        try:
            with _group(rank, size, folder):
                for name, (function, *args) in calls.items():
                    answers[name] = function(World(rank, size), *args)
        finally:
            if sys.exc_info()[0] is not None:
                write_atomic(folder / f"{rank}.error", traceback.format_exc())
        faulthandler.disable()
    torch.save(answers, folder / f"{rank}.pt")


@contextlib.contextmanager
def _group(rank, size, folder):
    if size > 1:
        where = f"file://{folder / 'store'}"
        dist.init_process_group("gloo", init_method=where, rank=rank, world_size=size, timeout=PATIENCE)
    yield
    if size > 1:
        dist.destroy_process_group()


@dataclass(frozen=True)
class Outcome:
    """What one process of a command left on its terminal, and its exit code."""

    code: int
    out: str
    err: str


class Launched:
    """`python -m module args` in `size` processes, as a launcher starts them: RANK and the like are in the environment.

    before  called as before(rank) in each process, ahead of the command: what is to go wrong there

    `wait` or `close` has to follow.
    """

    def __init__(self, size: int, module: str, *args: str, cwd: Path, before=None):
        self.files = Path(tempfile.mkdtemp(dir=cwd, prefix=".screen-"))
        # The parent holds the store, as torchrun does: nobody has to find a free port and lose it to another test.
        self.store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        there = {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(self.store.port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",
        }
        self.members = []
        for rank in range(size):
            names = {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank)}
            target = (rank, there | names, str(cwd), str(self.files), module, args, before)
            self.members.append(forked(_command, *target))
            self.members[-1].start()

    def close(self) -> None:
        """End what still runs."""
        for member in self.members:
            member.kill()
            member.join()

    def alive(self) -> bool:
        """Whether all still run."""
        return all(member.is_alive() for member in self.members)

    def wait(self, timeout: float = 60) -> list[Outcome]:
        """How each ended, by rank; the test fails, and all are killed, when one takes longer than `timeout` seconds."""
        deadline = time.monotonic() + timeout
        try:
            for member in self.members:
                member.join(max(0.0, deadline - time.monotonic()))
            hung = [rank for rank, member in enumerate(self.members) if member.is_alive()]
        finally:
            self.close()
        screens = [[(self.files / f"{rank}.{name}").read_text() for name in ("out", "err")] for rank in self.ranks]
        if hung:
            pytest.fail(f"processes {hung} hung: {screens}")
        return [Outcome(member.exitcode, *screen) for member, screen in zip(self.members, screens, strict=True)]

    @property
    def ranks(self) -> range:
        """The numbers of the processes."""
        return range(len(self.members))


def _command(rank, environment, cwd, files, module, args, before):
    _mortal()
    os.environ.update(environment)
    for stream, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{files}/{rank}.{name}", os.O_WRONLY | os.O_CREAT), stream)
    os.chdir(cwd)
    sys.argv = [module, *args]
    if before is not None:
        before(rank)
    sys.modules.pop(module, None)  # imported by the server, not yet run
    runpy.run_module(module, run_name="__main__", alter_sys=True)
