"""The progress bar: what stands in it, and where its rate and its time left come from."""

import re

import pytest
import torch

from core.train import progress as bars
from core.train.progress import Progress
from core.train.speed import Speedometer


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(bars.time, "perf_counter", lambda: now[0])
    return now


def test_the_bar_shows_loss_similarity_and_speed(capsys):
    progress = Progress(20, 5, "digits", "images")
    for _ in range(15):
        progress.advance(8)
    progress.show({"flow_loss": 0.51234, "similarity/2->5": 0.98765, "similarity/1->4": 0.5}, 123.4)
    progress.close()
    last = capsys.readouterr().err.splitlines()[-1]
    assert all(
        text in last for text in ("digits 20/20", "flow 0.5123", "similarity 2->5 0.988 1->4 0.500", "123 images/s")
    )
    assert "data wait" not in last


def test_the_loss_by_noise_level_stays_until_it_is_measured_again(capsys):
    progress = Progress(20, 0, "digits", "images")
    progress.show(
        {"flow_loss": 0.5, "loss_by_time/0-0.5": 0.75, "loss_by_time/0.5-1": 1.0, "loss_by_time_ema/0-0.5": 9}
    )
    progress.show({"flow_loss": 0.25})
    assert "flow 0.2500, by t 0.750 1.000, " in line(progress)
    progress.close()


def line(progress):
    return str(progress.bar)


def test_time_left_is_unknown_until_two_steps_are_done(clock):
    progress = Progress(10, 0, "run", "images")
    assert "? left" in line(progress)
    clock[0] += 60.0  # compiling
    progress.advance(8)
    assert "? left" in line(progress)
    clock[0] += 5.0
    progress.advance(8)
    assert "| 40 s left" in line(progress)
    progress.close()


def test_time_left_is_of_the_last_steps_of_this_session_without_pauses(clock):
    progress = Progress(2000, 1000, "run", "images")
    for _ in range(100):
        clock[0] += 9.0
        progress.advance(8)
    for _ in range(50):
        clock[0] += 1.0
        rate = progress.advance(8)
        clock[0] += 1000.0  # a preview
        progress.pause()
    assert rate == pytest.approx(8)
    assert "| 14 min left" in line(progress)  # 850 steps of a second
    assert "1150/2000" in line(progress)
    progress.close()


def test_the_bar_reads_the_speedometer_of_the_loop(clock):
    speed = Speedometer("image", torch.device("cpu"))
    progress = Progress(100, 0, "run", "images", speed=speed)
    for _ in range(4):
        clock[0] += 100.0
        speed.waited(0.7)
        speed.stepped(8, 1.3)
        assert progress.advance(8) == pytest.approx(4)
    progress.show({"flow_loss": 1.0})
    assert "| 3 min left, flow 1.0000, 4 images/s, data wait 35 %" in line(progress)
    progress.close()


def test_a_wait_for_data_is_shown_from_a_tenth_on_and_a_slow_rate_is_not_rounded_to_nothing():
    for waiting, shown in ((0.05, False), (0.1, False), (0.11, True)):
        speed = Speedometer("video", torch.device("cpu"))
        for _ in range(3):
            speed.waited(waiting)
            speed.stepped(8, 1 - waiting)
        progress = Progress(100, 0, "run", "videos", speed=speed)
        progress.show({"flow_loss": 1.0}, 0.314)
        assert ("data wait" in line(progress)) is shown and "0.31 videos/s" in line(progress)
        progress.close()


def test_a_bar_that_is_moved_by_hand_shows_the_sessions_average():
    progress = Progress(100, 0, "sampling", "samples")
    progress.bar.start_t -= 30.0
    progress.bar.update(25)
    assert re.search(r"25/100 .*\| (1|2) min left", line(progress))
    progress.close()


def test_a_bar_that_is_not_enabled_shows_nothing_and_counts(clock, capsys):
    progress = Progress(10, 0, "run", "images", enabled=False)
    for _ in range(3):
        clock[0] += 2.0
        rate = progress.advance(8)
    progress.show({"flow_loss": 1.0}, rate)
    progress.pause()
    progress.close()
    assert rate == pytest.approx(4)
    assert capsys.readouterr().err == ""


def test_a_log_file_does_not_fill_up(capsys):
    progress = Progress(5000, 0, "run", "images")
    for _ in range(5000):
        progress.advance(8)
    progress.close()
    assert capsys.readouterr().err.count("\r") <= 4
