"""What a person sees of a fine-tuning: a contact sheet and an MP4, and the prompts beside them.

Letters: B batch, C channels, F frames, H height, W width in pixels.
"""

from __future__ import annotations

import json
from pathlib import Path

from torch import Tensor

from core.storage.atomic import write_atomic
from video.preview import VideoPreview
from video.wan.texts import WanTexts


class PromptPreview:
    """Fulfils `core.contracts.Preview`; conditions are numbers of texts."""

    def __init__(self, texts: WanTexts, fps: float):
        self.texts, self.pictures = texts, VideoPreview([], fps)

    def save(self, media: Tensor, condition: Tensor, path: Path) -> Path:
        """Media (B, C, F, H, W) in [-1, 1] as `path`.png, .mp4, and the prompt of each row in `path`.json."""
        titles = dict(enumerate(self.texts.titles(condition)))
        write_atomic(path.with_name(path.name + ".json"), json.dumps(titles, indent=1, ensure_ascii=False) + "\n")
        return self.pictures.save(media, None, path, list(titles.values()))
