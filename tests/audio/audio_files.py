"""Real audio files that tests write, and sounds to fill them with."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import soundfile

RATE = 44100
CODECS = {".m4a": "aac", ".mp4": "aac", ".aac": "aac", ".mka": "aac", ".webm": "libopus"}
EXACT_AAC = {"aac_pns": "0"}  # no noise in place of sound, which a decoder draws anew


def music(seconds, rate=RATE, channels=2, seed=0):
    """Gliding tones under some noise, never twice the same: (C, n) float32."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * rate)) / rate
    tones = [0.3 * np.sin(2 * np.pi * (200 + 90 * c) * t + 20 * np.sin(0.7 * t)) for c in range(channels)]
    return (np.stack(tones) + 0.05 * rng.standard_normal((channels, len(t)))).astype(np.float32)


def write_sound(path, samples, rate=RATE, **options):
    """Samples (C, n) as the file that the suffix names, its folders made; returns the path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in CODECS:
        return write_container(path, samples, rate, CODECS[path.suffix], **options)
    if path.suffix in (".oga", ".opus"):
        options = {"format": "OGG", "subtype": "OPUS" if path.suffix == ".opus" else "VORBIS", **options}
    with soundfile.SoundFile(path, "w", rate, len(samples), **options) as file:
        for start in range(0, samples.shape[1], 65536):  # libsndfile's Vorbis encoder overflows on more at once
            file.write(samples.T[start : start + 65536])
    return path


def write_container(path, samples, rate, codec, muxer=None, encoder=None):
    """Samples (C, n) through PyAV, with options of the muxer and the encoder; returns the path."""
    layout = {1: "mono", 2: "stereo", 6: "5.1"}[len(samples)]
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout=layout)
    frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
    fifo = av.AudioFifo()
    fifo.write(frame)
    kind = "adts" if path.suffix == ".aac" else None
    with av.open(str(path), "w", format=kind, options=muxer or {}) as container:
        stream = container.add_stream(codec, rate=rate, options=encoder or {})
        stream.layout = layout
        if "global_quality" not in (encoder or {}):
            stream.bit_rate = 128_000
        for part in fifo.read_many(stream.codec_context.frame_size or 960, partial=True):
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return path


def write_mp3(path, samples, rate=RATE, xing=True, variable=False):
    """Samples (C, n) as MP3 of 128 kb/s or of a variable rate, with or without the frame that tells the length."""
    encoder = {"flags": "+qscale", "global_quality": "472"} if variable else {}
    return write_container(path, samples, rate, "libmp3lame", {"write_xing": str(int(xing))}, encoder)


def write_silent_video(path):
    """An MP4 of four black pictures without a sound track."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=4)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for _ in range(4):
            container.mux(stream.encode(av.VideoFrame(32, 32, "yuv420p")))
        container.mux(stream.encode(None))
    return path


def id3(content, footer=False):
    """An ID3v2.4 tag around bytes, with or without a footer."""
    size = bytes(len(content) >> shift & 0x7F for shift in (21, 14, 7, 0))
    head = b"\4\0" + (b"\x10" if footer else b"\0") + size
    return b"ID3" + head + content + (b"3DI" + head if footer else b"")


def ape(content, header=True):
    """An APEv2 tag around bytes: header, items and footer, or without the header."""

    def end(flags):
        numbers = (2000, len(content) + 32, 1, flags)
        return b"APETAGEX" + b"".join(number.to_bytes(4, "little") for number in numbers) + bytes(8)

    return end(0xA0000000) + content + end(0x80000000) if header else content + end(0)
