"""Time courses that begin and end at rest. All are elementwise over arrays of any shape."""

from __future__ import annotations

import numpy as np


def ease(x: np.ndarray) -> np.ndarray:
    """From 0 (x <= 0) to 1 (x >= 1) with velocity and acceleration 0 at both ends: the path of least jerk."""
    x = np.clip(x, 0, 1)
    return x**3 * (10 - 15 * x + 6 * x**2)


def bump(x: np.ndarray) -> np.ndarray:
    """From 0 to 1 at x = 1/2 and back to 0, as a squared sine; 0 outside of [0, 1]."""
    return np.sin(np.pi * np.clip(x, 0, 1)) ** 2


def hold(x: np.ndarray, rise: float = 0.25) -> np.ndarray:
    """From 0 to 1 in the share `rise` of [0, 1], 1 until the same share is left, and back to 0."""
    return ease(x / rise) * ease((1 - x) / rise)


def pulses(x: np.ndarray, count: np.ndarray) -> np.ndarray:
    """`count` equal bumps one after the other in [0, 1]."""
    return np.where((x > 0) & (x < 1), np.sin(np.pi * x * count) ** 2, 0.0)


def keys(t: np.ndarray, times: list[np.ndarray], values: list[np.ndarray], speeds: list[np.ndarray]) -> np.ndarray:
    """The cubic Hermite curve (n, F) through `values` (n,) at increasing `times` (n,), there as fast as `speeds` (n,).

    Before the first and after the last time the value stays.
    """
    result = np.broadcast_to(values[0][:, None], t.shape).copy()
    for i in range(len(times) - 1):
        span = (times[i + 1] - times[i])[:, None]
        x = (t - times[i][:, None]) / span
        u = np.clip(x, 0, 1)
        curve = (1 + 2 * u) * (1 - u) ** 2 * values[i][:, None] + u**2 * (3 - 2 * u) * values[i + 1][:, None]
        curve += span * (u * (1 - u) ** 2 * speeds[i][:, None] - u**2 * (1 - u) * speeds[i + 1][:, None])
        result = np.where(x >= 0, curve, result)
    return result


def times_in(duration: np.ndarray, wanted: np.ndarray, each: float) -> np.ndarray:
    """How often something is done (n,): as wanted, but not more often than `each` seconds allow, and at least once."""
    return np.clip(wanted, 1, np.maximum(1, (duration / each).astype(int)))
