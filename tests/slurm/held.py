"""`image.train` for tests that disturb it: a run called "held..." or "once..." waits at steps until it is told to stop.

It is an entry like any other; its runs are below the folder `tests`.
"""

import contextlib
import sys
import time
from types import SimpleNamespace
from unittest import mock

import numpy as np

import core.train.tracking
import core.train.trainer
from core.commands.entry import Entry
from core.commands.train import run_training
from core.train.trainer import Trainer
from image.train import ImageConfig, build_domain, report

HOLDS = (10, 16)  # steps, of a run called "once..." the first; stopped there, a run goes on after it
PATIENCE = 120  # seconds


class Held(Trainer):
    """A trainer that waits."""

    def update(self, batch):
        """One step, later."""
        deadline = time.monotonic() + PATIENCE
        held = self.step in {"held": HOLDS, "once": HOLDS[:1]}.get(self.config.name[:4], ())
        if held:
            self.settle()  # the records tell of the step before, which is what the tests wait for
        while held and not self.stop:
            if time.monotonic() > deadline:
                raise OSError(f"nobody stopped the run at step {self.step}")
            time.sleep(0.01)
        return super().update(batch)


@contextlib.contextmanager
def other_digits():
    """A hundred pictures of noise in place of the digits: scikit-learn takes seconds to import."""
    numbers = np.random.default_rng(0).integers(0, 17, (100, 8, 8))
    digits = SimpleNamespace(images=numbers, target=np.arange(100) % 10, target_names=range(10))
    known = sys.modules.pop("sklearn.datasets", None)
    sys.modules["sklearn.datasets"] = SimpleNamespace(load_digits=lambda: digits)
    try:
        yield
    finally:
        del sys.modules["sklearn.datasets"]
        sys.modules |= {} if known is None else {"sklearn.datasets": known}


def main(config: ImageConfig) -> None:
    """Train, without what takes its time and is not looked at."""
    fast = mock.patch.object(core.train.trainer, "matmul_peak", lambda device, dtype: 1e12)
    undrawn = mock.patch.object(core.train.tracking, "draw_curves", lambda *args: None)
    with fast, undrawn, other_digits():
        run_training(config, "tests", build_domain, report, show=print, trainer=Held)


ENTRY = Entry(main, "image.conf", "train", ImageConfig)
