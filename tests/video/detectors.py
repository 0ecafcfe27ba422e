"""Random networks in the file formats that the extractors of clips read."""

from pathlib import Path

import torch
import transformers
from torch import Tensor, nn

from video.encoders.i3d import I3D


class Detector(nn.Module):
    """The call of StyleGAN-V's detector, and a few numbers of each clip in the place of logits."""

    def __init__(self, width: int = 6):
        super().__init__()
        self.mix = nn.Linear(3 * 4, width)

    def forward(self, x: Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False) -> Tensor:
        x = x.float()
        if rescale:
            x = 2.0 * x / 255.0 - 1.0
        if resize:
            x = nn.functional.interpolate(x, size=[x.shape[2], 8, 8], mode="trilinear", align_corners=False)
        motion = (x[:, :, 1:] - x[:, :, :-1]).abs().mean([2, 3, 4])
        parts = torch.cat([x.mean([2, 3, 4]), x.std([2, 3, 4]), motion, x[:, :, 0].mean([2, 3])], dim=1)
        logits = self.mix(parts)
        return logits if return_features else logits.softmax(1)


def save_detector(path: Path, seed: int = 0) -> Path:
    """A TorchScript file with the options of StyleGAN-V's detector."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.jit.script(Detector()).save(str(path))
    return path


def save_i3d(path: Path, seed: int = 0) -> I3D:
    """A state dict of I3D in its real size, random, with spread in every layer; the network."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = I3D()
        with torch.no_grad():
            for module in network.modules():
                if isinstance(module, nn.Conv3d):
                    module.weight.normal_(std=(2 / module.weight[0].numel()) ** 0.5)
                elif isinstance(module, nn.BatchNorm3d):
                    module.bias.normal_(std=0.2)
                    module.running_var.uniform_(0.5, 1.5)
    torch.save(network.state_dict(), path)
    return network.eval()


def videomae_config(**sizes: int) -> transformers.VideoMAEConfig:
    """A tiny VideoMAE that looks at 8 x 8 pixels, or of other sizes."""
    tiny = {"image_size": 8, "patch_size": 4, "num_frames": 4, "hidden_size": 16, "intermediate_size": 24}
    layers = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_labels": 5}
    return transformers.VideoMAEConfig(**{**tiny, **layers, "layer_norm_eps": 1e-6, **sizes})


def save_videomae(folder: Path, seed: int = 0, **sizes: int) -> transformers.VideoMAEForVideoClassification:
    """A tiny VideoMAE as save_pretrained writes it; the network."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = transformers.VideoMAEForVideoClassification(videomae_config(**sizes))
        with torch.no_grad():
            for value in network.parameters():
                value.add_(0.1 * torch.randn_like(value))
    network.save_pretrained(folder)
    return network.eval()


def published_videomae(depth: int = 2, width: int = 64, hidden: int = 24, patch: int = 56, seed: int = 0) -> dict:
    """Random tensors under the names of VideoMAE v2's fine-tuned networks; clips of 16 frames of 224 pixels."""
    shapes = {"patch_embed.proj.weight": (width, 3, 2, patch, patch), "patch_embed.proj.bias": (width,)}
    for block in range(depth):
        own = {"norm1.weight": (width,), "norm1.bias": (width,), "norm2.weight": (width,), "norm2.bias": (width,)}
        own |= {"attn.q_bias": (width,), "attn.v_bias": (width,), "attn.qkv.weight": (3 * width, width)}
        own |= {"attn.proj.weight": (width, width), "attn.proj.bias": (width,)}
        own |= {"mlp.fc1.weight": (hidden, width), "mlp.fc1.bias": (hidden,)}
        own |= {"mlp.fc2.weight": (width, hidden), "mlp.fc2.bias": (width,)}
        shapes |= {f"blocks.{block}.{name}": shape for name, shape in own.items()}
    shapes |= {"fc_norm.weight": (width,), "fc_norm.bias": (width,), "head.weight": (7, width), "head.bias": (7,)}
    generator = torch.Generator().manual_seed(seed)
    return {name: 0.1 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
