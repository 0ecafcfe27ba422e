"""How good the tokens of each block are, by numbers that need no label, and by a probe where there are labels.

Letters: K blocks, n rows, B batch, N tokens, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812, the customary name
from torch import Tensor

from eval.inside.model import ForwardOptions, TrainedModel, capture_tokens, pool, real_tokens
from eval.inside.representations import Neighbourhood

NOISES = ("noise", "other noise")  # streams of the two draws
FLAT = 0.01  # a criterion whose range over the blocks is a smaller part of its largest value tells none from another


@dataclass
class Read:
    """What is read of all rows at one time.

    pooled  mean-pooled tokens of every block, each (n, D)
    same    (K,) sums over samples of the mean cosine of a token with itself under the other noise
    other   (K,) and with that of another sample
    count   samples that have another one beside them
    """

    pooled: list[list[Tensor]]
    same: Tensor
    other: Tensor
    count: int = 0


def label_free(
    model: TrainedModel, rows: Sequence[int], times: Sequence[float], forward: ForwardOptions, neighbours: int
) -> dict[str, dict[float, Tensor]]:
    """Three criteria (K,) of every block at each time, the larger the better.

    agreement  (s - o) / (1 - o): s the mean cosine of a token with itself under another noise, o with the same place of
               the next sample of the batch under that noise; 1: the noise is gone, 0: there is nothing but noise
    cknna      CKNNA, k = `neighbours`, of mean-pooled tokens with the clean latents, padding zero
    rank       effective rank of mean-pooled tokens: exp of the entropy of the singular values' shares (Roy and
               Vetterli, EUSIPCO 2007), over the most that it can be, min(n - 1, D)

    Raises ValueError where no batch has two samples.
    """
    read = {float(t): _nothing(model.depth) for t in times}
    clean: list[Tensor] = []
    passes = capture_tokens(model, rows, times, forward, NOISES)
    for first, second in zip(passes, passes, strict=True):
        mask, at = first.batch.mask, read[first.t]
        if first.t == times[0]:
            clean.append(clean_latents(model, first.latents, mask))
        for number, (a, b) in enumerate(zip(first.tokens, second.tokens, strict=True)):
            at.pooled[number].append(pool(a, mask).cpu())
            same, other = agreement_parts(a, b, mask)
            at.same[number] += same.double().cpu()
            at.other[number] += other.double().cpu()
        at.count += len(first.output) if len(first.output) > 1 else 0
    if not all(at.count for at in read.values()):
        raise ValueError("batch_size or num is 1: agreement compares each sample with another of its batch")
    near = Neighbourhood(torch.cat(clean), neighbours)
    pooled = {t: [torch.cat(kept) for kept in at.pooled] for t, at in read.items()}
    return {
        "agreement": {t: agreement(at.same / at.count, at.other / at.count) for t, at in read.items()},
        "cknna": {t: _each(xs, lambda x: Neighbourhood(x, neighbours).cknna(near)) for t, xs in pooled.items()},
        "rank": {t: _each(xs, effective_rank) for t, xs in pooled.items()},
    }


def _nothing(depth: int) -> Read:
    zeros = torch.zeros(2, depth, dtype=torch.float64)
    return Read([[] for _ in range(depth)], *zeros)


def _each(blocks, measure) -> Tensor:
    return torch.tensor([measure(x) for x in blocks], dtype=torch.float64)


def clean_latents(model: TrainedModel, latents: Tensor, mask: Tensor | None) -> Tensor:
    """Latents (B, *latent) as rows on the CPU, zero where padding is."""
    if mask is not None:
        real = model.domain.backbone.expand(mask, latents).bool()
        latents = torch.where(real, latents, 0)
    return latents.flatten(1).float().cpu()


def agreement_parts(a: Tensor, b: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Sums over samples of the mean cosine of tokens a (B, N, D) with b: of the same sample, of the next; 0 for one.

    Of the next at the places that are real in both; a sample that shares none with it counts 0 there.
    """
    if len(a) < 2:
        return a.new_zeros(()), a.new_zeros(())
    real = real_tokens(a, mask)
    both = real & real.roll(-1, 0)
    pairs = ((F.cosine_similarity(a, b, dim=-1), real), (F.cosine_similarity(a, b.roll(-1, 0), dim=-1), both))
    return tuple((torch.where(at, cosine, 0).sum(1) / at.sum(1).clamp_min(1)).sum() for cosine, at in pairs)


def agreement(same: Tensor, other: Tensor) -> Tensor:
    """(same - other) / (1 - other), 0 where all samples are alike."""
    rest = 1 - other
    return torch.where(rest > 1e-6, (same - other) / rest.clamp_min(1e-6), 0.0)


def effective_rank(features: Tensor) -> float:
    """Effective rank of features (n, D) around their mean, over min(n - 1, D): in (0, 1], 0 where nothing varies."""
    rest = features.double() - features.double().mean(0)
    values = torch.linalg.svdvals(rest)
    if values[0] <= 1e-9 * features.abs().max():
        return 0.0
    shares = values / values.sum()
    entropy = -torch.xlogy(shares, shares).sum()
    return float(entropy.exp()) / min(len(features) - 1, features.shape[1])


def block_scores(criteria: Mapping[str, Mapping[float, Tensor]]) -> tuple[dict[str, list[float]], list[str]]:
    """Each criterion, its mean over times scaled to [0, 1] over the blocks; and those that do not tell blocks apart.

    The latter's range over the blocks is below a hundredth of their largest value; they are 0 and left out of a mean.
    """
    scaled, flat = {}, []
    for name, by_time in criteria.items():
        mean = torch.stack(list(by_time.values())).double().mean(0)
        spread = mean.max() - mean.min()
        if spread <= FLAT * mean.abs().max():
            flat.append(name)
            scaled[name] = [0.0] * len(mean)
        else:
            scaled[name] = ((mean - mean.min()) / spread).tolist()
    return scaled, flat


def quality(scaled: Mapping[str, Sequence[float]], flat: Sequence[str]) -> list[float]:
    """The mean (K,) of scaled criteria that tell blocks apart; zeros where none does."""
    kept = [values for name, values in scaled.items() if name not in flat]
    depth = len(next(iter(scaled.values())))
    return [sum(values[block] for values in kept) / max(1, len(kept)) for block in range(depth)]
