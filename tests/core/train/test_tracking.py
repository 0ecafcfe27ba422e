"""Records of a run: what a crash leaves, what a resumed run keeps, and that equal runs have equal files."""

import json
import math
import multiprocessing
import os
import re
import signal
import socket
import threading
import time

import pytest
import torch
from PIL import Image

from core.storage.lines import JsonLines, read_lines
from core.train import progress, tracking
from core.train.progress import Progress
from core.train.speed import Speedometer
from core.train.tracking import METRICS, SPEED, Tracker, TrackingConfig, draw_curves

FILES_ONLY = TrackingConfig(tensorboard="off")


def record(folder, steps, start=0, rate=1.0, config=FILES_ONLY):
    tracker = Tracker(folder, start, config)
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
    Tracker(tmp_path, 0, FILES_ONLY)
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


def test_a_whole_last_line_without_its_end_is_not_joined_with_the_next(tmp_path):
    record(tmp_path, [1, 2])
    file = tmp_path / METRICS
    file.write_bytes(file.read_bytes().removesuffix(b"\n"))
    assert [line["step"] for line in read_lines(file)] == [1, 2]
    record(tmp_path, [3], start=2)
    assert [line["step"] for line in read_lines(file)] == [1, 2, 3]
    assert file.read_bytes().count(b"\n") == 3


def test_a_run_cut_at_any_byte_and_resumed_has_the_file_of_an_uncut_one(tmp_path):
    lines = JsonLines(tmp_path / "whole.jsonl", 0)
    for step in range(1, 5):
        lines.write({"step": step, "loss": math.sqrt(step), "\u00e9": -1e-30 * step})
    whole, cut = (tmp_path / "whole.jsonl").read_bytes(), tmp_path / "cut.jsonl"
    for size in range(len(whole) + 1):
        done = whole[:size].count(b"\n")
        for checkpoint in range(done + 1):
            cut.write_bytes(whole[:size])
            again = JsonLines(cut, checkpoint)
            for step in range(checkpoint + 1, 5):
                again.write({"step": step, "loss": math.sqrt(step), "\u00e9": -1e-30 * step})
            assert cut.read_bytes() == whole, (size, checkpoint)


@pytest.mark.parametrize("damage", [b"\x00" * 20, b'{"step": 2, "fl{"step": 9}', b"\xff\xfe", b"12", b'["step"]', b""])
def test_a_damaged_line_between_others_is_said_and_costs_no_other(tmp_path, caplog, damage):
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'{"step": 1}\n' + damage + b'\n{"step": 3}\n')
    JsonLines(file, 3)
    assert "a.jsonl: line 2 cannot be read" in caplog.text
    assert file.read_bytes() == b'{"step": 1}\n{"step": 3}\n'


def test_a_rewrite_that_was_interrupted_costs_nothing(tmp_path, monkeypatch):
    record(tmp_path, [1, 2, 3])
    before = (tmp_path / METRICS).read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(type(tmp_path), "replace", lambda self, target: (_ for _ in ()).throw(OSError("killed here")))
        with pytest.raises(OSError, match="killed here"):
            JsonLines(tmp_path / METRICS, 1)
    assert (tmp_path / METRICS).read_bytes() == before
    (left,) = tmp_path.glob(".*.tmp")
    left.write_bytes(b'{"step": 77}\n{"st')
    JsonLines(tmp_path / METRICS, 3)
    assert (tmp_path / METRICS).read_bytes() == before
    assert not list(tmp_path.glob(".*.tmp"))


def _train(folder, steps):
    """A loop that logs each step and makes a checkpoint (a file with the step) after every third."""
    checkpoint = folder / "checkpoint"
    start = int(checkpoint.read_text()) if checkpoint.exists() else 0
    tracker = Tracker(folder, start, FILES_ONLY)
    for step in range(start + 1, steps + 1):
        tracker.log(step, {"flow_loss": 1 / step}, {"images_per_second": 1.0})
        if step % 3 == 0:
            tracker.sync()
            (folder / "new").write_text(str(step))
            (folder / "new").replace(checkpoint)


