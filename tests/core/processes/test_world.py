"""The processes of a job: who they are, what they tell each other, which device each takes, what an error does."""

import itertools
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import core.processes.world
from core.alignment.gather import next_rows
from core.processes.world import REPORTED, PeerError, Place, World, joined, part, pick_device
from tests.core.processes.started import together
from tests.rows import every_row

SIZE = 3


# --- parts, places, devices


@every_row(("total", "parts"), [(0, 1), (1, 1), (7, 2), (7, 3), (8, 4), (2, 3), (256, 48)])
def test_parts_follow_each_other_and_differ_by_one_at_most(total, parts):
    cuts = [part(total, parts, number) for number in range(parts)]
    assert cuts[0][0] == 0 and cuts[-1][1] == total
    assert all(before[1] == after[0] for before, after in itertools.pairwise(cuts))
    sizes = {last - first for first, last in cuts}
    assert max(sizes) - min(sizes) <= 1
    assert [World(number, parts).rows(total) for number in range(parts)] == cuts


def test_a_launcher_says_where_this_process_is(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert Place.from_environment() == Place(0, 1, 0)
    for name, value in {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert Place.from_environment() == Place(5, 8, 1)


@pytest.fixture
def gpus(monkeypatch):
    """A machine that seems to have two GPUs, and another number when it is called; indices made the present device."""
    chosen, count = [], [2]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count[0])
    # As PyTorch does, it refuses a device without an index.
    monkeypatch.setattr(
        torch.cuda, "set_device", lambda device: chosen.append(torch.cuda._utils._get_device_index(device))
    )
    return SimpleNamespace(chosen=chosen, count=count)


@every_row(("count", "local_rank", "index"), [(4, 0, None), (4, 3, 3), (1, 3, 0)])
def test_processes_of_a_machine_take_its_gpus_in_order(gpus, count, local_rank, index):
    """The first the present one, each its own, and the only one that is shown."""
    gpus.count[0] = count
    for name in ("auto", "cuda"):
        assert pick_device(name, local_rank) == torch.device("cuda" if index is None else f"cuda:{index}")
    assert pick_device("cuda:2", local_rank) == torch.device("cuda:2")
    assert pick_device("cpu", local_rank) == torch.device("cpu")


def test_more_processes_than_gpus_or_one_for_several_are_refused(gpus, monkeypatch):
    with pytest.raises(ValueError, match="process 2 of this machine has no GPU, there are 2"):
        pick_device("auto", 2)
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="device is 'cuda:1', but 2 processes run; allowed then: auto, cpu, cuda"):
        joined("cuda:1").__enter__()


# --- one process


@every_row(("name", "indices"), [("auto", []), ("cuda", []), ("cuda:1", [1])])
def test_one_process_works_on_the_present_gpu_or_the_one_it_is_told(gpus, name, indices):
    gpus.chosen.clear()
    with joined(name) as world:
        assert (world.rank, world.size, world.device.type) == (0, 1, "cuda")
    assert gpus.chosen == indices


def test_one_process_talks_to_itself():
    world = World()
    assert world.is_main
    assert world.any(True, False) == [True, False]
    assert world.mean([1.5, 2.0], 1.0) == [1.5, 2.0]
    assert world.gather("it") == ["it"]
    assert world.on_main(lambda: 7) == 7
    with pytest.raises(KeyError):
        world.on_main({}.popitem)


# --- several


def talk(world):
    """What each process hears."""
    share = (world.rank + 1) / 6  # 1/6, 2/6, 3/6
    rows = torch.arange(7)[slice(*world.rows(7))]
    return {
        "any": world.any(False, world.rank == 1, world.rank == 2, True),
        "none": world.any(False),
        "mean": world.mean([float(world.rank), 3.0, 1e300], share),
        "gather": world.gather({"rank": world.rank, "rows": list(range(*world.rows(7)))}),
        "nothing": world.gather(None),
        "next": [next_rows(rows).tolist(), next_rows(rows == 2).tolist()],
        "main": world.on_main(lambda: f"of {world.rank}"),
        "is main": world.is_main,
    }


def fail(world):
    """What becomes of each error of the main process, and of the talk after it."""
    heard = []
    for kind in REPORTED:
        try:
            world.on_main(lambda kind=kind: _raise(kind))
        except (PeerError, *REPORTED) as error:
            heard.append([type(error).__name__, str(error)])
    world.barrier()
    return heard, world.mean([1.0], 1.0)


def _raise(kind):
    raise kind("no luck")


@pytest.fixture(scope="module")
def heard(tmp_path_factory):
    return together(SIZE, {"talk": (talk,), "fail": (fail,)}, tmp_path_factory.mktemp("talk"))


def test_flags_and_weighted_means_are_known_to_all(heard):
    """Means in double precision."""
    assert [each["talk"]["any"] for each in heard] == [[False, True, True, True]] * SIZE
    assert [each["talk"]["none"] for each in heard] == [[False]] * SIZE
    for each in heard:
        assert each["talk"]["mean"] == pytest.approx([8 / 6, 3.0, 1e300], rel=1e-14)


def test_the_main_process_gathers_in_the_order_of_ranks(heard):
    rows = [[0, 1], [2, 3], [4, 5, 6]]
    whole = [{"rank": rank, "rows": rows[rank]} for rank in range(SIZE)]
    assert [each["talk"]["gather"] for each in heard] == [whole, None, None]
    behind = [[1, 2], [3, 4], [5, 6, 0]]  # behind the last is the first
    assert [each["talk"]["next"] for each in heard] == [[own, [row == 2 for row in own]] for own in behind]
    assert [each["talk"]["nothing"] for each in heard] == [[None] * SIZE, None, None]
    assert [each["talk"]["is main"] for each in heard] == [True, False, False]
    assert [each["talk"]["main"] for each in heard] == ["of 0"] * SIZE, "what it does, all get"


def test_an_error_of_the_main_process_reaches_all_and_they_can_go_on(heard):
    errors, after = zip(*(each["fail"] for each in heard), strict=True)
    assert errors[0] == [[kind.__name__, "no luck"] for kind in REPORTED]
    assert list(errors[1:]) == [[["PeerError", f"{kind.__name__}: no luck"] for kind in REPORTED]] * (SIZE - 1)
    assert list(after) == [[float(SIZE)]] * SIZE


@pytest.mark.skipif(sys.platform != "linux", reason="/proc says what a thread does")
def test_a_thread_of_gloo_that_still_works_is_waited_for():
    """It would ask for Python's lock when Python goes down, and be taken for a crash."""
    done, leave = threading.Event(), threading.Event()

    def work():
        Path("/proc/thread-self/comm").write_text("pt_gloo_runloop")
        deadline = time.monotonic() + 0.4
        while time.monotonic() < deadline:
            pass
        done.set()
        leave.wait()

    thread = threading.Thread(target=work)
    thread.start()
    core.processes.world._wait_for_gloo()
    assert done.is_set()
    leave.set()
    thread.join()
