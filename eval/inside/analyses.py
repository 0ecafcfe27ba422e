"""The analyses of a backbone's blocks: cosines, gradients, dropped blocks, robustness to noise, principal components.

Each takes an opened run and rows of its data and gives numbers; none of them draws or writes.

Letters: K blocks, T times, B batch, n rows, N tokens, D width.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812, the customary name
from torch import Tensor, nn

from core.alignment.contract import Alignment, NoAlignment, build_alignment
from core.alignment.teacher import Teacher
from core.precision import autocast
from core.step import TrainingLoss
from core.storage.weights import load_into
from eval.inside.model import (
    CapturedTokens,
    ForwardOptions,
    TrainedModel,
    batches,
    capture_tokens,
    check_times,
    conditions,
    pool,
    real_tokens,
)


def pooled_tokens(
    model: TrainedModel, rows: Sequence[int], times: Sequence[float], forward: ForwardOptions
) -> dict[float, list[Tensor]]:
    """Mean-pooled tokens (n, D) of every block at every time, on the CPU; the data are read once."""
    parts: dict[float, list[list[Tensor]]] = {float(t): [[] for _ in range(model.depth)] for t in times}
    for captured in capture_tokens(model, rows, times, forward):
        for kept, tokens in zip(parts[captured.t], captured.tokens, strict=True):
            kept.append(pool(tokens, captured.batch.mask).cpu())
    return {t: [torch.cat(kept) for kept in blocks] for t, blocks in parts.items()}


def cosine_matrices(
    model: TrainedModel, rows: Sequence[int], times: Sequence[float], forward: ForwardOptions
) -> dict[float, Tensor]:
    """Mean cosine (K, K) of the same token after two blocks, at every time: what LayerSync raises for its pair.

    Raises ValueError when blocks differ in width or in the number of their tokens.
    """
    sums = {float(t): torch.zeros(model.depth, model.depth, dtype=torch.float64) for t in times}
    count = dict.fromkeys(sums, 0)
    for captured in capture_tokens(model, rows, times, forward):
        _check_same_shape(captured.tokens)
        for first in range(0, len(captured.output), 8):  # normalised copies of a few rows at a time
            part = [tokens[first : first + 8] for tokens in captured.tokens]
            mask = None if captured.batch.mask is None else captured.batch.mask[first : first + 8]
            real = real_tokens(part[0], mask)
            unit = torch.stack([F.normalize(tokens, dim=-1)[real].flatten() for tokens in part])
            sums[captured.t] += (unit @ unit.T).double().cpu()
            count[captured.t] += int(real.sum())
    return {t: (total / count[t]).clamp(-1, 1) for t, total in sums.items()}


def _check_same_shape(tokens: Sequence[Tensor]) -> None:
    shapes = {tuple(each.shape[1:]) for each in tokens}
    if len(shapes) > 1:
        raise ValueError(f"parts holds 'cosine', but the blocks give tokens of different shapes: {sorted(shapes)}")


def noise_robustness(
    model: TrainedModel, rows: Sequence[int], times: Sequence[float], forward: ForwardOptions
) -> dict[float, Tensor]:
    """Mean cosine (K,) of a block's tokens at each time with its tokens for the clean sample, at t = 1."""
    sums = {float(t): torch.zeros(model.depth, dtype=torch.float64) for t in times}
    clean: list[Tensor] = []
    for captured in capture_tokens(model, rows, [1.0, *(t for t in sums if t != 1)], forward):
        clean = captured.tokens if captured.t == 1 else clean  # of this batch: t = 1 comes first
        if captured.t in sums:
            cosines = [_row_cosines(a, b, captured).sum() for a, b in zip(captured.tokens, clean, strict=True)]
            sums[captured.t] += torch.stack(cosines).double().cpu()
    return {t: total / len(rows) for t, total in sums.items()}


def _row_cosines(a: Tensor, b: Tensor, captured: CapturedTokens) -> Tensor:
    """Mean over a row's real tokens of their cosine, (B,)."""
    return pool(F.cosine_similarity(a, b, dim=-1)[..., None], captured.batch.mask)[:, 0]


