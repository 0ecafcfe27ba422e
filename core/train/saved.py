"""What of a run is saved and how it comes back: named groups of tensors, on any number of processes.

A checkpoint holds whole tensors, whatever shared them, so that N processes go on where M stopped. The main process
gathers them in its memory (16 bytes a parameter and 4 for each further average) and writes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from core.processes.sharding import whole
from core.processes.world import World
from core.storage.checkpoint import Checkpoint, CheckpointStore, State, read_checkpoint
from core.storage.weights import load_into, trained_state
from core.train.notes import check_kinds

HEADS = "alignment"  # the group of the heads of the method


class HasState(Protocol):
    """An optimizer, for one."""

    def state_dict(self) -> State:
        """Tensors by name."""
        ...

    def load_state_dict(self, state: State) -> None:
        """Take them back."""
        ...


class Part(Protocol):
    """A part of a run that has tensors: the model, its averages, the optimizer, heads of the alignment."""

    def state_dicts(self) -> Mapping[str, State]:
        """Its groups of a checkpoint, by their names."""
        ...

    def load_state_dicts(self, groups: Mapping[str, State]) -> None:
        """Take its groups from all of a checkpoint, whole tensors; ValueError for what does not fit."""
        ...


class StatePart:
    """What has a state dict of its own, as the group `name`."""

    def __init__(self, name: str, holder: HasState):
        self.name, self.holder = name, holder

    def state_dicts(self) -> dict[str, State]:
        """The one group."""
        return {self.name: self.holder.state_dict()}

    def load_state_dicts(self, groups: Mapping[str, State]) -> None:
        """Hand the group over."""
        self.holder.load_state_dict(_group(self.name, groups))


class ModelPart:
    """The trained weights and the buffers of a model, as the group `name`."""

    def __init__(self, name: str, model: nn.Module):
        self.name, self.model = name, model

    def state_dicts(self) -> dict[str, State]:
        """The one group; none for a model without anything to save."""
        state = trained_state(self.model)
        return {self.name: state} if state else {}

    def load_state_dicts(self, groups: Mapping[str, State]) -> None:
        """Copy the group into the model."""
        if trained_state(self.model):
            load_into(self.model, _group(self.name, groups), f"group '{self.name}'")


class HeadAverages:
    """The averages of the alignment's heads, groups `alignment_ema`, ... beside the model's `ema`, ..."""

    def __init__(self, averages: Part):
        self.averages = averages

    def state_dicts(self) -> dict[str, State]:
        """A group for each average."""
        return {head_group(name): state for name, state in self.averages.state_dicts().items()}

    def load_state_dicts(self, groups: Mapping[str, State]) -> None:
        """Take them back."""
        names = {name.removeprefix(head_group("")): name for name in groups if name.startswith(head_group(""))}
        self.averages.load_state_dicts({name: groups[saved] for name, saved in names.items()})


def head_group(weights: str) -> str:
    """The group with the heads that go with the group `weights` of the model: model, ema, another average."""
    return HEADS if weights == "model" else f"{HEADS}_{weights}"


def _group(name: str, groups: Mapping[str, State]) -> State:
    if name not in groups:
        raise ValueError(f"the checkpoint has no group '{name}', its groups: {', '.join(sorted(groups))}")
    return groups[name]


class Saved:
    """The checkpoints of a run: all of its parts, and notes."""

    def __init__(self, store: CheckpointStore, world: World, parts: Sequence[Part]):
        self.store, self.world, self.parts = store, world, parts
        self.step = 0  # of the checkpoint that holds the present state, if any does
        self.path: Path | None = None  # of the checkpoint that was taken

    def save(self, step: int, notes: Callable[[], Mapping[str, Any]]) -> None:
        """Write a checkpoint of `step`, unless there is one; raises OSError when it cannot be written.

        `notes` is called in the main process, before anything is written.
        """
        if step in (0, self.step):
            return
        groups = {name: state for part in self.parts for name, state in part.state_dicts().items()}
        gathered = whole_groups(groups, self.world)
        self.world.on_main(lambda: self.store.save(step, gathered, notes()) and None)
        self.step = step

    def restore(self, check: Callable[[Path, Checkpoint], None]) -> Checkpoint | None:
        """Take the newest sound checkpoint into all parts, if there is one; `check` may refuse it before.

        The other checkpoints stay until `settle`.
        """
        path = self.world.on_main(self._newest)
        if path is None:
            return None
        saved = read_checkpoint(path, verified=True)
        check(path, saved)
        for part in self.parts:
            try:
                part.load_state_dicts(saved.groups)
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from error
        self.step, self.path = saved.step, path
        return saved

    def settle(self) -> None:
        """Go on from the checkpoint that was taken, in the main process: those that are too many are removed."""
        if self.path is not None:
            self.store.settle(self.path)

    def _newest(self) -> Path | None:
        self.store.clean()
        return self.store.newest_intact(check=check_kinds, set_aside=True)


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
