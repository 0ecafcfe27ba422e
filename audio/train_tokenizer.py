"""`python -m audio.train_tokenizer`: train the small VAE that `tokenizer=conv_oobleck` loads.

Letters: B batch, C channels, L samples.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from audio.codecs.autoencoder import AudioAutoencoder, AudioAutoencoderConfig, save_autoencoder
from audio.codecs.spectral import SpectralCodec, SpectralConfig
from audio.data import SOUND_DATASETS, NotesConfig, SoundConfig, clip_format
from audio.preview import AudioPreview
from audio.sounds.pcm import write_wav
from audio.sounds.quality import log_mel_correlation, log_mel_distance_db, si_snr_db, snr_db, spectral_distance
from core.commands.entry import Entry
from core.commands.train_tokenizer import TokenizerFitting
from core.latents.fitting import Rows, TokenizerTraining, all_rows, latent_statistics, split_by_chance
from core.schema import choice

PICTURE_FILE = "reconstructions.png"
HEARD = 6  # clips, each before and after, in the picture and as WAV files
SIDES = ("original", "decoded")
WAVS = [f"{side}_{number}.wav" for number in range(HEARD) for side in SIDES]
USE = "python -m audio.train tokenizer=conv_oobleck tokenizer.path={} backbone.patch_size=1"
Code = Callable[[Tensor], Tensor]  # clips (B, C, L) -> decoded clips


@dataclass(frozen=True, kw_only=True)
class AudioTrainTokenizerConfig(TokenizerTraining):
    """What `python -m audio.train_tokenizer` takes; the keys are explained in conf/train_tokenizer.yaml."""

    data: SoundConfig = choice(SOUND_DATASETS, default_factory=NotesConfig)
    autoencoder: AudioAutoencoderConfig = field(default_factory=AudioAutoencoderConfig)
    heldout_clips: int = 200
    steps: int = 3000
    batch_size: int = 4
    lr: float = 1e-3
    name: str = "notes"

    def __post_init__(self):
        super().__post_init__()
        if self.heldout_clips < HEARD:
            raise ValueError(f"heldout_clips is {self.heldout_clips!r}; allowed: {HEARD} or more")


def main(config: AudioTrainTokenizerConfig) -> Path:
    """Train a small convolutional VAE on sound, for runs with tokenizer=conv_oobleck.

    Without arguments: synthesised notes, some minutes on two CPU cores. Writes weights, numbers, a picture and WAV
    files of held-out clips before and after to runs_dir/tokenizer/name, and tells how it compares with the spectral
    codec, which needs no training. It stands in for a pretrained VAE: it has no adversarial loss.
    """
    return AudioFitting(config).run(print)


class AudioFitting(TokenizerFitting):
    """A small VAE of sound."""

    unit, pictures, use = "clip", (PICTURE_FILE, *WAVS), USE
    config: AudioTrainTokenizerConfig

    def split(self) -> tuple[Rows, Rows]:
        """Clips to train on and clips to measure on, disjoint; of notes the held-out ones."""
        data = self.config.data
        clip = clip_format(data, self.config.autoencoder.hop, 1)
        dataset = data.build(clip, 1)
        if isinstance(data, NotesConfig) and data.split == "train":
            return all_rows(dataset), all_rows(replace(data, split="heldout").build(clip, 1))
        return split_by_chance(dataset, self.config.heldout_clips, self.unit)

    def network(self, media_shape: tuple[int, ...]) -> AudioAutoencoder:
        """An untrained network for clips (C, L)."""
        return AudioAutoencoder(self.config.autoencoder, media_shape[0], self.config.data.sample_rate)

    def measure(self, network: AudioAutoencoder, train: Rows, heldout: Rows) -> dict[str, float | dict]:
        """See `measure`."""
        return measure(network, train, heldout, self.config)

    def write(self, folder: Path, network: AudioAutoencoder, data: tuple[Rows, Rows], metrics: dict) -> None:
        """The files, and a picture and WAV files of held-out clips before and after."""
        train, heldout = data
        save_autoencoder(folder, network, *latent_statistics(network, train, self.config.batch_size).of_channels())
        save_sounds(partial(coded, network), heldout, self.config, folder)

    def numbers(self, metrics: dict) -> list[str]:
        """The comparison with the codec."""
        head = "tokenizer      SNR dB   SI-SNR dB   log-mel distance dB   log-mel correlation   latent numbers a second"
        rows = [
            f"{name:<13}  {row['snr_db']:>6.1f}   {row['si_snr_db']:>9.1f}   {row['log_mel_distance_db']:>19.2f}   "
            f"{row['log_mel_correlation']:>19.3f}   {row['latent_numbers_a_second']:>23.0f}"
            for name, row in ((name, metrics[name]) for name in ("conv_oobleck", "spectral"))
        ]
        return [f"{metrics['heldout_clips']} held-out clips, encoded and decoded:", head, *rows]

    def shown_pictures(self) -> str:
        """How the report calls the pictures and sounds."""
        return f"picture: {PICTURE_FILE}, sounds: *.wav"


@torch.no_grad()
def coded(network: torch.nn.Module, clips: Tensor) -> Tensor:
    """Clips (B, C, L) encoded, by the posterior's mean, and decoded."""
    device = next(itertools.chain(network.parameters(), network.buffers())).device
    return network.decode(network.moments(clips.to(device))[0]).clamp(-1, 1).cpu()


