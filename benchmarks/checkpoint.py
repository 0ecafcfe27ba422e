"""`python -m benchmarks.checkpoint`: how long a checkpoint keeps the loop waiting, and how long until it is whole."""

from __future__ import annotations

import argparse
import contextlib
import gc
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import save_file

from benchmarks import measure
from benchmarks.models import PRESETS, SIZES_HELP
from core.processes.world import World
from core.storage.atomic import atomic_dir, sha256_file, sync
from core.storage.checkpoint import CheckpointStore
from core.storage.packed import State
from core.train.saved import Saved, StatePart

GROUPS = ("model", "ema", "optimizer")
AIM_BLOCKED = 0.1  # of what the save before there was a background kept the loop waiting
ALONE_SECONDS = 1.0
FORMER, NOW, BESIDE = "copies, twice read back", "while the loop waits", "beside the loop"
TORCH, DISTRIBUTED = "torch.save", "distributed async_save"
LIMITS = ("copy", "hash", "disk")
Turn = dict[str, float]

DESCRIPTION = """\
Write the checkpoint of a SiT (weights, one average, two moments of AdamW; 16 bytes a parameter) in five ways that take
turns: as it was before there was a background (copied, written by safetensors, read back, read again for its SHA-256),
as trainer.async_checkpoint=false does, as the default does beside the loop, by torch.save, and by
torch.distributed.checkpoint.async_save in a process of its own world. Every file is synced before a turn ends.

blocked  until the loop may go on;  total  until the checkpoint is on the disk under its name
loop     how fast a loop of Python and small products runs while the default writes, over alone

The aims are a tenth of the former blocked time, and a total not above torch.save's. The numbers are normal and do not
change from turn to turn; the first turn of each way, which takes memory and files anew, is not counted."""

EXAMPLES = """\
examples:
  python -m benchmarks.checkpoint                        B/2, 2.1 GB: minutes, and 7 GB of memory
  python -m benchmarks.checkpoint --size XL/2 --folder /scratch
  python -m benchmarks.checkpoint --size XL/2 --device cuda"""


@dataclass(frozen=True)
class Setting:
    """What is measured, and how often."""

    size: str
    rounds: int
    device: str
    threads: int


class Held:
    """A group of tensors, as an optimizer holds them."""

    def __init__(self, state: State):
        self.state = state

    def state_dict(self) -> State:
        """Tensors by name."""
        return self.state

    def load_state_dict(self, state: State) -> None:
        """Take them back."""
        self.state = state


def make_groups(size: str, device: torch.device) -> dict[str, State]:
    """Normal numbers in the shapes of what a run of that size saves."""
    preset = PRESETS[size]
    with torch.device("meta"):
        shapes = {name: each.shape for name, each in preset.backbone.build(*_sizes(size)).state_dict().items()}
    prefixes = {"model": [""], "ema": [""], "optimizer": ["exp_avg.", "exp_avg_sq."]}
    return {
        group: {
            f"{each}{name}": torch.randn(shape, device=device)
            for each in prefixes[group]
            for name, shape in shapes.items()
        }
        for group in GROUPS
    }


def _sizes(size: str) -> tuple[tuple[int, int, int], int]:
    return PRESETS[size].latent_shape, PRESETS[size].num_classes


# Ways


def formerly(groups: Mapping[str, State], folder: Path) -> Turn:
    """Copy, write, read back, read again: the loop waits."""
    begun = time.perf_counter()
    with atomic_dir(folder / "step_00000001") as temporary:
        for name, state in groups.items():
            file = temporary / f"{name}.safetensors"
            copies = {key: value.to("cpu", copy=True).contiguous() for key, value in state.items()}
            save_file(copies, file)
            with safe_open(file, framework="pt") as written:
                if not all(torch.equal(written.get_tensor(key), value) for key, value in copies.items()):
                    raise OSError(f"{file} is not what was written")
            sha256_file(file)
    return _blocking(begun)


