"""A small backbone and the other parts of a training loss."""

import torch

from core.conditioning.labels import LabelConditioning, LabelConfig
from core.contracts import Batch
from core.flow.objective import FlowMatching, ObjectiveConfig
from core.latents.pixels import Pixels
from core.nets.layers import BlockOptions, LabelEmbedder
from core.nets.sit import Recipe, SiT


def tiny(width=24, depth=3, **recipe):
    """A SiT with random weights everywhere, for latents (2, 6, 4) in patches of 2."""
    model = SiT(
        (2, 6, 4),
        Recipe(depth, 2, BlockOptions(width, 2), **recipe),
        lambda size: LabelEmbedder(3, size, null_row=True),
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


class Recorded:
    """Streams of numbers that are given: normal draws in the order in which they are asked for."""

    def __init__(self, **streams):
        self.streams = {name: list(values) for name, values in streams.items()}

    def normal(self, stream, shape):
        return self.streams[stream].pop(0).reshape(shape)

    def uniform(self, stream, shape):
        return self.normal(stream, shape)


class Same:
    """Conditions that nothing is dropped of."""

    def drop(self, condition, random):
        return condition


def rows(media, mask=None):
    """Media as a batch of conditions that nothing looks at."""
    return Batch(media, torch.zeros(len(media), dtype=torch.int64), torch.arange(len(media)), mask)


def loss_parts(model):
    """What a `core.step.TrainingLoss` has in front of the alignment."""
    conditioning = LabelConditioning(LabelConfig(drop=0), 3)
    return Pixels(), conditioning, model, model, FlowMatching(ObjectiveConfig(), model.expand)
