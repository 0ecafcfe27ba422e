"""Trainers of tiny runs on the digits, and what a step of theirs takes."""

import torch

from core.commands.entry import compose_config
from core.data.stream import SampleStream, collate
from core.processes.world import World
from core.schema import strict
from core.storage.run_folder import RunDirectory
from core.train.trainer import Trainer
from image.train import ImageConfig, build_domain

BATCH = 8
TINY = [
    "trainer.steps=20",
    f"trainer.batch_size={BATCH}",
    "backbone.depth=2",
    "backbone.hidden_size=16",
    "backbone.num_heads=2",
    "alignment.pairs=[[1,2]]",
    "evaluation=none",
    "device=cpu",
]


def make_trainer(folder, *overrides):
    """A trainer of a tiny run below `folder`; a choice of another alignment comes without the usual pair."""
    usual = [word for word in TINY if not (word.startswith("alignment.") and "alignment=none" in overrides)]
    values = compose_config("image.conf", "train", [*usual, f"runs_dir={folder}", *overrides])
    config = strict(ImageConfig, values)
    run = RunDirectory.create(config.runs_dir, "image", config.name)
    return Trainer(config, build_domain(config, torch.device("cpu"), evaluate=False), run, World())


def batch_of(trainer, step=0, size=BATCH):
    """The batch of a step."""
    stream = SampleStream(trainer.domain.dataset, trainer.config.seed)
    return collate([stream[position] for position in range(step * size, (step + 1) * size)])


def opened(trainer):
    """The trainer with every weight random, so that no gate is shut."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return trainer
