"""Comparisons at toy size: the words of the command line, and finished runs made in this process."""

from __future__ import annotations

from pathlib import Path

import image.train
from eval.compare import ENTRY, plan_runs
from eval.methods.plan import RunPlan

STEPS = 12
TOY = [
    "image",
    "seeds=2",
    f"steps={STEPS}",
    "every=4",
    "name=toy",
    "device=cpu",
    "trainer.batch_size=8",
    "trainer.num_previews=4",
    "trainer.checkpoint_every=2",
    "backbone.depth=2",
    "backbone.hidden_size=16",
    "backbone.num_heads=2",
    "alignment.pairs=[[1,2]]",
    "optimizer.warmup_steps=2",
    "sampler.num_steps=2",
    "evaluation.classifier_steps=5",
    "evaluation.num_samples=40",
    "tracking.tensorboard=off",
]
METHODS, SEEDS = ("baseline", "layersync"), (0, 1)


def toy(*words: str) -> list[str]:
    """The command line of a toy comparison, with further words."""
    keys = {word.partition("=")[0] for word in words}
    return [*(word for word in TOY if word.partition("=")[0] not in keys), *words]


def toy_plan(*words: str) -> RunPlan:
    """The runs of a toy comparison."""
    return plan_runs(ENTRY.config(toy(*words)))


def make_runs(folder: Path, *words: str) -> Path:
    """Finished runs of both methods in `folder`, as the comparison would have made them; the folder."""
    plan = toy_plan(*words)
    for seed in plan.seeds:
        for method in plan.methods:
            image.train.ENTRY.run(plan.arguments(method, seed, folder))
    return folder
