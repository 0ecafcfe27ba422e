"""LayerSync (arXiv 2510.12581), the package `layersync`, as the alignment method of a training run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch import nn

from core.alignment.contract import Alignment, Forward, Needs, check_pairs, check_weight, config_keys
from core.alignment.teacher import Teacher
from layersync.blocks import Layer
from layersync.schedule import TIME_WEIGHTS, TimeWeight, WeightSchedule
from layersync.sync import AlignmentTerms, LayerSync


@dataclass(frozen=True)
class LayerSyncConfig:
    """Options of LayerSync; `pairs` are (weak, strong) block numbers from 1, or module names."""

    layers_key: ClassVar[str] = "alignment.pairs"
    pairs: list[tuple[int | str, int | str]]
    weight: float = 0.2
    schedule: WeightSchedule = field(default_factory=WeightSchedule)
    time_weight: TimeWeight = "uniform"
    stop_gradient: bool = True

    def __post_init__(self) -> None:
        check_pairs(self.pairs)
        check_weight(self.weight)

    @property
    def layers(self) -> list[Layer]:
        """The layers of both sides."""
        return [layer for pair in self.pairs for layer in pair]

    @property
    def needs(self) -> Needs:
        """Nothing that a run has not."""
        return Needs()

    def build(self, model: nn.Module) -> LayerSyncAlignment:
        """LayerSync installed on `model`."""
        with config_keys():
            sync = LayerSync(
                model,
                pairs=self.pairs,
                weight=self.weight,
                schedule=self.schedule,
                time_weight=TIME_WEIGHTS[self.time_weight],
                stop_gradient=self.stop_gradient,
            )
        return LayerSyncAlignment(sync)


class LayerSyncAlignment(Alignment):
    """LayerSync as the alignment method of a training run."""

    def __init__(self, sync: LayerSync):
        super().__init__(sync.hooks)
        self.sync = sync

    def terms(self, forward: Forward, teacher: Teacher | None) -> AlignmentTerms:
        """LayerSync's loss at the step and times of the forward pass."""
        return self.sync.terms(forward.step, forward.t, forward.batch.mask)

    def compile(self, **options: str) -> None:
        """Fuse LayerSync's cosine."""
        self.sync.compile(**options)