def by_store(saved: Saved, numbers: Iterator[int]) -> Turn:
    """As a run saves: `saved` decides whether the loop waits."""
    begun = time.perf_counter()
    saved.begin(next(numbers), dict)
    blocked = time.perf_counter() - begun
    saved.wait()
    return {"blocked": blocked, "total": time.perf_counter() - begun if saved.copies is not None else blocked}


def looping(saved: Saved, numbers: Iterator[int]) -> Turn:
    """The rate of a loop while a checkpoint is written beside it."""
    saved.begin(next(numbers), dict)
    return {"rate": _rate(lambda: saved.writer.busy)}


def by_torch(groups: Mapping[str, State], folder: Path) -> Turn:
    """One file of torch.save's, synced."""
    begun = time.perf_counter()
    torch.save(dict(groups), folder / "checkpoint.pt")
    sync(folder / "checkpoint.pt")
    return _blocking(begun)


def by_distributed(groups: Mapping[str, State], folder: Path) -> Turn:
    """PyTorch's own save beside the loop, with its defaults: it syncs its files."""
    from torch.distributed.checkpoint import async_save

    begun = time.perf_counter()
    under_way = async_save(dict(groups), checkpoint_id=str(folder / "checkpoint"))
    blocked = time.perf_counter() - begun
    under_way.result()
    return {"blocked": blocked, "total": time.perf_counter() - begun}


def _blocking(begun: float) -> Turn:
    seconds = time.perf_counter() - begun
    return {"blocked": seconds, "total": seconds}


def _rate(going: Callable[[], bool]) -> float:
    """Rounds a second of a loop of Python and small products, as long as `going()`."""
    matrix, count, begun = torch.ones(64, 64), 0, time.perf_counter()
    while going() or not count:
        matrix = (matrix @ matrix).clamp_(max=1.0)
        sum(range(1000))
        count += 1
    return count / (time.perf_counter() - begun)


def alone() -> Turn:
    """The rate of that loop with nothing beside it, for a while."""
    end = time.perf_counter() + ALONE_SECONDS
    return {"rate": _rate(lambda: time.perf_counter() < end)}


# Turns


@contextlib.contextmanager
def world_of_one(device: torch.device) -> Iterator[None]:
    """async_save wants a process group, even of one process."""
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def emptied(folder: Path, way: Callable[[], Turn]) -> Turn:
    """A turn, with what it wrote gone after it, and what others left in memory before it."""
    gc.collect()
    turn = way()
    for each in folder.iterdir():
        shutil.rmtree(each) if each.is_dir() else each.unlink()
    return turn


