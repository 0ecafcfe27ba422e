"""`python -m audio.train_tokenizer`: train the small VAE that `tokenizer=conv_oobleck` loads, and listen to it in numbers.

Letters: B batch, C channels, L samples, Z latent channels.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from audio.autoencoder import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    AudioAutoencoder,
    AudioAutoencoderConfig,
    save_autoencoder,
)
from audio.data import SOUND_DATASETS, NotesConfig, SoundConfig, build_dataset, clip_format
from audio.preview import AudioPreview
from audio.quality import log_mel_distance_db, si_snr_db, snr_db
from audio.spectral import SpectralCodec, SpectralConfig
from core.checkpoint import atomic_dir
from core.config import Entry
from core.distributed import pick_device
from core.draws import seeded_weights
from core.rundir import RunDirectory
from core.schema import choice, plain
from core.tokenizer_training import (
    Rows,
    TokenizerTraining,
    all_rows,
    fit,
    latent_statistics,
    output_directory,
    split_by_chance,
)

METRICS_FILE = "metrics.json"
PICTURE = "reconstructions"
SHOWN = 6  # clips, each before and after
OUTPUT_FILES = {CONFIG_FILE, WEIGHTS_FILE, METRICS_FILE, f"{PICTURE}.png"}
