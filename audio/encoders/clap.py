"""CLAP: embeddings of clips and of texts in one space, from transformers' format or from LAION's own file.

Embeddings have length 1 (L2), as LAION's get_audio_embedding_from_data and get_text_embedding and transformers'
get_audio_features give them: FAD of fadtk is taken on these, and a cosine is a dot product.

Letters: B clips, W windows of all of them together, L samples, D features (512 in published models).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from audio.encoders.clap_keys import (
    MEL_FILTERS,
    check_names,
    laion_config,
    read_laion,
    transformers_name,
    transformers_state,
)
from audio.encoders.protocols import MAX_WINDOWS, ONE_WINDOW, WindowProtocol, laion_int16
from audio.sounds.sound import Sound
from core.data.captions import composed
from core.extras import import_transformers
from core.storage.atomic import sha256_file
from core.storage.json_files import read_mapping
from core.storage.pretrained import LOCAL, read_pretrained
from core.storage.provenance import json_sha256
from core.storage.weights import check_finite_weights
from eval.measure.extractor import Extractor
from eval.weights import locate, verified

CONFIG, WEIGHTS, PREPROCESSOR = "config.json", "model.safetensors", "preprocessor_config.json"
# What of the preprocessor's file must be there: transformers would fill in defaults that are of a fused model.
PREPROCESSOR_KEYS = (
    "feature_size",
    "sampling_rate",
    "hop_length",
    "max_length_s",
    "fft_window_size",
    "frequency_min",
    "frequency_max",
    "truncation",
    "padding",
)
# LAION's configs of HTSAT-base and HTSAT-tiny without fusion; truncation never happens, windows are cut before.
LAION_PREPROCESSOR = {
    "feature_size": 64,
    "sampling_rate": 48_000,
    "hop_length": 480,
    "max_length_s": 10,
    "fft_window_size": 1024,
    "frequency_min": 50,
    "frequency_max": 14_000,
    "truncation": "rand_trunc",
    "padding": "repeatpad",
}
# (width of a patch, depths) of the registry's models
HTSAT = {"clap-music": (128, [2, 2, 12, 2]), "clap-audio": (96, [2, 2, 6, 2])}
TOKENIZER_FILES = ({"tokenizer.json"}, {"vocab.json", "merges.txt"})  # either set does
MAX_TOKENS = 77  # of LAION's training; longer texts are cut


@dataclass(frozen=True)
class ClapSource:
    """Which CLAP, and where it stands; see `eval.weights`.

    name       clap-music or clap-audio (LAION's files in the registry), or clap, which needs a path
    path       a directory of transformers (config.json, model.safetensors, preprocessor_config.json, tokenizer), or a
               .pt file of LAION's, to take instead of the registry's
    tokenizer  a folder with RoBERTa's tokenizer.json, or vocab.json and merges.txt; null: beside the weights
    root       the weights folder; null: its default
    """

    name: str = "clap-music"
    path: Path | None = None
    tokenizer: Path | None = None
    root: Path | None = None

    def __post_init__(self) -> None:
        if self.name not in (*HTSAT, "clap"):
            raise ValueError(f"CLAP's name is {self.name!r}; allowed: {', '.join(HTSAT)}, clap")
        if self.name == "clap" and self.path is None:
            raise ValueError("CLAP's name is 'clap' and there is no path; the registry has clap-music and clap-audio")

    def place(self) -> tuple[Path, str]:
        """The file or directory, and the SHA-256 of what is read of it; ValueError where something is missing."""
        if self.path is None:
            (sha256,) = verified(self.name, self.root).values()
            return locate(self.name, self.root), sha256
        if self.path.is_dir():
            missing = [name for name in (CONFIG, WEIGHTS, PREPROCESSOR) if not (self.path / name).is_file()]
            if missing:
                raise ValueError(f"{self.name}: {self.path} lacks {' and '.join(missing)}")
            return self.path, json_sha256({name: sha256_file(self.path / name) for name in (CONFIG, WEIGHTS)})
        if not self.path.is_file():
            raise ValueError(f"{self.name}: there is no file or directory {self.path}")
        return self.path, sha256_file(self.path)


class ClapFeatures(Extractor):
    """CLAP as an extractor: embedding (W, D), of length 1, one row for each window that the protocol cuts."""

    main = "embedding"

    def __init__(
        self,
        source: ClapSource,
        protocol: WindowProtocol = ONE_WINDOW,
        device: torch.device | str = "cpu",
    ):
        self.name, self.protocol, self.device = source.name, protocol, torch.device(device)
        self.transformers = import_transformers(source.name, "eval")
        place, self.weights_sha256 = source.place()
        self.laion = not place.is_dir()
        reader = self._from_laion if self.laion else self._from_directory
        network, self.mel = reader(place)
        _check_architecture(network, source.name, place)
        self._check_mel(network, place)
        self.network: nn.Module = network.float().eval().requires_grad_(False).to(self.device)
        self.tokenizer_folder = source.tokenizer or (place.parent if self.laion else place)
        self._tokenizer: Any = None

    @property
    def preprocessing(self) -> str:
        """The protocol, and what the network's own front end does."""
        mel, quantised = self.mel, "int16 as LAION's, " if self.laion or self.protocol.int16 else ""
        return (
            f"{self.protocol.text}; {self.protocol.windows_text}; {quantised}{mel.sampling_rate} Hz, "
            f"{mel.feature_size} slaney mels {mel.frequency_min:g} to {mel.frequency_max:g} Hz of a power spectrum "
            f"(window {mel.fft_window_size}, hop {mel.hop_length}) in dB, shorter windows by {mel.padding}; "
            "embedding of length 1"
        )

    @torch.no_grad()
    def __call__(self, rows: list[Sound]) -> dict[str, Tensor]:
        """Clips of any length and rate -> embedding (W, D) float32 on the CPU, in the order of clips and windows.

        Raises ValueError, naming the clip, for NaN, no sample, or a rate that cannot be resampled.
        """
        windows = [
            window for i, sound in enumerate(rows) for window in self._windows(sound, f"clip {i} of {len(rows)}")
        ]
        if not windows:
            raise ValueError(f"{self.name} was given no clip")
        parts = [windows[start : start + MAX_WINDOWS] for start in range(0, len(windows), MAX_WINDOWS)]
        return {"embedding": self.protocol.rounded(torch.cat([self._embed(part) for part in parts]))}

    def _windows(self, sound: Sound, name: str) -> list[Tensor]:
        waveform = self.protocol.waveform(sound, self.mel.sampling_rate, name)
        if self.laion or self.protocol.int16:
            waveform = laion_int16(waveform)
        return self.protocol.windows(waveform, self.mel.sampling_rate)

    def _embed(self, windows: list[Tensor]) -> Tensor:
        inputs = self.mel(
            [window.numpy() for window in windows], sampling_rate=self.mel.sampling_rate, return_tensors="np"
        )
        spectrograms = torch.from_numpy(np.stack(inputs["input_features"])).float().to(self.device)
        return self.network.get_audio_features(input_features=spectrograms).pooler_output.float().cpu()

    @torch.no_grad()
    def text_embedding(self, texts: list[str]) -> Tensor:
        """Texts, in Unicode's composed form, -> (n, D) float32 of length 1 on the CPU.

        A text is cut after 77 tokens, as in LAION's training.

        Raises ValueError for no text, and for tokenizer files that are missing or of another network.
        """
        if not texts or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"{self.name} was given no text, or something else: {texts!r:.80}")
        tokenizer, found = self.tokenizer(), []
        for start in range(0, len(texts), MAX_WINDOWS):
            part = [composed(text) for text in texts[start : start + MAX_WINDOWS]]
            tokens = tokenizer(part, padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
            inputs = {name: tokens[name].to(self.device) for name in ("input_ids", "attention_mask")}
            found.append(self.network.get_text_features(**inputs).pooler_output.float().cpu())
        return torch.cat(found)

    def tokenizer(self) -> Any:
        """RoBERTa's tokenizer, read once, from files alone; ValueError where they are missing or do not fit."""
        if self._tokenizer is None:
            folder = self.tokenizer_folder
            if not any(all((folder / name).is_file() for name in names) for names in TOKENIZER_FILES):
                raise ValueError(
                    f"{self.name}: texts need RoBERTa's tokenizer.json (or vocab.json, merges.txt) in {folder}"
                )
            try:
                tokenizer = self.transformers.RobertaTokenizer.from_pretrained(str(folder), **LOCAL)
            except Exception as error:  # a damaged file fails in ways that transformers does not name
                raise ValueError(f"{self.name}: the tokenizer in {folder} cannot be read: {error}") from error
            config = self.network.config.text_config
            if len(tokenizer) > config.vocab_size or tokenizer.pad_token_id != config.pad_token_id:
                raise ValueError(
                    f"{self.name}: the tokenizer in {folder} has {len(tokenizer)} tokens and padding "
                    f"{tokenizer.pad_token_id}, the network {config.vocab_size} and {config.pad_token_id}"
                )
            self._tokenizer = tokenizer
        return self._tokenizer

    def _from_directory(self, folder: Path) -> tuple[nn.Module, Any]:
        said = read_mapping(folder / PREPROCESSOR)
        missing = [key for key in PREPROCESSOR_KEYS if key not in said]
        if missing:
            raise ValueError(f"{self.name}: {folder / PREPROCESSOR} does not say {', '.join(missing)}")
        network = read_pretrained(self.transformers.ClapModel, folder, self.name)
        if network.config.audio_config.enable_fusion or said["truncation"] != "rand_trunc":
            raise ValueError(
                f"{self.name}: {folder} is a fused CLAP (enable_fusion {network.config.audio_config.enable_fusion}, "
                f"truncation {said['truncation']}); needed: one without fusion, truncation rand_trunc"
            )
        try:
            return network, self.transformers.ClapFeatureExtractor(**{key: said[key] for key in PREPROCESSOR_KEYS})
        except (TypeError, ValueError, ArithmeticError) as error:  # of numbers that are none, or of another kind
            raise ValueError(f"{self.name}: {folder / PREPROCESSOR} is damaged: {error}") from error

    def _from_laion(self, path: Path) -> tuple[nn.Module, Any]:
        state = read_laion(path)
        network = self.transformers.ClapModel(self.transformers.ClapConfig(**laion_config(state, path)))
        renamed = transformers_state(state)
        check_names(renamed, network.state_dict(), path, {transformers_name(name): name for name in state})
        network.load_state_dict(renamed, strict=False)
        check_finite_weights(network, str(path))
        mel = self.transformers.ClapFeatureExtractor(**LAION_PREPROCESSOR)
        filters = state.get(MEL_FILTERS)
        ours = torch.from_numpy(mel.mel_filters_slaney).float()
        if filters is not None and (
            filters.shape != ours.shape or not torch.allclose(filters.float(), ours, atol=1e-5)
        ):
            raise ValueError(f"{path} has other mel filters than {LAION_PREPROCESSOR}: it was trained on another input")
        return network, mel

    def _check_mel(self, network: nn.Module, place: Path) -> None:
        """Raise ValueError where windows and network do not fit."""
        mel, config = self.mel, network.config.audio_config
        frames, room = mel.nb_max_samples // mel.hop_length + 1, config.spec_size**2 // config.num_mel_bins
        if self.protocol.window(mel.sampling_rate) != mel.nb_max_samples:
            raise ValueError(
                f"{self.name}: {place} hears {mel.max_length_s} s at {mel.sampling_rate} Hz, "
                f"the protocol {self.protocol.name} cuts {self.protocol.seconds:g} s"
            )
        if mel.feature_size != config.num_mel_bins or frames > room:
            raise ValueError(
                f"{self.name}: {place} takes {room} frames of {config.num_mel_bins} mels, its preprocessor makes "
                f"{frames} of {mel.feature_size} at a rate of {mel.sampling_rate} Hz"
            )


def _check_architecture(network: nn.Module, name: str, place: Path) -> None:
    config = network.config.audio_config
    found = (config.patch_embeds_hidden_size, list(config.depths))
    if found != HTSAT.get(name, found):
        raise ValueError(
            f"{place} is not {name}: HTSAT of width {found[0]} and depths {found[1]}, "
            f"needed {HTSAT[name][0]} and {HTSAT[name][1]}"
        )
