"""What every run is told: the config nodes that the domains share, as dataclasses."""

from __future__ import annotations

from dataclasses import dataclass, field

from core.alignment.contract import NoAlignmentConfig
from core.alignment.layersync import ALIGNMENTS, LayerSyncConfig
from core.flow.objective import ObjectiveConfig
from core.flow.path import build_path
from core.flow.sampler import SamplerConfig, check_solver
from core.precision import Precision
from core.processes.spread import Compile, ParallelConfig
from core.schema import choice
from core.train.ema import EMAConfig
from core.train.optimizer import OptimizerConfig
from core.train.tracking import TrackingConfig


@dataclass(frozen=True)
class TrainerConfig:
    """Length, batch and rhythm of a run; all `_every` count optimizer steps, 0 is never.

    batch_size         samples of an optimizer step, over all processes and micro-batches
    accumulate         micro-batches that a process makes of its part, one after the other, for memory
    keep_checkpoints   the newest so many stay
    evaluate_every     samples are measured, as at the end, for evaluations.jsonl
    keep_every         checkpoints whose step is a multiple of it stay for good
    compile            torch.compile: none, the model as a whole, or its blocks, each for itself (compiles faster)
    checkpoint_blocks  recompute each block in backward, for memory
    precision          bf16 and fp16 run the backbone under autocast, fp16 with a loss scale; weights, losses and
                       averages stay fp32
    tf32               fp32 matrix products and convolutions on a GPU may use TF32
    """

    steps: int
    batch_size: int
    accumulate: int = 1
    log_every: int = 10
    preview_every: int = 0
    num_previews: int = 40
    evaluate_every: int = 0
    checkpoint_every: int = 1000
    keep_checkpoints: int = 2
    keep_every: int = 0
    num_workers: int = 0
    compile: Compile = "none"
    checkpoint_blocks: bool = False
    precision: Precision = "fp32"
    tf32: bool = False

    def __post_init__(self) -> None:
        positive = ("steps", "batch_size", "accumulate", "log_every", "checkpoint_every", "num_previews")
        for name in (*positive, "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise ValueError(f"trainer.{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("preview_every", "evaluate_every", "keep_every", "num_workers"):
            if getattr(self, name) < 0:
                raise ValueError(f"trainer.{name} is {getattr(self, name)}; it must not be negative")

    def check_parts(self, processes: int) -> None:
        """Raises ValueError when the batch does not give every process and micro-batch a sample."""
        if self.batch_size < processes * self.accumulate:
            raise ValueError(
                f"trainer.batch_size is {self.batch_size}; {processes} processes with trainer.accumulate "
                f"{self.accumulate} need at least {processes * self.accumulate} samples a step"
            )


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What every domain's run has; a domain adds data, tokenizer, backbone and conditioning.

    allow_changes  keys (or groups of keys) that a continued run may have changed although they change what it computes
    """

    name: str
    trainer: TrainerConfig
    runs_dir: str = "runs"
    seed: int = 0
    device: str = "auto"
    sample_batch_size: int = 256
    allow_changes: list[str] = field(default_factory=list)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    optimizer: OptimizerConfig
    ema: EMAConfig
    objective: ObjectiveConfig
    alignment: LayerSyncConfig | NoAlignmentConfig = choice(ALIGNMENTS)
    sampler: SamplerConfig
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def __post_init__(self) -> None:
        check_solver(self.sampler, build_path(self.objective.path))

    def check_guidance(self, drop: float, null: bool) -> None:
        """Raises ValueError where there is no unconditional model for what is asked; a domain calls it.

        drop  conditioning.drop; null: backbone.null_label
        """
        if drop > 0 and not null:
            raise ValueError("conditioning.drop is above 0 but backbone.null_label is false: there is no null label")
        if self.sampler.guidance_scale != 1 and drop == 0:
            raise ValueError("sampler.guidance_scale is not 1 but conditioning.drop is 0: no unconditional model")
