"""Random video and image autoencoders of a few thousand weights, as diffusers' `save_pretrained` writes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

SD_SCALE, SD_SHIFT, SD_FACTOR = 0.3, 0.1, 4  # of the tiny AutoencoderKL, unlike the published ones
WAN_MEAN, WAN_STD = (0.1, -0.2, 0.3, -0.4), (0.5, 1.0, 1.5, 2.0)  # of each latent channel of the tiny AutoencoderKLWan


def random_model(kind: type[nn.Module], seed: int, **config: Any) -> nn.Module:
    """A network whose weights, biases and norms are all random, and a function of the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = kind(**config)
        with torch.no_grad():
            for value in network.parameters():
                value.add_(0.1 * torch.randn_like(value))
    return network.eval()


def sd_vae(seed: int = 0, widths: Sequence[int] = (8, 8, 8), **config: Any) -> nn.Module:
    """An AutoencoderKL: sides shrink by 2 between two widths."""
    from diffusers import AutoencoderKL

    down, up = ("DownEncoderBlock2D",) * len(widths), ("UpDecoderBlock2D",) * len(widths)
    blocks = {"block_out_channels": tuple(widths), "down_block_types": down, "up_block_types": up}
    options = {"latent_channels": 4, "norm_num_groups": 4, "scaling_factor": SD_SCALE, "shift_factor": SD_SHIFT}
    return random_model(AutoencoderKL, seed, **{**blocks, **options, **config})


def save_sd_vae(path: Path, seed: int = 0, **config: Any) -> Path:
    """`sd_vae` in the directory `path`."""
    sd_vae(seed, **config).save_pretrained(path)
    return path


def wan_vae(seed: int = 0, **config: Any) -> nn.Module:
    """An AutoencoderKLWan of Wan 2.1's layout: groups of four frames after the first, sides shrink by 8."""
    from diffusers import AutoencoderKLWan

    sizes = {"base_dim": 4, "z_dim": len(WAN_MEAN), "dim_mult": [1, 1, 2, 2], "num_res_blocks": 1}
    options = {"latents_mean": list(WAN_MEAN), "latents_std": list(WAN_STD)}
    return random_model(AutoencoderKLWan, seed, **{**sizes, **options, **config})


def wan22_vae(seed: int = 0, **config: Any) -> nn.Module:
    """An AutoencoderKLWan of Wan 2.2's layout: residual stages on patches of two pixels, sides shrink by 16."""
    patches = {"is_residual": True, "patch_size": 2, "in_channels": 12, "out_channels": 12}
    return wan_vae(seed, **{**patches, "decoder_base_dim": 4, "scale_factor_spatial": 16, **config})


def save_wan_vae(path: Path, seed: int = 0, **config: Any) -> Path:
    """`wan_vae` in the directory `path`."""
    wan_vae(seed, **config).save_pretrained(path)
    return path
