"""Real video files that tests write: frames that carry their number, in every container that is read.

Letters: F frames, H height, W width in pixels.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

BITS = 8  # of the number that a frame carries: blocks of black and white across its upper half
CODECS = {
    ".mp4": ("libx264", "yuv420p"),
    ".mkv": ("libx264", "yuv420p"),
    ".webm": ("libvpx-vp9", "yuv420p"),
    ".avi": ("mpeg4", "yuv420p"),
    ".gif": ("gif", "rgb8"),
}
FAST = {"libx264": {"preset": "ultrafast"}, "libvpx-vp9": {"cpu-used": "8", "deadline": "realtime"}}


def numbered_frames(count, size=(32, 48), first=0):
    """Frames (F, H, W, 3) uint8 that carry the numbers from `first` on, over a slope of colours that moves."""
    height, width = size
    frames = np.empty((count, height, width, 3), np.uint8)
    slope = np.arange(width) * 160 // width
    for frame, number in enumerate(range(first, first + count)):
        bits = (number >> np.arange(width) * BITS // width) & 1
        frames[frame, : height // 2] = (255 * bits)[:, None]
        frames[frame, height // 2 :] = np.stack([slope + number % 64, slope, 200 - slope], axis=-1)
    return frames


def frame_number(frame):
    """The number that a frame (H, W, 3) carries, also one that was coded with loss and resized; None for none."""
    height, width = frame.shape[:2]
    grey = frame[height // 8 : max(height // 8 + 1, height * 3 // 8)].mean(axis=(0, 2))
    values = grey[((np.arange(BITS) + 0.5) * width / BITS).astype(int)]
    if np.any((values > 80) & (values < 175)):
        return None
    return int(((values > 127) << np.arange(BITS)).sum())


def numbers_of(media):
    """The numbers of the frames of a clip (C, F, H, W) in [-1, 1]."""
    frames = np.asarray(media).transpose(1, 2, 3, 0) * 127.5 + 127.5
    return [frame_number(frame) for frame in frames]


def write_video(path, frames, fps=8, times=None, rotation=0, sound=False, muxer=None, **coding):
    """Frames (F, H, W, 3) uint8 as the file that the suffix names, its folders made; returns the path.

    times     seconds at which each frame is shown, in steps of a millisecond; None: fps frames a second
    rotation  degrees counterclockwise by which a player is to turn the frames: 90, 180 or 270
    sound     whether a silent sound track goes along
    muxer     options of the container
    coding    `codec` and `pix_fmt`, and options of the encoder: g (distance of key frames), bf (B-frames), crf ...
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    codec, pix_fmt = CODECS[path.suffix]
    codec, pix_fmt = coding.pop("codec", codec), coding.pop("pix_fmt", pix_fmt)
    options = FAST.get(codec, {}) | {name.replace("_", "-"): str(value) for name, value in coding.items()}
    base = 1 / Fraction(fps).limit_denominator(100_000) if times is None else Fraction(1, 1000)
    with av.open(str(path), "w", options=muxer or {}) as container:
        stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(100_000), options=options)
        (stream.height, stream.width), stream.pix_fmt = frames.shape[1:3], pix_fmt
        stream.codec_context.time_base = base
        if rotation:
            stream.set_display_rotation(rotation)
        track = _sound_track(container) if sound else None
        for place, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24").reformat(format=pix_fmt)
            frame.pts, frame.time_base = place if times is None else round(1000 * times[place]), base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if track is not None:
            _write_silence(container, track)
    return path


def _sound_track(container):
    stream = container.add_stream("aac", rate=8000)
    stream.layout = "mono"
    return stream


def _write_silence(container, stream):
    for place in range(4):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 8000, 1024 * place, Fraction(1, 8000)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def write_sound_only(path):
    """A file with a sound track and no picture; returns the path."""
    with av.open(str(path), "w") as container:
        _write_silence(container, _sound_track(container))
    return Path(path)


def write_frames(folder, frames, suffix=".png"):
    """Frames (F, H, W, 3) uint8 as a folder of images, numbered from 1 without zeros in front; returns the folder."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for number, pixels in enumerate(frames, start=1):
        Image.fromarray(pixels).save(folder / f"frame{number}{suffix}")
    return folder


def cut(path, share=0.6):
    """The same file without the bytes after `share` of it; returns the path."""
    path = Path(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    return path


def decoded_whole(path):
    """All frames (F, H, W, 3) uint8 of a file, decoded from its start to its end and not turned."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
