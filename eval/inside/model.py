"""A trained model: a run is opened, its data pass through the backbone, the tokens of every block are captured.

Works for any domain: its parts come from the module `<domain>.train` (ENTRY and build_domain), its blocks through
`layersync.hooks`. Blocks are numbered from 1; flow time t = 0 is noise, t = 1 is data.

Letters: B batch, n rows, N tokens, D width.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from core.alignment.contract import AlignmentConfig, listen, settle
from core.contracts import Batch, Dataset, Domain, Requests, TokenSequence
from core.data.stream import collate
from core.draws import SampleRandom, numpy_rng
from core.flow.objective import FlowMatching, ObjectiveConfig
from core.precision import Precision, autocast
from core.processes.world import pick_device
from core.schema import strict
from core.storage.checkpoint import CheckpointStore, State, follow_latest, read_checkpoint
from core.storage.coming import give_memory, weights_expected
from core.storage.run_folder import RunDirectory
from core.storage.weights import check_finite_weights, load_into, load_weights
from core.train.config import RunConfig
from layersync.hooks import LayerHooks

Condition = Literal["unconditional", "own", "requested"]


@dataclass(frozen=True)
class ForwardOptions:
    """Options of the forward passes of the data through the backbone.

    seed       of noise and posterior (functions of seed and row), and of requested conditions
    condition  unconditional: the null condition; own: each row's own; requested: as made up for sampling, which knows
               nothing of the row
    """

    seed: int = 0
    batch_size: int = 64
    condition: Condition = "unconditional"
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}; it must be at least 1")


@dataclass(frozen=True)
class TrainedModel:
    """A trained model with the data set that it was trained on.

    alignment     its config in the run, with what was drawn for it
    null_trained  the run dropped conditions, so that the null condition means something
    heads         weights of the alignment's heads, empty where it has none
    facts         run, domain, checkpoint, step and weights, for records
    config        the run's; None for a model that was made by hand
    """

    domain: Domain
    objective: ObjectiveConfig
    alignment: AlignmentConfig
    device: torch.device
    null_trained: bool = True
    heads: State = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    config: RunConfig | None = None

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.domain.backbone.blocks)

    @property
    def blocks_name(self) -> str:
        """The module name of the list of blocks."""
        backbone = self.domain.backbone
        return next(name for name, module in backbone.named_modules() if module is backbone.blocks)

    @property
    def grid(self) -> tuple[int, ...]:
        """Layout of the tokens: the backbone's `grid`, or one long row."""
        return tuple(getattr(self.domain.backbone, "grid", (self.domain.backbone.num_tokens,)))

    def flow(self) -> FlowMatching:
        """The run's objective."""
        return self.objective.build(self.domain.backbone)


@dataclass(frozen=True)
class CapturedTokens:
    """What one forward pass gave: rows of the data set, their noisy latents at `t`, tokens of every block, the output.

    position  the rows, (first, last), among those requested
    tokens    block 1 first, each (B, N, D); frames (B, F, N, D) are one long row of tokens
    """

    batch: Batch
    position: tuple[int, int]
    t: float
    latents: Tensor
    x_t: Tensor
    tokens: list[Tensor]
    output: Tensor


def open_run(
    run: Path | str,
    weights: str = "ema",
    device: str = "auto",
    *,
    checkpoint: str | None = None,
    data: Mapping[str, Any] | None = None,
    evaluate: bool = False,
) -> TrainedModel:
    """The model of a run with the `weights` of its newest sound checkpoint, or of `checkpoint`, in eval mode.

    data      keys of the run's data node to change: another split, or another place. Random mirrors are always off
    evaluate  with the run's evaluator, whose networks and reference may take minutes

    Raises ValueError naming the key for a folder that is no run, missing weights or data, or an unknown domain.
    """
    folder, place = RunDirectory.find(run), pick_device(device)
    source = _checkpoint(folder, weights, checkpoint)
    manifest = read_checkpoint(source, only=()) if source.is_dir() else None
    name = folder.path.resolve().parent.name if manifest is None else str(manifest.notes.get("domain"))
    module = domain_module(name)
    folder.checked_config(module.ENTRY.schema)
    config = strict(module.ENTRY.schema, _values(folder, data or {}))
    with weights_expected():
        domain = module.build_domain(config, place, evaluate=evaluate)
    give_memory(domain.backbone, place)
    load_into(domain.backbone, load_weights(source, prefer=weights), str(source))
    check_finite_weights(domain.backbone, str(source))
    domain.backbone.eval()
    facts = {"run": folder.shown(), "domain": name, "checkpoint": source.name, "weights": weights}
    facts["step"] = None if manifest is None else manifest.step
    trained = getattr(getattr(config, "conditioning", None), "drop", 1) > 0
    heads = read_checkpoint(source, only=("alignment",)).groups.get("alignment", {}) if source.is_dir() else {}
    alignment = settle(config.alignment, len(domain.backbone.blocks), config.seed)
    return TrainedModel(domain, config.objective, alignment, place, trained, heads, facts, config)


