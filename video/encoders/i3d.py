"""I3D (Carreira and Zisserman 2017), Inception-v1 inflated to three axes: 400 logits of Kinetics, in two forms.

`features=i3d` is the detector of StyleGAN-V, a TorchScript file that brings its own preprocessing. `features=i3d_cdfvd`
is the network of cd-fvd: the same architecture with other weights, a state dict that is read into `I3D` here. Their
numbers differ and are never compared.

Letters: B clips, C channels, F frames, H W pixels.
"""

from __future__ import annotations

import hashlib
import io
import logging
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812, the customary name
from einops import rearrange
from torch import Tensor, nn

from core.storage.weights import check_finite_weights, load_weights
from eval.measure.extractor import Extractor
from eval.weights import find_entry, locate, locate_file
from video.encoders.frames import as_rgb_clips, check_frames, resized

log = logging.getLogger(__name__)
SCRIPT, CDFVD = "i3d", "i3d_cdfvd"
SCRIPT_WEIGHTS, CDFVD_WEIGHTS = "i3d", "i3d-tats"  # names in the registry
LEAST_FRAMES = 10  # three halvings leave less than the two that the last pool takes of fewer than 9; the field's rule
OPTIONS = {"rescale": True, "resize": True, "return_features": True}  # StyleGAN-V's call of its detector
SIDE = 224
CLASSES = 400
BATCH_NORM_EPS = 1e-5  # cd-fvd's; TensorFlow's I3D has 1e-3
COUNTER = "num_batches_tracked"  # of a batch norm's training, which some files leave out
# Output channels of the branches b0, b1a, b1b, b2a, b2b, b3b of each Inception block; a pool (kernel, stride) between.
TRUNK: tuple[tuple[str, tuple], ...] = (
    ("MaxPool3d_2a_3x3", ((1, 3, 3), (1, 2, 2))),
    ("Conv3d_2b_1x1", (64, 1)),
    ("Conv3d_2c_3x3", (192, 3)),
    ("MaxPool3d_3a_3x3", ((1, 3, 3), (1, 2, 2))),
    ("Mixed_3b", (64, 96, 128, 16, 32, 32)),
    ("Mixed_3c", (128, 128, 192, 32, 96, 64)),
    ("MaxPool3d_4a_3x3", ((3, 3, 3), (2, 2, 2))),
    ("Mixed_4b", (192, 96, 208, 16, 48, 64)),
    ("Mixed_4c", (160, 112, 224, 24, 64, 64)),
    ("Mixed_4d", (128, 128, 256, 24, 64, 64)),
    ("Mixed_4e", (112, 144, 288, 32, 64, 64)),
    ("Mixed_4f", (256, 160, 320, 32, 128, 128)),
    ("MaxPool3d_5a_2x2", ((2, 2, 2), (2, 2, 2))),
    ("Mixed_5b", (256, 160, 320, 32, 128, 128)),
    ("Mixed_5c", (384, 192, 384, 48, 128, 128)),
)


# The detector of StyleGAN-V


class I3DDetector(Extractor):
    """The TorchScript detector of StyleGAN-V: logits (B, 400) before the softmax, of `fvd2048_16f` and its kin.

    A TorchScript file is a program that runs when it is loaded and called. Of the registry, only the file with the
    published hash is taken; a file of one's own is taken as it is, and told where its hash is another one.
    """

    name, main = SCRIPT, "logits"
    preprocessing = (
        "uint8 RGB frames to the TorchScript detector, which scales and resizes them itself "
        "(rescale, resize, return_features)"
    )

    def __init__(self, path: Path | None, root: Path | None, device: torch.device):
        """path: a file to take instead of the registry's under `root`; ValueError where there is none, or another."""
        self.device = device
        file = locate(SCRIPT_WEIGHTS, root) if path is None else path
        if not file.is_file():
            raise ValueError(f"config key '{SCRIPT}': there is no file {file}")
        content = file.read_bytes()  # what is hashed is what is run
        self.weights_sha256 = hashlib.sha256(content).hexdigest()
        (published,) = find_entry(SCRIPT_WEIGHTS).files
        if self.weights_sha256 != published.sha256:
            if path is None:
                raise ValueError(f"{file} is not {published.path}: its SHA-256 is {self.weights_sha256}")
            log.warning("%s is a program, and not the published one: its SHA-256 is %s", file, self.weights_sha256)
        self.network = load_script(content, file, device)

    @torch.no_grad()
    def __call__(self, rows: Tensor) -> dict[str, Tensor]:
        """uint8 clips (B, F, H, W, C) -> logits (B, 400); ValueError for fewer than 10 frames."""
        clips = as_rgb_clips(rows)
        check_frames(clips.shape[1], self.name, LEAST_FRAMES)
        media = rearrange(clips, "b f h w c -> b c f h w").contiguous().to(self.device)
        logits = self.network(media, **OPTIONS)
        if logits.ndim != 2 or len(logits) != len(clips):
            raise ValueError(f"the detector gave features {tuple(logits.shape)} for {len(clips)} clips; needed: (B, D)")
        return {"logits": logits.float().cpu()}


