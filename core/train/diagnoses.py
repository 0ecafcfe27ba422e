"""What ends a run in its middle, in one line that says what to change."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

from torch import Tensor

from core.contracts import Dataset, Domain
from core.processes.failures import LoaderError, MemoryExhaustedError, SamplesError
from core.processes.world import World
from core.storage.atomic import write_atomic
from core.storage.run_folder import RunDirectory
from core.train.config import RunConfig

log = logging.getLogger(__name__)


def out_of_memory(config: RunConfig, domain: Domain, world: World, step: int) -> MemoryExhaustedError:
    """The error for a device that ran out of memory in the step after `step`, with the keys that need less."""
    trainer, device = config.trainer, world.device
    first, last = world.rows(trainer.batch_size)
    rows = -(-(last - first) // trainer.accumulate)
    advice = ["trainer.batch_size"]
    if not config.alignment.needs.couples_rows:
        advice += [f"the samples at once: trainer.accumulate={2 * trainer.accumulate}"]
    advice += ["trainer.checkpoint_blocks=true"] * (not trainer.checkpoint_blocks)
    advice += ["trainer.precision=bf16"] * (trainer.precision == "fp32")
    advice += ["parallel.strategy=fsdp2"] * (world.size > 1 and config.parallel.strategy == "ddp")
    advice += ["ema.device=cpu"] * (device.type == "cuda" and config.ema.device == "model")
    return MemoryExhaustedError(
        f"{device} ran out of memory in step {step + 1} with {rows} of trainer.batch_size {trainer.batch_size} "
        f"samples at once, media {tuple(domain.dataset.media_shape)}, latents {domain.latent_shape}, "
        f"{domain.backbone.num_tokens} tokens. Turn down {advice[0]}, or {', or '.join(advice[1:])}"
    )


def dead_worker(error: Exception, step: int, num_workers: int) -> LoaderError:
    """The error for a data loader whose worker process died in the step after `step`."""
    reason = str(error).splitlines()[0]
    return LoaderError(
        f"step {step + 1}: a worker process of the data loader died ({reason}). If the machine ran out of "
        f"memory, turn down trainer.num_workers, now {num_workers}; 0 loads in the main process"
    )


def attempt(look: Callable[[], Any], step: int) -> None:
    """Look at samples of a run that goes on: those that are not finite are told, and end nothing."""
    try:
        look()
    except SamplesError as error:
        log.warning("step %d: nothing is shown or measured: %s", step, error)


def samples_told(dataset: Dataset, index: Tensor, flow: Tensor) -> list[dict[str, Any]]:
    """Row, name and flow loss (B,) of the samples at rows `index` (B,) of a data set."""
    rows = zip(index.tolist(), flow.tolist(), strict=True)
    return [{"index": row, "name": dataset.name(row), "flow_loss": f"{loss:g}"} for row, loss in rows]


def write_not_finite(run: RunDirectory, step: int, values: dict[str, float], parts: list[list[dict[str, Any]]]) -> str:
    """Write down the samples of the step after `step`, whose loss or gradient is not finite; what to say of it.

    values  loss and gradient_norm of the global batch; parts: row, name and flow loss of each process's samples
    """
    file = run.path / f"nonfinite_step_{step + 1:08d}.json"
    samples = [sample for part in parts for sample in part]
    shown = {name: f"{value:g}" for name, value in values.items()}
    write_atomic(file, json.dumps({"step": step + 1, **shown, "samples": samples}, indent=1) + "\n")
    return (
        f"step {step + 1}: loss {shown['loss']}, gradient norm {shown['gradient_norm']}. Nothing was updated. Rows of "
        f"the data set in this batch: {[each['index'] for each in samples[:16]]}; all of them, by name and loss, are "
        f"in {file}"
    )
