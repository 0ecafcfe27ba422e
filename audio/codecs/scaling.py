"""The scaling of clips' latents, and whether the autoencoder behind them was trained, measured on training clips."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from audio.sounds.quality import log_mel_correlation
from audio.tokenizer import AudioTokenizer, TokenizerConfig, VAEConfig
from core.latents.scaling import MeasuredLatents, ScalingMeasurement

LEAST_CORRELATION = 0.2  # of log-mels: random weights have about 0, one trained for minutes above 0.3, good ones 0.9


class ClipMeasurement(ScalingMeasurement):
    """Clips without chance, compared by their log-mels."""

    def media(self, index: int) -> Tensor:
        """Clip `index` (C, L)."""
        return self.dataset.clip_at(index)

    def correlation(self, media: Tensor, decoded: Tensor) -> Tensor:
        """The correlation of the log-mels of clips (B, C, L) before and after coding, (B,)."""
        return log_mel_correlation(media[..., : decoded.shape[-1]], decoded, self.tokenizer.sample_rate)

    def without_padding(self, index: int, moment: Tensor) -> Tensor:
        """The latent frames (1, Z, T) of a clip's real tokens."""
        mask = self.dataset.mask(index)
        return moment[..., : int(mask.sum()) * moment.shape[-1] // len(mask)]


def measured_latents(config: TokenizerConfig, tokenizer: AudioTokenizer, dataset: Any, cache: Path) -> MeasuredLatents:
    """The latents of the training clips, kept in `cache` for other runs.

    Raises ValueError for the latents of random weights; see `check_trained`.
    """
    found = ClipMeasurement(tokenizer, dataset).cached(cache)
    check_trained(config, found)
    return found


def check_trained(config: TokenizerConfig, found: MeasuredLatents) -> None:
    """Raises ValueError when decoded clips have nothing of what was encoded by a network with weights."""
    if not isinstance(config, VAEConfig) or config.allow_untrained:
        return
    if found.correlation < LEAST_CORRELATION:
        raise ValueError(
            f"tokenizer.path is {config.path!r}, whose decoded clips have a log-mel correlation of "
            f"{found.correlation:.2f} with the clips that were encoded; a trained autoencoder has above "
            f"{LEAST_CORRELATION}. Are its weights random, or its sample rate another? "
            "(tokenizer.allow_untrained=true is for tests)"
        )
