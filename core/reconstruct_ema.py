"""`python -m core.reconstruct_ema run=<dir> width=0.1`: an average of another width, after training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from core.commands.entry import Entry
from core.storage.run_folder import RunDirectory
from core.train.ema import check_width, label
from core.train.posthoc import Reconstruction, reconstruct, save_reconstruction


@dataclass(frozen=True, kw_only=True)
class ReconstructConfig:
    """Which average to make.

    run    the run's folder; it was trained with ema.widths and ema.snapshot_every
    width  relative width sigma_rel of the wanted average
    step   the optimizer step after which it is wanted; null: the last snapshot's
    out    the weights file to write; null: <run>/ema_snapshots/width<width>_step<step>.safetensors
    """

    run: str
    width: float
    step: int | None = None
    out: str | None = None

    def __post_init__(self) -> None:
        check_width(self.width, "width")
        if self.step is not None and self.step < 1:
            raise ValueError(f"step is {self.step}; it must be at least 1, or null for the last snapshot's")
        if self.out is not None and Path(self.out).suffix != ".safetensors":
            raise ValueError(f"out is {self.out!r}; it must be a file named *.safetensors")
        if self.out is not None and Path(self.out).exists():
            raise ValueError(f"out is {self.out!r}, which exists; out=... names another file")


def output_file(config: ReconstructConfig, run: RunDirectory, facts: Reconstruction) -> Path:
    """Where the average goes."""
    if config.out is not None:
        return Path(config.out)
    return run.snapshots / f"width{label(facts.width)}_step{facts.step:08d}.safetensors"


def main(config: ReconstructConfig) -> None:
    """Make the power-function EMA of any width from the snapshots of a run, as a weights file to sample from."""
    run = RunDirectory.find(config.run)
    state, facts = reconstruct(run.snapshots, config.width, config.step)
    out = RunDirectory(save_reconstruction(output_file(config, run, facts), state, facts)).shown()
    entry = f"{run.path.resolve().parent.name}.sample"
    print(f"written    {out}")
    print(f"average    width {label(facts.width)} after step {facts.step}, from {facts.snapshots} snapshots")
    print(f"residual   {facts.residual:.2%} (distance of its profile over the steps from the wanted one)")
    print(f"sample     python -m {entry} run={run.shown()} checkpoint={out}")


ENTRY = Entry(main, "core.conf", "reconstruct_ema", ReconstructConfig)

if __name__ == "__main__":
    ENTRY.run()
