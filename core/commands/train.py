"""A whole training command, for every domain: the run's folder, its lock, its processes, the loop, the report."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch

from core.contracts import Domain
from core.generate import StoppedError
from core.processes.signals import StopRequest
from core.processes.world import World, joined
from core.schema import plain
from core.storage.checkpoint import CheckpointStore
from core.storage.coming import weights_expected
from core.storage.run_folder import RunDirectory
from core.train.config import RunConfig
from core.train.trainer import Trainer


class BuildDomain(Protocol):
    """Makes the components of a run from its config; an evaluator only if it is to `evaluate`."""

    def __call__(self, config: Any, device: torch.device, *, evaluate: bool) -> Domain: ...


def run_training(
    config: RunConfig,
    domain: str,
    build: BuildDomain,
    report: Callable[[RunDirectory, dict[str, Any]], str],
    show: Callable[[str], None],
    trainer: type[Trainer] = Trainer,
) -> None:
    """Train, sample and measure the run that `config` describes, or go on with it, or say that it is complete.

    domain  the first folder below runs_dir
    report  what is told of a complete run and its summary
    show    takes what a person is to read, in the main process
    trainer the loop, or a kind of it

    Exits with 128 + the signal's number when a signal stopped it; its state is saved.
    """
    started = time.perf_counter()
    with joined(config.device) as world, _claimed(config, domain, world) as run:
        print_line = show if world.is_main else lambda text: None
        summary = world.on_main(run.summary)
        if summary is not None and summary["steps"] == config.trainer.steps:
            print_line(f"{run.shown()} is complete after {summary['steps']} steps; name=... starts another run")
            run.config()  # whose own damage is told by its own name
            try:
                print_line(report(run, summary))
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{run.summary_file} is damaged: {error!r}; without it the run ends again") from error
            return
        resumed = world.on_main(lambda: CheckpointStore(run.checkpoints).latest() is not None)
        with weights_expected(resumed):
            parts = world.first_on_main(lambda: build(config, world.device, evaluate=world.is_main))
        loop = trainer(config, parts, run, world, started)
        for reason in loop.reasons:
            print_line(f"alignment  {reason}")
        with StopRequest() as stop:
            done, summary = False, None
            if loop.fit(stop):
                with contextlib.suppress(StoppedError):
                    summary, done = loop.finish(stop), True
        if not done:
            where = f"after step {loop.step} of {config.trainer.steps}"
            print_line(f"stopped {where}; the same command continues {run.shown()}")
            raise SystemExit(stop.exit_code)
        print_line(report(run, summary))


def closing_lines(run: RunDirectory, summary: dict[str, Any], unit: str, suffix: str, request: str) -> list[str]:
    """The last lines of a report: speed, places, next commands.

    unit  of samples; suffix: of the preview that is named; request: words for the sampling command
    """
    domain = run.path.absolute().parent.name  # where a link may lead, the folder has another
    last_preview = max(run.previews.glob(f"step_*{suffix}"), default=run.previews)
    where = RunDirectory(last_preview).shown()
    return [
        f"speed             {summary[f'{unit}s_per_second']:.0f} {unit}s/s, {summary['wall_seconds']:.0f} s in all, "
        f"{summary['parameters']:,} parameters, {summary['steps']} steps on {summary['device']}",
        f"run directory     {run.shown()} (samples: {where}, curve: loss_curve.png, numbers: summary.json)",
        f"sample            python -m {domain}.sample run={run.shown()} {request}",
        "resume            the same command again, if a run was interrupted",
    ]


@contextlib.contextmanager
def _claimed(config: RunConfig, domain: str, world: World) -> Iterator[RunDirectory]:
    """The run's folder, locked by the main process and not that of another config, for all of them."""
    config.trainer.check_parts(world.size)  # before anything is written
    with contextlib.ExitStack() as held:

        def claim() -> RunDirectory:
            run = RunDirectory.create(config.runs_dir, domain, config.name)
            held.enter_context(run.locked())
            run.clean()
            run.compare(plain(config), config.free_keys(), config.allow_changes, type(config))
            return run

        yield world.on_main(claim)
