"""One training step's loss: the whole way of the data on one page.

data -> tokenizer.encode -> backbone under (objective + alignment) -> loss
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from core.alignment.contract import Alignment, Forward, Needs
from core.alignment.gather import next_rows
from core.alignment.teacher import Teacher
from core.contracts import Backbone, Batch, Conditioning, Tokenizer
from core.draws import Random
from core.flow.objective import FlowMatching, NextSamples
from core.nets.routing import Routing
from core.precision import Precision, autocast


@dataclass(frozen=True)
class Losses:
    """What is minimised, a scalar, and its parts for the log.

    flow        flow loss (B,) of each sample
    similarity  mean cosine of each pair that is aligned
    values      other numbers of the alignment, by the name of their record
    """

    total: Tensor
    flow: Tensor
    similarity: dict[str, Tensor]
    values: dict[str, Tensor] = field(default_factory=dict)

    def detached(self) -> Losses:
        """The same numbers without the graph behind them."""
        return Losses(self.total.detach(), self.flow, self.similarity, self.values)

    @classmethod
    def joined(cls, parts: Sequence[Losses]) -> Losses:
        """The losses of all micro-batches of a step: means over their samples."""
        if len(parts) == 1:
            return parts[0]
        flow = torch.cat([each.flow for each in parts])
        shares = [len(each.flow) / len(flow) for each in parts]

        def mean(values: Iterable[Tensor]) -> Tensor:
            return sum(share * value for share, value in zip(shares, values, strict=True))

        pairs = {pair: mean(each.similarity[pair] for each in parts) for pair in parts[0].similarity}
        values = {name: mean(each.values[name] for each in parts) for name in parts[0].values}
        return cls(mean(each.total for each in parts), flow, pairs, values)


@dataclass(frozen=True)
class TrainingLoss:
    """The components of a training step, called once for each batch.

    network  the backbone, wrapped or compiled
    teacher  the averaged backbone, for a method that `needs` one
    routing  which tokens skip blocks of the backbone, which is `routed` then; None: none does
    """

    tokenizer: Tokenizer
    conditioning: Conditioning
    network: Backbone
    backbone: Backbone
    objective: FlowMatching
    alignment: Alignment
    precision: Precision = "fp32"
    teacher: Teacher | None = None
    needs: Needs = Needs()  # noqa: RUF009, immutable
    routing: Routing | None = None

    def __call__(self, batch: Batch, random: Random, step: int) -> Losses:
        """The loss of `batch` at optimizer step `step`, with the noise, times and drops that `random` gives."""
        if batch.media.dtype == torch.uint8:  # which would be taken for values of 0 to 255
            raise ValueError("media are uint8; needed: floats, as core.data.stream.on_device makes of them")
        latents = self.tokenizer.encode(batch.media, random)
        condition = self.conditioning.drop(batch.condition, random)
        noise = random.normal("noise", tuple(latents.shape))
        per_token = self.objective.config.time_per == "token" or self.needs.token_times
        rows = (len(latents), self.backbone.num_tokens) if per_token else (len(latents),)
        t = self.alignment.times(self.objective, random, rows, batch.mask)
        seen = self.alignment.attention(random, rows, batch.mask)
        mask = None if batch.mask is None else self.backbone.expand(batch.mask, latents)
        kept = self._kept(random, len(latents), batch.mask)
        routed = () if kept is None else (kept,)
        if hasattr(self.backbone, "draw"):
            self.backbone.draw(random, len(latents))

        def predict(x: Tensor, t: Tensor) -> Tensor:
            with autocast(x.device, self.precision):
                return self.network(x, t, condition, seen, *routed)

        result = self.objective(predict, latents, noise, t, mask, self._following(latents, noise, mask))
        forward = Forward(
            step=step,
            batch=batch,
            latents=latents,
            noise=noise,
            t=t,
            x_t=result.x_t,
            condition=condition,
            prediction=result.prediction,
            random=random,
            objective=self.objective,
            kept=kept,
        )
        aligned = self.alignment.terms(forward, self.teacher)
        total = result.loss.mean() + aligned.loss
        return Losses(total, result.loss.detach(), aligned.similarity, aligned.values)

    def _kept(self, random: Random, rows: int, mask: Tensor | None) -> Tensor | None:
        """The tokens (B, K) that do not skip a block, of so many rows; None: all."""
        if self.routing is None:
            return None
        return self.routing.draw(random, (rows, self.backbone.num_tokens), mask)

    def _following(self, latents: Tensor, noise: Tensor, mask: Tensor | None) -> NextSamples | None:
        """The next sample of each in the global batch, where the objective compares with it."""
        if not self.objective.config.contrastive_weight:
            return None
        return NextSamples(next_rows(latents), next_rows(noise), None if mask is None else next_rows(mask))
