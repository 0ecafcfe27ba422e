"""Random networks in the file formats that the extractors of clips read."""

from pathlib import Path

import torch
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
