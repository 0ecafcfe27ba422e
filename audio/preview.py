"""What a person sees and hears of samples: waveforms over log-mel spectrograms as one PNG, and WAV files beside it.

Letters: B batch, C channels, L samples in time, K tags, M mel bands, F frames.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from einops import rearrange, reduce
from torch import Tensor

from audio.sounds.pcm import FULL_SCALE, to_int16, write_wav
from core.titles import class_titles, numbered, one_of_each_first, slug
from eval.inside.figures import SEQUENTIAL, blank, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_PANELS = 20
MAX_SOUNDS = 12
MAX_COLUMNS = 6
WINDOW_SECONDS = 0.064  # of the spectrogram, about
BINS_PER_BAND = 16  # frequencies of the spectrum for each mel band, at the least
MAX_BANDS = 64
MAX_FRAMES = 400
RANGE_DB = 80.0  # shown below the loudest point of all panels
FLOOR = 1e-10  # power that counts as silence
QUIET = -20.0  # dB: the loudest point at the least, so that silence is dark
LEAST_AMPLITUDE = 1e-3  # of the waveforms' scale
MARKED_HZ = (500, 1000, 2000, 4000, 8000, 16000)
POINTS = 2000  # drawn of a waveform
LONGEST_TITLE = 32
SMALL = 7  # font size
CHANNEL_COLOURS = ("tab:blue", "tab:orange")


class AudioPreview:
    """A PNG with a waveform and a log-mel spectrogram for each of some samples, and one WAV file for each condition.

    class_names  of labels: a sample of label k was asked to be class_names[k]
    sample_rate  of the media, Hz
    tag_names    of multi-hot conditions (B, K)

    Samples of other conditions (embeddings) go by their number.
    """

    def __init__(self, class_names: Sequence[str], sample_rate: int, tag_names: Sequence[str] = ()):
        self.class_names, self.tag_names = list(class_names), list(tag_names)
        self.sample_rate = sample_rate

    def save(self, media: Tensor, condition: Tensor | None, path: Path) -> Path:
        """Media (B, C, L) in [-1, 1] under `condition` as `path`.png, which is returned, and `path`_<k>_<title>.wav.

        Both hold what 16-bit files can: louder samples are clipped.
        """
        titles = self.titles(condition, len(media))
        shown = one_of_each_first(titles, MAX_PANELS)
        for number, row in enumerate(_first_of_each(titles, shown)[:MAX_SOUNDS]):
            write_wav(path.with_name(f"{path.name}_{number:02d}_{slug(titles[row])}.wav"), media[row], self.sample_rate)
        return self.save_picture(media, condition, path.with_name(path.name + ".png"))

    def save_picture(self, media: Tensor, condition: Tensor | None, path: Path) -> Path:
        """The PNG alone, at `path`, which is returned."""
        titles = self.titles(condition, len(media))
        shown = one_of_each_first(titles, MAX_PANELS)
        waves = to_int16(media[shown].detach().cpu()).float().numpy() / FULL_SCALE
        return save(draw(waves, [titles[row] for row in shown], self.sample_rate), path)

    def titles(self, condition: Tensor | None, count: int) -> list[str]:
        """What each of `count` samples was asked to be, in words."""
        if self._are_tags(condition):
            return [_tags(self.tag_names, row) for row in condition.bool().tolist()]
        return class_titles(condition, self.class_names) or numbered(count)

    def _are_tags(self, condition: Tensor | None) -> bool:
        if condition is None or condition.ndim != 2 or not self.tag_names or condition.shape[1] != len(self.tag_names):
            return False
        return bool(((condition == 0) | (condition == 1)).all())


def _tags(names: Sequence[str], present: Iterable[bool]) -> str:
    return ", ".join(name for name, there in zip(names, present, strict=True) if there) or "no tag"


def _first_of_each(titles: Sequence[str], rows: Iterable[int]) -> list[int]:
    first: dict[str, int] = {}
    for row in rows:
        first.setdefault(titles[row], row)
    return list(first.values())


def spectrum_steps(length: int, sample_rate: int) -> tuple[int, int]:
    """Window and hop of a clip's spectrogram, samples: about 64 ms and a quarter of it; longer hops in a long clip."""
    window = 2 ** int(min(round(np.log2(WINDOW_SECONDS * sample_rate)), np.log2(length)))
    return window, max(1, min(window, max(window // 4, length // MAX_FRAMES)))


def log_mel(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    """Power in mel bands, dB above 1: samples (B, C, L) -> (B, M, F), the mean over channels.

    64 bands, fewer where the window is too short for them.
    """
    import librosa  # a second to import, and only for pictures

    window, hop = spectrum_steps(samples.shape[-1], sample_rate)
    bands = max(1, min(MAX_BANDS, window // BINS_PER_BAND))
    power = librosa.feature.melspectrogram(y=samples, sr=sample_rate, n_fft=window, hop_length=hop, n_mels=bands)
    return librosa.power_to_db(reduce(power, "b c m f -> b m f", "mean"), ref=1.0, amin=FLOOR, top_db=None)


def draw(samples: np.ndarray, titles: Sequence[str], sample_rate: int) -> Figure:
    """Samples (B, C, L) in [-1, 1], each as a waveform over a log-mel spectrogram, all on the same scales."""
    columns = _columns(len(titles))
    rows = -(-len(titles) // columns)
    figure = blank(2.1 * columns + 1.0, 2.3 * rows + 0.3)
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.03, wspace=0.01, hspace=0.01)
    grid = rearrange(
        figure.subplots(2 * rows, columns, squeeze=False, height_ratios=[1, 1.8] * rows),
        "(r two) c -> (r c) two",
        two=2,
    )
    levels = log_mel(samples, sample_rate)
    levels = levels - max(float(levels.max()), QUIET)
    loudest = max(float(np.abs(samples).max()), LEAST_AMPLITUDE)
    for place, (wave, spectrum) in enumerate(grid[: len(titles)]):
        _waveform(wave, samples[place], sample_rate, loudest)
        wave.set_title(_shortened(titles[place]), fontsize=SMALL + 1)
        image = _spectrogram(spectrum, levels[place], samples.shape[-1], sample_rate)
        for axis in (wave, spectrum):
            axis.tick_params(labelsize=SMALL, length=2, labelleft=place % columns == 0)
        if place % columns == 0:
            spectrum.set_ylabel("kHz", fontsize=SMALL)
        if place + columns >= len(titles):
            spectrum.set_xlabel("seconds", fontsize=SMALL)
    for axis in grid[len(titles) :].ravel():
        axis.remove()
    bar = figure.colorbar(image, ax=list(grid[: len(titles)].ravel()), shrink=0.7, aspect=40, pad=0.01)
    bar.set_label("power in mel bands, dB relative to the loudest", fontsize=SMALL)
    bar.ax.tick_params(labelsize=SMALL)
    return figure


def _columns(panels: int) -> int:
    """As many columns as leave the fewest places empty."""
    return panels if panels <= MAX_COLUMNS else min(range(MAX_COLUMNS, 3, -1), key=lambda columns: -panels % columns)


def _shortened(title: str) -> str:
    return title if len(title) <= LONGEST_TITLE else title[: LONGEST_TITLE - 1] + "…"


def _waveform(axis: Any, samples: np.ndarray, sample_rate: int, loudest: float) -> None:
    """Each channel of samples (C, L) as the band between its lowest and highest sample of every moment."""
    length = samples.shape[-1]
    edges = np.linspace(0, length, min(POINTS, length), endpoint=False).astype(int)
    for channel, colour in zip(samples, CHANNEL_COLOURS, strict=False):
        low, high = np.minimum.reduceat(channel, edges), np.maximum.reduceat(channel, edges)
        axis.fill_between(edges / sample_rate, low, high, color=colour, alpha=0.6, linewidth=0.3)
    axis.set_xlim(0, length / sample_rate)
    axis.set_ylim(-1.05 * loudest, 1.05 * loudest)
    axis.locator_params(axis="x", nbins=4)
    axis.tick_params(labelbottom=False)


def _spectrogram(axis: Any, levels: np.ndarray, length: int, sample_rate: int) -> Any:
    """Levels (M, F), dB; frame f is centred on sample f * hop of the clip's `length`."""
    bands, frames = levels.shape
    hop = spectrum_steps(length, sample_rate)[1] / sample_rate
    extent = (-hop / 2, (frames - 0.5) * hop, -0.5, bands - 0.5)
    image = axis.imshow(levels, origin="lower", aspect="auto", extent=extent, vmin=-RANGE_DB, vmax=0, cmap=SEQUENTIAL)
    axis.set_xlim(0, length / sample_rate)
    axis.locator_params(axis="x", nbins=4)
    _label_frequencies(axis, sample_rate, bands)
    return image


def _label_frequencies(axis: Any, sample_rate: int, bands: int) -> None:
    import librosa

    centres = librosa.mel_frequencies(bands + 2, fmin=0.0, fmax=sample_rate / 2)[1:-1]
    marks = [mark for mark in MARKED_HZ if centres[0] <= mark <= centres[-1]]
    axis.set_yticks(np.interp(marks, centres, np.arange(bands)), [f"{mark / 1000:g}" for mark in marks])
