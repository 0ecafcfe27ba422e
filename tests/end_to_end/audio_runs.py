"""Audio runs at toy size: their arguments, collections of real files, a tiny random VAE."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

from tests.audio.audio_files import music, write_mp3, write_sound
from tests.end_to_end.zygote import Zygote

RATE, HOP, SECONDS = 8000, 32, 0.128  # of the collections: clips of 1024 samples, 32 latent frames
SMALL = [
    "trainer.batch_size=4",
    "trainer.log_every=1",
    "trainer.num_previews=2",
    "backbone.depth=2",
    "backbone.hidden_size=16",
    "backbone.num_heads=2",
    "alignment.pairs=[[1,2]]",
    "optimizer.warmup_steps=2",
    "ema.decays=[0.9]",
    "sampler.num_steps=2",
    "tracking.tensorboard=off",
    "device=cpu",
]
NOTES = [*SMALL, "data.num_notes=60", "tokenizer.griffin_lim_iterations=2"]
SAVING = ["trainer.steps=8", "trainer.preview_every=3", "trainer.checkpoint_every=2", "trainer.keep_every=4"]
RUN = Path("runs", "audio", "notes")  # in the folder where the command is called, whatever the data


def notes(*overrides: str) -> list[str]:
    """Arguments of a tiny run on notes, which measures nothing."""
    return [*NOTES, "evaluation=none", *overrides]


def clips(root: Path, vae: Path, *overrides: str) -> list[str]:
    """Arguments of a tiny run on the folder of files `root` with the VAE in `vae`, without a condition."""
    return [
        *SMALL,
        "data=folder",
        *format_of(root),
        *coded_by(vae),
        "backbone.patch_size=1",
        "conditioning=none",
        "sampler.guidance_scale=1",
        "evaluation=none",
        *overrides,
    ]


def format_of(root: Path) -> list[str]:
    """Arguments for the toy format's clips of the files in `root`."""
    clip = [f"data.sample_rate={RATE}", f"data.seconds={SECONDS}", "data.channels=2", "data.min_seconds=0.01"]
    return [f"data.root={root}", *clip]


def coded_by(vae: Path) -> list[str]:
    """Arguments for a random VAE in a folder of its own."""
    own = [f"tokenizer.path={vae}", "tokenizer.subfolder=''", "tokenizer.allow_untrained=true"]
    return ["tokenizer=stable_audio", *own]


def save_vae(path: Path, seed: int = 0, sample_rate: int = RATE, channels: int = 2) -> Path:
    """A random AutoencoderOobleck of a few thousand weights, as `save_pretrained` writes it."""
    from diffusers.models import AutoencoderOobleck

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = AutoencoderOobleck(
            encoder_hidden_size=8,
            downsampling_ratios=[4, 8],
            channel_multiples=[1, 1],
            decoder_channels=4,
            decoder_input_channels=4,
            audio_channels=channels,
            sampling_rate=sample_rate,
        )
    network.save_pretrained(path)
    return path


def make_collection(root: Path) -> Path:
    """Two classes of files of five kinds, 8 to 48 kHz, mono, stereo and 5.1, one shorter than a clip."""
    write_sound(root / "calm" / "long.wav", music(0.6, RATE, 2, seed=0), RATE)
    write_sound(root / "calm" / "mono.flac", music(0.4, 44100, 1, seed=1), 44100)
    write_sound(root / "calm" / "short.wav", music(0.05, RATE, 2, seed=2), RATE)  # 13 of the clip's 32 frames
    write_sound(root / "loud" / "deep" / "vorbis.ogg", music(0.5, 16000, 2, seed=3), 16000)
    write_mp3(root / "loud" / "lame.MP3", music(0.5, 44100, 2, seed=4), 44100)
    write_sound(root / "loud" / "apple.m4a", music(0.5, 44100, 2, seed=5), 44100)
    write_sound(root / "loud" / "surround.wav", music(0.3, 48000, 6, seed=6), 48000)
    return root


def copy_collection(root: Path, to: Path) -> Path:
    """The same files in another folder."""
    return Path(shutil.copytree(root, to))


def uninterrupted(zygote: Zygote, place: Path, *arguments: str, run: Path = RUN) -> Path:
    """`python -m audio.train` in the folder `place` with nobody disturbing it: the folder of the complete run."""
    session = zygote.train(*arguments, cwd=place, module="audio.train")
    assert session.wait() == 0, session.said()
    return place / run


def read_wav(path: Path) -> tuple[np.ndarray, int]:
    """Samples (C, n) of a WAV file and their rate."""
    samples, rate = soundfile.read(path, always_2d=True)
    return samples.T, rate


def heard_alike(a: Path, b: Path) -> bool:
    """Two WAV files hold the same samples, but for the rounding of a number between two integers."""
    (left, rate), (right, other) = read_wav(a), read_wav(b)
    return rate == other and left.shape == right.shape and float(np.abs(left - right).max()) <= 1.01 / 32767


def wavs(folder: Path) -> list[bytes]:
    """The WAV files that audio.sample wrote below `folder`, in order."""
    return [file.read_bytes() for file in sorted((folder / "wav").glob("*.wav"))]


def ones_like_mask(batch: int, tokens: int, lengths: list[int]) -> Tensor:
    """(B, N) bool, true for the first tokens of each row."""
    return torch.arange(tokens).expand(batch, -1) < torch.tensor(lengths)[:, None]
