"""`python -m benchmarks.gpu`: what one large GPU makes of training and sampling, in one command and a given time."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import measure
from benchmarks.gpu import checks, throughput
from benchmarks.gpu.budget import Budget, Journal, Keep, Skip, Stage, run_stages, stop_at_the_end
from benchmarks.gpu.report import aims, exit_code, report
from benchmarks.gpu.throughput import Rig
from benchmarks.models import PRESETS
from core.processes.spread import Compile
from core.train.flops import matmul_rates

DESCRIPTION = """\
One command for a machine with one large GPU and this repository only. It checks that the GPU computes what the CPU does
(fp32 and bf16, compiled, checkpointed, LayerSync on), then measures training of SiT-XL/2 and B/2 at 4x32x32 latents
(bf16, compiled, batch sizes swept), what LayerSync costs, and sampling with 50 steps of Heun's rule and guidance.

It stops within --minutes. Its parts run in the order of their importance; one that does not fit any more is recorded as
skipped, with the reason. The JSON is written after every part. The exit code is 1 when a check or a part failed."""

EXAMPLES = """\
examples:
  python -m benchmarks.gpu --minutes 8                  on one GPU
  python -m benchmarks.gpu --device cpu --tiny          to try the command where there is none
  python -m benchmarks.gpu experiment --help            runs with and without LayerSync on rendered scenes"""


@dataclass(frozen=True)
class ModelPlan:
    """A size, and the batches that are tried in training and sampling."""

    size: str
    train: tuple[int, ...]
    sample: tuple[int, ...]


@dataclass(frozen=True)
class Setting:
    """What is measured; `needs` are the seconds below which a kind of part is not started, for `whole` by block."""

    device: str
    minutes: float
    tiny: bool
    seed: int
    precision: str = "bf16"
    models: tuple[ModelPlan, ...] = (
        ModelPlan("XL/2", (32, 64, 128, 256, 512), (16, 32, 64, 128, 256)),
        ModelPlan("B/2", (64, 128, 256, 512, 1024), (16, 32, 64, 128, 256)),
    )
    sampling_steps: int = 50
    turn_seconds: float = 1.0
    rounds: int = 5
    backend: str = "inductor"
    needs: Mapping[str, float] = field(
        default_factory=lambda: {"short": 10, "checks": 45, "train": 45, "overhead": 40, "sample": 40, "whole": 4}
    )

    def shrunk(self) -> Setting:
        """The same command at toy size: PyTorch traces, but compiles nothing."""
        return replace(
            self,
            models=(ModelPlan("tiny", (2, 4), (2,)),),
            sampling_steps=2,
            turn_seconds=0.01,
            rounds=2,
            backend="eager",
            needs=dict.fromkeys(self.needs, 0.5),
        )


class Bench:
    """The parts of one run and what later ones need of earlier ones."""

    def __init__(self, setting: Setting, budget: Budget, journal: Journal, say: Callable[[str], None]):
        self.setting, self.budget, self.journal, self.say = setting, budget, journal, say
        self.device = torch.device(setting.device)
        self.mode: Compile = "none"  # until the compiler has shown that it works

    @property
    def rig(self) -> Rig:
        """What the measurements share; raises Skip before the matrix product was measured."""
        peak = self.journal.results("matrix product").get("peak_tflops_per_second")
        if peak is None:
            raise Skip("the matrix product was not measured")
        s = self.setting
        return Rig(self.device, s.precision, 1e12 * peak, s.turn_seconds, s.rounds, s.seed, s.backend)

    def stages(self) -> list[Stage]:
        """All parts, the most important first."""
        needs, plans = self.setting.needs, self.setting.models
        first = [
            Stage("matrix product", needs["short"], self.matrix_product),
            Stage("checks, eager", needs["short"], self.eager_checks),
            Stage("compiler", needs["short"], self.compiler),
            Stage("checks, compiled", needs["checks"], self.compiled_checks),
        ]
        kinds = [("train", "train", self.train), ("overhead", "overhead", self.overhead)]
        kinds += [("sample", "sample", self.sample), ("shapes", "short", self.shapes)]
        kinds += [("kernels", "short", self.kernels), ("sample fp32", "short", self.sample_fp32)]
        rest = [
            Stage(f"{name} {plan.size}", needs[of], partial(run, plan)) for name, of, run in kinds for plan in plans
        ]
        depths = {plan.size: PRESETS[plan.size].backbone.dimensions[0] for plan in plans}
        whole = [
            Stage(f"train whole {plan.size}", needs["whole"] * depths[plan.size], partial(self.train_whole, plan))
            for plan in plans
        ]
        return first + rest + whole

    # Parts

    def matrix_product(self, keep: Keep) -> dict[str, Any]:
        """The yardstick of MFU."""
        rates = matmul_rates(self.device, measure.DTYPES[self.setting.precision])
        by_side = {str(side): rate / 1e12 for side, rate in rates.items()}
        return {"tflops_per_second_by_side": by_side, "peak_tflops_per_second": max(by_side.values())}

    def eager_checks(self, keep: Keep) -> dict[str, Any]:
        """The GPU against the CPU, without a compiler."""

        def verdicts() -> Iterator[dict[str, Any]]:
            yield from checks.check_steps(checks.EAGER, self.device)
            yield from checks.check_layersync(self.device)
            yield from checks.check_samples(self.device)

        return self.collect(verdicts(), keep)

    def compiled_checks(self, keep: Keep) -> dict[str, Any]:
        """Compiled code on the GPU against the CPU."""
        if self.mode == "none":
            raise Skip("the compiler does not work here")
        return self.collect(checks.check_steps(checks.COMPILED, self.device, self.setting.backend), keep)

    def collect(self, verdicts: Iterator[dict[str, Any]], keep: Keep) -> dict[str, Any]:
        """The verdicts, each kept and told as it comes."""
        found: list[dict[str, Any]] = []
        for verdict in verdicts:
            found.append(verdict)
            keep({"checks": found})
            self.say(f"  {'passed' if verdict['passed'] else 'FAILED'}  {verdict['name']}")
        return {"checks": found}

    def compiler(self, keep: Keep) -> dict[str, Any]:
        """Whether torch.compile works here at all: without it the rest runs eagerly, and this part has failed."""
        x = torch.randn(64, 64, device=self.device)
        torch.testing.assert_close(
            torch.compile(lambda a: (a + 1).relu(), backend=self.setting.backend)(x), (x + 1).relu()
        )
        self.mode = "blocks"
        return {"backend": self.setting.backend, "mode": self.mode}

    def train(self, plan: ModelPlan, keep: Keep) -> dict[str, Any]:
        """Our step over batch sizes, its blocks compiled: alike blocks share a graph, so that a size costs seconds."""

        def row(batch: int) -> dict[str, Any]:
            return self.told(throughput.train_row(self.rig, plan.size, self.mode, batch), batch)

        return throughput.sweep(plan.train, row, lambda: self.budget.left, lambda rows: keep({"rows": rows}))

    def train_whole(self, plan: ModelPlan, keep: Keep) -> dict[str, Any]:
        """Our step with the model compiled as one graph, as the trainer does it, at the best batch."""
        if self.mode == "none":
            raise Skip("the compiler does not work here")

        def row(batch: int) -> dict[str, Any]:
            return self.told(throughput.train_row(self.rig, plan.size, "model", batch), batch)

        return throughput.sweep(
            [self.best_batch(plan)], row, lambda: self.budget.left, lambda rows: keep({"rows": rows})
        )

    def overhead(self, plan: ModelPlan, keep: Keep) -> dict[str, Any]:
        """What LayerSync costs at the best batch."""
        run = partial(throughput.overhead, self.rig, plan.size, self.mode)
        return throughput.largest_that_fits(self.best_batch(plan), run)

    def sample(self, plan: ModelPlan, keep: Keep) -> dict[str, Any]:
        """The core's sampler under bf16 autocast, its network's blocks compiled, over batch sizes."""
        steps = self.setting.sampling_steps

        def row(batch: int) -> dict[str, Any]:
            return self.told(throughput.sampling_row(self.rig, plan.size, self.mode, steps, batch), batch)

        return throughput.sweep(plan.sample, row, lambda: self.budget.left, lambda rows: keep({"rows": rows}))

    def sample_fp32(self, plan: ModelPlan, keep: Keep) -> dict[str, Any]:
        """As `image.sample` samples, fp32 and eager; two steps only, since all evaluations take the same time."""
        batch, rig = plan.sample[0], replace(self.rig, precision="fp32")
        row = throughput.sampling_row(rig, plan.size, "none", 2, batch)
        seconds = row["ms_per_evaluation"] / 1000 * 2 * self.setting.sampling_steps
        kept = {name: row[name] for name in ("ms_per_evaluation", "precision", "peak_mib", "mode")}
        return {"rows": [{"batch": batch, **kept, "images_per_second": batch / seconds, "extrapolated_from_steps": 2}]}

    def shapes(self, plan: ModelPlan, keep: Keep) -> dict[str, Any]:
        """The second yardstick: products and attention of the model's own shapes; and LayerSync's cosine."""
        batch = self.best_batch(plan)
        products = throughput.shape_rates(self.rig, plan.size, batch)
        keep({"products": products})
        found = {"products": products, "attention": throughput.attention_rates(self.rig, plan.size, batch)}
        keep(found)
        return {**found, "cosine": throughput.cosine_times(self.rig, plan.size, batch)}

    def kernels(self, plan: ModelPlan, keep: Keep) -> dict[str, Any]:
        """Where the time of a step goes."""
        return throughput.kernels(self.rig, plan.size, self.mode, self.best_batch(plan))

    def best_batch(self, plan: ModelPlan) -> int:
        """The batch with the most images/s in training; raises Skip where none was measured."""
        row = throughput.best(self.journal.results(f"train {plan.size}").get("rows", []))
        if row is None:
            raise Skip(f"no batch of {plan.size} was measured in training")
        return row["batch"]

    def told(self, row: dict[str, Any], batch: int) -> dict[str, Any]:
        """The row, said aloud."""
        self.say(f"  batch {batch}: {row['images_per_second']:.4g} images/s, MFU {row['mfu']:.1%}")
        return row


def make_parser() -> argparse.ArgumentParser:
    """The command line; --help is written for people."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m benchmarks.gpu", None, DESCRIPTION, EXAMPLES, formatter_class=form)
    add = parser.add_argument
    add("--minutes", type=float, default=8.0, help="time that may be spent, compiling included (default 8)")
    add("--device", default="cuda", help="cuda or cuda:N; cpu with --tiny (default cuda)")
    add("--tiny", action="store_true", help="toy sizes and no compiler, to try the command")
    add("--seed", type=int, default=0, help="of weights, latents and noise (default 0)")
    add("--out", metavar="FILE", help="the JSON, default benchmarks/results/<date>-gpu-<device>.json")
    return parser


