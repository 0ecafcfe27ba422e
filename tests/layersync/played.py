"""LayerSync on a model that plays recorded tokens."""

import math

import torch

from layersync import LayerSync
from tests.core.stand_in import Player


def close(actual, expected, tolerance=1e-6):
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=tolerance)


def played(pairs, *tokens, **options):
    """LayerSync on a model whose block i (from 1) emits tokens[i - 1], after a forward."""
    model = Player(tokens)
    sync = LayerSync(model, pairs, **options)
    model(torch.zeros(1))
    return sync


def tokens_like(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def two_sides(*shape, seed=0):
    return tokens_like(*shape, seed=seed), tokens_like(*shape, seed=seed + 1)


def masked_example():
    """Tokens (3, 5, 4) of which 5, 2 and 1 are real, the rest NaN."""
    weak, strong = two_sides(3, 5, 4)
    mask = torch.arange(5) < torch.tensor([[5], [2], [1]])
    spoil = mask.logical_not().unsqueeze(-1)
    return weak, strong, mask, weak.masked_fill(spoil, math.nan), strong.masked_fill(spoil, math.nan)
