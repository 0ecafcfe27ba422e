"""Whether a VAE suits the clips it is to code, measured on them before anything is trained or cached.

Letters: B batch, C channels, F frames, H height, W width in pixels, Z latent channels, (T, Y, X) latent frames, rows,
columns.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.contracts import Tokenizer
from core.latents.scaling import MeasuredLatents, ScalingMeasurement
from video.codecs.clip_grid import checked_clip
from video.codecs.fidelity import explained_variance
from video.tokenizer import TokenizerConfig, VAEConfig, VideoTokenizer

log = logging.getLogger(__name__)

LEAST_EXPLAINED = 0.2  # of the pixels' variance: random weights explain nothing, one trained for minutes above 0.7
USUAL_DEVIATION = (0.3, 3.0)  # of all normalised latents around 0, which a backbone takes to have 1


class ClipMeasurement(ScalingMeasurement):
    """Clips without chance, compared pixel by pixel; few of them, as one is as much as many images."""

    measured_items, decoded_items, batch = 16, 4, 1
    likeness = "explained variance"
    darkest = math.inf  # pixel of what was read

    def media(self, index: int) -> Tensor:
        """Clip `index` (C, F, H, W); ValueError with its name for pixels outside [-1, 1]."""
        clip = checked_clip(self.dataset, index)
        self.darkest = min(self.darkest, float(clip.min()))
        return clip

    def correlation(self, media: Tensor, decoded: Tensor) -> Tensor:
        """The share of the variance of pixels (B, C, F, H, W) that comes back, (B,)."""
        return explained_variance(media, decoded)

    def measure(self) -> MeasuredLatents:
        """As of every data set; clips none of whose pixels is dark are told."""
        found = super().measure()
        if self.darkest >= 0:
            log.warning(
                "no pixel of %d clips is below %.3g, where black is -1 and mid-grey 0: are they in [0, 1]?",
                found.num_items,
                self.darkest,
            )
        return found


def check_tokenizer(config: TokenizerConfig, tokenizer: Tokenizer, dataset: Any, cache: Path) -> None:
    """Measure a VAE on training clips, once for all runs that share `cache`, and tell what its latents are.

    Raises ValueError for a VAE whose decoded clips have nothing of what was encoded: random weights give latents too.
    """
    if not isinstance(config, VAEConfig) or not isinstance(tokenizer, VideoTokenizer):
        return
    found = ClipMeasurement(tokenizer, dataset).cached(cache)
    tell_normalised(tokenizer, found)
    check_trained(config, found)


def tell_normalised(tokenizer: VideoTokenizer, found: MeasuredLatents) -> float:
    """Log mean and deviation of the latents as a backbone sees them; returns their deviation around 0, over all."""
    constants = tokenizer.constants()
    shift, scale = (torch.tensor(constants[name], dtype=torch.float64) for name in ("shift", "scale"))
    mean = (torch.tensor(found.mean, dtype=torch.float64) - shift) * scale
    std = torch.tensor(found.std, dtype=torch.float64) * scale
    deviation = float((mean.square() + std.square()).mean().sqrt())
    tell = log.info if USUAL_DEVIATION[0] <= deviation <= USUAL_DEVIATION[1] else log.warning
    tell(
        "normalised latents of %d clips: means %.3g to %.3g, deviations %.3g to %.3g of each channel; %.3g over all, "
        "where about 1 is usual",
        *(found.num_items, mean.min(), mean.max(), std.min(), std.max(), deviation),
    )
    return deviation


def check_trained(config: VAEConfig, found: MeasuredLatents) -> None:
    """Raises ValueError when decoded clips have nothing of what was encoded."""
    if not config.allow_untrained and found.correlation < LEAST_EXPLAINED:
        raise ValueError(
            f"tokenizer.path is {config.path!r}, whose decoded clips explain {found.correlation:.2f} of the variance "
            f"of the pixels that were encoded; a trained autoencoder explains above {LEAST_EXPLAINED}. Are its weights "
            "random, or made for other clips? (tokenizer.allow_untrained=true is for tests)"
        )
