"""Stop signals become a flag; the process's own handlers come back."""

import os
import signal
import threading

import pytest

import core.processes.signals
from core.processes.signals import STOP_SIGNALS, StopRequest, WorkerShield, ended_by_signals
from tests.rows import every_row


def send(number):
    os.kill(os.getpid(), number)


@every_row("number", STOP_SIGNALS)
def test_a_signal_is_remembered_instead_of_ending_the_process(number):
    with StopRequest() as stop:
        assert not stop
        send(number)
        assert stop
        assert stop.received == number
        assert stop.exit_code == {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGUSR2: 140}[number]


@every_row("error", [None, RuntimeError])
def test_the_handlers_from_before_come_back(error):
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    try:
        with StopRequest():
            assert [signal.getsignal(number) for number in STOP_SIGNALS] != before
            if error is not None:
                raise error
    except RuntimeError:
        pass
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before


def test_a_second_interrupt_ends_at_once():
    with pytest.raises(KeyboardInterrupt), StopRequest():
        send(signal.SIGINT)
        send(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_first_signal_decides_the_exit_code_and_an_interrupt_after_it_is_polite():
    with StopRequest() as stop:
        assert stop.exit_code == 143, "another process was told"
        send(signal.SIGTERM)
        send(signal.SIGINT)
        assert stop.exit_code == 143
        send(signal.SIGUSR2)  # SLURM's, which may follow a SIGTERM
        send(signal.SIGTERM)
        assert stop.exit_code == 140
    with StopRequest() as another:
        assert stop
        assert not another


def test_under_torchrun_the_interrupt_that_it_passes_on_is_no_second_one(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with StopRequest() as stop:
        send(signal.SIGINT)
        send(signal.SIGINT)
        assert stop.exit_code == 130
        monkeypatch.setattr(core.processes.signals, "ECHO", 0.0)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_outside_the_loop_a_signal_ends_the_block_unless_somebody_else_takes_it():
    seen = []
    before = signal.signal(signal.SIGUSR2, lambda *args: seen.append("theirs"))
    try:
        with pytest.raises(SystemExit) as caught, ended_by_signals():
            send(signal.SIGUSR2)
            seen.append("goes on")
            send(signal.SIGTERM)
        assert (seen, caught.value.code) == (["theirs", "goes on"], 143)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGUSR2, before)


def ends_by(number, shield):
    """How a worker ends that takes a signal and would exit with 7 later."""
    pid = os.fork()
    if pid == 0:
        shield(0)
        send(number)
        os._exit(7)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@every_row("number", STOP_SIGNALS)
def test_a_worker_outlives_the_signals_of_its_job_until_the_shield_is_lowered(number):
    shield = WorkerShield()
    assert ends_by(number, shield) == 7
    shield.lower()
    assert ends_by(number, shield) == 128 + number


def test_outside_the_main_thread_nothing_is_installed():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def work():
        with StopRequest() as stop:
            seen.append((bool(stop), signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, before)]