def load_script(content: bytes, path: Path, device: torch.device) -> nn.Module:
    """The program in a TorchScript file; ValueError for bytes that are none, or one without the detector's options."""
    try:
        network = torch.jit.load(io.BytesIO(content), map_location=device).eval()
        names = {argument.name for argument in network.forward.schema.arguments}
    except (RuntimeError, AttributeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is no TorchScript file, or is damaged: {reason:.200}") from error
    if not names >= OPTIONS.keys():
        raise ValueError(f"{path} is no I3D detector: it has no {', '.join(sorted(OPTIONS.keys() - names))}")
    return network


# The network of cd-fvd


class I3DNetwork(Extractor):
    """The I3D of cd-fvd: logits (B, 400), averaged over time, of a state dict with the names of pytorch-i3d."""

    name, main = CDFVD, "logits"
    preprocessing = f"bilinear to {SIDE} a frame without antialiasing, in [-1, 1]; logits averaged over time"

    def __init__(self, path: Path | None, root: Path | None, device: torch.device):
        """path: a file to take instead of the registry's under `root`; ValueError where there is none, or another."""
        self.device = device
        file, self.weights_sha256 = locate_file(CDFVD_WEIGHTS, path, root, key=CDFVD)
        self.network = read_i3d(file).to(device)

    @torch.no_grad()
    def __call__(self, rows: Tensor) -> dict[str, Tensor]:
        """uint8 clips (B, F, H, W, C) -> logits (B, 400); ValueError for fewer than 10 frames."""
        clips = as_rgb_clips(rows)
        check_frames(clips.shape[1], self.name, LEAST_FRAMES)
        return {"logits": self.network(2 * resized(clips.to(self.device), SIDE) / 255 - 1).cpu()}


def read_i3d(path: Path) -> I3D:
    """The network of a state dict; ValueError for a damaged file, one with foreign objects, or of another network."""
    with torch.device("meta"):
        network = I3D()
    own = network.state_dict()
    counters = {name: torch.tensor(0) for name in own if name.endswith(COUNTER)}
    state = counters | load_weights(path, prefer=None)
    wrong = sorted(own.keys() ^ state.keys())
    wrong += [name for name in own if name in state and state[name].shape != own[name].shape]
    if wrong:
        raise ValueError(
            f"{path} is no I3D with {CLASSES} logits: {', '.join(wrong[:3])} are missing, unknown or of another shape"
        )
    network.load_state_dict(state, assign=True)
    check_finite_weights(network, str(path))
    return network.float().eval().requires_grad_(False)


class I3D(nn.Module):
    """Inception-v1 with three axes; the modules have the names of pytorch-i3d, Conv3d_1a_7x7 to Mixed_5c and logits."""

    def __init__(self, num_classes: int = CLASSES):
        super().__init__()
        self.trunk = ["Conv3d_1a_7x7"]
        self.add_module("Conv3d_1a_7x7", Unit(3, 64, kernel=(7, 7, 7), stride=(2, 2, 2)))
        channels = 64
        for name, sizes in TRUNK:
            if name.startswith("MaxPool"):
                part: nn.Module = SamePool(*sizes)
            elif name.startswith("Mixed"):
                part = Mixed(channels, sizes)
                channels = part.channels
            else:
                part = Unit(channels, sizes[0], kernel=(sizes[1],) * 3)
                channels = sizes[0]
            self.add_module(name, part)
            self.trunk.append(name)
        self.logits = nn.ModuleDict({"conv3d": nn.Conv3d(channels, num_classes, 1)})

    def forward(self, media: Tensor) -> Tensor:
        """Media (B, 3, F, 224, 224) in [-1, 1], F at least 9 -> logits (B, K), averaged over what is left of time."""
        x = media
        for name in self.trunk:
            x = self.get_submodule(name)(x)
        x = F.avg_pool3d(x, (2, 7, 7), stride=1)
        return self.logits["conv3d"](x).mean((2, 3, 4))


class Unit(nn.Module):
    """A convolution without a bias, batch norm and ReLU; TensorFlow's SAME padding."""

    def __init__(self, inputs: int, outputs: int, kernel: tuple[int, ...] = (1, 1, 1), stride: tuple = (1, 1, 1)):
        super().__init__()
        self.conv3d = nn.Conv3d(inputs, outputs, kernel, stride, bias=False)
        self.bn = nn.BatchNorm3d(outputs, eps=BATCH_NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, F, H, W) -> (B, outputs, ceil(F / stride), ...)."""
        return F.relu(self.bn(self.conv3d(pad_same(x, self.conv3d.kernel_size, self.conv3d.stride))))


class SamePool(nn.Module):
    """The largest of each window, with TensorFlow's SAME padding; what comes before is never negative."""

    def __init__(self, kernel: tuple[int, ...], stride: tuple[int, ...]):
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, F, H, W) -> (B, C, ceil(F / stride), ...)."""
        return F.max_pool3d(pad_same(x, self.kernel, self.stride), self.kernel, self.stride)


class Mixed(nn.Module):
    """Four branches side by side: 1; 1 and 3; 1 and 3; a pool of 3 and 1. sizes: of b0, b1a, b1b, b2a, b2b, b3b."""

    def __init__(self, inputs: int, sizes: tuple[int, ...]):
        super().__init__()
        b0, b1a, b1b, b2a, b2b, b3b = sizes
        self.b0 = Unit(inputs, b0)
        self.b1a, self.b1b = Unit(inputs, b1a), Unit(b1a, b1b, (3, 3, 3))
        self.b2a, self.b2b = Unit(inputs, b2a), Unit(b2a, b2b, (3, 3, 3))
        self.b3a, self.b3b = SamePool((3, 3, 3), (1, 1, 1)), Unit(inputs, b3b)
        self.channels = b0 + b1b + b2b + b3b

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, F, H, W) -> (B, channels, F, H, W)."""
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x))], dim=1)


def pad_same(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """Zeros around (B, C, F, H, W), so that ceil(size / stride) windows fit; the odd one comes at the end."""
    padding: list[int] = []
    for size, width, step in zip(x.shape[:1:-1], kernel[::-1], stride[::-1], strict=True):  # the last axis first
        total = max((-(-size // step) - 1) * step + width - size, 0)
        padding += [total // 2, total - total // 2]
    return F.pad(x, padding)
