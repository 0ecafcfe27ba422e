"""The processes of a job: who they are, what they tell each other, which device each takes, what an error does."""

import itertools

import pytest
import torch

from core.processes.world import TOLD, PeerError, Place, World, joined, part, pick_device
from tests.core.processes.started import together

SIZE = 3


# --- parts, places, devices


@pytest.mark.parametrize(("total", "parts"), [(0, 1), (1, 1), (7, 2), (7, 3), (8, 4), (2, 3), (256, 48)])
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


@pytest.mark.parametrize(
    ("count", "local_rank", "index"), [(4, 0, None), (4, 3, 3), (1, 3, 0)], ids=["first", "own", "only one is shown"]
)
def test_processes_of_a_machine_take_its_gpus_in_order(monkeypatch, count, local_rank, index):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    for name in ("auto", "cuda"):
        assert pick_device(name, local_rank) == torch.device("cuda", index) if index is not None else "cuda"
    assert pick_device("cuda:2", local_rank) == torch.device("cuda:2")
    assert pick_device("cpu", local_rank) == torch.device("cpu")


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match="process 2 of this machine has no GPU, there are 2"):
        pick_device("auto", 2)


# --- one process


@pytest.fixture
def on_gpus(monkeypatch):
    """A machine that seems to have two GPUs; the indices that were made the present device."""
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    # As PyTorch does, it refuses a device without an index.
    monkeypatch.setattr(
        torch.cuda, "set_device", lambda device: chosen.append(torch.cuda._utils._get_device_index(device))
    )
    return chosen


@pytest.mark.parametrize(("name", "indices"), [("auto", []), ("cuda", []), ("cuda:1", [1])])
def test_one_process_works_on_the_present_gpu_or_the_one_it_is_told(on_gpus, name, indices):
    with joined(name) as world:
        assert (world.rank, world.size, world.device.type) == (0, 1, "cuda")
    assert on_gpus == indices


def test_several_processes_cannot_share_a_gpu_by_number(on_gpus, monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="device is 'cuda:1', but 2 processes run; allowed then: auto, cpu, cuda"):
        joined("cuda:1").__enter__()


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
    return {
        "any": world.any(False, world.rank == 1, world.rank == 2, True),
        "none": world.any(False),
        "mean": world.mean([float(world.rank), 3.0, 1e300], share),
        "gather": world.gather({"rank": world.rank, "rows": list(range(*world.rows(7)))}),
        "nothing": world.gather(None),
        "main": world.on_main(lambda: f"of {world.rank}"),
        "is main": world.is_main,
    }


def fail(world):
    """What becomes of each error of the main process, and of the talk after it."""
    heard = []
    for kind in TOLD:
        try:
            world.on_main(lambda kind=kind: _raise(kind))
        except (PeerError, *TOLD) as error:
            heard.append([type(error).__name__, str(error)])
    world.barrier()
    return heard, world.mean([1.0], 1.0)


def _raise(kind):
    raise kind("no luck")


@pytest.fixture(scope="module")
def heard(tmp_path_factory):
    return together(SIZE, {"talk": (talk,), "fail": (fail,)}, tmp_path_factory.mktemp("talk"))


def test_a_flag_of_one_process_is_known_to_all(heard):
    assert [each["talk"]["any"] for each in heard] == [[False, True, True, True]] * SIZE
    assert [each["talk"]["none"] for each in heard] == [[False]] * SIZE


def test_means_are_weighted_in_double_precision(heard):
    for each in heard:
        assert each["talk"]["mean"] == pytest.approx([8 / 6, 3.0, 1e300], rel=1e-14)


def test_the_main_process_gathers_in_the_order_of_ranks(heard):
    rows = [[0, 1], [2, 3], [4, 5, 6]]
    whole = [{"rank": rank, "rows": rows[rank]} for rank in range(SIZE)]
    assert [each["talk"]["gather"] for each in heard] == [whole, None, None]
    assert [each["talk"]["nothing"] for each in heard] == [[None] * SIZE, None, None]
    assert [each["talk"]["is main"] for each in heard] == [True, False, False]


def test_what_the_main_process_does_all_get(heard):
    assert [each["talk"]["main"] for each in heard] == ["of 0"] * SIZE


def test_an_error_of_the_main_process_reaches_all_and_they_can_go_on(heard):
    errors, after = zip(*(each["fail"] for each in heard), strict=True)
    assert errors[0] == [[kind.__name__, "no luck"] for kind in TOLD]
    assert list(errors[1:]) == [[["PeerError", f"{kind.__name__}: no luck"] for kind in TOLD]] * (SIZE - 1)
    assert list(after) == [[float(SIZE)]] * SIZE
