"""Clips that tests make, and the frames of a file that plays."""

import io
import math

import av
import numpy as np

LUMA = np.array([0.2126, 0.7152, 0.0722])  # of BT.709


def clips(count, channels=3, frames=6, height=20, width=26):
    """Clips (count, F, H, W, C) uint8 whose colours move slowly over the picture."""
    axes = [np.arange(size) / 10 for size in (count, frames, height, width, channels)]
    phases = sum(np.ix_(*(axis * scale for axis, scale in zip(axes, (20, 3, 2, 1, 17), strict=True))))
    return (127.5 + 127 * np.sin(phases)).astype(np.uint8)


def read(file):
    """Frames (F, H, W, 3) of a file that plays, and when each begins, in seconds."""
    with av.open(file if isinstance(file, io.BytesIO) else str(file)) as container:
        (stream,) = container.streams
        frames = [(frame.to_ndarray(format="rgb24"), frame.time) for frame in container.decode(stream)]
    return np.stack([frame for frame, _ in frames]), [time for _, time in frames]


def psnr(a, b):
    return 10 * math.log10(255**2 / max(1e-9, np.mean((a.astype(float) - b.astype(float)) ** 2)))
