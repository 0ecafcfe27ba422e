"""Several methods in one run: their terms are added, each with its own options, weight and schedule.

    alignment=several 'alignment.of={layersync: {pairs: [[2, 5]]}, sra2: {layer: 2}}'

What stands under `of` is called as one likes; its method is what `name` says in it, else what it is called.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from core.alignment.contract import Alignment, AlignmentConfig, AlignmentTerms, Forward, Needs, reasons, settle
from core.alignment.teacher import Teacher
from core.schema import plain, strict
from layersync.blocks import Layer

KEY = "alignment.of"


@dataclass(frozen=True)
class SeveralConfig:
    """Methods by labels of one's own.

    of  label -> options of a method, with its `name` where that is not the label; every option has its default
    """

    layers_key: ClassVar[str] = KEY
    of: dict

    def __post_init__(self) -> None:
        if not self.of:
            raise ValueError(f"{KEY} is empty; needed: methods and their options, {{sra2: {{layer: 2}}}}")
        methods = {label: _read(label, node) for label, node in self.of.items()}
        timed = [label for label, method in methods.items() if method.needs.token_times]
        if len(timed) > 1:
            raise ValueError(
                f"{KEY} holds {' and '.join(timed)}, of which each gives tokens times; needed: one of them"
            )
        whole = {label: {"name": self._name(label), **plain(method)} for label, method in methods.items()}
        object.__setattr__(self, "of", whole)  # of a frozen dataclass: with all options, as a run's config has them

    def _name(self, label: str) -> str:
        return self.of[label].get("name", label)

    @cached_property
    def methods(self) -> dict[str, AlignmentConfig]:
        """The config of each method."""
        return {label: _read(label, node) for label, node in self.of.items()}

    @property
    def layers(self) -> list[Layer]:
        """The layers of all methods."""
        return [layer for method in self.methods.values() for layer in method.layers]

    @property
    def needs(self) -> Needs:
        """What any of them needs; the layers of all teachers."""
        needs = [method.needs for method in self.methods.values()]
        layers = dict.fromkeys(layer for each in needs for layer in each.teacher)
        kinds = [field.name for field in fields(Needs) if field.name != "teacher"]
        return Needs(tuple(layers), **{kind: any(getattr(each, kind) for each in needs) for kind in kinds})

    def settled(self, num_blocks: int, seed: int) -> SeveralConfig:
        """The config with what each method leaves open chosen."""
        drawn = {}
        for label, method in self.methods.items():
            with _own_keys(label):
                drawn[label] = settle(method, num_blocks, seed)
        return replace(self, of={label: {"name": self._name(label), **plain(each)} for label, each in drawn.items()})

    def reasons(self, num_blocks: int, seed: int) -> list[str]:
        """Why each method has the layers that were chosen for it."""
        told = {label: reasons(method, num_blocks, seed) for label, method in self.methods.items()}
        return [f"{label}: {line}" for label, lines in told.items() for line in lines]

    def build(self, model: nn.Module) -> Several:
        """All methods installed on `model`."""
        built: dict[str, Alignment] = {}
        try:
            for label, method in self.methods.items():
                with _own_keys(label):
                    built[label] = method.build(model)
        except ValueError:
            for each in built.values():
                each.remove()
            raise
        return Several(built)


class Several(Alignment):
    """Methods whose terms are added; heads and records are named by their labels."""

    def __init__(self, methods: Mapping[str, Alignment]):
        super().__init__(heads={label: each.heads for label, each in methods.items() if len(each.heads)})
        self.methods = dict(methods)

    def times(self, *drawn_from: Any) -> Tensor:
        """Flow times of the one method that has its own way to draw them, else as any method draws them."""
        own = [each for each in self.methods.values() if type(each).times is not Alignment.times]
        return own[0].times(*drawn_from) if own else super().times(*drawn_from)

    def terms(self, forward: Forward, teacher: Teacher | None) -> AlignmentTerms:
        """The sum of the losses; every number is recorded under its method's label."""
        losses, similarity, values = [], {}, {}
        for label, method in self.methods.items():
            found = method.terms(forward, teacher)
            losses.append(found.loss)
            similarity |= {f"{label}/{pair}": value for pair, value in found.similarity.items()}
            values |= {f"{label}/{name.removeprefix(f'{label}/')}": value for name, value in found.values.items()}
        return AlignmentTerms(torch.stack(losses).sum(), similarity, values)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Let the model run without being listened to by any."""
        with contextlib.ExitStack() as held:
            for method in self.methods.values():
                held.enter_context(method.paused())
            yield

    def remove(self) -> None:
        """Take the hooks of all off the model."""
        for method in self.methods.values():
            method.remove()

    def compile(self, **options: str) -> None:
        """Compile the arithmetic of each."""
        for method in self.methods.values():
            method.compile(**options)

    def extra_flops(self, forward: int, num_tokens: int) -> int:
        """Those of all together: two methods with a teacher make two passes."""
        return sum(method.extra_flops(forward, num_tokens) for method in self.methods.values())


def _read(label: str, node: Any) -> AlignmentConfig:
    """The config of one method; ValueError naming its key."""
    from core.alignment.methods import ALIGNMENTS  # which this method is one of

    allowed = {name: schema for name, schema in ALIGNMENTS.items() if name != "none" and schema is not SeveralConfig}
    key = f"{KEY}.{label}"
    if not (isinstance(label, str) and label.isidentifier()):
        raise ValueError(f"{KEY} holds the label {label!r}; a label has letters, digits and _ only")
    if not isinstance(node, Mapping):
        raise ValueError(f"{key} is {node!r}; needed: the options of a method, {{layer: 2}}")
    name = node.get("name", label)
    if name not in allowed:
        raise ValueError(
            f"{key} is of the method {name!r}; allowed, by the label or by {key}.name: {', '.join(allowed)}"
        )
    with _own_keys(label):
        return strict(allowed[name], {option: value for option, value in node.items() if option != "name"}, key)


@contextlib.contextmanager
def _own_keys(label: str) -> Iterator[None]:
    """Errors that begin with a key of a method alone begin with its key here."""
    try:
        yield
    except ValueError as error:
        message, own = str(error), f"{KEY}.{label}."
        if message.startswith("alignment.") and not message.startswith(own):
            raise ValueError(own + message.removeprefix("alignment.")) from error
        raise
