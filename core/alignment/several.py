"""Several methods in one run: their terms are added, each with its own options, weight and schedule.

    alignment=several 'alignment.of={layersync: {pairs: [[2, 5]]}, sra2: {layer: 2}}'

What stands under `of` is called as one likes; its method is what `name` says in it, else what it is called.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from core.alignment.contract import (
    Alignment,
    AlignmentConfig,
    AlignmentTerms,
    Forward,
    Needs,
    NoAlignmentConfig,
    build_alignment,
    reasons,
    settle,
)
from core.alignment.teacher import Teacher
from core.contracts import FeatureEncoder
from layersync.blocks import Layer

KEY = "alignment.of"


def known_methods() -> dict[str, type]:
    """The configs of the methods that may be combined, by name."""
    from core.alignment.methods import ALIGNMENTS  # which this one is in, too

    return {name: schema for name, schema in ALIGNMENTS.items() if schema not in (NoAlignmentConfig, SeveralConfig)}


@dataclass(frozen=True)
class SeveralConfig:
    """Methods by labels of one's own.

    of  label -> a method, with its `name` where that is not the label, and its options
    """

    layers_key: ClassVar[str] = KEY
    of: dict[str, AlignmentConfig] = field(metadata={"labelled": known_methods})

    def __post_init__(self) -> None:
        timed = [label for label, method in self.of.items() if method.needs.token_times]
        twice = [label for label, method in self.of.items() if method.needs.second_output]
        if len(twice) > 1:
            raise ValueError(f"{KEY} holds {' and '.join(twice)}, which all predict when sampling; needed: one of them")
        if len(timed) > 1:
            raise ValueError(f"{KEY} holds {' and '.join(timed)}, which all give tokens times; needed: one of them")

    @property
    def layers(self) -> list[Layer]:
        """The layers of all methods."""
        return [layer for method in self.of.values() for layer in method.layers]

    @property
    def needs(self) -> Needs:
        """What any of them needs; the layers of all teachers."""
        needs = [method.needs for method in self.of.values()]
        layers = dict.fromkeys(layer for each in needs for layer in each.teacher)
        encoders = dict.fromkeys(encoder for each in needs for encoder in each.features)
        kinds = [kind.name for kind in fields(Needs) if kind.name not in ("teacher", "features")]
        asked = {kind: any(getattr(each, kind) for each in needs) for kind in kinds}
        return Needs(tuple(layers), features=tuple(encoders), **asked)

    def predicting(self) -> AlignmentConfig:
        """The methods that samples need: the one with a second output layer."""
        return SeveralConfig({label: method for label, method in self.of.items() if method.needs.second_output})

    def settled(self, num_blocks: int, seed: int) -> SeveralConfig:
        """The config with what each method leaves open chosen; ValueError with the label of one that cannot be."""
        chosen = {}
        for label, method in self.of.items():
            with _labelled(label):
                chosen[label] = settle(method, num_blocks, seed)
        return SeveralConfig(chosen)

    def reasons(self, num_blocks: int, seed: int) -> list[str]:
        """Why each method has the layers that were chosen for it."""
        told = {label: reasons(method, num_blocks, seed) for label, method in self.of.items()}
        return [f"{label}: {line}" for label, lines in told.items() for line in lines]

    def build(self, model: nn.Module, encoders: Callable[[str], FeatureEncoder] | None = None) -> Several:
        """All methods installed on `model`; ValueError of one that does not fit, with its label."""
        built: dict[str, Alignment] = {}
        try:
            for label, method in self.of.items():
                with _labelled(label):
                    built[label] = build_alignment(method, model, encoders)
        except ValueError:
            for each in built.values():
                each.remove()
            raise
        return Several(built)


@contextlib.contextmanager
def _labelled(label: str) -> Iterator[None]:
    """Errors begin with the key of the method of that label."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{KEY}.{label}.{str(error).removeprefix('alignment.')}") from error


class Several(Alignment):
    """Methods whose terms are added; heads and records are named by their labels."""

    def __init__(self, methods: Mapping[str, Alignment]):
        super().__init__(heads={label: each.heads for label, each in methods.items() if len(each.heads)})
        self.methods = dict(methods)

    def times(self, *drawn_from: Any) -> Tensor:
        """Flow times of the one method that has its own way to draw them, else as any method draws them."""
        own = [each for each in self.methods.values() if type(each).times is not Alignment.times]
        return own[0].times(*drawn_from) if own else super().times(*drawn_from)

    def attention(self, *asked: Any) -> Tensor | None:
        """The groups of the one method that has some, else the mask."""
        own = [each for each in self.methods.values() if type(each).attention is not Alignment.attention]
        return own[0].attention(*asked) if own else super().attention(*asked)

    def terms(self, forward: Forward, teacher: Teacher | None) -> AlignmentTerms:
        """The sum of the losses; every number is recorded under its method's label."""
        losses, similarity, values = [], {}, {}
        for label, method in self.methods.items():
            found = method.terms(forward, teacher)
            losses.append(found.loss)
            similarity |= {f"{label}/{pair}": value for pair, value in found.similarity.items()}
            values |= {f"{label}/{name.removeprefix(f'{label}/')}": value for name, value in found.values.items()}
        return AlignmentTerms(torch.stack(losses).sum(), similarity, values)

    def looks(self, step: int) -> bool:
        """Whether any of them does."""
        return any(each.looks(step) for each in self.methods.values())

    def second_output(self) -> Any:
        """Of the one method that has it."""
        own = [each for each in self.methods.values() if type(each).second_output is not Alignment.second_output]
        return own[0].second_output() if own else None

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
