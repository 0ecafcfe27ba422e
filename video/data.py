"""The video data sets: moving digits that need no download, folders, CLEVRER, UCF-101, and cached latents.

Every data set gives clips of one format: (C, F, H, W) float32 in [-1, 1], and a mask of real tokens where the ends of
some clips are padding. The format is known without the data: `media_shape`.

Letters: C channels, F frames, H height, W width in pixels, N tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from core.latents.cache import LatentShards
from core.schema import FREE
from video.datasets.clevrer import ClevrerConfig
from video.datasets.clips import ClipConfig, FrameMasks
from video.datasets.digits import DigitsConfig
from video.datasets.folder import FolderConfig
from video.datasets.ucf101 import Ucf101Config

CACHE_KIND = "video"
CACHE_COMMAND = "python -m video.cache"
SHOWN_FPS = 8.0  # of clips whose own rate is not known


@dataclass(frozen=True)
class LatentsConfig:
    """A latent cache, written by `python -m video.cache`.

    root      the folder of the cache
    clip      of the clips that were encoded
    size      of these clips: a side, or height and width, pixels
    channels  of these clips
    flip      mirror latents at random; the cache must hold mirrored ones, made with data.flip=true
    """

    root: str = field(metadata=FREE)
    clip: ClipConfig = field(default_factory=ClipConfig)
    size: int | list[int] = 256
    channels: Literal[1, 3] = 3
    flip: bool = False

    def __post_init__(self) -> None:
        if not self.root:
            raise ValueError(f"data.root is {self.root!r}; needed: the folder of a latent cache")
        sides = self.size if isinstance(self.size, list) else [self.size] * 2
        if len(sides) != 2 or min(sides) < 1:
            raise ValueError(f"data.size is {self.size!r}; allowed: a side, or [height, width], 1 pixel or more")
        if self.channels not in (1, 3):
            raise ValueError(f"data.channels is {self.channels!r}; allowed: 1 (grey) or 3 (RGB)")

    @property
    def media_shape(self) -> tuple[int, int, int, int]:
        """(C, F, H, W) of the clips that were encoded, known without the cache."""
        height, width = self.size if isinstance(self.size, list) else [self.size] * 2
        return self.channels, self.clip.frames, height, width

    @property
    def fps(self) -> float:
        """Frames a second at which clips are shown."""
        return self.clip.fps or SHOWN_FPS

    def build(self, frame_masks: FrameMasks | None = None) -> LatentShards:
        """The cache, with masks where clips of it are padded.

        ValueError, naming the config key, for a root that holds none, or one of other clips.
        """
        cache = LatentShards(self.root, kind=CACHE_KIND, make_command=CACHE_COMMAND, flip=self.flip)
        if cache.media_shape != self.media_shape:
            raise ValueError(
                f"data.channels, clip.frames and size give clips of {self.media_shape} (channels, frames, height, "
                f"width), but the cache {self.root} was made of clips of {cache.media_shape}"
            )
        for name in ("fps", "stride"):
            given = getattr(self.clip, name)
            made = cache.spec.transform.get(name, given)
            if made != given:
                raise ValueError(f"data.clip.{name} is {given}, but the cache {self.root} was made with {made}")
        if frame_masks is not None:
            cache.mask_tokens(frame_masks)
        return cache


CLIP_DATASETS: dict[str, type] = {
    "digits": DigitsConfig,
    "folder": FolderConfig,
    "clevrer": ClevrerConfig,
    "ucf101": Ucf101Config,
}
DATASETS: dict[str, type] = {**CLIP_DATASETS, "latents": LatentsConfig}
ClipsConfig = DigitsConfig | FolderConfig | ClevrerConfig | Ucf101Config
