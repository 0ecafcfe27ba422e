"""Stop signals while a command begins: in its imports, in its set-up, and while it waits for other processes."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import image.train
from core.processes.starting import STOP_SIGNALS
from core.storage.provenance import ROOT
from tests.end_to_end.commands import call
from tests.end_to_end.image_runs import RUN, tiny
from tests.rows import every_row

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGUSR2: 140}


def handled(process):
    """The signals for which a process has handlers by now, as a mask."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("SigCgt")).split()[1], 16)


def begun(*words, environment=None, signals=STOP_SIGNALS):
    """`python -m words`, as soon as it answers signals."""
    where = {"cwd": ROOT, "env": {**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})}}
    process = subprocess.Popen([sys.executable, "-m", *words], stderr=subprocess.PIPE, text=True, **where)
    deadline = time.monotonic() + 60
    while not all(handled(process) >> (number - 1) & 1 for number in signals):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    return process


@pytest.mark.skipif(sys.platform != "linux", reason="/proc says which signals are handled")
@every_row(
    ("number", "module"), [*((number, "image.train") for number in STOP_SIGNALS), (signal.SIGTERM, "audio.train")]
)
def test_a_signal_in_the_imports_ends_a_command_with_its_code(number, module):
    process = begun(module)
    libraries = Path(f"/proc/{process.pid}/maps").read_text()
    assert "libtorch" not in libraries, "they are answered before PyTorch is there"
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == CODES[number]
    assert err == ("interrupted\n" if number == signal.SIGINT else "stopped before it began\n")


@pytest.mark.skipif(sys.platform != "linux", reason="/proc says which signals are handled")
@every_row("number", [signal.SIGTERM, signal.SIGUSR2])
def test_a_second_signal_while_python_ends_does_not_change_the_code(number, tmp_path):
    """A module that is taken apart sends it: Python's own handlers are gone by then."""
    text = (
        "import sys; sys.argv[:] = ['-m']\n"
        "import os; from core.processes.starting import answer_signals\n"
        f"class Late:\n    def __del__(self, kill=os.kill, me=os.getpid()): kill(me, {int(number)})\n"
        "answer_signals(); late = Late()\n"
        f"sys.exit({CODES[number]})\n"
    )
    done = subprocess.run([sys.executable, "-c", text], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == CODES[number]


@every_row("number", STOP_SIGNALS)
def test_a_signal_in_the_set_up_ends_a_command_with_its_code(number, tmp_path, monkeypatch):
    before = [signal.getsignal(each) for each in STOP_SIGNALS]
    monkeypatch.setattr(image.train, "first_weights", lambda *args: signal.raise_signal(number))
    outcome = call("image.train", *tiny(f"runs_dir={tmp_path / 'runs'}"))
    assert outcome.code == CODES[number], outcome
    assert "Traceback" not in outcome.err
    assert [each.name for each in (tmp_path / RUN).iterdir()] == [".lock"]
    assert [signal.getsignal(each) for each in STOP_SIGNALS] == before


@pytest.mark.skipif(sys.platform != "linux", reason="/proc says what is connected")
def test_a_process_that_waits_for_others_that_never_come_can_be_stopped(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    names = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    process = begun("image.train", *tiny(f"runs_dir={tmp_path / 'runs'}"), environment=names)
    try:
        deadline = time.monotonic() + 60
        while f":{port:04X} " not in Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 143, process.communicate()
    finally:
        process.kill()  # a failing test leaves no process that waits for ever
