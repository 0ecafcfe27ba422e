"""What of a run is saved and how it comes back: named groups of tensors, on any number of processes.

A checkpoint holds whole tensors, whatever shared them, so that N processes go on where M stopped. The main process
gathers them in its memory (16 bytes a parameter and 4 for each further average) and writes: beside the loop, from a
copy, or while the loop waits. Gathering is the loop's own part, so all of a checkpoint is in that process's memory
before any of it is written, and the thread that writes takes part in no exchange between processes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from core.processes.background import Background
from core.processes.sharding import whole
from core.processes.world import World
from core.storage.checkpoint import Checkpoint, CheckpointStore, State, read_checkpoint
from core.storage.packed import Kind, Packed
from core.storage.weights import load_into, trained_state
from core.train.notes import check_kinds

HEADS = "alignment"  # the group of the heads of the method
LAST_WORDS = 1.0  # seconds for a checkpoint that a second Ctrl-C lets go of
Groups = Mapping[str, State]
log = logging.getLogger(__name__)


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


class Copies:
    """Host memory of the main process for one copy of all groups, kept from one checkpoint to the next."""

    def __init__(self, pinned: bool):
        self.pinned = pinned
        self.packed: dict[str, Packed] = {}
        self.missing = False  # where the machine has not given it

    def reserve(self, kinds: Mapping[str, Mapping[str, Kind]]) -> None:
        """Have the memory for groups of these tensors; what has it already keeps it."""
        have = {name: self.packed[name] for name in kinds if name in self.packed}
        self.packed = {name: packed for name, packed in have.items() if packed.kinds == kinds[name]}
        try:
            for name in kinds.keys() - self.packed.keys():
                self.packed[name] = Packed(kinds[name], self.pinned)
        except (RuntimeError, MemoryError) as error:  # PyTorch's have no class of their own on the CPU
            self.packed, self.missing = {}, True
            said = str(error).strip().splitlines() or [type(error).__name__]
            log.warning("no memory for a copy of the checkpoint, the loop waits while one is written: %s", said[0])

    def take(self, groups: Groups, world: World) -> dict[str, Packed]:
        """Copy all groups, whole, into the memory of the main process. A collective."""
        for name, key, value in _wholes(groups):
            if world.is_main:
                self.packed[name].views[key].copy_(value, non_blocking=True)
        if world.device.type == "cuda":
            torch.cuda.current_stream(world.device).synchronize()
        return {name: self.packed[name] for name in groups} if world.is_main else {}


class Saved:
    """The checkpoints of a run: all of its parts, and notes.

    background  write beside the loop, from a copy; one checkpoint at a time
    check       raises where this process may not write in the run's folder any more

    As a context it lets nothing be under way at its end: it waits, also after an error, but not after Ctrl-C.
    """

    def __init__(
        self,
        store: CheckpointStore,
        world: World,
        parts: Sequence[Part],
        background: bool = False,
        check: Callable[[], None] = lambda: None,
    ):
        self.store, self.world, self.parts, self.check = store, world, parts, check
        self.step = 0  # of the checkpoint that holds the present state, or will once it is written
        self.path: Path | None = None  # of the checkpoint that was taken
        self.copies = Copies(world.device.type == "cuda") if background else None
        self.writer = Background("checkpoint")
        self.asked = False  # once memory for copies was
        self.pending = False  # while a checkpoint may be under way: the same in every process
        self.told = False  # once what the writer has failed with was raised

    def reserve(self) -> None:
        """Begin to take the memory for copies, beside the loop, in the main process; what is saved is known by now."""
        if self.copies is None or self.asked or not self.world.is_main:
            return
        self.asked = True
        copies, kinds = self.copies, {name: Kind.of(state) for name, state in self._groups().items()}
        size = sum(kind.bytes for group in kinds.values() for kind in group.values()) / 1e6
        kept = "page-locked memory" if copies.pinned else "memory"
        told = "checkpoints are written beside the training from a copy in %.1f MB of %s"
        log.info(f"{told} (trainer.async_checkpoint=false: while it waits)", size, kept)
        self.writer.start(lambda: copies.reserve(kinds))

    @property
    def failed(self) -> bool:
        """Whether this process could not write the checkpoint that was begun."""
        return self.writer.failed

    def save(self, step: int, notes: Callable[[], Mapping[str, Any]]) -> None:
        """Write a checkpoint of `step`, unless there is one; raises OSError when it cannot be written.

        `notes` is called in the main process, before anything is written. A collective, as `begin` and `wait` are.
        """
        self.begin(step, notes)
        self.wait()

    def begin(self, step: int, notes: Callable[[], Mapping[str, Any]]) -> None:
        """Begin to write what `save` would: return once the present state is copied, or written without background.

        Waits for the checkpoint before, and raises OSError where that one could not be written.
        """
        if step in (0, self.step):
            return
        self.wait()
        groups = self._groups()
        if self._has_memory(groups):
            taken = self.copies.take(groups, self.world)
            self.world.on_main(lambda: self._start(step, taken, notes()))
        else:
            gathered = whole_groups(groups, self.world)
            self.world.on_main(lambda: self.store.save(step, gathered, notes(), self.check) and None)
        self.step, self.pending = step, self.copies is not None

    def _groups(self) -> dict[str, State]:
        return {name: state for part in self.parts for name, state in part.state_dicts().items()}

    def _has_memory(self, groups: Groups) -> bool:
        """Whether groups are copied before they are written; processes that write nothing need not agree."""
        if self.copies is None or not self.world.is_main:
            return False
        self.writer.wait()  # for the memory that was asked for
        if not self.copies.missing:
            self.copies.reserve({name: Kind.of(state) for name, state in groups.items()})
        return not self.copies.missing

    def _start(self, step: int, taken: Mapping[str, Packed], notes: Mapping[str, Any]) -> None:
        def write() -> None:
            self.store.save(step, taken, notes, self._check)

        self.writer.start(write)

    def _check(self) -> None:
        self.writer.check()
        self.check()

    def wait(self) -> None:
        """Return when no checkpoint is under way; raises OSError, again and again, where one could not be written."""
        if not self.pending:
            return
        begun, self.step, self.told = self.step, 0, True
        self.world.on_main(self.writer.wait)
        self.step, self.pending, self.told = begun, False, False

    def __enter__(self) -> Saved:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and not issubclass(kind, Exception):
            self.writer.abandon(LAST_WORDS)
            return
        failure = self.writer.settle()
        if failure is not None and not self.told:  # another error ends the run
            log.error("%s", failure)

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


def whole_groups(groups: Groups, world: World) -> Groups:
    """The groups with whole tensors, on the CPU of the main process; empty groups in the others. A collective."""
    if world.size == 1:
        return groups
    gathered: dict[str, State] = {name: {} for name in groups}
    for name, key, value in _wholes(groups):
        if world.is_main:
            gathered[name][key] = value.cpu()
    return gathered


def _wholes(groups: Groups) -> Iterator[tuple[str, str, Tensor]]:
    """Each tensor of the groups, whole, with the names of group and tensor. A collective."""
    for name, state in groups.items():
        for key, value in state.items():
            yield name, key, whole(value.detach())
