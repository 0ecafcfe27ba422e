"""Where the scaling of latents comes from when nobody gave it: measured on the training clips, and kept.

The same look at the clips tells whether the autoencoder is a trained one: random weights give latents too, and a run on
them looks healthy until somebody listens.

Letters: n clips, B batch, C channels, L samples, Z latent channels.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from audio.datasets.windows import WindowDataset
from audio.sounds.quality import log_mel_correlation
from audio.tokenizer import AudioTokenizer, Scaling, TokenizerConfig, VAEConfig
from core.data.stream import fingerprint
from core.draws import numpy_rng
from core.latents.cache import array_facts
from core.latents.fitting import LatentStatistics
from core.latents.tokenizer import cache_constants
from core.storage.atomic import write_atomic
from core.storage.checkpoint import CheckpointStore, read_checkpoint
from core.storage.provenance import json_sha256
from core.storage.run_folder import RunDirectory

log = logging.getLogger(__name__)

MEASURED_CLIPS = 256  # at most, for mean and deviation
HEARD_CLIPS = 8  # of these, coded and decoded
BATCH = 8
LEAST_CORRELATION = 0.2  # of log-mels: random weights have about 0, one trained for minutes above 0.3, good ones 0.9


@dataclass(frozen=True)
class Measured:
    """What the training clips say of a tokenizer.

    mean, std    of its latents, one for each channel
    correlation  of the log-mels of clips before and after coding, mean over clips
    num_clips    that were measured
    """

    mean: list[float]
    std: list[float]
    correlation: float
    num_clips: int

    def check(self, config: TokenizerConfig) -> None:
        """Raises ValueError when decoded clips have nothing of what was encoded by a network with weights."""
        if not isinstance(config, VAEConfig) or config.allow_untrained:
            return
        if self.correlation < LEAST_CORRELATION:
            raise ValueError(
                f"tokenizer.path is {config.path!r}, whose decoded clips have a log-mel correlation of "
                f"{self.correlation:.2f} with the clips that were encoded; a trained autoencoder has above "
                f"{LEAST_CORRELATION}. Are its weights random, or its sample rate another? "
                "(tokenizer.allow_untrained=true is for tests)"
            )


def measured(tokenizer: AudioTokenizer, dataset: Any, cache: Path) -> Measured:
    """The latents of the training clips: from the file that a run before has left in `cache`, or measured now.

    A function of the tokenizer's weights and the data set; ValueError for a file that is damaged.
    """
    known = {"schema_version": 1, "tokenizer": cache_constants(tokenizer.constants()), "data": fingerprint(dataset)}
    known |= {"clip": list(dataset.media_shape), "sound": array_facts(dataset.clip_at(0).numpy())}
    file = cache / f"latents-{json_sha256(known)[:16]}.json"
    if file.exists():
        try:
            found = Measured(**json.loads(file.read_text()))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{file} is damaged, delete it: {error}") from error
    else:
        found = measure(tokenizer, dataset)
        write_atomic(file, json.dumps(vars(found)) + "\n")
    log.info(
        "latents of %d clips: means %.3g to %.3g, deviations %.3g to %.3g; log-mel correlation of decoded clips %.3f",
        *(found.num_clips, min(found.mean), max(found.mean), min(found.std), max(found.std), found.correlation),
    )
    return found


@torch.no_grad()
def measure(tokenizer: AudioTokenizer, dataset: Any) -> Measured:
    """Latents of at most `MEASURED_CLIPS` clips, their padding left out, and a few clips decoded again."""
    statistics, correlations, count = LatentStatistics(), [], 0
    for rows, clips in _clips(dataset):
        mean, std = tokenizer.moments(clips)
        for row, real in enumerate(real_frames(dataset, index, mean.shape[-1]) for index in rows):
            statistics.add(mean[row : row + 1, :, :real], std[row : row + 1, :, :real])
        if count < HEARD_CLIPS:
            heard = tokenizer.decode(mean).cpu()
            correlations.append(log_mel_correlation(clips[..., : heard.shape[-1]], heard, tokenizer.sample_rate))
        count += len(clips)
    means, stds = statistics.of_channels()
    return Measured(means, stds, torch.cat(correlations).mean().item(), count)


def real_frames(dataset: Any, index: int, frames: int) -> int:
    """How many of a clip's latent frames are no padding: those of its real tokens."""
    if not isinstance(dataset, WindowDataset):
        return frames
    mask = dataset.mask(index)
    return int(mask.sum()) * frames // len(mask)


def _clips(dataset: Any) -> Iterator[tuple[list[int], Tensor]]:
    """Rows of a data set, which do not depend on a run's seed, and their clips (B, C, L)."""
    order = numpy_rng("latent statistics").permutation(len(dataset))[:MEASURED_CLIPS]
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH].tolist()
        yield rows, torch.stack([dataset.clip_at(index) for index in rows])


def scaling_of_run(run: RunDirectory, tokenizer: AudioTokenizer) -> Scaling | None:
    """The scaling that a run began with, to the last bit; None for one without a checkpoint or with other weights.

    Measured again, on another machine or number of threads, it would differ in rounding, and the run would not be one.
    """
    newest = CheckpointStore(run.checkpoints).newest_sound(only=())
    if newest is None:
        return None
    kept = read_checkpoint(newest, only=()).notes["tokenizer"]
    return Scaling.kept(kept) if kept["sha256"] == tokenizer.constants()["sha256"] else None


def scaling_for(known: Scaling | None, found: Measured | None) -> Scaling:
    """The scaling that is known, else the one that was measured."""
    if known is not None:
        return known
    return Scaling.of(found.mean, found.std)
