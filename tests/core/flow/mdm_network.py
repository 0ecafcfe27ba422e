"""The network that the recorded diffusion was run with, `mdm_no_cond`, over its own layout of motion.

Letters: B batch, C numbers of a frame, F frames.
"""

from __future__ import annotations

import torch
from torch import Tensor

from motion.nets.mdm import MDM, Recipe
from tests.golden_files import load_golden, with_prefix

MASKED, SHOWN = True, False


def recorded_network(name: str = "mdm_no_cond", mask_frames: bool = MASKED) -> MDM:
    """The network with the recorded weights, in evaluation mode; without masks the two ways are one."""
    tensors, config = load_golden(name)
    sizes, mode = config["model"], config.get("cond_mode")
    recipe = Recipe(
        sizes["num_layers"], sizes["latent_dim"], sizes["num_heads"], sizes["ff_size"], sizes["dropout"], mask_frames
    )
    kinds = {"text": {"texts": sizes["clip_dim"]}, "action": {"actions": sizes["num_actions"]}}
    network = MDM((sizes["njoints"] * sizes["nfeats"], tensors["x"].shape[-1]), recipe, **kinds.get(mode, {}))
    network.load_state_dict(with_prefix(tensors, "state."))
    return network.eval()


class RecordedLayout:
    """An unconditional network whose motion is (B, C, 1, F) and whose mask is (B, 1, 1, F)."""

    def __init__(self, network: MDM):
        self.network = network

    def __call__(self, x: Tensor, steps: Tensor, mask: Tensor | None = None) -> Tensor:
        """Clean motion (B, C, 1, F) for noisy x at `steps` (B)."""
        frames = None if mask is None else mask[:, 0, 0]
        return self.network(x[:, :, 0], steps, torch.zeros(len(x)), frames)[:, :, None]
