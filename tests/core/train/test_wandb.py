"""Weights & Biases, for real and offline; online a server that is stood in for."""

import json
import math
import multiprocessing
import os
import signal
import socket
import threading
import time

import pytest

from core.storage.lines import read_lines
from core.train import tracking
from core.train.tracking import METRICS, Tracker, TrackingConfig
from tests.core.train.test_tracking import record
from tests.rows import every_row

WANDB = TrackingConfig(tensorboard="off", wandb_project="sync", wandb_entity="team")


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    """No picture of the curves: matplotlib takes its time, and the home folder."""
    monkeypatch.setattr(tracking, "draw_curves", lambda *args: None)


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
    import wandb

    wandb.teardown()  # its process writes on after a run's end
    sessions = []
    for file in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        rows = {}
        for each in wandb_records(file):
            for item in each.history.item:
                name = item.key or "/".join(item.nested_key)
                rows.setdefault(each.history.step.num, {})[name] = json.loads(item.value_json)
        sessions.append(rows)
    return sessions


def wandb_run(folder):
    """The run record of the newest session, with its config as a dict."""
    file = max(folder.glob("wandb/offline-run-*/run-*.wandb"))
    run = next(each.run for each in wandb_records(file) if each.WhichOneof("record_type") == "run")
    return run, {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in run.config.update}


def test_wandb_gets_the_config_and_every_step_those_before_it_had_a_project_too(tmp_path, offline):
    folder = tmp_path / "digits"
    record(folder, range(1, 4), rate=5.0)
    tracker = Tracker(folder, 2, WANDB, {"seed": 3, "optimizer": {"betas": [0.9, 0.99], "clip_norm": None}})
    tracker.log(4, {"flow_loss": 0.25, "similarity/2->5": 0.1}, {"images_per_second": 7.0})
    tracker.close()
    (rows,) = wandb_sessions(folder)
    assert list(rows) == [1, 2, 4]
    wanted = {"flow_loss": 0.25, "similarity/2->5": 0.1, "images_per_second": 7.0}
    assert {name: value for name, value in rows[4].items() if not name.startswith("_")} == wanted
    assert (rows[2]["flow_loss"], rows[2]["images_per_second"]) == (0.5, 5.0)
    run, config = wandb_run(folder)
    identity = (run.project, run.entity, run.display_name, run.run_id)
    assert identity == ("sync", "team", "digits", (folder / "wandb_id.txt").read_text().strip())
    assert (config["seed"], config["optimizer"]) == (3, {"betas": [0.9, 0.99], "clip_norm": None})
    assert offline == []
    assert len(read_lines(folder / METRICS)) == 3


def _log_and_die(folder):
    tracker = Tracker(folder, 0, WANDB)
    for step in range(1, 6):
        tracker.log(step, {"flow_loss": 1 / step}, {})
        if step == 3:
            tracker.sync()  # a checkpoint
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_run_resumed_after_a_kill_is_the_same_run_and_its_newest_folder_has_every_step(tmp_path, offline):
    process = multiprocessing.get_context("fork").Process(target=_log_and_die, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    identity = (tmp_path / "wandb_id.txt").read_text()
    time.sleep(1.1)  # W&B names its folders by the second
    record(tmp_path, [4, 5, 6], start=3, config=WANDB)
    assert (tmp_path / "wandb_id.txt").read_text() == identity
    sessions = wandb_sessions(tmp_path)
    assert len(sessions) == 2 and list(sessions[-1]) == [1, 2, 3, 4, 5, 6]
    assert wandb_run(tmp_path)[0].run_id == identity.strip()


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


@every_row(("starting_step", "sent"), [(0, range(1, 9)), (3, range(3, 9)), (7, (7, 8)), (9, ())])
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
