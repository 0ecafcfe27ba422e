"""`python -m eval.reconstruction run=<dir>`: what a run's evaluation says of real data that went through its tokenizer.

No sample of a run on latents is expected to do better: what the tokenizer loses, its samples lose too.

Letters: B batch, n pieces of held-out data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from core.commands.entry import Entry
from core.contracts import Evaluator, Tokenizer
from core.draws import SampleRandom
from core.storage.run_folder import RunDirectory
from eval.inside.findings import findings_folder, write_findings
from eval.inside.model import open_run

NAME = "reconstruction"


@dataclass(frozen=True, kw_only=True)
class ReconstructionConfig:
    """The run whose tokenizer is measured; the keys are explained in eval/conf/reconstruction.yaml."""

    run: str
    num: int | None = None
    device: str = "auto"
    seed: int = 0
    batch_size: int = 64
    out: str | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        for name, least in (("num", 2), ("batch_size", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} is {value}; it must be at least {least}")


def through(tokenizer: Tokenizer, config: ReconstructionConfig, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Media (n, *media) -> what the tokenizer makes of them, on the CPU; posteriors are sampled, as for training."""

    @torch.no_grad()
    def change(media: Tensor) -> Tensor:
        parts = []
        for first in range(0, len(media), config.batch_size):
            rows = media[first : first + config.batch_size].to(device)
            random = SampleRandom(config.seed, range(first, first + len(rows)), device)
            parts.append(tokenizer.decode(tokenizer.encode(rows, random)).cpu())
        return torch.cat(parts)

    return change


def measure(
    evaluator: Evaluator | None, tokenizer: Tokenizer, config: ReconstructionConfig, device: torch.device
) -> dict[str, Any]:
    """`num` held-out pieces of media as they are, `data`, and through the tokenizer, `reconstruction`.

    Raises ValueError for an evaluation that holds no data out.
    """
    if not hasattr(evaluator, "measure_heldout"):
        raise ValueError(f"run is {config.run!r}, whose evaluation holds no data out; needed: a stand-in's")
    num = config.num or evaluator.num_samples
    changes = {"data": lambda media: media, NAME: through(tokenizer, config, device)}
    found = {name: dict(evaluator.measure_heldout(num, change)) for name, change in changes.items()}
    counts = {each.pop("num_samples") for each in found.values()}
    return {"num": counts.pop(), **found}


def report(results: Mapping[str, Any]) -> str:
    """A line for each metric."""
    lines = [f"{'metric':<24} {'data':>10} {NAME:>15}"]
    lines += [f"{name:<24} {value:>10.4g} {results[NAME][name]:>15.4g}" for name, value in results["data"].items()]
    return "\n".join([*lines, f"of {results['num']} held-out pieces of data"])


def main(config: ReconstructionConfig) -> None:
    """Measure held-out data, as they are and through a run's tokenizer, by the run's own evaluation.

    The reconstruction's distance (for images "rFID" where the metric is FID) is the least that samples of a run on
    these latents can be expected to reach. Writes <run>/inside/reconstruction.json.
    """
    folder = findings_folder(config.run, config.out, NAME, config.overwrite)
    model = open_run(config.run, device=config.device, evaluate=True)
    results = measure(model.domain.evaluator, model.domain.tokenizer, config, model.device)
    file = write_findings(folder, NAME, model, config, results)
    print(report(results))
    print(f"numbers    {RunDirectory(file).shown()}")


ENTRY = Entry(main, "eval.conf", NAME, ReconstructionConfig)

if __name__ == "__main__":
    ENTRY.run()