def run(setting: Setting, parent: str | None = None, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Measure everything; the `results` of the record."""
    torch.set_num_threads(setting.threads)
    device = torch.device(setting.device)
    groups = make_groups(setting.size, device)
    size = sum(value.nbytes for state in groups.values() for value in state.values())
    parts = [StatePart(name, Held(state)) for name, state in groups.items()]
    with tempfile.TemporaryDirectory(dir=parent, prefix="checkpoint-") as temporary, world_of_one(device):
        folder, numbers = Path(temporary), iter(range(1, 10**6))
        store, world = CheckpointStore(folder), World(device=device)
        beside = Saved(store, world, parts, background=True)
        ways = {
            FORMER: partial(formerly, groups, folder),
            NOW: partial(by_store, Saved(store, world, parts), numbers),
            BESIDE: partial(by_store, beside, numbers),
            TORCH: partial(by_torch, groups, folder),
            DISTRIBUTED: partial(by_distributed, groups, folder),
        }
        loops = {"loop beside": partial(looping, beside, numbers), "loop alone": alone}
        limits = measure.limit_turns(LIMITS, folder)
        rated = {name: (lambda rate=rate: {"rate": rate()}) for name, rate in limits.items()}
        turns = {name: partial(emptied, folder, way) for name, way in {**ways, **loops, **rated}.items()}
        say(f"{size / 1e9:.2f} GB; {setting.rounds} rounds of {len(ways)} ways, and one before them ...")
        taken = {name: each[1:] for name, each in measure.interleave(turns, setting.rounds + 1).items()}
    found = {name: measure.spread([turn["rate"] for turn in taken[name]]) for name in LIMITS}
    return {"bytes": size, **summarise(taken), "limits": found}


def summarise(taken: Mapping[str, Sequence[Turn]]) -> dict[str, Any]:
    """Seconds of each way, ratios within a round, and whether the aims are met."""
    ways = {
        name: {key: [turn[key] for turn in turns] for key in ("blocked", "total")}
        for name, turns in taken.items()
        if "total" in turns[0]
    }
    blocked = measure.spread(measure.pair_ratios(ways[BESIDE]["blocked"], ways[FORMER]["blocked"]))
    total = measure.spread(measure.pair_ratios(ways[BESIDE]["total"], ways[TORCH]["total"]))
    rates = [[turn["rate"] for turn in taken[name]] for name in ("loop beside", "loop alone")]
    return {
        "seconds": {name: {key: measure.spread(values) for key, values in each.items()} for name, each in ways.items()},
        "blocked_over_former": blocked,
        "total_over_torch_save": total,
        "loop_beside_over_alone": measure.spread(measure.pair_ratios(*rates)),
        "blocked_met": blocked["median"] <= AIM_BLOCKED,
        "total_met": total["median"] <= 1,
    }


def report(measured: Mapping[str, Any]) -> str:
    """The record as the table that is printed last."""
    results = measured["results"]
    rows = [
        [name, measure.spread_cell(each["blocked"], 3), measure.spread_cell(each["total"], 3)]
        for name, each in results["seconds"].items()
    ]
    blocked, total, loop = (
        measure.spread_cell(results[key], 3)
        for key in ("blocked_over_former", "total_over_torch_save", "loop_beside_over_alone")
    )
    verdicts = ["met" if results[key] else "not met" for key in ("blocked_met", "total_met")]
    return "\n".join(
        [
            measure.headline(measured),
            f"SiT-{measured['settings']['size']}, {results['bytes'] / 1e9:.2f} GB",
            "",
            measure.table(["checkpoint", "blocked s (low-high)", "total s (low-high)"], rows),
            "",
            f"aim: blocked at most {AIM_BLOCKED:g} of before, measured {blocked}: {verdicts[0]}",
            f"aim: total at most torch.save's, measured {total} of it: {verdicts[1]}",
            f"a loop beside the writing runs at {loop} of its rate alone",
            measure.limits_line(results["limits"]),
        ]
    )


def make_parser() -> argparse.ArgumentParser:
    """The command line; --help is written for people."""
    parser = measure.plain_parser("checkpoint", DESCRIPTION, EXAMPLES)
    add = parser.add_argument
    add("--size", choices=list(PRESETS), default="B/2", help=f"{SIZES_HELP}; default B/2")
    add("--device", default="cpu", help="where the weights are: cpu (default), cuda, cuda:N")
    add("--rounds", type=measure.positive, default=5, help="times that every way has its turn (default 5)")
    add("--threads", type=measure.positive, default=1, help="of PyTorch on the CPU (default 1)")
    add("--folder", help="the disk that is written to (default the system's temporary folder)")
    add("--out", metavar="FILE", help="the JSON, default benchmarks/results/<date>-checkpoint-<device>.json")
    return parser


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, write the JSON, print the table; returns the record."""
    argv = sys.argv[1:] if argv is None else list(argv)
    options = make_parser().parse_args(argv)
    device = measure.pick_device(options.device)
    setting = Setting(options.size, options.rounds, str(device), options.threads)
    measured = measure.record("checkpoint", argv, setting, run(setting, options.folder))
    return measure.conclude(measured, "checkpoint", options.out, report)


if __name__ == "__main__":
    main()
