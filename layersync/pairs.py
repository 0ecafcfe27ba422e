"""Which pairs of blocks may be aligned, one for any depth by rule, and the best by a score of each block.

What the paper says (arXiv 2510.12581, section 3.4): the strong block is neither among the last fifth of the blocks,
which decode, nor among the first few; the weak one is early; the two keep a distance, 8 blocks of SiT-XL/2's 28. It
names two pairs, 8 -> 16 of 28 and 8 -> 18 of 24. They stand at other shares of their depths, so that no one line goes
through both: at these depths the rule is the paper's pair, and at others that of SiT-XL/2 scaled.

Blocks are numbered from 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Pair = tuple[int, int]
PUBLISHED: Mapping[int, Pair] = {28: (8, 16), 24: (8, 18)}  # SiT-XL/2 and SiT-L/2
NAMES = {28: "SiT-XL/2", 24: "SiT-L/2"}
FEWEST = 4  # blocks: with less there is none between the first and the last fifth that is not the other's neighbour


@dataclass(frozen=True)
class PairChoice:
    """A pair (weak, strong), and why it is that one."""

    pair: Pair
    reasons: list[str] = field(default_factory=list)


def least_distance(depth: int) -> int:
    """Blocks from weak to strong at least: 8 of 28, scaled to `depth`."""
    return max(1, round(depth * 8 / 28))


def last_strong(depth: int) -> int:
    """The last block in front of the last fifth."""
    return 4 * depth // 5


def allowed_pairs(depth: int) -> list[Pair]:
    """All pairs that keep the paper's rules: weak in the first half, `least_distance` apart, up to `last_strong`."""
    return [
        (weak, strong)
        for weak in range(1, depth // 2 + 1)
        for strong in range(weak + least_distance(depth), last_strong(depth) + 1)
    ]


def check_depth(depth: int, what: str) -> None:
    """Raises ValueError for a model of too few blocks to choose a pair of them; `what` names the option."""
    if depth < FEWEST:
        raise ValueError(
            f"{what}, but the model has {depth} blocks; needed: {FEWEST} at least, or a pair by its numbers"
        )


def rule_pair(depth: int) -> PairChoice:
    """The pair of a model with `depth` blocks by the paper's rules, a function of the depth alone.

    Raises ValueError for fewer than 4 blocks.
    """
    check_depth(depth, "pairs is 'auto'")
    weak = max(2, (3 * depth + 5) // 10)
    strong = max((8 * depth + 7) // 14, weak + least_distance(depth))
    scaled = f"{weak} -> {strong}"
    if depth in PUBLISHED:
        pair = PUBLISHED[depth]
        own = [f"{pair[0]} -> {pair[1]} is the paper's pair of {depth} blocks ({NAMES[depth]})"]
        own += [f"the pair of 28 blocks, scaled, would be {scaled}"] * (pair != (weak, strong))
    else:
        pair = weak, strong
        own = [f"the paper names no pair of {depth} blocks: {scaled} is that of 28 (8 -> 16), scaled"]
    return PairChoice(pair, [*own, *_kept_rules(pair, depth)])


def _kept_rules(pair: Pair, depth: int) -> list[str]:
    weak, strong = pair
    return [
        f"block {weak} is early, behind the first, and learns from block {strong}",
        f"block {strong} is not in the last fifth, which decodes: blocks {last_strong(depth) + 1} to {depth}",
        f"they are {strong - weak} apart, {least_distance(depth)} at least (8 of 28 blocks, scaled)",
    ]


def rank_pairs(scores: Sequence[float], count: int | None = None) -> list[tuple[Pair, float]]:
    """Pairs whose strong block scores above its weak one, and by how much, the largest gain first.

    Of the allowed pairs of a model whose blocks have `scores`, in order; for each weak block its best partner, of equal
    gains the later blocks. At most `count`, or all.
    """
    best: dict[int, tuple[Pair, float]] = {}
    for weak, strong in allowed_pairs(len(scores)):
        gain = float(scores[strong - 1] - scores[weak - 1])
        if gain > 0 and (weak not in best or gain >= best[weak][1]):
            best[weak] = ((weak, strong), gain)
    return sorted(best.values(), key=lambda found: -found[1])[:count]
