"""Speed: closed forms of the moving window, what a pause leaves out, and words for a duration."""

import re
import sys

import pytest
import torch

from core.train.speed import Speedometer, in_words, peak_memory_mib
from tests.rows import every_row

CPU = torch.device("cpu")


def meter(steps, **kwargs):
    speed = Speedometer("image", CPU, **kwargs)
    for samples, seconds, waiting in steps:
        speed.waited(waiting)
        speed.stepped(samples, seconds)
    return speed


def test_nothing_is_known_before_the_first_step_and_no_time_left_before_the_second():
    speed = meter([])
    assert (speed.rate, speed.data_wait, speed.seconds_left(0)) == (0, 0, 0)
    assert speed.seconds_left(10) is None
    assert meter([(8, 1.0, 0.0)]).seconds_left(3) is None
    assert meter([(8, 1.0, 0.0)] * 2).seconds_left(3) == pytest.approx(3)


def test_the_rate_counts_the_wait_and_the_share_is_of_all_time():
    speed = meter([(8, 3.0, 1.0)] * 5)
    assert speed.rate == pytest.approx(2)
    assert speed.data_wait == pytest.approx(0.25)
    assert speed.seconds_left(10) == pytest.approx(40)


def test_the_first_step_compiles_and_is_forgotten_after_the_second():
    speed = meter([(8, 100.0, 20.0)])
    assert speed.rate == pytest.approx(8 / 120)
    speed.stepped(8, 1.0)
    assert (speed.rate, speed.data_wait) == (pytest.approx(8), 0)
    speed.stepped(8, 3.0)
    assert speed.rate == pytest.approx(4)


def test_only_the_window_counts():
    speed = meter([(8, 1.0, 1.0)] * 20 + [(8, 0.5, 0.0)] * 4, window=4)
    assert (speed.rate, speed.data_wait) == (pytest.approx(16), 0)


def test_waits_add_up_and_a_pause_forgets_the_pending_one():
    speed = meter([(8, 1.0, 0.0)] * 2)
    speed.waited(0.25)
    speed.waited(0.75)
    speed.stepped(8, 1.0)
    assert speed.data_wait == pytest.approx(1 / 3)
    speed.waited(100.0)
    speed.pause()
    speed.stepped(8, 1.0)
    assert speed.data_wait == pytest.approx(1 / 4)


def test_rate_and_time_left_agree():
    speed = meter([(8, 0.1 * k, 0.01 * k) for k in range(1, 80)])
    assert speed.seconds_left(1000) == pytest.approx(8 * 1000 / speed.rate)


def test_utilisation_is_the_share_of_the_peak_and_needs_both_numbers():
    speed = meter([(256, 0.5, 0.0)] * 3, flops_per_sample=1e9, peak_flops=1e12)
    assert speed.values()["mfu"] == pytest.approx(512 * 1e9 / 1e12)
    for known in ({}, {"flops_per_sample": 1e9}, {"peak_flops": 1e12}):
        values = meter([(8, 0.0, 0.1)] * 70, **known).values()
        assert set(values) == {"images_per_second", "data_wait", "peak_memory_mib"}
        assert values["data_wait"] == 1


@every_row("wrong", [{"window": 0}, {"peak_flops": 0.0}, {"flops_per_sample": -1.0}])
def test_impossible_settings_are_refused(wrong):
    name, value = next(iter(wrong.items()))
    with pytest.raises(ValueError, match=rf"{name}.* {value}.*must be"):
        Speedometer("image", CPU, **wrong)


def test_peak_memory_is_in_mib_and_grows_with_what_is_held():
    before = peak_memory_mib(CPU)
    assert 30 < before < 100_000  # a Python process with torch
    with open("/proc/self/status") as status:
        resident = next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024
    assert before == pytest.approx(resident, rel=0.05)


@every_row(("platform", "unit"), [("linux", 2**10), ("darwin", 2**20)])
def test_resident_sets_are_counted_in_the_systems_unit(monkeypatch, platform, unit):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr("resource.getrusage", lambda who: type("Usage", (), {"ru_maxrss": 700 * unit})())
    assert peak_memory_mib(CPU) == 700


def test_on_cuda_the_allocated_tensors_count(monkeypatch):
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: {"cuda:1": 3 * 2**20}[str(device)])
    assert peak_memory_mib(torch.device("cuda:1")) == 3


def test_a_duration_in_words():
    words = {None: "?", -3: "0 s", 0.2: "0 s", 45: "45 s", 59.4: "59 s", 59.6: "1 min", 720: "12 min", 3569: "59 min"}
    words |= {3575: "1 h 0 min", 12_000: "3 h 20 min", 360_000: "100 h 0 min"}
    assert {seconds: in_words(seconds) for seconds in words} == words


def test_words_never_go_back():
    def back(words):
        weights = {"s": 1, "min": 60, "h": 3600}
        return sum(int(count) * weights[unit] for count, unit in re.findall(r"(\d+) (\w+)", words))

    seconds = [0.7 * k for k in range(20_000)]
    read = [back(in_words(each)) for each in seconds]
    assert read == sorted(read)
    assert all(abs(a - b) <= max(0.5, 30 * (b > 59)) for a, b in zip(read, seconds, strict=True))
