"""One training step's loss: the whole way of the data on one page.

data -> tokenizer.encode -> backbone under (objective + alignment) -> loss
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from core.alignment import Alignment
from core.contracts import Backbone, Batch, Conditioning, Tokenizer
from core.draws import Random
from core.objective import FlowMatching


@dataclass(frozen=True)
class Losses:
    """What is minimised, a scalar, and its parts for the log: flow loss (B,) and mean cosine of each pair."""

    total: Tensor
    flow: Tensor
    similarity: dict[str, Tensor]


@dataclass(frozen=True)
class TrainingLoss:
    """The components of a training step, called once for each batch. `network` is the backbone, wrapped or compiled."""

    tokenizer: Tokenizer
    conditioning: Conditioning
    network: Backbone
    backbone: Backbone
    objective: FlowMatching
    alignment: Alignment
    precision: Literal["fp32", "bf16"] = "fp32"

    def __call__(self, batch: Batch, random: Random, step: int) -> Losses:
        """The loss of `batch` at optimizer step `step`, with the noise, times and drops that `random` gives."""
        latents = self.tokenizer.encode(batch.media, random)
        condition = self.conditioning.drop(batch.condition, random)
        noise = random.normal("noise", tuple(latents.shape))
        per_token = self.objective.config.time_per == "token"
        rows = (len(latents), self.backbone.num_tokens) if per_token else (len(latents),)
        t = self.objective.draw_time(random, rows)
        mask = None if batch.mask is None else self.backbone.expand(batch.mask, latents)

        def predict(x: Tensor, t: Tensor) -> Tensor:
            with torch.autocast(x.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                return self.network(x, t, condition, batch.mask)

        result = self.objective(predict, latents, noise, t, mask)
        aligned = self.alignment.terms(step, t, batch.mask)
        return Losses(result.loss.mean() + aligned.loss, result.loss.detach(), aligned.similarity)
