"""The motion data sets: procedural moves that need no download, published folders, and cached latents.

Every data set gives clips of one format, rows of one representation of one skeleton: (C, F) float32 in the numbers' own
units, padded at the end with their means, and a mask of real tokens. The format is known without the data:
`motion_format`.

Letters: C numbers of a frame, F frames, J joints, N tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from core.contracts import Requests
from core.latents.cache import LastAxisMasks
from core.schema import FREE
from motion.body.representations import REPRESENTATIONS
from motion.body.skeleton import SKELETONS, Skeleton
from motion.datasets.humanml3d import HumanML3DConfig
from motion.datasets.latents import CaptionedLatents
from motion.datasets.moves import MovesConfig

CACHE_KIND = "motion"
CACHE_COMMAND = "python -m motion.cache"
UNIT = "clip"


@dataclass(frozen=True)
class LatentsConfig:
    """A latent cache, written by `python -m motion.cache`.

    root            the folder of the cache
    skeleton        of the clips that were encoded
    representation  of these clips
    frames          of these clips
    """

    root: str = field(metadata=FREE)
    skeleton: Literal["t2m", "kit"] = "t2m"
    representation: Literal["full", "positions", "joints"] = "full"
    frames: int = 80

    def __post_init__(self) -> None:
        if not self.root:
            raise ValueError(f"data.root is {self.root!r}; needed: the folder of a latent cache")
        check_format(self.skeleton, self.representation, self.frames)

    def build(self, masks: LastAxisMasks | None = None) -> CaptionedLatents:
        """The cache, with masks where clips of it are padded.

        ValueError, naming the config key, for a root that holds none, or one of other clips.
        """
        cache = CaptionedLatents(self.root, kind=CACHE_KIND, make_command=CACHE_COMMAND)
        made = {name: cache.spec.transform.get(name) for name in ("skeleton", "representation", "frames")}
        given = {name: getattr(self, name) for name in made}
        if made != given:
            raise ValueError(
                f"data.skeleton, representation and frames are {tuple(given.values())}, but the cache {self.root} was "
                f"made with {tuple(made.values())}"
            )
        if masks is not None:
            stride = self.frames // cache.spec.latent_shape[-1]  # a cache counts latent frames
            cache.mask_tokens(LastAxisMasks(masks.frames // stride, max(1, masks.patch // stride)))
        return cache


CLIP_DATASETS: dict[str, type] = {"moves": MovesConfig, "humanml3d": HumanML3DConfig}
DATASETS: dict[str, type] = {**CLIP_DATASETS, "latents": LatentsConfig}


@dataclass(frozen=True)
class MotionFormat:
    """What the numbers of clips (C, F) are.

    skeleton        whose joints they place
    representation  by name
    frames          F of a whole clip
    """

    skeleton: Skeleton
    representation: str
    frames: int

    @property
    def shape(self) -> tuple[int, int]:
        """(C, F) of a whole clip."""
        return REPRESENTATIONS[self.representation].size(self.skeleton), self.frames

    @property
    def fps(self) -> float:
        """Frames a second."""
        return self.skeleton.fps

    def joints(self, clip: Tensor) -> Tensor:
        """Joints (..., F, J, 3) in metres of clips (..., C, F) of any length."""
        return REPRESENTATIONS[self.representation].to_joints(clip.mT, self.skeleton)


def motion_format(data: Any) -> MotionFormat:
    """The format of the clips that the config of a data set describes."""
    return MotionFormat(SKELETONS[getattr(data, "skeleton", "t2m")], data.representation, data.frames)


def check_format(skeleton: str, representation: str, frames: int) -> None:
    """Raises ValueError, naming the config key, for a format that there is not."""
    for key, value, allowed in (
        ("skeleton", skeleton, SKELETONS),
        ("representation", representation, REPRESENTATIONS),
    ):
        if value not in allowed:
            raise ValueError(f"data.{key} is {value!r}; allowed: {', '.join(allowed)}")
    if frames < 1:
        raise ValueError(f"data.frames is {frames}; allowed: 1 or more")


def heldout(data: Any) -> Any:
    """The config of the clips that the data set keeps out of training; ValueError for a cache, which has none."""
    if isinstance(data, LatentsConfig):
        raise ValueError("data is 'latents', which has no held-out captions; needed: conditioning.prompts=[...]")
    return replace(data, split=data.heldout_split)


def lengths_of(media: Tensor, requests: Requests | Any) -> list[int]:
    """Real frames of media (n, C, F), as the masks of their requests say: whole tokens, at the front."""
    mask = Requests.of(requests).mask
    if mask is None:
        return [media.shape[-1]] * len(media)
    return (mask.sum(1) * (media.shape[-1] // mask.shape[1])).tolist()


def token_masks(masks: LastAxisMasks, lengths: list[int]) -> Tensor | None:
    """The masks (n, N) of clips of such lengths in frames; None where all tokens of all are real."""
    found = torch.stack([masks.mask(length) for length in lengths])
    return None if found.all() else found
