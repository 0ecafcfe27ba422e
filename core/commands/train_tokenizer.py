"""What the commands that train a domain's own tokenizer share: from the split of the data to the files and the report.

A domain overrides what `TokenizerFitting` leaves open; the loop, the folder and the split are `core.latents.fitting`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from core.draws import seeded_weights
from core.latents.fitting import Rows, TokenizerTraining, fit, output_directory
from core.latents.own_files import CONFIG_FILE, WEIGHTS_FILE
from core.processes.world import pick_device
from core.schema import plain
from core.storage.atomic import atomic_dir
from core.storage.run_folder import RunDirectory

METRICS_FILE = "metrics.json"


class TokenizerFitting:
    """One training of a tokenizer.

    unit      what a row of the data is called
    pictures  files that show held-out rows before and after, beside config.json, weights and metrics.json
    use       the command that trains on its latents, with {} for the folder
    """

    unit: ClassVar[str]
    pictures: ClassVar[tuple[str, ...]]
    use: str

    def __init__(self, config: TokenizerTraining):
        self.config = config

    def split(self) -> tuple[Rows, Rows]:
        """Rows to train on and rows to measure on, disjoint."""
        raise NotImplementedError

    def network(self, media_shape: tuple[int, ...]) -> nn.Module:
        """An untrained network with `latent_shape`, `moments`, `decode` and `loss`."""
        raise NotImplementedError

    def measure(self, network: nn.Module, train: Rows, heldout: Rows) -> dict[str, Any]:
        """What metrics.json holds of a trained network."""
        raise NotImplementedError

    def write(self, folder: Path, network: nn.Module, data: tuple[Rows, Rows], metrics: dict[str, Any]) -> None:
        """Write config.json, weights and pictures into a folder; data: the rows of `split`."""
        raise NotImplementedError

    def numbers(self, metrics: dict[str, Any]) -> list[str]:
        """The lines of the report that tell how well it does."""
        raise NotImplementedError

    def shown_pictures(self) -> str:
        """How the report calls the pictures."""
        return f"picture: {self.pictures[0]}"

    @classmethod
    def files(cls) -> set[str]:
        """All that a training leaves in its folder."""
        return {CONFIG_FILE, WEIGHTS_FILE, METRICS_FILE, *cls.pictures}

    def start(self, media_shape: tuple[int, ...]) -> nn.Module:
        """The untrained network on `config.device`; its weights are a function of the seed.

        Raises ValueError for media that do not fit, before the first batch.
        """
        with seeded_weights(self.config.seed, "weights"):
            network = self.network(media_shape)
        network.latent_shape(media_shape)
        return network.to(pick_device(self.config.device))

    def run(self, show: Callable[[str], None]) -> Path:
        """Train, measure and write; the folder. `show` takes what a person is to read."""
        config = self.config
        directory = output_directory(config, self.files(), self.use)
        train, heldout = self.split()
        network = self.start(train.media_shape)
        show(f"training on {len(train)} {self.unit}s, {config.steps} steps of {config.batch_size}")
        seconds = fit(network, train, config)
        metrics = self.measure(network, train, heldout)
        metrics |= {f"train_{self.unit}s": len(train)}
        metrics |= {"parameters": sum(parameter.numel() for parameter in network.parameters())}
        with atomic_dir(directory) as temporary:
            self.write(temporary, network, (train, heldout), metrics)
            record = {**metrics, "train_seconds": seconds, "config": plain(config)}
            (temporary / METRICS_FILE).write_text(json.dumps(record, indent=2) + "\n")
        show(self.report(directory, metrics, seconds))
        return directory

    def report(self, directory: Path, metrics: dict[str, Any], seconds: float) -> str:
        """What a training prints at its end: numbers, places, next command."""
        shown = RunDirectory(directory).shown()
        return "\n".join(
            [
                *self.numbers(metrics),
                f"size              {metrics['parameters']:,} parameters, trained in {seconds:.0f} s",
                f"directory         {shown} ({self.shown_pictures()}, numbers: {METRICS_FILE})",
                f"use               {self.use.format(shown)}",
            ]
        )
