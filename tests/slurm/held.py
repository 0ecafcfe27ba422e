"""`image.train` for tests that disturb it: a run called "held..." waits at two steps until it is told to stop.

It is an entry like any other; its runs are below the folder `tests`.
"""

import time
from unittest import mock

import core.commands.train
import core.train.trainer
from core.commands.entry import Entry
from core.train.trainer import Trainer
from image.train import ImageConfig, build_domain, report

HOLDS = (10, 16)  # steps; stopped there, a run goes on after it
PATIENCE = 120  # seconds


class Held(Trainer):
    """A trainer that waits."""

    def update(self, batch):
        """One step, later."""
        deadline = time.monotonic() + PATIENCE
        while self.config.name.startswith("held") and self.step in HOLDS and not self.stop:
            if time.monotonic() > deadline:
                raise OSError(f"nobody stopped the run at step {self.step}")
            time.sleep(0.01)
        return super().update(batch)


def main(config: ImageConfig) -> None:
    """Train."""
    fast = mock.patch.object(core.train.trainer, "matmul_peak", lambda device, dtype: 1e12)  # half a second of products
    with mock.patch.object(core.commands.train, "Trainer", Held), fast:
        core.commands.train.run_training(config, "tests", build_domain, report, show=print)


ENTRY = Entry(main, "image.conf", "train", ImageConfig)
