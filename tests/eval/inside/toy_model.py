"""A domain small enough to know every token of: rows of numbers, blocks whose tokens are said, labels as conditions.

Letters: n rows, N tokens, D width.
"""

import torch
from torch import nn

from core.alignment.contract import NoAlignmentConfig
from core.alignment.layersync import LayerSyncConfig
from core.contracts import Domain
from core.flow.objective import ObjectiveConfig
from core.flow.path import broadcast_time
from eval.inside.model import TrainedModel

TOKENS, WIDTH, CLASSES = 6, 4, 2


class Rows:
    """Media (n, N, D) with labels (n,)."""

    def __init__(self, media, labels, masks=None):
        self.media, self.labels, self.masks = media, labels, masks
        self.media_shape, self.class_names = tuple(media.shape[1:]), [str(c) for c in range(CLASSES)]

    def __len__(self):
        return len(self.media)

    def item(self, index, rng):
        item = {"media": self.media[index], "condition": int(self.labels[index])}
        return item if self.masks is None else {**item, "mask": self.masks[index]}

    def name(self, index):
        return f"row {index}"


class Same:
    """The tokenizer that does nothing."""

    def latent_shape(self, media_shape):
        return media_shape

    def encode(self, media, random):
        return media

    def decode(self, latents):
        return latents


class Labels:
    """The null condition is CLASSES."""

    def drop(self, condition, random):
        return condition

    def null(self, condition):
        return torch.full_like(condition, CLASSES)

    def requests(self, num, seed):
        return torch.arange(num) % CLASSES


class Residual(nn.Module):
    """x + gate * tanh(linear(x))."""

    def __init__(self, gate=1.0):
        super().__init__()
        self.linear, self.gate = nn.Linear(WIDTH, WIDTH), gate

    def forward(self, x):
        return x + self.gate * torch.tanh(self.linear(x))


class Function(nn.Module):
    """A block that is a function of its tokens."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Backbone(nn.Module):
    """Tokens (B, N, D) through blocks; `label` times the condition, -1 for the null one, is added to every token."""

    def __init__(self, blocks, label=0.0):
        super().__init__()
        self.blocks, self.label = nn.ModuleList(blocks), label
        self.num_tokens, self.token_size, self.seen = TOKENS, WIDTH, []

    def expand(self, values, x):
        return broadcast_time(values, x)

    def forward(self, x, t, condition, mask=None):
        self.seen.append(condition.clone())
        sign = torch.where(condition == CLASSES, -1, condition).float()
        x = x + self.label * sign[:, None, None]
        for block in self.blocks:
            out = block(x)
            x = out[0] if isinstance(out, tuple) else out
        return x


class Framed(Backbone):
    """A backbone whose blocks hand over frames of two tokens, (B, F, N, D)."""

    token_dim = (1, 2)

    def forward(self, x, t, condition, mask=None):
        return super().forward(x.unflatten(1, (-1, 2)), t, condition[:, None], mask).flatten(1, 2)


def opened(backbone, media=None, labels=None, *, pairs=None, masks=None, rows=64):
    """A `TrainedModel` of a toy backbone; without media, normal numbers from a seed."""
    if media is None:
        media = torch.randn(rows, TOKENS, WIDTH, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(len(media)) % CLASSES if labels is None else labels
    dataset = Rows(media, labels, masks)
    domain = Domain("toy", "row", dataset, Same(), backbone.eval(), Labels(), preview=None)
    alignment = NoAlignmentConfig() if pairs is None else LayerSyncConfig(pairs, weight=0.5)
    return TrainedModel(domain, ObjectiveConfig(), alignment, torch.device("cpu"))


def residual(depth=4, seed=0, kind=Backbone, **options):
    """A backbone of residual blocks with weights from a seed."""
    torch.manual_seed(seed)
    return kind([Residual() for _ in range(depth)], **options)
