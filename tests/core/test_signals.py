"""Stop signals become a flag; the process's own handlers come back."""

import os
import signal
import threading

import pytest

from core.signals import STOP_SIGNALS, StopRequest


def send(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_is_remembered_instead_of_ending_the_process(number):
    with StopRequest() as stop:
        assert not stop
        send(number)
        assert stop
        assert stop.received == number


@pytest.mark.parametrize("error", [None, RuntimeError])
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


def test_an_interrupt_after_a_polite_stop_is_still_polite():
    with StopRequest() as stop:
        send(signal.SIGTERM)
        send(signal.SIGINT)
        send(signal.SIGTERM)
        assert stop


def test_another_request_starts_afresh():
    with StopRequest() as stop:
        send(signal.SIGTERM)
    with StopRequest() as another:
        assert stop
        assert not another


def test_outside_the_main_thread_nothing_is_installed():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def work():
        with StopRequest() as stop:
            seen.append((bool(stop), signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, before)]