def test_no_line_is_missing_or_twice_after_kills_at_any_moment(tmp_path):
    context = multiprocessing.get_context("fork")
    checkpoint, killed = tmp_path / "checkpoint", 0
    for delay in (0.0, 0.001, 0.01, 0.02, 0.03, 0.05):
        process = context.Process(target=_train, args=(tmp_path, 1_000_000))
        before = checkpoint.read_text() if checkpoint.exists() else None
        process.start()
        while process.is_alive() and (not checkpoint.exists() or checkpoint.read_text() == before):
            time.sleep(0.001)
        time.sleep(delay)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        killed += process.exitcode == -signal.SIGKILL
    assert killed == 6
    last = int(checkpoint.read_text()) + 5
    _train(tmp_path, last)
    for name in (METRICS, SPEED):
        assert [line["step"] for line in read_lines(tmp_path / name)] == list(range(1, last + 1))


@pytest.mark.parametrize("value", [5e-324, 1.7976931348623157e308, 1 / 3, -0.0, 1e16, 123456789.123456789, 2**53 + 1])
def test_a_number_is_the_same_after_writing_and_rewriting(tmp_path, value):
    lines = JsonLines(tmp_path / "a.jsonl", 0)
    lines.write({"step": 1, "loss": value})
    JsonLines(tmp_path / "a.jsonl", 1)
    read = read_lines(tmp_path / "a.jsonl")[0]["loss"]
    assert (read, math.copysign(1, read)) == (value, math.copysign(1, value))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_never_written(tmp_path, value):
    tracker = Tracker(tmp_path, 0, FILES_ONLY)
    with pytest.raises(ValueError, match=r"metrics.jsonl, step 7: loss is -?(nan|inf)"):
        tracker.log(7, {"flow_loss": 1.0, "loss": value}, {})
    assert (tmp_path / METRICS).read_bytes() == (tmp_path / SPEED).read_bytes() == b""


