"""The network of the Motion Diffusion Model (arXiv 2209.14916), around which the golden diffusion was recorded.

Letters: B batch, J features of a frame, F frames, D width, T noise levels.
"""

import math

import torch
from torch import Tensor, nn

from tests.golden_files import load_golden, with_prefix


class MDMNetwork(nn.Module):
    """A transformer encoder over one token of the noise level and the frames, each with a fixed position."""

    def __init__(self, features: int, width: int, heads: int, feedforward: int, layers: int):
        super().__init__()
        self.width = width
        self.embed_timestep = nn.ModuleDict(
            {"time_embed": nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))}
        )
        self.input_process = nn.ModuleDict({"poseEmbedding": nn.Linear(features, width)})
        layer = nn.TransformerEncoderLayer(width, heads, feedforward, activation="gelu", batch_first=True)
        self.seqTransEncoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.output_process = nn.ModuleDict({"poseFinal": nn.Linear(width, features)})

    def positions(self, numbers: Tensor) -> Tensor:
        """Sines in the even and cosines in the odd columns, (..., D) for integers (...)."""
        rates = torch.exp(-math.log(10000.0) * torch.arange(0, self.width, 2) / self.width)
        angles = numbers[..., None] * rates
        return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)

    def forward(self, x: Tensor, steps: Tensor, mask: Tensor | None = None) -> Tensor:
        """Clean motion (B, J, 1, F) for noisy x at `steps` (B); mask (B, 1, 1, F) is true where a frame is real."""
        time = self.embed_timestep["time_embed"](self.positions(steps))
        frames = self.input_process["poseEmbedding"](x[:, :, 0].mT)
        tokens = torch.cat([time[:, None], frames], dim=1)
        hidden = None if mask is None else nn.functional.pad(~mask[:, 0, 0], (1, 0))  # the time's token is never hidden
        tokens = self.seqTransEncoder(
            tokens + self.positions(torch.arange(tokens.shape[1])), src_key_padding_mask=hidden
        )
        return self.output_process["poseFinal"](tokens[:, 1:]).mT[:, :, None]


def recorded_network() -> MDMNetwork:
    """The network with the recorded weights, in evaluation mode."""
    tensors, config = load_golden("mdm_no_cond")
    sizes = config["model"]
    network = MDMNetwork(
        sizes["njoints"] * sizes["nfeats"],
        sizes["latent_dim"],
        sizes["num_heads"],
        sizes["ff_size"],
        sizes["num_layers"],
    )
    network.load_state_dict(with_prefix(tensors, "state."))
    return network.eval()
