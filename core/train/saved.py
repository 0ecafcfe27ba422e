"""What of a run is saved and how it comes back: weights, averages, optimizer, loss scale, on any number of processes.

A checkpoint holds whole tensors, whatever shared them, so that N processes go on where M stopped. The main process
gathers them in its memory (16 bytes a parameter and 4 for each further average) and writes.
"""

from __future__ import annotations

import datetime
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from core.data.stream import fingerprint
from core.processes.sharding import whole
from core.processes.world import World
from core.schema import plain
from core.storage.checkpoint import Checkpoint, CheckpointStore, State, read_checkpoint
from core.storage.lines import JsonLines
from core.storage.provenance import code_version, json_sha256
from core.storage.weights import load_into
from core.train.posthoc import drop_snapshots

if TYPE_CHECKING:
    from core.train.trainer import Trainer

log = logging.getLogger(__name__)


class SavedState:
    """The checkpoints of a trainer's run, and the trainer's way to and from them."""

    def __init__(self, trainer: Trainer, store: CheckpointStore):
        self.trainer, self.store = trainer, store
        self.step = 0  # of the checkpoint that holds the present state, if any does

    def save(self) -> None:
        """Write a checkpoint of the present step, unless there is one; raises OSError when it cannot be written."""
        trainer = self.trainer
        if trainer.step in (0, self.step):
            return
        averages = trainer.ema.state_dicts()
        groups = {"model": trainer.model.state_dict(), **averages, "optimizer": trainer.optimizer.state_dict()}
        gathered = whole_groups(groups, trainer.world)
        trainer.world.on_main(lambda: self._write(gathered))
        self.step = trainer.step

    def _write(self, groups: Mapping[str, State]) -> None:
        if self.trainer.tracker is not None:
            self.trainer.tracker.sync()  # lines of steps that will not be made again
        self.store.save(self.trainer.step, groups, self._notes())

    def _notes(self) -> dict[str, Any]:
        trainer, config = self.trainer, plain(self.trainer.config)
        return {
            "domain": trainer.domain.name,
            "seconds": trainer.seconds,
            "wall_seconds": trainer.wall_seconds,
            "loss_scale": trainer.scaler.state_dict(),
            "skipped_steps": trainer.skipped,
            "tokenizer": trainer.domain.tokenizer.constants(),
            "data": fingerprint(trainer.domain.dataset),
            "class_names": list(trainer.domain.dataset.class_names),
            "config": config,
            "config_sha256": json_sha256(config),
            "code": code_version(),
            "torch": torch.__version__,
            "processes": trainer.world.size,
        }

    def restore(self) -> None:
        """Continue from the newest sound checkpoint, if there is one, and note that a session begins."""
        trainer = self.trainer
        path = trainer.world.on_main(self._newest)
        if path is not None:
            self._take(path, read_checkpoint(path, verified=True))
        trainer.world.on_main(self._begin)

    def _newest(self) -> Path | None:
        self.store.clean()
        path = self.store.newest_sound(set_aside=True)
        if path is not None:
            self.store.settle(path)
        return path

    def _take(self, path: Path, saved: Checkpoint) -> None:
        trainer, notes = self.trainer, saved.notes
        if saved.step > trainer.config.trainer.steps:
            raise ValueError(
                f"trainer.steps is {trainer.config.trainer.steps}, but {path} has made {saved.step} already"
            )
        self._check_same(path, notes)
        load_into(trainer.model, saved.groups["model"], str(path))
        trainer.ema.load_state_dicts(saved.groups)
        trainer.optimizer.load_state_dict(saved.groups["optimizer"])
        if notes["loss_scale"]:
            trainer.scaler.load_state_dict(notes["loss_scale"])
        trainer.step = self.step = saved.step
        trainer.seconds, trainer.wall_before = notes["seconds"], notes["wall_seconds"]
        trainer.skipped = notes["skipped_steps"]

    def _check_same(self, path: Path, notes: Mapping[str, Any]) -> None:
        """The tokenizer and the data are what they were, wherever they lie now; a change of code is told."""
        trainer = self.trainer
        now = json.loads(json.dumps(trainer.domain.tokenizer.constants()))
        if _without_path(notes["tokenizer"]) != _without_path(now):
            raise ValueError(f"{path} was made with another tokenizer: {notes['tokenizer']}, now {now}")
        data = fingerprint(trainer.domain.dataset)
        allowed = {"data", "data.root"} & set(trainer.config.allow_changes)
        if notes["data"] != json.loads(json.dumps(data)) and not allowed:
            raise ValueError(
                f"{path} was made with other data: {notes['data']}, now {data}; allow_changes=[data.root] goes on"
            )
        if notes["code"] != code_version():
            log.warning("%s was made by code %s, this is %s", path.name, notes["code"], code_version())
        if notes["torch"] != torch.__version__:
            log.warning("%s was made with torch %s, this is %s", path.name, notes["torch"], torch.__version__)

    def _begin(self) -> None:
        """Forget what will be made again, and append a line to sessions.jsonl."""
        trainer = self.trainer
        drop_snapshots(trainer.run.snapshots, trainer.step)
        line = {
            "step": trainer.step,
            "begun": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "device": str(trainer.world.device),
            "processes": trainer.world.size,
            "config_sha256": json_sha256(plain(trainer.config)),
            "code": code_version(),
            "torch": torch.__version__,
        }
        JsonLines(trainer.run.path / "sessions.jsonl", trainer.config.trainer.steps).write(line)


def whole_groups(groups: Mapping[str, State], world: World) -> Mapping[str, State]:
    """The groups with whole tensors, on the CPU of the main process; empty groups in the others. A collective."""
    if world.size == 1:
        return groups
    gathered: dict[str, State] = {}
    for name, state in groups.items():
        gathered[name] = {}
        for key, value in state.items():
            complete = whole(value.detach())
            if world.is_main:
                gathered[name][key] = complete.cpu()
    return gathered


def _without_path(constants: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in constants.items() if key != "path"}
