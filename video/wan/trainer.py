"""The loop of a fine-tuning: samples before and after, one batch tried at the start, adapters measured and written.

Letters: B batch, Z latent channels, (T, Y, X) latent frames, rows, columns, L tokens of a text, E numbers of one.
"""

from __future__ import annotations

import logging
import resource
import time
from typing import Any

import torch
from torch import Tensor, nn

from core.data.stream import StepPositions, on_device, step_batches
from core.processes.failures import is_out_of_memory
from core.processes.signals import StopRequest
from core.train.diagnoses import attempt, out_of_memory
from core.train.ema import PRIMARY
from core.train.flops import forward_flops
from core.train.saved import whole_groups
from core.train.trainer import Trainer
from video.datasets.sheet import DATA_SHEET, write_data_sheet
from video.wan.backbone import WanBackbone
from video.wan.latents import AsEncoded
from video.wan.lora import adapters_of, delta_norms
from video.wan.lora_keys import LoRA
from video.wan.written import write_formats

log = logging.getLogger(__name__)

FROZEN_FACTOR = 2  # forward, and backward to the activations alone: frozen weights need no gradient
GIGABYTE = 1e9


class FinetuneTrainer(Trainer):
    """A `core.train.trainer.Trainer` of a `WanBackbone`."""

    def count_flops(self, token_times: bool = False, routing: None = None) -> int:
        """FLOPs of one sample in a training step, counted on a network without weights: a clip has many tokens."""
        model, length = self.model, self.model.texts.length
        with torch.device("meta"):
            transformer = type(model.transformer).from_config(model.transformer.config)
            blank = BlankTexts(length, transformer.config.text_dim)
            shell = WanBackbone(transformer, self.domain.latent_shape, blank)
        numbers = torch.zeros(1, dtype=torch.int64, device="meta")
        return FROZEN_FACTOR * forward_flops(shell, self.domain.latent_shape, numbers, token_times)

    def begin(self) -> None:
        """Show the clips, try one batch, tell its tokens and memory, and sample before the first step."""
        if self.step == 0:
            clips, sheet = AsEncoded(self.domain.dataset.clips), self.run.path / DATA_SHEET
            self.records.write(lambda: write_data_sheet(clips, sheet) and None)
        self.try_batch()
        if self.step == 0:
            attempt(self.preview, 0)
            self.progress.pause()

    def try_batch(self) -> None:
        """Forward and backward over the next step's batch, whose gradients are dropped.

        Raises MemoryExhaustedError naming the keys that need less, and NonFiniteError naming clips.
        """
        config, device = self.config.trainer, self.world.device
        positions = StepPositions(self.step, self.step + 1, config.batch_size, self.world.rows(config.batch_size))
        batch = next(step_batches(self.domain.dataset, self.config.seed, positions, 0, False), None)
        if batch is None:
            return
        started = time.perf_counter()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)  # encoding clips and texts had its own
        try:
            self.model.train()
            losses = self._passes(on_device(batch, device))
            norm = float(self.optimizer.gradient_norm())
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                raise out_of_memory(self.config, self.domain, self.world, self.step) from error
            raise
        (broken,) = self.world.any(not (losses.total.isfinite() and torch.isfinite(torch.tensor(norm))))
        if broken:
            raise self._not_finite(batch.index, losses, norm)
        self.optimizer.zero_grad()
        log.info(
            "tried one batch: %d clips, latents %s, %d tokens a clip, %.1f s, %s; %d trained and %d frozen numbers",
            config.batch_size,
            tuple(self.domain.latent_shape),
            self.model.num_tokens,
            time.perf_counter() - started,
            memory_told(device),
            self.parameters,
            sum(each.numel() for each in self.model.parameters() if not each.requires_grad),
        )

    def measured(self) -> dict[str, float]:
        """Norm of the adapters' change in each block."""
        lora = adapters_of(self.model.state_dict(), self.config.backbone.lora.alpha)
        return {
            f"lora_delta/block_{number}": norm for number, norm in delta_norms(lora, len(self.model.blocks)).items()
        }

    def averaged_lora(self) -> LoRA:
        """The averaged adapters, on the CPU of the main process; empty in the others. A collective."""
        group = whole_groups({PRIMARY: self.ema.state_dicts()[PRIMARY]}, self.world)[PRIMARY]
        return adapters_of(group, self.config.backbone.lora.alpha)

    def finish(self, stop: StopRequest | None = None) -> dict[str, Any]:
        """Write the LoRA files, then what every run ends with."""
        lora, config = self.averaged_lora(), self.config
        self.records.write(lambda: write_formats(self.run, config.backbone, lora) and None)
        return super().finish(stop)


class BlankTexts(nn.Module):
    """Tokens of zeros (B, L, E) for any text."""

    def __init__(self, length: int, width: int):
        super().__init__()
        self.length, self.width = length, width

    def forward(self, numbers: Tensor) -> Tensor:
        """(B,) -> (B, L, E)."""
        return torch.zeros(len(numbers), self.length, self.width, device=numbers.device)


def memory_told(device: torch.device) -> str:
    """The most memory that was in use, of what there is."""
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device) / GIGABYTE
        return f"{peak:.1f} of {torch.cuda.get_device_properties(device).total_memory / GIGABYTE:.1f} GB on {device}"
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIGABYTE:.1f} GB of memory at most"
