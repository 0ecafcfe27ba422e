"""A camera that follows a moving body at a fixed angle, without perspective: a metre is as long near as far.

Letters: F frames, J joints; x is to the left of who faces z, y up, metres.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

AZIMUTH = np.radians(
    -52.0
)  # from the front towards the right-hand side of who faces z, so that walking goes rightwards
ELEVATION = np.radians(17.0)
FOLLOWING = 0.35  # seconds by which the camera's path is smoothed
NARROWEST, WIDEST = 0.8, 3.0  # metres from the middle to a side
LOWEST, HIGHEST = 1.85, 4.5  # metres up to the upper edge
BELOW = (0.45, 2.0)  # metres down to the lower edge, from the floor at the middle
MARGIN = 0.12  # metres around the body


@dataclass(frozen=True)
class View:
    """Where the camera looks at in each frame of a clip, and how large it shows what is there.

    centres  (F, 3) points of the floor in the middle of the picture
    scale    pixels a metre
    origin   (2,) pixels of the centre, from the lower left corner
    radius   metres of the floor that is shown around a centre
    """

    centres: np.ndarray
    scale: float
    origin: np.ndarray
    radius: float

    def project(self, points: np.ndarray, frame: int) -> np.ndarray:
        """Points (..., 3) in metres as pixels (..., 2) of a frame."""
        return (points - self.centres[frame]) @ _AXES[:2].T * self.scale + self.origin

    def nearness(self, points: np.ndarray) -> np.ndarray:
        """How near the camera points (..., 3) are; only differences mean something."""
        return points @ _AXES[2]


def _axes(azimuth: float, elevation: float) -> np.ndarray:
    """(3, 3): rightwards and upwards in the picture, and towards the camera."""
    sin_a, cos_a, sin_e, cos_e = np.sin(azimuth), np.cos(azimuth), np.sin(elevation), np.cos(elevation)
    return np.array(
        [(cos_a, 0, -sin_a), (-sin_e * sin_a, cos_e, -sin_e * cos_a), (cos_e * sin_a, sin_e, cos_e * cos_a)]
    )


_AXES = _axes(AZIMUTH, ELEVATION)


def follow(joints: np.ndarray, fps: float, width: int, height: int) -> View:
    """The view of a clip (F, J, 3) in a picture of that size: the body in the middle, whole in all of its frames.

    One scale for the clip. What flies far off, as in broken samples, leaves the picture.
    """
    centres = _smoothed(joints[:, 0] * (1.0, 0.0, 1.0), FOLLOWING * fps)
    seen = (joints - centres[:, None]) @ _AXES[:2].T
    half = np.clip(np.abs(seen[..., 0]).max() + MARGIN, NARROWEST, WIDEST)
    above = np.clip(seen[..., 1].max() + MARGIN, LOWEST, HIGHEST)
    below = np.clip(MARGIN - seen[..., 1].min(), *BELOW)
    scale = min(width / (2 * half), height / (above + below))
    spare = height - scale * (above + below)
    radius = min(width / (2 * scale), (below + spare / scale / 2) / np.sin(ELEVATION)) * 0.98
    return View(centres, scale, np.array([width / 2, below * scale + spare / 2]), radius)


def _smoothed(path: np.ndarray, sigma: float) -> np.ndarray:
    """A path (F, 3) convolved with a Gaussian of `sigma` frames; beyond its ends it goes on as it came."""
    reach = max(1, round(3 * sigma))
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / max(sigma, 1e-6)) ** 2)
    padded = np.pad(path, ((reach, reach), (0, 0)), mode="reflect", reflect_type="odd")
    return np.stack([np.convolve(axis, weights / weights.sum(), "valid") for axis in padded.T], axis=1)
