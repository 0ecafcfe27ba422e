"""Do pairs find each other: R-precision and the distance of matching pairs.

Letters: n pairs, D features, M pools, P pairs of a pool, k candidates looked at.
"""

from __future__ import annotations

import numpy as np

from eval.statistics.arrays import Features, checked
from eval.statistics.estimate import Estimate

POOL = 32  # the pool of every published R-precision of text-to-motion


def pool_distances(queries: Features, candidates: Features, pool: int = POOL) -> np.ndarray:
    """Euclidean distances (M, P, P) within consecutive pools, query by row, candidate by column.

    queries, candidates: (n, D), row i of both is a pair (a text and its motion). A last pool that is not full is left
    out: chance within it would be higher. Raises ValueError for what `checked` refuses, other sizes, or n < P.
    """
    queries, candidates = (
        checked(side, "retrieval", max(pool, 2), name).astype(np.float64)
        for side, name in ((queries, "queries"), (candidates, "candidates"))
    )
    if queries.shape != candidates.shape:
        raise ValueError(f"queries {queries.shape} and candidates {candidates.shape} are not pairs of one width")
    pools = len(queries) // pool
    q, c = (side[: pools * pool].reshape(pools, pool, -1) for side in (queries, candidates))
    return np.stack([np.linalg.norm(q[i, :, None] - c[i, None], axis=-1) for i in range(pools)])


def r_precision(queries: Features, candidates: Features, *, top: int = 3, pool: int = POOL) -> tuple[Estimate, ...]:
    """Share of queries whose own candidate is among the k nearest of its pool, for k = 1 .. top (Guo et al. 2022).

    Chance is k / P. Pools are consecutive rows: shuffle the pairs before, and with another seed for each replication.
    parameters hold the number of hits. Raises ValueError as `pool_distances`, or for a top outside 1 .. P.
    """
    if not 1 <= top <= pool:
        raise ValueError(f"top is {top}; allowed: 1 to {pool}")
    order = pool_distances(queries, candidates, pool).argsort(axis=-1, kind="stable")
    hit = order[..., :top] == np.arange(pool)[:, None]
    hits, total = hit.cumsum(-1).sum((0, 1)), order.shape[0] * pool
    return tuple(
        Estimate(float(found / total), total, parameters={"k": k, "pool": pool, "hits": int(found)})
        for k, found in enumerate(hits, start=1)
    )


def matching_distance(queries: Features, candidates: Features, *, pool: int = POOL) -> Estimate:
    """Mean Euclidean distance of the pairs that R-precision sees (MM-Dist, "matching score"); errors as there."""
    diagonals = pool_distances(queries, candidates, pool).diagonal(axis1=1, axis2=2)
    return Estimate(float(diagonals.mean()), diagonals.size, parameters={"pool": pool})