def domain_module(name: str) -> Any:
    """The module `<name>.train` of a domain, with ENTRY and build_domain; ValueError where there is none."""
    if not re.fullmatch(r"[a-z_]+", name):
        raise ValueError(f"run belongs to the domain {name!r}, which is no name of a package")
    try:
        module = importlib.import_module(f"{name}.train")
    except ModuleNotFoundError as error:
        if error.name not in (name, f"{name}.train"):
            raise
        raise ValueError(f"run belongs to the domain {name!r}, for which there is no module {name}.train") from error
    missing = [part for part in ("ENTRY", "build_domain") if not hasattr(module, part)]
    if missing:
        raise ValueError(f"run belongs to the domain {name!r}, whose module {name}.train lacks {' and '.join(missing)}")
    return module


def _checkpoint(folder: RunDirectory, weights: str, requested: str | None) -> Path:
    if requested is not None:
        return follow_latest(Path(requested))
    newest = CheckpointStore(folder.checkpoints).newest_intact(only=(weights,))
    if newest is None:
        raise ValueError(f"run is {str(folder.path)!r}, which has no checkpoint yet; checkpoint=... takes another")
    return newest


def _values(folder: RunDirectory, data: Mapping[str, Any]) -> dict[str, Any]:
    """The run's config with keys of its data changed."""
    values = folder.config()
    node = values["data"]
    unknown = sorted(set(data) - set(node))
    if unknown:
        raise ValueError(f"data.{unknown[0]} is no key of the run's data; allowed: {', '.join(sorted(node))}")
    node.update(data)
    if "flip" in node:  # labels and masks are of the image as it is
        node["flip"] = False
    return values


def choose_rows(dataset: Dataset, num: int | None, seed: int) -> list[int]:
    """`num` rows in an order that is a function of the seed, or all of them: a shuffled data set, cut."""
    if num is not None and num < 1:
        raise ValueError(f"the number of rows is {num}; it must be at least 1")
    order = numpy_rng(seed, "inside rows").permutation(len(dataset))
    return order[:num].tolist()


def labels_of(dataset: Dataset, rows: Sequence[int]) -> Tensor:
    """Labels (n,) int64 of rows; ValueError for a data set without classes."""
    labels = getattr(dataset, "labels", None)
    if labels is None:
        raise ValueError("the run's data set has no class labels, which a linear probe of the blocks needs")
    return torch.as_tensor(labels)[torch.as_tensor(rows)].long()


def read_rows(dataset: Dataset, rows: Sequence[int], seed: int) -> Batch:
    """Rows of a data set as a batch; what is random in them is a function of (seed, row)."""
    rngs = [numpy_rng(seed, "inside augment", row) for row in rows]
    items = getattr(dataset, "items", None)
    if items is not None:
        index = np.asarray(rows)
        return collate(Batch(**items(index, rngs), index=torch.from_numpy(index)))
    return collate([{**dataset.item(row, rng), "index": row} for row, rng in zip(rows, rngs, strict=True)])


def conditions(
    model: TrainedModel, batch: Batch, position: tuple[int, int], total: int, forward: ForwardOptions
) -> Tensor | TokenSequence:
    """Conditions (B, ...) for a batch at `position` of `total` rows; ValueError for a null that was never trained."""
    conditioning = model.domain.conditioning
    if forward.condition == "own":
        return batch.condition
    if forward.condition == "requested":
        made = Requests.of(conditioning.requests(total, forward.seed))[slice(*position)]
        return made.condition.to(model.device)
    if not model.null_trained:
        raise ValueError(
            "condition is 'unconditional' but the run has conditioning.drop 0, so its null condition was never "
            "trained; condition=requested gives conditions that know nothing of the row"
        )
    return conditioning.null(batch.condition)


