"""Tokens of VideoMAE for the clips of a training batch, as a target of `alignment=external`.

Letters: B batch, C channels, F frames of a clip, Y X pixels, E features, T Q P places in time, height and width.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812, the customary name
from einops import rearrange
from torch import Tensor, nn

from core.contracts import Batch
from core.extras import extra
from core.storage.json_files import read_mapping
from core.storage.pretrained import CONFIG, read_pretrained
from eval.inside.encoder import IMAGENET_MEAN, IMAGENET_STD
from video.encoders.videomae import read_scaling

KINDS = ("VideoMAEModel", "VideoMAEForPreTraining", "VideoMAEForVideoClassification")  # transformers' classes


class VideoMaeTubelets:
    """The encoder `videomae:<folder>`, frozen, in float32: tokens of the last layer, behind its norm where it has one.

    It sees as many frames as its config says, 16, each brought to its own size, 224 x 224, which gives 8 x 14 x 14
    places, each of 2 frames of 16 x 16 pixels. Of a clip with more or fewer frames it sees those at even distances.
    Pixels are normalised as the folder's preprocessor says; without one, by ImageNet's mean and deviation, as in its
    training. Grey clips stand three times over.
    """

    def __init__(self, name: str, device: torch.device):
        self.network = load_videomae(name).to(device).float().eval().requires_grad_(False)
        config, self.device = self.network.config, device
        self.frames, self.side, self.width = config.num_frames, config.image_size, config.hidden_size
        self.places = config.num_frames // config.tubelet_size, *[config.image_size // config.patch_size] * 2
        mean, std = read_scaling(_folder(name)) or (IMAGENET_MEAN, IMAGENET_STD)
        self.mean, self.std = (torch.tensor(values, device=device)[:, None, None] for values in (mean, std))

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Tensor:
        """Clips (B, C, F, Y, X) in [-1, 1] -> (B, E, T, Q, P)."""
        t, q, p = self.places
        return rearrange(self._tokens(batch.media), "b (t q p) e -> b e t q p", t=t, q=q, p=p)

    def _tokens(self, clips: Tensor) -> Tensor:
        """Clips (B, C, F, Y, X) in [-1, 1] -> (B, T * Q * P, E)."""
        seen = clips[:, :, even_frames(clips.shape[2], self.frames)]
        images = rearrange(seen.float(), "b c f y x -> (b f) c y x").expand(-1, 3, -1, -1)
        size = (self.side, self.side)
        images = F.interpolate((images + 1) / 2, size=size, mode="bilinear", antialias=True, align_corners=False)
        pixels = rearrange((images - self.mean) / self.std, "(b f) c y x -> b f c y x", f=self.frames)
        with torch.autocast(pixels.device.type, enabled=False):
            return self.network(pixels).last_hidden_state

    @cached_property
    def flops(self) -> int:
        """FLOPs of one clip's pass."""
        from torch.utils.flop_counter import FlopCounterMode  # brings Triton, which only a run needs

        with FlopCounterMode(display=False) as counter, torch.no_grad():
            self._tokens(torch.zeros(1, 3, self.frames, self.side, self.side, device=self.device))
        return counter.get_total_flops()


def even_frames(there: int, wanted: int) -> list[int]:
    """Which frames stand for a clip: those in the middles of `wanted` equal parts; all where there are as many."""
    return [int((number + 0.5) * there / wanted) for number in range(wanted)]


def load_videomae(name: str) -> nn.Module:
    """The VideoMAE without its head in the folder of `videomae:<folder>`; ValueError for another network."""
    transformers = extra("transformers", "encoder=videomae:...", "eval")
    folder, told = _folder(name), f"encoder is {name!r}"
    if not (folder / CONFIG).is_file():
        raise ValueError(f"{told}, which holds no {CONFIG}; needed: a folder of VideoMAE")
    said = read_mapping(folder / CONFIG)
    if said.get("model_type") != "videomae":
        raise ValueError(f"{told}, a network of the kind {said.get('model_type')!r}; needed: VideoMAE")
    kind = next((each for each in said.get("architectures") or () if each in KINDS), KINDS[0])
    network = read_pretrained(getattr(transformers, kind), folder, told)
    return getattr(network, "videomae", network)


def _folder(name: str) -> Path:
    return Path(name.partition(":")[2]).expanduser()
