"""Records of a run: the files, TensorBoard's events, the picture of the curves, and extras that are absent."""

import errno
import json
import math
import os
import threading

import pytest
from PIL import Image

from core.storage.lines import curve, read_lines
from core.train import tracking
from core.train.tracking import METRICS, SPEED, Events, Tracker, TrackingConfig, draw_curves
from tests.rows import every_row

FILES_ONLY = TrackingConfig(tensorboard="off")


def record(folder, steps, start=0, rate=1.0, config=FILES_ONLY):
    """A session that logs `steps` after a checkpoint of step `start`."""
    folder.mkdir(exist_ok=True)
    tracker = Tracker(folder, start, config)
    for step in steps:
        tracker.log(step, {"flow_loss": 1 / step, "similarity/2->5": 0.1 * step}, {"images_per_second": rate})
    tracker.close()


def test_equal_runs_have_equal_files_but_for_what_the_machine_determines(tmp_path):
    """A line for each logged step, also where a resumed session makes some again."""
    a, b = tmp_path / "a", tmp_path / "b"
    record(a, range(1, 9), rate=10.0)
    record(b, range(1, 7), rate=9.0)
    record(b, range(5, 9), start=4, rate=9.0)
    assert [line["step"] for line in read_lines(a / METRICS)] == list(range(1, 9))
    assert read_lines(a / METRICS)[1] == {"step": 2, "flow_loss": 0.5, "similarity/2->5": 0.2}
    assert read_lines(a / SPEED)[1] == {"step": 2, "images_per_second": 10.0}
    assert (a / METRICS).read_bytes() == (b / METRICS).read_bytes()
    assert [line["images_per_second"] for line in read_lines(b / SPEED)] == [9.0] * 8
    assert not (a / "tensorboard").exists()
    tracker = Tracker(a, 0, FILES_ONLY)
    with pytest.raises(ValueError, match=r"metrics.jsonl, step 7: loss is nan"):
        tracker.log(7, {"flow_loss": 1.0, "loss": math.nan}, {})
    assert (a / METRICS).read_bytes() == (a / SPEED).read_bytes() == b"", "a run that starts afresh drops everything"


