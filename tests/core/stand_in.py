"""A transformer small enough to read: what LayerSync needs of a model, and nothing else. B batch, N tokens, D width."""

import torch
import torch.nn.functional as F  # noqa: N812, the customary name
from torch import nn

CHANNELS, WIDTH, DEPTH = 5, 16, 6


class Block(nn.Module):
    """Each token by itself, (..., D) -> (..., D), so that a padded token can be told from a real one."""

    def __init__(self, width=WIDTH):
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(width), nn.Linear(width, width)

    def forward(self, x):
        return x + F.gelu(self.linear(self.norm(x)))


class Transformer(nn.Module):
    """(..., N, CHANNELS) -> the same shape through a list of blocks; a block may return a tuple led by its tokens."""

    def __init__(self, blocks=None, width=WIDTH):
        super().__init__()
        self.embed = nn.Linear(CHANNELS, width)
        self.blocks = nn.ModuleList([Block(width) for _ in range(DEPTH)] if blocks is None else blocks)
        self.head = nn.Linear(width, CHANNELS)

    def forward(self, x):
        x = self.embed(x)
        for block in self.blocks:
            x = self.through(block, x)
        return self.head(x)

    def through(self, block, x):
        """What one block makes of the tokens."""
        out = block(x)
        return out[0] if isinstance(out, (tuple, list)) else out


class Recorded(nn.Module):
    """A block that emits the tokens it was given at birth, whatever it is called with."""

    def __init__(self, tokens):
        super().__init__()
        self.tokens = nn.Parameter(tokens.clone())

    def forward(self, x):
        return self.tokens


def transformer(kind=Transformer, seed=0, **kwargs):
    """A `Transformer` with weights from `seed`, in training mode."""
    torch.manual_seed(seed)
    return kind(**kwargs)


class Player(nn.Module):
    """A model whose block i (from 1) emits tokens[i - 1]."""

    def __init__(self, tokens):
        super().__init__()
        self.blocks = nn.ModuleList(Recorded(item) for item in tokens)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


def media(batch=3, tokens=4, seed=1):
    """Input (B, N, CHANNELS) for a `Transformer`."""
    return torch.randn(batch, tokens, CHANNELS, generator=torch.Generator().manual_seed(seed))


def gradients(model):
    """Gradients by parameter name; None where backward did not reach."""
    return {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}