def measure(
    network: AudioAutoencoder, train: Rows, heldout: Rows, config: AudioTrainTokenizerConfig
) -> dict[str, float | dict]:
    """What metrics.json holds: how near held-out clips come back, beside the spectral codec on the same clips."""
    rate, channels = config.data.sample_rate, train.media_shape[0]
    codec = SpectralCodec(SpectralConfig(), rate, channels)
    count = min(config.heldout_clips, len(heldout))
    codes: dict[str, Code] = {"conv_oobleck": partial(coded, network), "spectral": partial(coded, codec)}
    batches = list(heldout.batches(config.batch_size, count))
    found = {name: distances(code, batches, rate) for name, code in codes.items()}
    sizes = {name: numbers_a_second(each, config) for name, each in (("conv_oobleck", network), ("spectral", codec))}
    return {
        **{name: {**numbers, "latent_numbers_a_second": sizes[name]} for name, numbers in found.items()},
        "heldout_clips": count,
    }


def numbers_a_second(network: AudioAutoencoder | SpectralCodec, config: AudioTrainTokenizerConfig) -> float:
    """How many latent numbers a second of sound becomes."""
    return network.latent_channels * config.data.sample_rate / network.hop


def distances(code: Code, batches: Iterable[Tensor], sample_rate: int) -> dict[str, float]:
    """Means over clips of the numbers of `audio.sounds.quality`."""
    parts: dict[str, list[Tensor]] = {}
    for clips in batches:
        decoded = code(clips)
        own = {
            "snr_db": snr_db(clips, decoded),
            "si_snr_db": si_snr_db(clips, decoded),
            "log_mel_distance_db": log_mel_distance_db(clips, decoded, sample_rate),
            "log_mel_correlation": log_mel_correlation(clips, decoded, sample_rate),
            "spectral_distance": spectral_distance(clips, decoded),
        }
        for name, values in own.items():
            parts.setdefault(name, []).append(values)
    return {name: torch.cat(values).double().mean().item() for name, values in parts.items()}


def save_sounds(code: Code, heldout: Rows, config: AudioTrainTokenizerConfig, folder: Path) -> None:
    """A picture of some held-out clips, each before and after, and WAV files of them."""
    clips = next(heldout.batches(HEARD, HEARD))
    pairs = torch.stack([clips, code(clips)], dim=1)  # (B, 2, C, L)
    for number, pair in enumerate(pairs):
        for side, sound in zip(SIDES, pair, strict=True):
            write_wav(folder / f"{side}_{number}.wav", sound, config.data.sample_rate)
    sides = torch.arange(len(SIDES)).repeat(len(clips))
    AudioPreview(SIDES, config.data.sample_rate).save_picture(pairs.flatten(0, 1), sides, folder / PICTURE_FILE)


ENTRY = Entry(main, "audio.conf", "train_tokenizer", AudioTrainTokenizerConfig)

if __name__ == "__main__":
    ENTRY.run()