def test_sync_reaches_the_disk_and_works_after_close(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    tracker = Tracker(tmp_path, 0, FILES_ONLY)
    for _ in range(2):
        synced.clear()
        tracker.sync()
        assert synced == [str(tmp_path / METRICS), str(tmp_path / SPEED)]
        tracker.close()


# --- TensorBoard


def scalars(folder):
    """{tag: [(step, value)]} of all event files."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    return {tag: [(each.step, each.value) for each in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_shows_what_the_files_say(tmp_path):
    record(tmp_path, [1, 2, 4], config=TrackingConfig())
    shown = scalars(tmp_path)
    assert set(shown) == {"flow_loss", "similarity/2->5", "images_per_second"}
    assert shown["flow_loss"] == [(1, 1.0), (2, 0.5), (4, 0.25)]


def test_tensorboard_has_each_step_once_after_a_resume(tmp_path):
    record(tmp_path, range(1, 7), config=TrackingConfig(tensorboard="on"))
    record(tmp_path, range(5, 9), start=4, config=TrackingConfig(tensorboard="on"))
    assert [step for step, _ in scalars(tmp_path)["flow_loss"]] == list(range(1, 9))


def test_tensorboard_keeps_the_steps_of_a_checkpoint_through_a_kill(tmp_path):
    tracker = Tracker(tmp_path, 0)
    for step in (1, 2):
        tracker.log(step, {"flow_loss": 1 / step}, {})
        tracker.sync()
        assert scalars(tmp_path)["flow_loss"][-1] == (step, 1 / step)  # nothing was closed
    tracker.close()


def test_tensorboard_can_be_switched_off(tmp_path):
    record(tmp_path, [1])
    assert not (tmp_path / "tensorboard").exists()


# --- Weights & Biases, for real and offline


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """W&B without network and with nothing in the home folder; any connection it tries ends in the returned list."""
    pytest.importorskip("wandb")
    tried, server = [], socket.create_server(("127.0.0.1", 0))

    def listen():
        while server.fileno() != -1:
            try:
                connection, _ = server.accept()
            except OSError:  # closed
                return
            tried.append(connection.recv(200))
            connection.close()

    threading.Thread(target=listen, daemon=True).start()
    home = tmp_path / "home"
    home.mkdir()
    for name in [name for name in os.environ if name.startswith("WANDB_") or name.lower() == "no_proxy"]:
        monkeypatch.delenv(name)
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "wandb_own"))
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "WANDB_BASE_URL"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{server.getsockname()[1]}")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    yield tried
    import wandb

    wandb.teardown()  # the next test has its own folders
    server.close()
    assert not list(home.iterdir())


def wandb_records(file):
    """The records of a .wandb file: LevelDB's log format (blocks of 32 KiB; checksum, length, type; protobuf)."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, position, parts = file.read_bytes(), 7, b""
    while position + 7 <= len(data):
        if 32768 - position % 32768 < 7:
            position += 32768 - position % 32768
            continue
        length, kind = int.from_bytes(data[position + 4 : position + 6], "little"), data[position + 6]
        parts += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield Record.FromString(parts)
            parts = b""


def wandb_sessions(folder):
    """The history of each session, oldest first: [{W&B's step: {name: value}}]."""
    sessions = []
    for file in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        rows = {}
        for record in wandb_records(file):
            for item in record.history.item:
                name = item.key or "/".join(item.nested_key)
                rows.setdefault(record.history.step.num, {})[name] = json.loads(item.value_json)
        sessions.append(rows)
    return sessions


def wandb_run(folder):
    """The run record of the newest session, with its config as a dict."""
    file = max(folder.glob("wandb/offline-run-*/run-*.wandb"))
    run = next(record.run for record in wandb_records(file) if record.WhichOneof("record_type") == "run")
    return run, {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in run.config.update}


WANDB = TrackingConfig(tensorboard="off", wandb_project="sync", wandb_entity="team")


def test_wandb_gets_every_step_and_the_config(tmp_path, offline):
    folder = tmp_path / "digits"
    folder.mkdir()
    tracker = Tracker(folder, 0, WANDB, {"seed": 3, "optimizer": {"betas": [0.9, 0.99], "clip_norm": None}})
    for step in (1, 2, 4):
        tracker.log(step, {"flow_loss": 1 / step, "similarity/2->5": 0.1}, {"images_per_second": 7.0})
    tracker.close()
    (rows,) = wandb_sessions(folder)
    assert list(rows) == [1, 2, 4]
    wanted = {"flow_loss": 0.25, "similarity/2->5": 0.1, "images_per_second": 7.0}
    assert {name: value for name, value in rows[4].items() if not name.startswith("_")} == wanted
    run, config = wandb_run(folder)
    identity = (run.project, run.entity, run.display_name, run.run_id)
    assert identity == ("sync", "team", "digits", (folder / "wandb_id.txt").read_text().strip())
    assert (config["seed"], config["optimizer"]) == (3, {"betas": [0.9, 0.99], "clip_norm": None})
    assert offline == []
    assert len(read_lines(folder / METRICS)) == 3


def test_a_resumed_run_is_the_same_run_at_wandb_and_its_newest_folder_has_every_step(tmp_path, offline):
    record(tmp_path, range(1, 7), config=WANDB)
    identity = (tmp_path / "wandb_id.txt").read_text()
    time.sleep(1.1)  # W&B names its folders by the second
    record(tmp_path, range(5, 9), start=4, config=WANDB)
    assert (tmp_path / "wandb_id.txt").read_text() == identity
    assert wandb_run(tmp_path)[0].run_id == identity.strip()
    assert [list(rows) for rows in wandb_sessions(tmp_path)] == [[1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6, 7, 8]]


def _log_and_die(folder):
    tracker = Tracker(folder, 0, WANDB)
    for step in range(1, 4):
        tracker.log(step, {"flow_loss": 1 / step}, {})
    tracker.sync()  # a checkpoint of step 3
    os.kill(os.getpid(), signal.SIGKILL)


def test_wandb_misses_no_step_after_a_kill(tmp_path, offline):
    process = multiprocessing.get_context("fork").Process(target=_log_and_die, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    time.sleep(1.1)
    record(tmp_path, [4, 5], start=3, config=WANDB)
    assert list(wandb_sessions(tmp_path)[-1]) == [1, 2, 3, 4, 5]


def test_a_run_that_gets_a_project_later_sends_its_earlier_lines(tmp_path, offline):
    record(tmp_path, range(1, 7), rate=5.0)
    record(tmp_path, range(5, 7), start=4, config=WANDB)
    (rows,) = wandb_sessions(tmp_path)
    assert list(rows) == [1, 2, 3, 4, 5, 6]
    assert (rows[2]["flow_loss"], rows[2]["images_per_second"], rows[5]["images_per_second"]) == (0.5, 5.0, 1.0)


class Server:
    """What wandb.init returns online, at a server that holds the steps before `starting_step`."""

    id, offline = "abc", False

    def __init__(self, starting_step, broken_from=math.inf):
        self.starting_step, self.broken_from, self.steps = starting_step, broken_from, []

    def log(self, values, step):
        if step >= self.broken_from:
            raise ConnectionResetError("Connection lost")
        self.steps.append(step)

    def finish(self):
        self.steps.append("end")


@pytest.mark.parametrize(("starting_step", "sent"), [(0, range(1, 9)), (3, range(3, 9)), (7, (7, 8)), (9, ())])
def test_online_the_server_gets_what_it_lacks_and_nothing_twice(tmp_path, monkeypatch, starting_step, sent):
    wandb, server = pytest.importorskip("wandb"), Server(starting_step)
    monkeypatch.setattr(wandb, "init", lambda **kwargs: server)
    (tmp_path / "wandb_id.txt").write_text("abc\n")
    record(tmp_path, range(1, 7))
    record(tmp_path, range(5, 9), start=4, config=WANDB)
    assert server.steps == [*sent, "end"]


def test_training_goes_on_where_wandb_stops(tmp_path, monkeypatch, caplog):
    wandb, server = pytest.importorskip("wandb"), Server(0, broken_from=3)
    monkeypatch.setattr(wandb, "init", lambda **kwargs: server)
    record(tmp_path, range(1, 6), config=WANDB)
    assert server.steps == [1, 2]
    assert caplog.text.count("W&B has stopped at step 3 (Connection lost)") == 1
    assert len(read_lines(tmp_path / METRICS)) == 5


def test_where_wandb_cannot_begin_it_is_one_line(tmp_path, offline, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_API_KEY", "too short")
    with pytest.raises(OSError, match=r"^W&B could not begin \(tracking.wandb_project=sync\): .*API key.*$"):
        Tracker(tmp_path, 0, WANDB)
    assert not (tmp_path / "wandb_id.txt").exists()
    assert offline == []


# --- extras that are absent


@pytest.fixture
def bare(monkeypatch):
    """An installation without the extra 'log'."""
    find = tracking.importlib.util.find_spec
    absent = lambda name, *rest: None if name in ("tensorboard", "wandb") else find(name, *rest)  # noqa: E731
    monkeypatch.setattr(tracking.importlib.util, "find_spec", absent)


def test_without_the_extra_the_files_are_written(tmp_path, bare):
    record(tmp_path, [1, 2], config=TrackingConfig())
    assert len(read_lines(tmp_path / METRICS)) == 2
    assert not (tmp_path / "tensorboard").exists()


@pytest.mark.parametrize(
    ("config", "key"),
    [
        (TrackingConfig(tensorboard="on"), "tracking.tensorboard is 'on', but tensorboard"),
        (TrackingConfig(wandb_project="sync"), "tracking.wandb_project is 'sync', but wandb"),
    ],
)
def test_an_absent_extra_is_named_before_anything_is_touched(tmp_path, bare, config, key):
    with pytest.raises(ImportError, match=rf"^{key} is not installed: pip install 'layersync\[log\]'$"):
        Tracker(tmp_path, 0, config)
    assert not list(tmp_path.iterdir())


def test_a_folder_of_that_name_is_no_installation(tmp_path, monkeypatch):
    (tmp_path / "some_absent_package").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert not tracking._installed("some_absent_package")
    assert tracking._installed("json")


@pytest.mark.parametrize("wrong", [{"wandb_project": ""}, {"wandb_entity": "team"}])
def test_half_a_wandb_config_is_refused(wrong):
    with pytest.raises(ValueError, match=r"tracking\.wandb_project is"):
        TrackingConfig(**wrong)


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
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
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


def test_rate_and_time_left_agree_at_every_step(clock):
    progress = Progress(120, 0, "run", "images")
    for step in range(1, 121):
        clock[0] += 0.5 + 0.4 * math.sin(step)
        rate = progress.advance(4)
        left = progress.speed.seconds_left(120 - step)
        assert step < 2 or left == pytest.approx(4 * (120 - step) / rate)
    assert "| 0 s left" in line(progress)
    progress.close()


def test_time_left_is_never_negative(clock):
    progress = Progress(3, 3, "run", "images")
    for _ in range(3):
        clock[0] += 1.0
        progress.advance(8)
    assert "| 0 s left" in line(progress)
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


@pytest.mark.parametrize(("waiting", "shown"), [(0.05, False), (0.1, False), (0.11, True)])
def test_a_wait_for_data_is_shown_from_a_tenth_on(waiting, shown):
    speed = Speedometer("image", torch.device("cpu"))
    for _ in range(3):
        speed.waited(waiting)
        speed.stepped(8, 1 - waiting)
    progress = Progress(100, 0, "run", "images", speed=speed)
    progress.show({"flow_loss": 1.0})
    assert ("data wait" in line(progress)) is shown
    progress.close()


def test_a_slow_rate_is_not_rounded_to_nothing():
    progress = Progress(100, 0, "run", "videos")
    progress.show({"flow_loss": 1.0}, 0.314)
    assert "0.31 videos/s" in line(progress)
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
