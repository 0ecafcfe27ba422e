"""What every run is told: the config nodes that the domains share, as dataclasses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from core.alignment.contract import check_layers, config_keys, settle
from core.alignment.methods import ALIGNMENTS, AnyAlignmentConfig
from core.data.stream import check_workers
from core.flow.objective import ObjectiveConfig
from core.flow.path import build_path, check_used
from core.flow.sampler import SamplerConfig, check_solver
from core.latents.features import check_cached, check_encoder
from core.nets.routing import Routing
from core.precision import Precision
from core.processes.spread import Compile, ParallelConfig
from core.schema import FREE, choice, free_keys
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
    routing            a random share of the tokens skips some blocks in training; null: none
    """

    steps: int
    batch_size: int
    accumulate: int = field(default=1, metadata=FREE)
    log_every: int = 10
    preview_every: int = field(default=0, metadata=FREE)
    num_previews: int = field(default=40, metadata=FREE)
    evaluate_every: int = field(default=0, metadata=FREE)
    checkpoint_every: int = field(default=1000, metadata=FREE)
    keep_checkpoints: int = field(default=2, metadata=FREE)
    keep_every: int = field(default=0, metadata=FREE)
    num_workers: int = field(default=0, metadata=FREE)
    compile: Compile = field(default="none", metadata=FREE)
    checkpoint_blocks: bool = field(default=False, metadata=FREE)
    precision: Precision = "fp32"
    tf32: bool = False
    routing: Routing | None = None

    def __post_init__(self) -> None:
        positive = ("steps", "batch_size", "accumulate", "log_every", "checkpoint_every", "num_previews")
        for name in (*positive, "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise ValueError(f"trainer.{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("preview_every", "evaluate_every", "keep_every", "num_workers"):
            if getattr(self, name) < 0:
                raise ValueError(f"trainer.{name} is {getattr(self, name)}; it must not be negative")
        check_workers("trainer.num_workers", self.num_workers)

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

    encoders: ClassVar[tuple[str, ...]] = ()  # the kinds that the domain has, for `alignment.encoder`
    name: str = field(metadata=FREE)
    trainer: TrainerConfig
    runs_dir: str = field(default="runs", metadata=FREE)
    seed: int = 0
    device: str = field(default="auto", metadata=FREE)
    sample_batch_size: int = field(default=256, metadata=FREE)
    allow_changes: list[str] = field(default_factory=list, metadata=FREE)
    parallel: ParallelConfig = field(default_factory=ParallelConfig, metadata=FREE)
    optimizer: OptimizerConfig
    ema: EMAConfig
    objective: ObjectiveConfig
    alignment: AnyAlignmentConfig = choice(ALIGNMENTS)
    sampler: SamplerConfig = field(metadata=FREE)
    tracking: TrackingConfig = field(default_factory=TrackingConfig, metadata=FREE)

    def __post_init__(self) -> None:
        if self.sample_batch_size < 1:
            raise ValueError(f"sample_batch_size is {self.sample_batch_size}; it must be at least 1")
        check_solver(self.sampler, build_path(self.objective.path))
        self._check_needs()
        self._check_internal_guidance()
        if self.optimizer.gradient == "matched" and not self.alignment.layers:
            raise ValueError("optimizer.gradient is 'matched', but the run has no alignment; allowed then: total")

    def _check_needs(self) -> None:
        """Raises ValueError where the alignment asks for what other keys do not give."""
        needs, name = self.alignment.needs, self.alignment_name
        self._check_contrast()
        own = "the loss of objective.prediction 'velocity' is its own weighting"
        check_used(
            self.objective, "objective", ("weighting",), own if self.objective.prediction == "velocity" else None
        )
        if needs.couples_rows and self.trainer.accumulate > 1:
            raise ValueError(
                f"trainer.accumulate is {self.trainer.accumulate}, but alignment {name!r} compares the samples of a "
                "batch with each other: its loss differs on parts of the batch; allowed with it: 1"
            )
        if needs.teacher and self.ema.device != "model":
            raise ValueError(
                f"ema.device is {self.ema.device!r}, but the average is the teacher of alignment {name!r}; allowed "
                "with it: model"
            )
        for encoder in needs.features:
            check_encoder("alignment.encoder", encoder, self.encoders)
        if needs.token_times and self.objective.time_per == "token":
            raise ValueError(
                f"objective.time_per is 'token', but alignment {name!r} gives tokens their times; allowed with it: "
                "sample"
            )

    def _check_internal_guidance(self) -> None:
        """Raises ValueError for a sampler that wants a second prediction where nothing makes one."""
        if self.sampler.internal_scale != 1 and not self.alignment.needs.second_output:
            raise ValueError(
                f"sampler.internal_scale is {self.sampler.internal_scale}, but alignment {self.alignment_name!r} makes "
                "no second prediction; allowed with it: 1"
            )

    def _check_contrast(self) -> None:
        """Raises ValueError where the global batch, in which a sample is compared with the next, is split or is one."""
        weight, trainer = self.objective.contrastive_weight, self.trainer
        for key, allowed, fits in (
            ("accumulate", "1", trainer.accumulate == 1),
            ("batch_size", "2 or more", trainer.batch_size > 1),
        ):
            if weight and not fits:
                raise ValueError(
                    f"trainer.{key} is {getattr(trainer, key)}, but objective.contrastive_weight is {weight}, which "
                    f"compares a sample with the next one of the whole batch; allowed with it: {allowed}"
                )

    @property
    def alignment_name(self) -> str:
        """The name that the config gives the alignment."""
        return next(name for name, schema in ALIGNMENTS.items() if type(self.alignment) is schema)

    @property
    def token_times(self) -> bool:
        """Whether tokens of one sample have times of their own."""
        return self.objective.time_per == "token" or self.alignment.needs.token_times

    def free_keys(self) -> list[str]:
        """Keys, or groups of keys, that a continued run may have changed: they do not say what it computes.

        The number of steps is one of them unless the learning rate depends on it.
        """
        steps = ["trainer.steps"] if self.optimizer.schedule == "constant" else []
        return [*free_keys(type(self)), *steps]

    @property
    def cache(self) -> Path:
        """Where what was measured or trained once is kept for other runs."""
        return Path(self.runs_dir) / "cache"

    def check_model(self, backbone: Any, drop: float) -> None:
        """Raises ValueError where alignment or guidance ask for what the model does not have; a domain calls it.

        backbone  its config, with `num_blocks` and `null_label`, and what `check_tokens` asks; drop: conditioning.drop
        """
        check_layers(self.alignment, backbone.num_blocks)
        self.check_tokens(backbone)
        self._check_routed(backbone.num_blocks)
        scale = self.optimizer.lr_scale
        if scale is not None and scale.blocks > backbone.num_blocks:
            raise ValueError(
                f"optimizer.lr_scale.blocks is {scale.blocks}; the backbone has blocks 1 to {backbone.num_blocks}"
            )
        self.check_guidance(drop, backbone.null_label)

    def check_media(self, cache: str | None) -> None:
        """Raises ValueError where an encoder is to see media, and the data are a `cache` without its features."""
        for encoder in self.alignment.needs.features if cache is not None else ():
            with config_keys():
                check_cached(encoder, cache)

    def _check_routed(self, num_blocks: int) -> None:
        """Raises ValueError where tokens skip blocks that there are not, or in which a method needs all of them."""
        routing, needs = self.trainer.routing, self.alignment.needs
        if routing is None:
            return
        if routing.last > num_blocks:
            raise ValueError(f"trainer.routing.last is {routing.last}; the backbone has blocks 1 to {num_blocks}")
        told = f"trainer.routing lets tokens skip blocks {routing.first} to {routing.last}"
        if needs.any_block:
            raise ValueError(f"{told}, but {self.alignment.layers_key} may become any block; allowed with it: numbers")
        if not needs.all_tokens:
            return
        for layer in settle(self.alignment, num_blocks, self.seed).layers:
            if not isinstance(layer, int) or routing.first <= layer <= routing.last:
                raise ValueError(
                    f"{told}, but {self.alignment.layers_key} of alignment {self.alignment_name!r}, which needs all "
                    f"tokens, names {layer}; allowed: numbers of other blocks"
                )

    def check_tokens(self, backbone: Any) -> None:
        """Raises ValueError where tokens are told apart, or left out, that the backbone treats alike.

        backbone  its config, with `token_times` False where it takes one time for a sample, `token_groups` False
                  where its attention takes no groups, `token_routing` True where tokens may skip its blocks,
                  and `output_layer` False where it has none to be copied
        """
        if self.trainer.routing is not None and not getattr(backbone, "token_routing", False):
            raise ValueError("trainer.routing is given, but tokens cannot skip blocks of this backbone; allowed: null")
        name, needs = self.alignment_name, self.alignment.needs
        if self.token_times and not getattr(backbone, "token_times", True):
            if needs.token_times:
                raise ValueError(f"alignment is {name!r}, which gives a sample two times; this backbone takes one")
            raise ValueError("objective.time_per is 'token'; allowed with this backbone: sample")
        if needs.second_output and not getattr(backbone, "output_layer", True):
            raise ValueError(f"alignment is {name!r}, which needs a second output layer; this backbone offers none")
        if needs.token_groups and not getattr(backbone, "token_groups", True):
            raise ValueError("alignment.separation is true; allowed with this backbone: false")

    def check_stand_in(self, evaluation: str, own: type, datasets: Mapping[str, type]) -> None:
        """Raises ValueError where an evaluation on the data of a stand-in, `own`, is chosen beside other data."""
        if not isinstance(self.data, own):
            data = next(name for name, schema in datasets.items() if type(self.data) is schema)
            raise ValueError(f"evaluation is {evaluation!r} but data is {data!r}; allowed there: none")

    def check_guidance(self, drop: float, null: bool) -> None:
        """Raises ValueError where there is no unconditional model for what is asked.

        drop  conditioning.drop; null: backbone.null_label
        """
        if drop > 0 and not null:
            raise ValueError("conditioning.drop is above 0 but backbone.null_label is false: there is no null label")
        if self.sampler.guidance_scale != 1 and drop == 0:
            raise ValueError("sampler.guidance_scale is not 1 but conditioning.drop is 0: no unconditional model")