class FlowAlone(NoAlignment):
    """No term, on the times and the groups of tokens that another method draws."""

    def __init__(self, other: Alignment):
        super().__init__()
        self.times, self.attention = other.times, other.attention


def gradient_norms(model: TrainedModel, rows: Sequence[int], step: int, forward: ForwardOptions) -> dict[str, Tensor]:
    """L2 norm (K,) of the gradient of the training loss by each block's parameters.

    flow       of the flow-matching loss alone
    alignment  of the run's alignment loss alone, at optimizer step `step`
    total      of both; these two, and the next, are left out where the run has no alignment
    cosine     (K,) of the gradients of flow and alignment, 0 where one of them is 0

    The loss is the run's own, its times, noise and dropped conditions drawn from (seed, row), its mean over the rows;
    a teacher has the model's own weights. A term that compares the rows of a batch sees those that are read at once.
    """
    needs = model.alignment.needs
    teacher = Teacher(model.domain.backbone, needs.teacher, forward.precision) if needs.teacher else None
    alignment = build_alignment(model.alignment, model.domain.backbone, model.domain.encoders)
    load_into(alignment.heads.to(model.device), model.heads, "group 'alignment'")
    try:
        with alignment.paused():
            flow = _gradients(model, rows, step, forward, FlowAlone(alignment))
        norms = {"flow": torch.stack([each.norm() for each in flow])}
        if not model.alignment.layers:
            return norms
        total = _gradients(model, rows, step, forward, alignment, teacher)
    finally:
        alignment.remove()
    rest = [a - b for a, b in zip(total, flow, strict=True)]
    norms["alignment"], norms["total"] = (torch.stack([each.norm() for each in part]) for part in (rest, total))
    norms["cosine"] = torch.stack([_cosine(a, b) for a, b in zip(flow, rest, strict=True)])
    return norms


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    """The cosine of two gradients; 0 where one is nothing but the rounding of the other."""
    small = min(a.norm(), b.norm()) <= 1e-6 * max(a.norm(), b.norm())
    return a.new_zeros(()) if small else F.cosine_similarity(a, b, dim=0)


def _gradients(
    model: TrainedModel,
    rows: Sequence[int],
    step: int,
    forward: ForwardOptions,
    alignment: Alignment,
    teacher: Teacher | None = None,
) -> list[Tensor]:
    """The gradient of the mean loss by the parameters of each block, each a long vector on the CPU."""
    domain = model.domain
    backbone = domain.backbone
    parts = (domain.tokenizer, domain.conditioning, backbone, backbone, model.flow(), alignment)
    loss = TrainingLoss(*parts, forward.precision, teacher, model.alignment.needs)
    backbone.zero_grad(set_to_none=True)
    try:
        for batch, (first, last), random in batches(model, rows, forward):
            (loss(batch, random, step).total * (last - first) / len(rows)).backward()
        return [_gradient(block) for block in backbone.blocks]
    finally:
        backbone.zero_grad(set_to_none=True)


def _gradient(module: nn.Module) -> Tensor:
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in module.parameters()]
    return torch.cat([part.flatten().float().cpu() for part in parts]) if parts else torch.zeros(1)


@torch.no_grad()
def drop_effects(
    model: TrainedModel, rows: Sequence[int], times: Sequence[float], forward: ForwardOptions
) -> dict[str, Any]:
    """Measure what it costs to leave one block out, its input handed on: at each time, for each block.

    loss         flow loss of the whole backbone, by time
    loss_change  (K,) by time: flow loss without the block, less that
    output       (K,) by time: |output without the block - output| / |output|, mean over rows

    Times are moved into the interval in which the objective is defined. Raises ValueError for a block whose output has
    another shape than its input.
    """
    check_times(times)
    sums = {float(t): torch.zeros(model.depth + 1, 2, dtype=torch.float64) for t in times}
    for batch, position, random in batches(model, rows, forward):
        condition = conditions(model, batch, position, len(rows), forward)
        latents = model.domain.tokenizer.encode(batch.media, random)
        noise = random.normal("noise", tuple(latents.shape))
        for t, total in sums.items():
            total += _drop_each(model, (latents, noise, t), condition, batch.mask, forward)
    means = {t: total / len(rows) for t, total in sums.items()}
    return {
        "loss": {t: float(mean[0, 0]) for t, mean in means.items()},
        "loss_change": {t: mean[1:, 0] - mean[0, 0] for t, mean in means.items()},
        "output": {t: mean[1:, 1] for t, mean in means.items()},
    }


