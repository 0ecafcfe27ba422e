"""Reading audio files: what they hold, and any part of them without decoding the rest; channels and sample rates.

How exact a part is, against the same samples of the whole decoded file ("equal": to 1e-6):

    wav flac ogg oga opus    equal
    mp3                      equal, to 4e-6 at low bit rates; not where the encoder asked for bits that are not there
    m4a mp4 aac              equal, except where the encoder replaced sound by noise (PNS), which the decoder draws anew
    webm mka                 shifted by 2 ms at most: their time stamps are rounded to milliseconds; the file's last
                             2 ms are left out

Lossy decoders overshoot full scale a little; samples are kept as they were decoded. A file that is cut off:

    wav ogg oga opus webm mka, mp3 without a Xing frame    counts as a shorter one, and its facts say so
    flac aac, mp3 with a Xing frame                        broken: samples that are announced are not there
    m4a mp4                                                broken, or as the first row's where only its end is cut

Letters: C channels, n samples in time.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import soundfile
import torch
from einops import rearrange
from torch import Tensor

from audio.sounds.containers import CONTAINER_SUFFIXES, end_of_stream, read_stream
from audio.sounds.endings import CHAINED, is_cut_off, wave_samples
from audio.sounds.mpeg import Part, Stream, find_stream
from audio.sounds.resampling import KAISER_BEST, resample
from audio.sounds.sound import Sound
from core.data.files import check_regular
from core.data.index import NUM_LISTED, MediaKind

log = logging.getLogger(__name__)

SOUNDFILE_SUFFIXES = (".flac", ".mp3", ".oga", ".ogg", ".opus", ".wav")
AUDIO_SUFFIXES = SOUNDFILE_SUFFIXES + CONTAINER_SUFFIXES
OTHER_SUFFIXES = (  # of sound that is not read
    *(".3gp", ".8svx", ".ac3", ".aif", ".aifc", ".aiff", ".alac", ".amr", ".ape", ".au", ".avi", ".bwf", ".caf"),
    *(".dff", ".dsf", ".dts", ".eac3", ".flv", ".gsm", ".m4b", ".m4r", ".mid", ".midi", ".mkv", ".mov", ".mp1"),
    *(".mp2", ".mp+", ".mpc", ".mpg", ".oma", ".ogm", ".ogv", ".pcm", ".ra", ".raw", ".rf64", ".sd2", ".shn", ".snd"),
    *(".sph", ".spx", ".tak", ".tta", ".voc", ".vox", ".w64", ".wave", ".weba", ".wma", ".wv"),
)

# Samples decoded and dropped before a part of an MP3: a frame takes bits from those before it, up to 511 bytes back at
# 32 kHz and above (60 of its own in the smallest frame), 255 bytes below (where 3 of its own may be all)
MP3_LEAD_IN, MP3_LEAD_IN_BELOW_32_KHZ = 32 * 1152, 128 * 576
VORBIS_LEAD_IN = 10  # seconds: libsndfile enters the last page of a Vorbis stream at a wrong sample
VORBIS_TO_WAVE = [0, 2, 1, 5, 3, 4]  # L C R Ls Rs LFE, as Ogg orders 5.1, to L R C LFE Ls Rs
ENDLESS = 2**40  # libsndfile's answer for "unknown" is larger
LOUDEST = 32.0  # 30 dB over full scale; what is louder is not scaled to [-1, 1], or no sound
BLOCK = 2**20  # samples looked at at once
RATES = (1000, 1_000_000)  # Hz, that a header may say
COUNTED = ("MP3", "OGG")  # whose length does not stand in a header: frames, and the last page with its checksum
SOUNDFILE_STARTS = (b"RIFF", b"RIFX", b"RF64", b"OggS", b"fLaC", b"FORM", b"riff", b"caff", b".snd")

MINUS_3_DB = math.sqrt(0.5)
SURROUND = 6  # channels of 5.1


@dataclass(frozen=True)
class AudioFacts:
    """What a file holds: frames (a sample of every channel each), frames a second, channels; 1 for one cut off.

    Raises ValueError for numbers that no sound has.
    """

    frames: int
    sample_rate: int
    channels: int
    cut_off: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.frames < ENDLESS or self.channels < 1:
            raise ValueError("its header does not tell its length" if self.frames >= ENDLESS else "it holds no samples")
        if not RATES[0] <= self.sample_rate <= RATES[1]:
            raise ValueError(f"its header says {self.sample_rate} samples/s; allowed: {RATES[0]} to {RATES[1]}")

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return self.frames / self.sample_rate

    def frames_at(self, rate: int) -> int:
        """Frames of the whole file resampled to `rate`."""
        return -(-self.frames * rate // self.sample_rate)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Errors about the content of a file become a ValueError that names the file, once."""
    try:
        yield
    except (ValueError, soundfile.LibsndfileError) as error:
        if str(path) in str(error) and isinstance(error, ValueError):
            raise
        raise ValueError(f"audio file {path}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    if not isinstance(error, soundfile.LibsndfileError):
        return str(error)
    # For an MP3 without a single frame libsndfile reports that the file does not exist.
    text = "not recognised" if "does not exist" in error.error_string else error.error_string.strip(" .")
    return f"libsndfile cannot decode it: {text}"


def probe(path: Path | str) -> AudioFacts:
    """Length, rate and channels, from the header or the packets and never from decoding the whole file.

    Raises ValueError, naming the file, for one that is empty, holds no sound, is of another kind, or announces what is
    not there; OSError for one that cannot be read.
    """
    path = Path(path)
    with _naming(path):
        check_regular(path)
        stream = _frames_of_mpeg(path)
        facts = _probe_packets(path, stream) if _by_packets(path, stream) else _probe_soundfile(path, stream)
        whole = stream is not None and stream.there
        return replace(facts, cut_off=int(not whole and is_cut_off(path)))


def _probe_packets(path: Path, stream: Stream | None) -> AudioFacts:
    if stream is not None and stream.cut:
        raise ValueError(f"it is cut off: not all of the {stream.announced} samples that it announces are there")
    try:
        return AudioFacts(*end_of_stream(path))
    except ValueError as error:
        raise ValueError(f"it is cut off: {error}" if is_cut_off(path) else str(error)) from error


def _probe_soundfile(path: Path, stream: Stream | None) -> AudioFacts:
    with _open_soundfile(path, stream) as file:
        if _was_streamed(path, file):
            return AudioFacts(*end_of_stream(path))
        if not file.seekable():
            raise ValueError(f"libsndfile reads {file.subtype} from the start alone")
        if file.format == "OGG" and file.frames >= ENDLESS:
            raise ValueError(CHAINED)
        if 0 < file.frames < ENDLESS and file.format not in COUNTED and not _reaches_end(file):
            raise ValueError(f"it announces {file.frames} samples, and the last of them is not there; truncated?")
        return AudioFacts(file.frames, file.samplerate, file.channels)


def _reaches_end(file: soundfile.SoundFile) -> bool:
    try:
        file.seek(file.frames - 1)
        return len(file.read(1)) == 1
    except soundfile.LibsndfileError:
        return False


def _was_streamed(path: Path, file: soundfile.SoundFile) -> bool:
    """Whether a header says no length, written by a program that did not know it: FFmpeg finds the end."""
    if file.format == "FLAC":
        return file.frames >= ENDLESS
    return file.format in ("WAV", "WAVEX") and file.frames == 0 and wave_samples(path) > 0


@contextlib.contextmanager
def _open_soundfile(path: Path, stream: Stream | None) -> Iterator[soundfile.SoundFile]:
    """A file as libsndfile reads it; of an MP3 with more than a tag in front, the frames alone."""
    if stream is None or stream.plain:
        with soundfile.SoundFile(os.fsencode(path)) as file:
            yield file
        return
    with path.open("rb") as source, soundfile.SoundFile(Part(source, stream.first, stream.last)) as file:
        yield file


def _starts_as_soundfile(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) in SOUNDFILE_STARTS


def _frames_of_mpeg(path: Path) -> Stream | None:
    """Where the frames of an MP3 lie; None for what is no MP3. ValueError for a suffix that is not read."""
    suffix = path.suffix.lower()
    if suffix not in AUDIO_SUFFIXES:
        raise ValueError(f"its suffix is {suffix!r}; allowed: {', '.join(AUDIO_SUFFIXES)}")
    return None if suffix in CONTAINER_SUFFIXES or _starts_as_soundfile(path) else find_stream(path)


def _by_packets(path: Path, stream: Stream | None) -> bool:
    """Whether FFmpeg reads a file: what soundfile does not, and MPEG whose first frame does not tell the length.

    Of such a one libsndfile guesses the length and never reads past its guess.
    """
    if stream is not None:
        return not stream.there
    suffix = path.suffix.lower()
    return suffix in CONTAINER_SUFFIXES or (suffix == ".mp3" and not _starts_as_soundfile(path))


def tell_cut_off(facts: Mapping[str, AudioFacts]) -> int:
    """How many files are cut off and count as shorter ones, which a warning tells; facts by path."""
    cut = [path for path, each in facts.items() if each.cut_off]
    if cut:
        log.warning(
            "%d of %d audio files are cut off and count as shorter ones, such as %s",
            len(cut),
            len(facts),
            cut[:NUM_LISTED],
        )
    return len(cut)


def read(path: Path | str, start: int, frames: int) -> Sound:
    """Samples start <= i < start + frames of a file, at its own rate and with its own channels.

    5.1 is ordered L R C LFE Ls Rs whatever the container. Raises ValueError, naming the file, where it does not hold
    all of them, cannot be decoded there, or holds numbers that no sound has: not finite, or above `LOUDEST`.
    """
    path = Path(path)
    if start < 0 or frames < 1:
        raise ValueError(f"asked for {frames} samples of {path} from sample {start}; allowed: 1 or more, from 0 on")
    with _naming(path):
        check_regular(path)
        stream = _frames_of_mpeg(path)
        by_packets = _by_packets(path, stream)
        samples, rate = read_stream(path, start, frames) if by_packets else _read_soundfile(path, stream, start, frames)
        if samples.shape[1] < frames:
            found = start + samples.shape[1]
            raise ValueError(f"it ends before sample {start + frames}, at {found} or earlier; truncated?")
        _refuse_no_sound(samples, start)
    return Sound(torch.from_numpy(np.ascontiguousarray(samples)), rate)


def read_all(path: Path | str) -> Sound:
    """A whole file at its own rate; errors as those of `probe` and `read`."""
    return read(path, 0, probe(path).frames)


def _read_soundfile(path: Path, stream: Stream | None, start: int, frames: int) -> tuple[np.ndarray, int]:
    with _open_soundfile(path, stream) as file:
        if _was_streamed(path, file):
            return read_stream(path, start, frames)
        frames = max(0, min(frames, file.frames - start))
        if not frames:
            return np.zeros((file.channels, 0), np.float32), file.samplerate
        lead_in = _lead_in(file, start)
        file.seek(start - lead_in)
        samples = file.read(lead_in + frames, dtype="float32", always_2d=True)[lead_in:]
        samples = rearrange(samples, "n c -> c n")
        if file.format == "OGG" and file.channels == SURROUND:
            samples = samples[VORBIS_TO_WAVE]
        return samples, file.samplerate


def _refuse_no_sound(samples: np.ndarray, start: int) -> None:
    """Raises ValueError, naming the first by its place in the file, for samples (C, n) that no sound has."""
    wrong = ~(np.abs(samples) <= LOUDEST)  # NaN too
    if wrong.any():
        channel, place = np.argwhere(wrong.T)[0][::-1]
        value = samples[channel, place]
        what = (
            f"{value:.3g}; allowed: up to {LOUDEST:g}, full scale is 1" if np.isfinite(value) else "not a finite number"
        )
        raise ValueError(f"sample {start + place} is {what}")


def examine(path: Path | str) -> AudioFacts:
    """What `probe` tells, of files whose samples are floating-point numbers after a look at all of them.

    Such files alone can hold what is no sound (NaN, 3e29), and are read without decoding. Errors as those of `probe`.
    """
    path = Path(path)
    facts = probe(path)
    with _naming(path):
        if _starts_as_soundfile(path) and path.suffix.lower() in SOUNDFILE_SUFFIXES:
            with soundfile.SoundFile(os.fsencode(path)) as file:
                if file.subtype in ("FLOAT", "DOUBLE"):
                    for number, block in enumerate(file.blocks(BLOCK, dtype="float32", always_2d=True)):
                        _refuse_no_sound(block.T, number * BLOCK)
    return facts


def _lead_in(file: soundfile.SoundFile, start: int) -> int:
    if file.format == "MP3":
        return min(start, MP3_LEAD_IN if file.samplerate >= 32_000 else MP3_LEAD_IN_BELOW_32_KHZ)
    if file.format == "OGG" and file.subtype == "VORBIS":
        return start - max(0, min(start, file.frames - VORBIS_LEAD_IN * file.samplerate))
    return 0


def to_channels(sound: Sound, channels: int) -> Sound:
    """The sound with 1 or 2 channels.

    Mono goes to both sides, stereo becomes mono by the mean. 5.1 (L R C LFE Ls Rs) is first mixed to stereo by ITU-R
    BS.775, L + 0.707 C + 0.707 Ls and R alike, without LFE, and divided by 2.414 so that it cannot clip. Raises
    ValueError for other numbers of channels.
    """
    samples, found = sound.samples, len(sound.samples)
    _check_channels(found, channels)
    if found == SURROUND:
        front, centre, back = samples[0:2], samples[2:3], samples[4:6]
        samples = (front + MINUS_3_DB * (centre + back)) / (1 + 2 * MINUS_3_DB)
    if len(samples) > channels:
        samples = samples.mean(dim=0, keepdim=True)
    return Sound(samples.expand(channels, -1).contiguous(), sound.sample_rate)


def _check_channels(found: int, channels: int) -> None:
    if found not in (1, 2, SURROUND) or channels not in (1, 2):
        raise ValueError(f"{found} channels into {channels}; allowed: 1, 2 or 6 (5.1) into 1 or 2")


def check_convertible(facts: AudioFacts, rate: int, channels: int) -> None:
    """Raises ValueError, without the path, for a file that `read_window` cannot give at a rate in so many channels."""
    _check_channels(facts.channels, channels)
    KAISER_BEST.ratio(facts.sample_rate, rate)


def read_window(path: Path | str, facts: AudioFacts, span: tuple[int, int], rate: int, channels: int) -> Tensor:
    """Samples first <= j < last of a file that was mixed to `channels` and resampled to `rate` as a whole: (C, n).

    Only this part and the reach of the filter are read. It equals the same part of the whole to 1e-5, and stops where
    the file stops. Errors as those of `read`, `to_channels` and `resample`, each naming the file.
    """
    path = Path(path)
    first, last = span[0], min(span[1], facts.frames_at(rate))
    with _naming(path):
        old, new = KAISER_BEST.ratio(facts.sample_rate, rate)
        margin = KAISER_BEST.reach(old, new) if old != new else 0
        block = max(0, (first * old // new - margin) // old)  # whole periods, so that the filter's phase is the whole's
        end = min(facts.frames, -(-last * old // new) + margin)
        sound = read(path, block * old, end - block * old)
        if (sound.sample_rate, len(sound.samples)) != (facts.sample_rate, facts.channels):
            raise ValueError(f"it has changed; it had {facts.channels} channels of {facts.sample_rate} samples/s")
        samples = resample(to_channels(sound, channels), rate).samples
    return samples[:, first - block * new : last - block * new].clone()


AUDIO = MediaKind("audio", AUDIO_SUFFIXES, AudioFacts, examine, OTHER_SUFFIXES)
