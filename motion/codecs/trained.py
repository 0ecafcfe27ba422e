"""Whether a VAE suits the clips it is to code, measured on them before anything is trained or cached.

Letters: B batch, C numbers of a frame, F frames, Z latent channels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from core.latents.scaling import ScalingMeasurement
from motion.codecs.autoencoder import coarser, real_frames
from motion.codecs.fidelity import explained_variance
from motion.tokenizer import ConvVAEConfig, MotionTokenizer, TokenizerConfig

LEAST_EXPLAINED = 0.2  # of the numbers' variance: random weights explain nothing, one trained for a minute above 0.8


class ClipMeasurement(ScalingMeasurement):
    """Clips without chance, compared number by number."""

    likeness = "explained variance"

    def media(self, index: int) -> Tensor:
        """Clip `index` (C, F)."""
        return self.dataset.clip_at(index)

    def correlation(self, media: Tensor, decoded: Tensor) -> Tensor:
        """The share of the variance of the numbers (B, C, F) that comes back, (B,)."""
        x, back = (self._normalised(clips) for clips in (media, decoded))
        return explained_variance(x, back, real_frames(x))

    def without_padding(self, index: int, moment: Tensor) -> Tensor:
        """The latent frames (1, Z, T) that hold any of the clip's own."""
        real = real_frames(self._normalised(self.media(index)[None]))
        return moment[..., coarser(real, self.tokenizer.frame_stride)[0, 0].to(moment.device)]

    def _normalised(self, clips: Tensor) -> Tensor:
        statistics = self.dataset.statistics
        return (clips - statistics.mean[:, None]) / statistics.std[:, None]


def check_tokenizer(config: TokenizerConfig, tokenizer: MotionTokenizer, dataset: Any, cache: Path) -> None:
    """Hold a VAE against the clips of a data set, once for all runs that share `cache`, and tell what its latents are.

    Raises ValueError for one made for other clips, and where decoded clips have nothing of what was encoded.
    """
    if not isinstance(config, ConvVAEConfig):
        return
    made_for, given = tokenizer.origin, (dataset.skeleton.name, dataset.representation.name)
    if made_for != given:
        raise ValueError(
            f"tokenizer.path is {config.path!r}, made for clips of skeleton and representation {made_for}; the data "
            f"has {given}"
        )
    tokenizer.latent_shape(dataset.media_shape)
    found = ClipMeasurement(tokenizer, dataset).cached(cache)
    if found.correlation < LEAST_EXPLAINED and not config.allow_untrained:
        raise ValueError(
            f"tokenizer.path is {config.path!r}, whose decoded clips explain {found.correlation:.2f} of the variance "
            f"of the numbers that were encoded; a trained autoencoder explains above {LEAST_EXPLAINED}. Are its "
            "weights random, or made for other clips? (tokenizer.allow_untrained=true is for tests)"
        )