def test_sync_reaches_the_disk_and_works_after_close(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    tracker = Tracker(tmp_path, 0, FILES_ONLY)
    for _ in range(2):
        synced.clear()
        tracker.sync()
        assert synced == [str(tmp_path / METRICS), str(tmp_path / SPEED)]
        tracker.close()


# TensorBoard


def scalars(folder):
    """{tag: [(step, value)]} of all event files."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    return {tag: [(each.step, each.value) for each in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_shows_what_the_files_say_each_step_once_after_a_resume(tmp_path):
    record(tmp_path, [1, 2, 4], config=TrackingConfig())
    record(tmp_path, [4, 8], start=2, config=TrackingConfig(tensorboard="on"))
    shown = scalars(tmp_path)
    assert set(shown) == {"flow_loss", "similarity/2->5", "images_per_second"}
    assert shown["flow_loss"] == [(1, 1.0), (2, 0.5), (4, 0.25), (8, 0.125)]


def test_tensorboard_reads_a_session_that_begins_in_the_second_of_another_one_after_it(tmp_path, monkeypatch):
    """Their files' names differ in a counter only, and sort 10 before 9."""
    writer = pytest.importorskip("tensorboard.summary.writer.event_file_writer")
    monkeypatch.setattr(writer, "_global_uid", writer.AtomicCounter(9))
    record(tmp_path, [1, 2, 4], config=TrackingConfig(tensorboard="on"))
    record(tmp_path, [4, 8], start=2, config=TrackingConfig(tensorboard="on"))
    assert [step for step, _ in scalars(tmp_path)["flow_loss"]] == [1, 2, 4, 8]


def test_tensorboard_keeps_the_steps_of_a_checkpoint_through_a_kill(tmp_path):
    tracker = Tracker(tmp_path, 0)
    for step in (1, 2):
        tracker.log(step, {"flow_loss": 1 / step}, {})
        tracker.sync()
        assert scalars(tmp_path)["flow_loss"][-1] == (step, 1 / step)  # nothing was closed
    tracker.close()


# Extras that are absent


@pytest.fixture
def bare(monkeypatch):
    """An installation without the extra 'log'."""
    find = tracking.importlib.util.find_spec
    absent = lambda name, *rest: None if name in ("tensorboard", "wandb") else find(name, *rest)  # noqa: E731
    monkeypatch.setattr(tracking.importlib.util, "find_spec", absent)


def test_an_absent_extra_is_left_out_or_named_before_anything_is_touched(tmp_path, bare):
    for config, key in (
        (TrackingConfig(tensorboard="on"), "tracking.tensorboard is 'on', but tensorboard"),
        (TrackingConfig(wandb_project="sync"), "tracking.wandb_project is 'sync', but wandb"),
    ):
        with pytest.raises(ImportError, match=rf"^{key} is not installed: pip install 'layersync\[log\]'$"):
            Tracker(tmp_path, 0, config)
        assert not list(tmp_path.iterdir())
    record(tmp_path, [1, 2], config=TrackingConfig())
    assert len(read_lines(tmp_path / METRICS)) == 2
    assert not (tmp_path / "tensorboard").exists()


def test_a_folder_of_that_name_is_no_installation(tmp_path, monkeypatch):
    (tmp_path / "some_absent_package").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert not tracking._installed("some_absent_package")
    assert tracking._installed("json")


def test_half_a_wandb_config_is_refused():
    for wrong in ({"wandb_project": ""}, {"wandb_entity": "team"}):
        with pytest.raises(ValueError, match=r"tracking\.wandb_project is"):
            TrackingConfig(**wrong)


# The picture


@every_row("pairs", [["similarity/2->5"], ["similarity/1->2", "loss_by_time/0-0.5", "loss_by_time/0.5-1"], []])
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
        assert picture.height == 120 * (3 + 2 * len({name.partition("/")[0] for name in pairs}))
    draw_curves(tmp_path / "nothing.jsonl", tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_the_curve_takes_the_numbers_that_are_there(tmp_path):
    """Other pairs are aligned since some step, and somebody has edited the lines."""
    lines = [{"step": 1, "flow_loss": 3.0, "similarity/1->2": 0.5}, {"step": 2, "note": "by hand"}]
    lines += [{"step": 3, "flow_loss": "3", "similarity/2->3": 0.5}, {"step": 4, "flow_loss": 1, "similarity/2->3": 1}]
    (tmp_path / METRICS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert curve(read_lines(tmp_path / METRICS), "flow_loss") == ([1, 4], [3.0, 1])
    assert curve(read_lines(tmp_path / METRICS), "similarity/2->3") == ([3, 4], [0.5, 1])
    draw_curves(tmp_path / METRICS, tmp_path / "curve.png")
    with Image.open(tmp_path / "curve.png") as picture:
        assert picture.height > 500


@pytest.mark.filterwarnings("error")  # pytest's word for what a thread prints
def test_events_that_cannot_be_written_are_one_error_that_names_their_folder(tmp_path, monkeypatch, caplog):
    record_writer = pytest.importorskip("tensorboard.summary.writer.record_writer")
    events, hook = Events(tmp_path / "tensorboard", 0), threading.excepthook

    def full(self, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(record_writer.RecordWriter, "write", full)
    with pytest.raises(OSError, match="tensorboard could not be written: No space left on device"):
        for step in range(1, 100):
            events.log(step, {"loss": 1.0})
            events.flush()
    monkeypatch.setattr(record_writer.RecordWriter, "flush", full)
    events.close()
    assert "tensorboard could not be written: No space left on device" in caplog.text
    assert threading.excepthook is not hook


def test_a_curve_that_cannot_be_written_does_not_hide_what_ended_the_run(tmp_path, caplog):
    tracker = Tracker(tmp_path, 0, TrackingConfig(tensorboard="off"))
    tracker.log(1, {"flow_loss": 1.0}, {})
    (tmp_path / "loss_curve.png").mkdir()
    tracker.close()
    assert "loss_curve.png could not be written: Is a directory" in caplog.text
