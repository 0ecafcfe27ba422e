"""The folder of one run: where everything is, whether it may be written, and whose it is.

runs/<domain>/<name>/
  config.yaml  metrics.jsonl  speed.jsonl  loss_curve.png  summary.json  tensorboard/
  checkpoints/step_00001000/   previews/step_00001000.png   samples/
"""

from __future__ import annotations

import json
import os
import re
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from core.checkpoint import write_atomic
from core.schema import changed_keys

# Keys that change neither the weights nor metrics.jsonl: a run may be continued with other values.
FREE_KEYS = (
    "device",
    "evaluation",
    "name",
    "runs_dir",
    "sample_batch_size",
    "sampler",
    "trainer.checkpoint_every",
    "trainer.keep_checkpoints",
    "trainer.num_previews",
    "trainer.num_workers",
    "trainer.preview_every",
)


@dataclass(frozen=True)
class RunDirectory:
    """Paths of one run."""

    path: Path

    @classmethod
    def create(cls, runs_dir: str, domain: str, name: str) -> RunDirectory:
        """Make the folder, or find it; raises ValueError for a bad name, OSError where nothing can be written."""
        if not re.fullmatch(r"[\w.+-]+", name) or name.strip(".") == "":
            raise ValueError(f"name is {name!r}; a run's name has letters, digits and . _ + - only")
        path = Path(runs_dir) / domain / name
        probe = path / f".writable-{uuid.uuid4().hex[:8]}"
        try:
            path.mkdir(parents=True, exist_ok=True)
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise OSError(f"the run directory {path} cannot be written ({error.strerror}); see runs_dir") from error
        return cls(path)

    @classmethod
    def find(cls, path: Path | str, key: str = "run") -> RunDirectory:
        """An existing run; raises ValueError naming the config `key` for a folder that is none."""
        path = Path(path)
        if not (path / "config.yaml").is_file():
            raise ValueError(f"{key} is {str(path)!r}; it must be the folder of a run, with a config.yaml")
        return cls(path)

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def previews(self) -> Path:
        """Folder of the preview pictures."""
        return self.path / "previews"

    @property
    def summary_file(self) -> Path:
        """The numbers of a complete run."""
        return self.path / "summary.json"

    def config(self) -> dict[str, Any]:
        """The resolved config that the run was started with."""
        return yaml.safe_load((self.path / "config.yaml").read_text())

    def claim(self, config: dict[str, Any]) -> None:
        """Write the config of a new run, or check that a continued one has not changed what it computes.

        Raises ValueError naming the keys that differ. A run that left no checkpoint has computed nothing: its config,
        of a first try with a wrong value perhaps, is replaced.
        """
        file = self.path / "config.yaml"
        begun = self.summary_file.exists() or any(self.checkpoints.glob("step_*"))
        if begun and file.exists():
            differing = [key for key in changed_keys(self.config(), config) if not _is_free(key, config)]
            if differing:
                raise ValueError(
                    f"{self.path} holds a run with another {', '.join(differing)}; "
                    "choose another name=..., or the same values to continue it"
                )
        write_atomic(file, yaml.safe_dump(config, sort_keys=False))

    def summary(self) -> dict[str, Any] | None:
        """The summary of a complete run, or None."""
        return json.loads(self.summary_file.read_text()) if self.summary_file.exists() else None

    def shown(self) -> str:
        """The path as a user would type it from where they are."""
        relative = os.path.relpath(self.path)
        return str(self.path) if relative.startswith("..") else relative


def _is_free(key: str, config: dict[str, Any]) -> bool:
    if key == "trainer.steps":  # a cosine schedule depends on the number of steps, a constant one does not
        return config["optimizer"]["schedule"] == "constant"
    return any(key == free or key.startswith(free + ".") for free in FREE_KEYS)
