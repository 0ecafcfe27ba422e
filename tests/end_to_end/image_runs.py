"""Runs on digits at toy size, for what is tested with images alone: interruptions, damage, processes, bad input."""

from __future__ import annotations

import os
from pathlib import Path

import torch

import image.train
from tests.end_to_end.zygote import Zygote

TINY = [
    "trainer.steps=150",
    "trainer.batch_size=16",
    "trainer.log_every=5",
    "trainer.preview_every=60",
    "trainer.num_previews=10",
    "trainer.checkpoint_every=40",
    "backbone.depth=3",
    "backbone.hidden_size=32",
    "backbone.num_heads=2",
    "alignment.pairs=[[1,2]]",
    "optimizer.warmup_steps=10",
    "sampler.num_steps=2",
    "evaluation.classifier_steps=20",
    "device=cpu",
]
MINUTE = [  # a run so small that a session takes half a second, with all kinds of files, for `uninterrupted`
    "trainer.steps=24",
    "trainer.batch_size=6",
    "trainer.log_every=1",
    "trainer.preview_every=5",
    "trainer.num_previews=2",
    "trainer.checkpoint_every=3",
    "trainer.keep_every=12",
    "backbone.depth=2",
    "backbone.hidden_size=16",
    "backbone.num_heads=2",
    "alignment.pairs=[[1,2]]",
    "optimizer.warmup_steps=2",
    "ema.decays=[0.9,0.5]",
    "ema.widths=[0.1]",
    "ema.snapshot_every=4",
    "sampler.num_steps=2",
    "evaluation=none",
    "tracking.tensorboard=off",
    "device=cpu",
]
RUN = Path("runs", "image", "digits")  # in the folder where the command is called


def tiny(*overrides: str, evaluate: bool = False) -> list[str]:
    """Arguments of a tiny run on digits."""
    settings = TINY if evaluate else [item for item in TINY if not item.startswith("evaluation.")] + ["evaluation=none"]
    return [*settings, *overrides]


def train_here(place: Path, *overrides: str) -> Path:
    """A finished tiny run in `place`/runs, made in this process; its folder."""
    image.train.ENTRY.run(tiny(f"runs_dir={place / 'runs'}", *overrides))
    run = place / "runs" / "image" / "digits"
    assert (run / "summary.json").exists()
    return run


def uninterrupted(zygote: Zygote, place: Path, *overrides: str) -> Path:
    """The command in the folder `place` with nobody disturbing it: the folder of the run, which is complete then."""
    session = zygote.train(*MINUTE, *overrides, cwd=place)
    assert session.wait() == 0, session.said()
    return place / RUN


class Malicious:
    """Its pickle makes a file when it is loaded without care."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


def save_malicious(path: Path, target: Path) -> Path:
    """A .pt file that would make the file `target`."""
    torch.save({"ema": {"weight": torch.zeros(1)}, "args": Malicious(target)}, path)
    return path