@torch.no_grad()
def capture_tokens(
    model: TrainedModel,
    rows: Sequence[int],
    times: Sequence[float],
    forward: ForwardOptions,
    noises: Sequence[str] = ("noise",),
) -> Iterator[CapturedTokens]:
    """Pass rows through the backbone at every time with every draw of noise, a batch after the other; yields each.

    The noise of a row is the same at all times; `noises` are the streams that it is drawn from, in turn. Raises
    ValueError for a time outside [0, 1].
    """
    check_times(times)
    flow, backbone = model.flow(), model.domain.backbone
    with block_hooks(model) as hooks:
        for batch, position, random in batches(model, rows, forward):
            condition = conditions(model, batch, position, len(rows), forward)
            latents = model.domain.tokenizer.encode(batch.media, random)
            drawn = [random.normal(name, tuple(latents.shape)) for name in noises]
            for time, noise in itertools.product(times, drawn):
                t = torch.full((len(latents),), float(time), device=model.device)
                x_t = flow.interpolant.point(latents, noise, t)
                with autocast(model.device, forward.precision):
                    output = backbone(x_t, flow.path.network_time(t), condition, batch.mask)
                taken = hooks.take()
                tokens = [taken[name].float() for name in hooks.names]
                yield CapturedTokens(batch, position, float(time), latents, x_t, tokens, output.float())


def batches(
    model: TrainedModel, rows: Sequence[int], forward: ForwardOptions
) -> Iterator[tuple[Batch, tuple[int, int], SampleRandom]]:
    """The rows in batches on the device, with their position and their random numbers."""
    for first in range(0, len(rows), forward.batch_size):
        part = list(rows[first : first + forward.batch_size])
        batch = read_rows(model.domain.dataset, part, forward.seed).to(model.device)
        yield batch, (first, first + len(part)), SampleRandom(forward.seed, part, model.device)


@contextlib.contextmanager
def block_hooks(model: TrainedModel) -> Iterator[LayerHooks]:
    """Hooks on all blocks, taken off at the end."""
    hooks = listen(model.domain.backbone, range(1, model.depth + 1), model.blocks_name)
    try:
        yield hooks
    finally:
        hooks.remove()


def check_times(times: Sequence[float], key: str = "t") -> None:
    """Raises ValueError for no time, one outside [0, 1], or one that stands there twice."""
    bad = [time for time in times if not 0 <= time <= 1]
    if bad or not times or len(set(times)) < len(times):
        raise ValueError(f"{key} is {list(times)}; it must hold distinct times in [0, 1], 0 noise and 1 data")


def collect(
    model: TrainedModel, rows: Sequence[int], t: float, forward: ForwardOptions, *, pooled: bool = True
) -> tuple[list[Tensor], Tensor | None]:
    """Tokens of every block, block 1 first, for rows at flow time t, on the CPU in float32.

    pooled  the mean over the real tokens of a row, (n, D); otherwise all of them, (n, N, D): n N D numbers a block.
    Also returned is the mask of the tokens (n, N), or None where all are real.
    """
    parts: list[list[Tensor]] = [[] for _ in range(model.depth)]
    masks = []
    for captured in capture_tokens(model, rows, [t], forward):
        mask = captured.batch.mask
        masks.append(None if mask is None else mask.cpu())
        for kept, tokens in zip(parts, captured.tokens, strict=True):
            kept.append((pool(tokens, mask) if pooled else tokens).cpu())
    return [torch.cat(kept) for kept in parts], None if masks[0] is None else torch.cat(masks)


def pool(tokens: Tensor, mask: Tensor | None) -> Tensor:
    """Mean (B, D) of tokens (B, N, D), of those where mask (B, N) is true; ValueError for a mask of another length."""
    if mask is None:
        return tokens.mean(1)
    real = real_tokens(tokens, mask)
    return torch.where(real[..., None], tokens, 0).sum(1) / real.sum(1, keepdim=True)


def real_tokens(tokens: Tensor, mask: Tensor | None) -> Tensor:
    """Mask (B, N) of tokens (B, N, D), all true without one; ValueError for a mask of another length."""
    if mask is None:
        return tokens.new_ones(tokens.shape[:2], dtype=torch.bool)
    real = mask.flatten(1).bool()
    if real.shape != tokens.shape[:2]:
        raise ValueError(f"a block gave {tokens.shape[1]} tokens, the mask of the data has {real.shape[1]}")
    return real
