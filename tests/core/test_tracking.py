"""Records of a run: what a crash leaves, what a resumed run keeps, and that equal runs have equal files."""

import io
import json

import pytest
from PIL import Image

from core import tracking
from core.tracking import METRICS, SPEED, JsonLines, Progress, Tracker, draw_curves, read_lines


@pytest.fixture(autouse=True)
def without_tensorboard(monkeypatch):
    find = tracking.importlib.util.find_spec
    absent = lambda name, *rest: None if name == "tensorboard" else find(name, *rest)  # noqa: E731
    monkeypatch.setattr(tracking.importlib.util, "find_spec", absent)


def record(folder, steps, start=0, rate=1.0):
    tracker = Tracker(folder, start)
    for step in steps:
        tracker.log(step, {"flow_loss": 1 / step, "similarity/2->5": 0.1 * step}, {"images_per_second": rate})
    tracker.close()


def test_every_logged_step_is_a_line(tmp_path):
    record(tmp_path, [1, 2, 3])
    assert [line["step"] for line in read_lines(tmp_path / METRICS)] == [1, 2, 3]
    assert read_lines(tmp_path / METRICS)[1] == {"step": 2, "flow_loss": 0.5, "similarity/2->5": 0.2}
    assert read_lines(tmp_path / SPEED)[1] == {"step": 2, "images_per_second": 1.0}


def test_a_line_is_on_disk_as_soon_as_it_is_logged(tmp_path):
    lines = JsonLines(tmp_path / "a.jsonl", 0)
    lines.write({"step": 1})
    assert read_lines(tmp_path / "a.jsonl") == [{"step": 1}]


def test_what_the_machine_determines_is_in_another_file(tmp_path):
    for name, rate in (("a", 10.0), ("b", 9.0)):
        (tmp_path / name).mkdir()
        record(tmp_path / name, [1, 2, 3], rate=rate)
    assert (tmp_path / "a" / METRICS).read_bytes() == (tmp_path / "b" / METRICS).read_bytes()
    assert (tmp_path / "a" / SPEED).read_bytes() != (tmp_path / "b" / SPEED).read_bytes()


def test_a_resumed_run_drops_the_steps_that_it_makes_again(tmp_path):
    (tmp_path / "whole").mkdir()
    (tmp_path / "resumed").mkdir()
    record(tmp_path / "whole", range(1, 9))
    record(tmp_path / "resumed", range(1, 7))
    record(tmp_path / "resumed", range(5, 9), start=4)
    assert (tmp_path / "whole" / METRICS).read_bytes() == (tmp_path / "resumed" / METRICS).read_bytes()


def test_a_run_that_starts_afresh_drops_everything(tmp_path):
    record(tmp_path, [1, 2, 3])
    Tracker(tmp_path, 0)
    assert (tmp_path / METRICS).read_bytes() == b""


@pytest.mark.parametrize("cut", ['{"step": 3, "flow_lo', '{"step": 3, "flow_loss": 0.', "\x00\x00\x00", "{"])
def test_a_line_cut_short_is_left_out_and_made_again(tmp_path, cut):
    record(tmp_path, [1, 2])
    with (tmp_path / METRICS).open("a") as file:
        file.write(cut)
    assert [line["step"] for line in read_lines(tmp_path / METRICS)] == [1, 2]
    record(tmp_path, [3], start=2)
    assert [line["step"] for line in read_lines(tmp_path / METRICS)] == [1, 2, 3]


def test_a_file_that_is_not_there_has_no_lines(tmp_path):
    assert read_lines(tmp_path / "nothing.jsonl") == []


def test_numbers_survive_the_file_bit_by_bit(tmp_path):
    lines = JsonLines(tmp_path / "a.jsonl", 0)
    value = 0.1 + 0.2
    lines.write({"step": 1, "loss": value})
    before = (tmp_path / "a.jsonl").read_bytes()
    JsonLines(tmp_path / "a.jsonl", 1)
    assert (tmp_path / "a.jsonl").read_bytes() == before
    assert read_lines(tmp_path / "a.jsonl")[0]["loss"] == value


def test_tensorboard_events_are_written_where_it_is_installed(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    monkeypatch.undo()
    record(tmp_path, [1, 2])
    events = list((tmp_path / "tensorboard").glob("events.*"))
    assert events
    assert b"flow_loss" in events[0].read_bytes()


@pytest.mark.parametrize("pairs", [["similarity/2->5"], ["similarity/1->2", "similarity/2->5"], []])
def test_the_curve_is_a_picture_of_the_lines(tmp_path, pairs):
    with (tmp_path / METRICS).open("w") as file:
        for step in range(1, 20):
            json.dump({"step": step, "flow_loss": 1 / step} | dict.fromkeys(pairs, step / 20), file)
            file.write("\n")
    draw_curves(tmp_path / METRICS, tmp_path / "curve.png")
    with Image.open(tmp_path / "curve.png") as picture:
        picture.load()
        assert picture.width > 500
        assert len(picture.convert("RGB").getcolors(100_000)) > 10
        tall = picture.height
    draw_curves(tmp_path / "nothing.jsonl", tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
    assert (tall > 500) is bool(pairs)


# --- the bar


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(tracking.time, "perf_counter", lambda: now[0])
    return now


def test_the_rate_is_of_the_last_steps(clock):
    progress = Progress(1000, 0, "run", "images")
    for _ in range(100):
        clock[0] += 1.0
        progress.advance(8)
    for _ in range(60):
        clock[0] += 0.5
        rate = progress.advance(8)
    progress.close()
    assert rate == pytest.approx(16)


def test_a_pause_does_not_count(clock):
    progress = Progress(10, 0, "run", "images")
    clock[0] += 1.0
    progress.advance(8)
    clock[0] += 100.0  # a preview
    progress.pause()
    clock[0] += 2.0
    assert progress.advance(8) == pytest.approx(4)
    progress.close()


def test_the_bar_shows_loss_similarity_and_speed(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(tracking.sys, "stderr", screen)
    progress = Progress(20, 5, "digits", "images")
    for _ in range(15):
        progress.advance(8)
    progress.show({"flow_loss": 0.51234, "similarity/2->5": 0.98765}, 123.4)
    progress.close()
    last = screen.getvalue().splitlines()[-1]
    assert all(text in last for text in ("digits 20/20", "flow 0.5123", "similarity 2->5 0.988", "123 images/s"))
