"""The flow loss by noise level, of rows, noise and times that are the same at every measurement.

The loss of a training step is a mean over all noise levels, with other noise each time: it falls for some hundreds of
steps and looks flat from then on, while samples go on getting better. At one level, with the noise held fixed, the
progress is seen, and at which levels a method makes it.

Letters: B batch, K bins of t, n rows that are measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from core.contracts import Batch, Dataset
from core.data.stream import collate
from core.draws import SampleRandom, fold_seed, numpy_rng
from core.latents.tokenizer import MediaError
from core.precision import autocast
from core.processes.world import World
from core.step import TrainingLoss
from core.train.config import RunConfig

STREAM = "loss by time"


class LossByTime:
    """Measures the flow loss of the components of `loss` in bins of t, from noise to data, if the run is to.

    dataset  whose held-out rows are measured where it has some, else rows of its own; a row is augmented once, the same
             way in every run of the seed

    Conditions are not dropped, and times are even over a bin, whatever times are trained. Each row has one noise, and
    in each bin one time: all are functions of the seed and the row. The processes share the rows, as many at once as in
    training. Latents are made at the first measurement and stay in memory, on the CPU.
    """

    def __init__(self, config: RunConfig, dataset: Dataset, loss: TrainingLoss, world: World):
        self.config, self.last, self.seed = config.tracking.loss_by_time, config.trainer.steps, config.seed
        self.dataset, self.loss, self.world = dataset, loss, world
        self.at_once = max(1, config.trainer.batch_size // (world.size * config.trainer.accumulate))

    @property
    def names(self) -> list[str]:
        """The bins by their ends, such as 0.2-0.4."""
        bins = self.config.bins
        return [f"{number / bins:.2g}-{(number + 1) / bins:.2g}" for number in range(bins)]

    def due(self, step: int) -> bool:
        """Whether there is a measurement after `step`."""
        return self.config is not None and (step % self.config.every == 0 or step == self.last)

    @torch.no_grad()
    def measure(self, prefix: str) -> dict[str, float]:
        """Mean loss of each bin with the present weights, by `prefix`/<bin>; what is not finite is left out.

        A collective; every process must hold all weights.
        """
        self.loss.backbone.eval()
        sums = torch.zeros(self.config.bins, dtype=torch.float64)
        for batch in self.batches:
            sums += self._losses(batch.to(self.world.device)).double().cpu().sum(1)
        means = self.world.mean((sums / self.rows).tolist(), 1.0)
        found = {f"{prefix}/{name}": mean for name, mean in zip(self.names, means, strict=True)}
        return {name: mean for name, mean in found.items() if np.isfinite(mean)}

    def _losses(self, batch: Batch) -> Tensor:
        """The losses (K, B) of latents, rows `batch.index` of the measurement."""
        loss, latents = self.loss, batch.media
        noise = SampleRandom(fold_seed(self.seed, STREAM), batch.index.tolist(), latents.device)
        noise = noise.normal("noise", tuple(latents.shape))
        mask = None if batch.mask is None else loss.backbone.expand(batch.mask, latents)

        def predict(x: Tensor, t: Tensor) -> Tensor:
            with autocast(x.device, loss.precision):
                return loss.backbone(x, t, batch.condition, batch.mask)

        times = self.times[:, batch.index.cpu()].to(latents.device)
        return torch.stack([loss.objective(predict, latents, noise, t, mask).loss for t in times])

    @cached_property
    def source(self) -> Dataset:
        """Where the rows come from."""
        heldout = getattr(self.dataset, "heldout", lambda: None)()
        return self.dataset if heldout is None else heldout

    @cached_property
    def rows(self) -> int:
        """n, as many as are asked for, or as there are."""
        return min(self.config.samples, len(self.source))

    @cached_property
    def times(self) -> Tensor:
        """Times (K, n) that the path and the prediction allow, stratified: of a bin each row has one of n parts."""
        bins, rows, objective = self.config.bins, self.rows, self.loss.objective
        inside = (np.arange(rows) + numpy_rng(self.seed, STREAM, "times").random((bins, rows))) / rows
        unit = torch.from_numpy((np.arange(bins)[:, None] + inside) / bins).float()
        return objective.path.times(unit, objective.config.prediction, objective.config.margin)

    @cached_property
    def batches(self) -> list[Batch]:
        """This process's rows, their latents as media, on the CPU; `index` counts from 0 to n - 1."""
        return list(self._read())

    def _read(self) -> Iterator[Batch]:
        first, last = self.world.rows(self.rows)
        chosen = numpy_rng(self.seed, STREAM, "rows").permutation(len(self.source))
        for begin in range(first, last, self.at_once):
            numbers = range(begin, min(begin + self.at_once, last))
            items = [
                {**self.source.item(int(chosen[i]), numpy_rng(self.seed, STREAM, "augment", i)), "index": i}
                for i in numbers
            ]
            batch = collate(items)
            try:
                latents = self._encoded(batch)
            except MediaError as error:
                row = int(chosen[int(batch.index[error.row])])
                raise ValueError(f"tracking.loss_by_time: {self.source.name(row)} (row {row}): {error}") from error
            yield Batch(latents, batch.condition, batch.index, batch.mask)

    def _encoded(self, batch: Batch) -> Tensor:
        random = SampleRandom(fold_seed(self.seed, STREAM), batch.index.tolist(), self.world.device)
        return self.loss.tokenizer.encode(batch.media.to(self.world.device), random).cpu()