def _drop_each(
    model: TrainedModel,
    point: tuple[Tensor, Tensor, float],
    condition: Tensor,
    mask: Tensor | None,
    forward: ForwardOptions,
) -> Tensor:
    """Sums over rows (K + 1, 2) of flow loss and relative change of the output; row 0 is the whole backbone."""
    latents, noise, time = point
    flow, backbone = model.flow(), model.domain.backbone
    low, high = flow.interval
    t = torch.full((len(latents),), min(max(time, low), high), device=latents.device)
    counted = None if mask is None else backbone.expand(mask, latents)

    def network(x: Tensor, t: Tensor) -> Tensor:
        with autocast(model.device, forward.precision):
            return backbone(x, t, condition, mask).float()

    whole = flow(network, latents, noise, t, counted)
    sums = [[whole.loss.sum(), whole.loss.new_zeros(())]]
    for number, block in enumerate(backbone.blocks, start=1):
        with left_out(block, number):
            without = flow(network, latents, noise, t, counted)
        change = (without.prediction - whole.prediction).flatten(1).norm(dim=1)
        relative = change / whole.prediction.flatten(1).norm(dim=1).clamp_min(1e-12)
        sums.append([without.loss.sum(), relative.sum()])
    return torch.tensor([[float(value) for value in row] for row in sums], dtype=torch.float64)


@contextlib.contextmanager
def left_out(block: nn.Module, number: int) -> Iterator[None]:
    """Make a block hand on its first tensor input in place of the tokens it makes, within the `with` statement."""

    def identity(module: nn.Module, inputs: tuple, named: dict[str, Any], output: Any) -> Any:
        made = output[0] if isinstance(output, tuple | list) else output
        given = next((each for each in (*inputs, *named.values()) if isinstance(each, Tensor)), None)
        if given is None or given.shape != made.shape:
            raise ValueError(f"parts holds 'drop', but block {number} gives tokens of another shape than it takes")
        return given if made is output else type(output)((given, *output[1:]))

    handle = block.register_forward_hook(identity, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def principal_colours(blocks: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
    """The first three principal components of every block's tokens (n, N, D) as colours (n, N, 3) in [0, 1].

    Each block has its own components, of the tokens of all samples together; a component lies between its 1st and 99th
    percentile, and its sign is the one that agrees with the block before. Also the share of the variance (K, 3).
    """
    colours, shares = [], []
    before: Tensor | None = None
    for tokens in blocks:
        scores, share = _principal(tokens.flatten(0, 1).double())
        if before is not None:
            agree = (scores * before).sum(0)
            scores = scores * torch.where(agree < 0, -1.0, 1.0)
        before = scores
        low, high = (torch.quantile(scores, q, dim=0) for q in (0.01, 0.99))
        scaled = (scores - low) / (high - low).clamp_min(1e-12)
        colours.append(scaled.clamp(0, 1).float().unflatten(0, tokens.shape[:2]))
        shares.append(share)
    return colours, torch.stack(shares)


def _principal(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Scores (n, 3) of tokens (n, D) on their first three components, zero where there are fewer, and their shares."""
    rest = tokens - tokens.mean(0)
    left, values, _ = torch.linalg.svd(rest, full_matrices=False)
    first = F.pad(left * values, (0, max(0, 3 - len(values))))[:, :3]
    share = F.pad(values.square() / values.square().sum().clamp_min(1e-30), (0, max(0, 3 - len(values))))[:3]
    return first, share
