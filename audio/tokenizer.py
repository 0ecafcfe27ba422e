"""Clips to the latents a backbone sees, and back: a spectral codec, Stable Audio Open's VAE, or our small one.

Coding and posterior are `core.latents.tokenizer`, the networks are in `audio.codecs`. Here is which network a config
means, and how its latents are normalised, channel by channel: with the numbers in the config, else those that came with
the weights, else those of the cache or the checkpoint at hand, else as measured from the training data
(`audio.codecs.scaling`).

Letters: C channels, L samples, Z latent channels, T latent frames.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import ClassVar

import torch
from torch import nn

from audio.codecs.autoencoder import KIND as CONV_OOBLECK
from audio.codecs.autoencoder import MAKE_COMMAND, load_autoencoder
from audio.codecs.chunked import ChunkedNetwork
from audio.codecs.oobleck import OobleckNetwork, check_format
from audio.codecs.spectral import SpectralCodec, SpectralConfig
from core.latents.diffusers_files import DiffusersModel
from core.latents.scaling import Normalisation, Scaling
from core.latents.tokenizer import CodingOptions, KLOptions, KLTokenizer, TokenizerConstants, weights_sha256
from core.schema import FREE, plain
from core.storage.provenance import json_sha256

SPECTRAL, STABLE_AUDIO = "spectral", "stable_audio"


@dataclass(frozen=True)
class AudioConstants(TokenizerConstants):
    """`core.latents.tokenizer.TokenizerConstants`, and the rate of the sound.

    sample_rate  Hz
    """

    sample_rate: int


class AudioTokenizer(KLTokenizer):
    """A network that codes sound, with its constants.

    hop          samples of a latent frame
    sample_rate  Hz
    """

    def __init__(self, network: nn.Module, constants: AudioConstants, options: CodingOptions):
        super().__init__(network, constants, options)
        self.hop, self.sample_rate = constants.downsample, constants.sample_rate


@dataclass(frozen=True)
class CodecNetwork:
    """A network with what is known of its origin.

    scaling  that came with it
    """

    network: nn.Module
    path: str | None
    sha256: str
    options: CodingOptions
    scaling: Scaling | None = None


@dataclass(frozen=True, kw_only=True)
class CodecConfig(Normalisation):
    """What all tokenizers of sound share: a network, and how its latents are normalised.

    kind  the name of the choice, and of the tokenizer in caches and checkpoints
    """

    kind: ClassVar[str]

    def network(self, sample_rate: int, channels: int) -> CodecNetwork:
        """The network for clips of that format, and what is known of its origin."""
        raise NotImplementedError

    def in_chunks(self, network: nn.Module, sample_rate: int) -> nn.Module:
        """The network, coding long clips piece by piece where the config says so."""
        return network

    def build(
        self, sample_rate: int, channels: int, device: torch.device | str
    ) -> tuple[AudioTokenizer, Scaling | None]:
        """The tokenizer for clips of that format, not normalised, and the scaling that config or weights know.

        Raises ValueError, naming the config key, for files that are missing, damaged or of another model, and for a
        rate or channels that it does not take; ImportError for an extra that is not installed.
        """
        found = self.network(sample_rate, channels)
        check_format(found.network, sample_rate, channels)
        constants = AudioConstants(self.kind, found.path, 1.0, 0.0, found.network.hop, found.sha256, sample_rate)
        network = self.in_chunks(found.network, sample_rate)
        return AudioTokenizer(network, constants, found.options).to(device), self.given or found.scaling


@dataclass(frozen=True, kw_only=True)
class SpectralTokenizerConfig(SpectralConfig, CodecConfig):
    """The codec without weights; see `audio.codecs.spectral`.

    decode_batch  clips decoded at once
    """

    kind: ClassVar[str] = SPECTRAL
    decode_batch: int = field(default=64, metadata=FREE)

    def __post_init__(self):
        SpectralConfig.__post_init__(self)
        Normalisation.__post_init__(self)
        if self.decode_batch < 1:
            raise ValueError(f"tokenizer.decode_batch is {self.decode_batch!r}; allowed: 1 or more at once")

    def network(self, sample_rate: int, channels: int) -> CodecNetwork:
        """The spectral codec; its constants are a function of its options."""
        own = {each.name: getattr(self, each.name) for each in fields(SpectralConfig)}
        spectral = SpectralConfig(**own)
        network = SpectralCodec(spectral, sample_rate, channels)
        options = CodingOptions(posterior="mean", encode_batch=256, decode_batch=self.decode_batch)
        return CodecNetwork(network, None, json_sha256(plain(spectral)), options)


@dataclass(frozen=True, kw_only=True)
class VAEConfig(KLOptions, CodecConfig):
    """What the two networks with weights share; see `StableAudioConfig`."""

    chunk_seconds: float | None = None
    allow_untrained: bool = False

    def __post_init__(self):
        KLOptions.__post_init__(self)
        Normalisation.__post_init__(self)
        if self.chunk_seconds is not None and not self.chunk_seconds > 0:
            raise ValueError(f"tokenizer.chunk_seconds is {self.chunk_seconds}; allowed: above 0, or null: whole clips")

    def in_chunks(self, network: nn.Module, sample_rate: int) -> nn.Module:
        """The network, coding `chunk_seconds` at a time."""
        if self.chunk_seconds is None:
            return network
        return ChunkedNetwork(network, max(1, int(self.chunk_seconds * sample_rate) // network.hop))


@dataclass(frozen=True, kw_only=True)
class StableAudioConfig(VAEConfig):
    """Stable Audio Open's VAE, a diffusers AutoencoderOobleck; needs the extra `vae`.

    Other keys: `core.latents.tokenizer.KLOptions`.

    path             directory written by `save_pretrained` (never touches the network), or the id of a hub repository
    subfolder        where the autoencoder stands below `path`: "vae" in the whole pipeline
    chunk_seconds    code this much at a time, with overlap, for memory; null: the whole clip
    allow_untrained  take a VAE that does not reproduce the training clips: for tests with random weights
    """

    kind: ClassVar[str] = STABLE_AUDIO
    path: str = field(default="stabilityai/stable-audio-open-1.0", metadata=FREE)
    subfolder: str = "vae"

    def network(self, sample_rate: int, channels: int) -> CodecNetwork:
        """The pretrained VAE."""
        source = DiffusersModel("AutoencoderOobleck", STABLE_AUDIO, self.path, self.subfolder)
        model = source.load()
        return CodecNetwork(OobleckNetwork(model), source.name, weights_sha256(model), self)


@dataclass(frozen=True, kw_only=True)
class ConvOobleckConfig(VAEConfig):
    """Our small VAE, made by `python -m audio.train_tokenizer`; the other keys are those of `StableAudioConfig`.

    path  directory with `config.json` and `model.safetensors`
    """

    kind: ClassVar[str] = CONV_OOBLECK
    path: str = field(default="runs/tokenizer/notes", metadata=FREE)

    def network(self, sample_rate: int, channels: int) -> CodecNetwork:
        """The VAE that was trained here, and the scaling of its latents."""
        directory = Path(self.path).expanduser()
        if not directory.is_dir():
            raise ValueError(f"tokenizer.path is '{self.path}', which is no directory; `{MAKE_COMMAND}` makes one")
        network, saved = load_autoencoder(directory)
        scaling = Scaling.of(saved.latent_mean, saved.latent_std)
        return CodecNetwork(network, directory.resolve().name, weights_sha256(network), self, scaling)


TOKENIZERS: dict[str, type] = {
    each.kind: each for each in (SpectralTokenizerConfig, StableAudioConfig, ConvOobleckConfig)
}
TokenizerConfig = SpectralTokenizerConfig | StableAudioConfig | ConvOobleckConfig
