"""Pictures of scenes as bytes. B scenes, H = W pixels of a side, C = 3 channels."""

from __future__ import annotations

import numpy as np

from image.scenes.layout import Scenes
from image.scenes.shading import shade
from image.scenes.tracing import Tracer


def render(scenes: Scenes, side: int) -> np.ndarray:
    """Pictures (B, C, H, W) uint8 of `side` pixels: the mean of two rays a pixel, the square root for gamma."""
    channels = shade(scenes, Tracer(scenes, side))
    return np.stack([_pixels(values, side) for values in channels], 1)


def _pixels(linear: np.ndarray, side: int) -> np.ndarray:
    """Linear light (B * P,) as bytes (B, H, W)."""
    rays = np.minimum(linear, np.float32(1.2)).reshape(-1, side, 2, side)  # a glint does not outshine its pixel
    mean = (rays[:, :, 0] + rays[:, :, 1]) * np.float32(0.5)
    tone = np.sqrt(np.minimum(np.maximum(mean, np.float32(0)), np.float32(1)))
    return (tone * np.float32(255) + np.float32(0.5)).astype(np.uint8)
