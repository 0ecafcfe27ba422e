"""What is done to a clip before a network gets it, under a name that a record keeps; and measures of pairs of clips.

Numbers of different protocols are never compared: one window of 10 s and ten of them, most of them part silence, are
different populations.

Letters: C channels, L samples in time, W windows, n clips, D features, K classes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import scipy
import torch
from torch import Tensor

from audio.sounds.resampling import HANN, KAISER_BEST, Resampling
from audio.sounds.sound import Sound
from eval.statistics.arrays import Features, as_array, check_finite, check_width
from eval.statistics.estimate import Estimate

MAX_WINDOWS = 16  # of all clips together, through a network at once


@dataclass(frozen=True)
class WindowProtocol:
    """The way from a clip to the windows that a network is given.

    name         under which a record knows it
    seconds      length of a window
    hop_seconds  from one window's start to the next; null: one window a clip, the central part of a longer one
    resampling   the filter that takes a clip to the network's rate
    int16        rounded to 16 bits on the way, and features to float16, as if files lay between the steps
    """

    name: str = "one_window"
    seconds: float = 10.0
    hop_seconds: float | None = None
    resampling: Resampling = HANN
    int16: bool = False

    def __post_init__(self) -> None:
        if self.seconds <= 0 or (self.hop_seconds is not None and self.hop_seconds <= 0):
            raise ValueError(
                f"windows of {self.seconds} s with a hop of {self.hop_seconds} s; both must be above 0, or no hop"
            )

    def waveform(self, sound: Sound, rate: int, name: str) -> Tensor:
        """A clip as mono samples (L,) float32 at `rate` Hz; `name` is the clip's, for errors.

        Raises ValueError for another shape than (C, L), no sample, NaN or infinity, or a rate that cannot be resampled.
        """
        mono = self.resampling(checked_samples(sound, name).mean(dim=0), sound.sample_rate, rate)
        return pcm16(mono) if self.int16 else mono

    def starts(self, num_samples: int, rate: int) -> list[int]:
        """Where the windows of a clip of L samples begin; with a hop, one begins every hop until the clip ends."""
        if self.hop_seconds is None:
            return [max(0, (num_samples - self.window(rate)) // 2)]
        return list(range(0, num_samples, round(self.hop_seconds * rate)))

    def windows(self, waveform: Tensor, rate: int) -> list[Tensor]:
        """Samples (L,) -> windows of `window(rate)` samples.

        With a hop, the last ones are filled with zeros at the end; without, a shorter clip stays as short as it is: the
        network's own rule fills it.
        """
        length = self.window(rate)
        cut = [waveform[start : start + length] for start in self.starts(len(waveform), rate)]
        if self.hop_seconds is None:
            return cut
        return [torch.nn.functional.pad(window, (0, length - len(window))) for window in cut]

    def window(self, rate: int) -> int:
        """Samples of a window."""
        return round(self.seconds * rate)

    def rounded(self, features: Tensor) -> Tensor:
        """Features (..., D) as float32, of float16's precision where the protocol stores them so."""
        return features.half().float() if self.int16 else features.float()

    @property
    def text(self) -> str:
        """The protocol in words, without the windows, which not every network takes."""
        filters = ", ".join(f"{key} {value}" for key, value in asdict(self.resampling).items() if value is not None)
        rounding = "; 16-bit PCM; features rounded to float16" if self.int16 else ""
        return f"{self.name}: mean of channels; resampled once ({filters}){rounding}"

    @property
    def windows_text(self) -> str:
        """How windows are cut, in words."""
        if self.hop_seconds is None:
            return f"one window a clip, the central {self.seconds:g} s of a longer one"
        return f"windows of {self.seconds:g} s every {self.hop_seconds:g} s, zeros after the clip's end"


ONE_WINDOW = WindowProtocol()
# Of Microsoft's fadtk. A clip of 10 s makes ten windows, nine of them with zeros at the end.
FADTK = WindowProtocol(
    name="fadtk",
    hop_seconds=1.0,
    resampling=KAISER_BEST,
    int16=True,
)
PROTOCOLS = {protocol.name: protocol for protocol in (ONE_WINDOW, FADTK)}


