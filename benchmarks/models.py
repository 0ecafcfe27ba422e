"""What is measured: SiT at its published sizes, with made-up latents that stay in memory.

Letters: B batch, C channels, Y X latent rows and columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from core.alignment.layersync import LayerSyncConfig
from core.contracts import Batch
from core.draws import StepRandom, fold_seed
from core.processes.spread import Compile, ParallelConfig, spread
from core.processes.world import World
from core.train.flops import forward_flops
from core.train.optimizer import OptimizerConfig
from image.backbone import SIZES, SiT, SiTConfig

PAIRS = {12: (4, 7), 24: (7, 14), 28: (8, 16)}  # (weak, strong) by depth, as in core/conf/alignment


@dataclass(frozen=True)
class Preset:
    """A model and how it is trained: what stands in the YAML files of an experiment."""

    backbone: SiTConfig
    latent_shape: tuple[int, int, int]
    num_classes: int
    alignment: LayerSyncConfig
    optimizer: OptimizerConfig
    ema_decay: float = 0.9999


def _published(size: str) -> Preset:
    return Preset(
        backbone=SiTConfig(patch_size=2, size=size, learn_sigma=True),
        latent_shape=(4, 32, 32),
        num_classes=1000,
        alignment=LayerSyncConfig(pairs=[PAIRS[SIZES[size][0]]]),
        optimizer=OptimizerConfig(),
    )


PRESETS = {
    **{f"{size}/2": _published(size) for size in SIZES},
    "digits": Preset(
        backbone=SiTConfig(patch_size=2, depth=8, hidden_size=64, num_heads=4),
        latent_shape=(1, 8, 8),
        num_classes=10,
        alignment=LayerSyncConfig(pairs=[(2, 5)], weight=0.05),
        optimizer=OptimizerConfig(lr=2e-3, clip_norm=1.0),
        ema_decay=0.995,
    ),
    "tiny": Preset(
        backbone=SiTConfig(patch_size=2, depth=2, hidden_size=32, num_heads=2),
        latent_shape=(1, 4, 4),
        num_classes=10,
        alignment=LayerSyncConfig(pairs=[(1, 2)]),
        optimizer=OptimizerConfig(),
    ),
}
SIZES_HELP = "S/2, B/2, L/2 and XL/2 on 4x32x32 latents; digits: the default experiment; tiny: to try the command"


@dataclass(frozen=True, kw_only=True)
class Work:
    """A model by the name of its preset, the batch it sees, and the precision it runs in: fp32, or bf16 autocast."""

    size: str
    batch: int
    precision: str
    seed: int

    @property
    def preset(self) -> Preset:
        """The preset of that size."""
        return PRESETS[self.size]


def build_backbone(preset: Preset, seed: int, device: torch.device) -> SiT:
    """The network with weights from the seed, drawn on the device: a GPU's are others than the CPU's, and are there at
    once. Those that start at zero are drawn too, as if training had begun: a zero gate would send zeros, and later
    denormal numbers, through most of the backward pass."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), device:
        torch.manual_seed(fold_seed(seed, "weights"))
        model = preset.backbone.build(preset.latent_shape, preset.num_classes)
        for parameter in model.parameters():
            if parameter.ndim > 1 and not parameter.any():
                nn.init.normal_(parameter, std=0.02)
    return model


def compiled(model: SiT, mode: Compile, backend: str = "inductor") -> nn.Module:
    """The network to call, compiled as the trainer does it: not at all, as one graph, or block by block, where blocks
    that are alike share a graph. A LayerSync must have been built before. backend: another one than PyTorch's own."""
    if backend == "inductor":
        return spread(model, ParallelConfig(), mode, World())
    if mode == "blocks":
        for part in model.parts():
            part.compile(backend=backend)
    return torch.compile(model, backend=backend) if mode == "model" else model


@dataclass(frozen=True)
class Facts:
    """What a model is before it runs; `forward_flops` are those of one sample."""

    parameters: int
    tokens: int
    forward_flops: int


def model_facts(preset: Preset) -> Facts:
    """Facts of the preset's network, from its shapes alone: nothing is allocated or computed."""
    with torch.device("meta"):
        model = preset.backbone.build(preset.latent_shape, preset.num_classes)
        label = torch.zeros(1, dtype=torch.long)
    parameters = sum(each.numel() for each in model.parameters())
    return Facts(parameters, model.num_tokens, forward_flops(model, preset.latent_shape, label))


def build_batch(work: Work, device: torch.device) -> Batch:
    """Normal latents (B, C, Y, X) and labels (B,) on the device, the same for every step."""
    latents = StepRandom(work.seed, 0).normal("latents", (work.batch, *work.preset.latent_shape))
    rows = torch.arange(work.batch)
    return Batch(latents, rows % work.preset.num_classes, rows).to(device)
