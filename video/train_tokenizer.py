"""`python -m video.train_tokenizer`: train the small KL autoencoder of clips."""

from __future__ import annotations

from dataclasses import dataclass

from core.commands.entry import Entry
from core.latents.fitting import TokenizerTraining
from core.schema import choice
from video.data import CLIP_DATASETS, ClipsConfig
from video.datasets.digits import DigitsConfig


@dataclass(frozen=True, kw_only=True)
class VideoTrainTokenizerConfig(TokenizerTraining):
    """What `python -m video.train_tokenizer` takes; the keys are explained in conf/train_tokenizer.yaml."""

    data: ClipsConfig = choice(CLIP_DATASETS, default_factory=DigitsConfig)
    name: str = "digits"


def main(config: VideoTrainTokenizerConfig) -> None:
    """Train a small causal KL autoencoder on clips, for runs that need no download."""
    raise ValueError(f"data is {config.data}, but there is no tokenizer of video to train yet")


ENTRY = Entry(main, "video.conf", "train_tokenizer", VideoTrainTokenizerConfig)

if __name__ == "__main__":
    ENTRY.run()