def find_protocol(name: str) -> WindowProtocol:
    """The protocol of that name; ValueError that lists the names."""
    if name not in PROTOCOLS:
        raise ValueError(f"evaluation.protocol is {name!r}; allowed: {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def checked_samples(sound: Sound, name: str) -> Tensor:
    """Samples (C, L) float32 of a clip; ValueError naming it for what no network can be shown."""
    samples, rate = sound.samples, sound.sample_rate
    if samples.ndim != 2 or 0 in samples.shape or not samples.is_floating_point():
        kind = f"{samples.dtype} {tuple(samples.shape)}"
        raise ValueError(f"{name} is {kind}; needed: floating-point samples (C, L), at least one")
    if isinstance(rate, bool) or not isinstance(rate, int) or rate < 1:
        raise ValueError(f"{name} has a sample rate of {rate!r}; needed: a whole number of Hz, at least 1")
    bad = int((~torch.isfinite(samples)).sum())
    if bad:
        raise ValueError(f"{name}: {bad} of its {samples.numel()} samples are NaN or infinite")
    return samples.float()


def pcm16(waveform: Tensor) -> Tensor:
    """Samples (L,) as a 16-bit file gives them back: rounded to k / 32768, k from -32768 to 32767."""
    return (waveform.double() * 32768).round().clamp(-32768, 32767).div(32768).float()


def laion_int16(waveform: Tensor) -> Tensor:
    """Samples (L,) as LAION's CLAP quantises them: k / 32767 with k cut towards zero, never rounded."""
    return (waveform.double().clamp(-1, 1) * 32767).trunc().div(32767).float()


def clap_score(audio: Features, text: Features) -> Estimate:
    """Mean cosine of each clip's embedding (n, D) with its text's (n, D), from -1 to 1 (audiocraft: text consistency).

    Raises ValueError for different numbers of rows (windows are not clips), widths, NaN or a zero embedding.
    """
    a, b = _rows(audio, "audio embeddings"), _rows(text, "text embeddings")
    _check_pairs(a, b, "a CLAP score")
    norms = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
    for norm, what in zip(norms, ("audio", "text"), strict=True):
        if (norm == 0).any():
            raise ValueError(
                f"the {what} embedding of row {int(np.flatnonzero(norm == 0)[0])} is zero: it has no angle"
            )
    cosines = (a * b).sum(axis=1) / (norms[0] * norms[1])
    return Estimate(float(cosines.mean()), len(a), parameters={"similarity": "cosine", "of": "pairs"})


def kl_of_classes(logits_generated: Features, logits_reference: Features) -> Estimate:
    """The field's KLD: mean over pairs of KL(p_reference || p_generated) in nats, p = softmax of a classifier's logits.

    Logits (n, K); row i of both belongs to one condition, a caption or an index of the test set. A generator that makes
    the right classes for the wrong captions is found out here, and not by `kl_of_mean_classes`. Raises ValueError for
    different numbers of rows or classes, or NaN.
    """
    generated, reference = _log_classes(logits_generated, "generated"), _log_classes(logits_reference, "reference")
    _check_pairs(generated, reference, "the paired KL")
    value = _kl(reference, generated).mean()
    return Estimate(float(value), len(generated), parameters=_kl_parameters("mean over pairs"))


def kl_of_mean_classes(logits_generated: Features, logits_reference: Features) -> Estimate:
    """KL(mean p_reference || mean p_generated) in nats, p = softmax of logits (n, K) and (m, K); nothing is paired.

    Two sets of clips with the same mix of classes have 0 here, whichever clip has which class: it is not what papers on
    text-to-audio call KLD (`kl_of_classes`), and by convexity never above it for the same pairs.
    """
    generated, reference = _log_classes(logits_generated, "generated"), _log_classes(logits_reference, "reference")
    check_width(generated, reference)
    means = [scipy.special.logsumexp(rows, axis=0) - np.log(len(rows)) for rows in (reference, generated)]
    return Estimate(float(_kl(*means)), len(generated), parameters=_kl_parameters("mean class probabilities"))


def _kl_parameters(of: str) -> dict[str, Any]:
    return {"of": of, "direction": "KL(reference || generated)", "probabilities": "softmax", "unit": "nat"}


def _kl(log_p: np.ndarray, log_q: np.ndarray) -> np.ndarray:
    return (np.exp(log_p) * (log_p - log_q)).sum(axis=-1)  # both finite: a softmax of finite logits


def _log_classes(logits: Features, name: str) -> np.ndarray:
    return scipy.special.log_softmax(_rows(logits, f"logits of {name} clips"), axis=1)


def _rows(features: Features, name: str) -> np.ndarray:
    array = as_array(features)
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"{name} have shape {array.shape}; needed: (n, D), at least one row")
    array = array.astype(np.float64)
    check_finite(array, name)
    return array


def _check_pairs(a: np.ndarray, b: np.ndarray, metric: str) -> None:
    check_width(a, b)
    if len(a) != len(b):
        raise ValueError(f"{metric} pairs rows, got {len(a)} and {len(b)}; with one window a clip they are as many")