def make_setting(options: argparse.Namespace) -> Setting:
    """The options as a setting; ValueError for a device that is not here and for a time that is none."""
    if not options.minutes > 0:
        raise ValueError(f"--minutes is {options.minutes:g}; it must be above 0")
    try:
        device = measure.pick_device(options.device)
    except ValueError as error:
        raise ValueError(f"{error}. To try the command without a GPU: --device cpu --tiny") from None
    if device.type != "cuda" and not options.tiny:
        raise ValueError(f"--device {device} needs --tiny: SiT-XL/2 takes hours without a GPU")
    setting = Setting(str(device), options.minutes, options.tiny, options.seed)
    return setting.shrunk() if options.tiny else setting


def make_journal(argv: Sequence[str], setting: Setting, out: str | None) -> Journal:
    """The record before anything ran, and its file."""
    device = torch.device(setting.device)
    record = measure.record("gpu", argv, setting, {}) | {"versions": measure.versions(device)}
    name = re.sub(r"[^a-z0-9]+", "-", record["hardware"].get("gpu", device.type).lower())
    path = Path(out) if out else measure.RESULTS / f"{record['date'][:10]}-gpu-{name}.json"
    return Journal(record, path)


def main(argv: Sequence[str] | None = None) -> int:
    """Check, measure, print the table; returns the exit code."""
    argv = sys.argv[1:] if argv is None else list(argv)
    if argv[:1] == ["experiment"]:
        from benchmarks.gpu import experiment  # which needs what training needs

        return experiment.main(argv[1:])
    parser = make_parser()
    options = parser.parse_args(argv)
    budget = Budget(60 * options.minutes)
    try:
        setting = make_setting(options)
    except ValueError as error:
        parser.error(str(error))
    say = partial(print, flush=True)
    journal = make_journal(argv, setting, options.out)
    stages = Bench(setting, budget, journal, say).stages()

    def finish(reason: str) -> int:
        journal.close([stage.name for stage in stages], reason)
        journal.record["aims"] = [] if setting.tiny else aims(journal)
        journal.write()
        say(f"\n{report(journal)}\n\nwritten to {measure.shown(journal.path)}")
        return exit_code(journal)

    over = f"the {options.minutes:g} minutes were over"
    done = stop_at_the_end(budget, partial(finish, over))
    with checks.exact_products():
        run_stages(stages, budget, journal, say)
    done.set()
    return finish(over)
