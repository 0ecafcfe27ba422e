"""Microsoft's CLAP of 2023 (arXiv 2309.05767): embeddings of clips from its own file, as fadtk takes them.

HTSAT is transformers', the projection behind it and the spectrogram before it are here. The network was trained on
spectrograms of 44.1 kHz whose mel filters were made for 32 kHz: that is how its authors' code calls it, and this one.
Texts are not read: what GPT-2 makes of them is for scores that are not taken with it.

Letters: B clips, W windows of all of them together, L samples, T frames, M mels, D features (1024 as published).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from audio.encoders.clap_keys import MS_BRANCH, State, check_names, htsat_config, transformers_state
from audio.encoders.protocols import MAX_WINDOWS, ONE_WINDOW, WindowProtocol
from audio.sounds.sound import Sound
from core.extras import import_transformers
from core.storage.weights import check_finite_weights, load_weights
from eval.measure.extractor import Extractor
from eval.weights import locate_file

NAME = "ms_clap"
SAMPLE_RATE, SECONDS = 44_100, 7.0
FFT, HOP, MELS = 1024, 320, 64
FILTER_RATE, LOWEST, HIGHEST = 32_000, 50.0, 14_000.0  # of the mel filters
LEAST_POWER = 1e-10
PROJECTION = "audio_encoder.projection."
MEL_FILTERS = f"{MS_BRANCH}logmel_extractor.melW"  # (frequencies, mels)


class Projection(nn.Module):
    """Two linear maps without bias, the second a residual behind GELU, and a layer norm: (B, width) -> (B, D)."""

    def __init__(self, width: int, features: int):
        super().__init__()
        self.linear1 = nn.Linear(width, features, bias=False)
        self.linear2 = nn.Linear(features, features, bias=False)
        self.layer_norm = nn.LayerNorm(features)

    def forward(self, x: Tensor) -> Tensor:
        """Pooled tokens (B, width) -> (B, D)."""
        first = self.linear1(x)
        return self.layer_norm(first + self.linear2(gelu(first)))


class MsClapNetwork(nn.Module):
    """HTSAT of transformers and the projection, from the state dict of Microsoft's file.

    Raises ValueError, naming the file, for one that is another network's.
    """

    def __init__(self, state: State, path: Path):
        super().__init__()
        transformers = import_transformers(NAME, "eval")
        sizes = htsat_config(state, path, MS_BRANCH, "Microsoft's CLAP")
        self.htsat = transformers.ClapAudioModel(transformers.ClapAudioConfig(**sizes))
        first = state.get(f"{PROJECTION}linear1.weight")
        if first is None:
            raise ValueError(f"{path} is no Microsoft's CLAP: it lacks {PROJECTION}linear1.weight")
        self.projection = Projection(sizes["hidden_size"], len(first))
        own = {name: value for name, value in state.items() if name.startswith((MS_BRANCH, PROJECTION))}
        renamed, origins = ms_names(own)
        check_names(renamed, self.state_dict(), path, origins)
        self.load_state_dict(renamed)
        check_finite_weights(self, str(path))

    def forward(self, spectrograms: Tensor) -> Tensor:
        """Log-mel spectrograms (B, T, M) -> (B, D)."""
        return self.projection(self.htsat(input_features=spectrograms[:, None]).pooler_output)


def ms_names(state: State) -> tuple[State, dict[str, str]]:
    """The tensors under the names of `MsClapNetwork`, and by these what the file calls them."""
    branch = {f"audio_branch.{name.removeprefix(MS_BRANCH)}": name for name in state if name.startswith(MS_BRANCH)}
    renamed, origins = {}, {}
    for ours, theirs in branch.items():
        for name, value in transformers_state({ours: state[theirs]}).items():
            own = name.replace("audio_model.", "htsat.", 1)
            renamed[own], origins[own] = value, theirs
    for name in state:
        if name.startswith(PROJECTION):
            own = f"projection.{name.removeprefix(PROJECTION)}"
            renamed[own], origins[own] = state[name], name
    return renamed, origins


class MsClapFeatures(Extractor):
    """Microsoft's CLAP as an extractor: embedding (W, D), of any length, one row for each window of 7 s."""

    name, main = NAME, "embedding"

    def __init__(
        self,
        path: Path | None = None,
        protocol: WindowProtocol = ONE_WINDOW,
        device: torch.device | str = "cpu",
        root: Path | None = None,
    ):
        """path: CLAP_weights_2023.pth, to take instead of the registry's under `root`. ValueError where it is none."""
        self.protocol, self.device = replace(protocol, seconds=SECONDS), torch.device(device)
        path, self.weights_sha256 = locate_file("ms-clap", path, root, NAME)
        state = load_weights(path, prefer=None)
        self.network = MsClapNetwork(state, path).eval().requires_grad_(False).to(self.device)
        self.filters = mel_filters()
        given = state.get(MEL_FILTERS)
        same = given is None or given.shape == self.filters.shape
        if not same or (given is not None and not torch.allclose(given.float(), self.filters, atol=1e-5)):
            raise ValueError(f"{path} has other mel filters than {MELS} from {LOWEST:g} to {HIGHEST:g} Hz")

    @property
    def preprocessing(self) -> str:
        """The protocol, and what the network's own front end does."""
        return (
            f"{self.protocol.text}; {self.protocol.windows_text}; {SAMPLE_RATE} Hz, {MELS} slaney mels {LOWEST:g} to "
            f"{HIGHEST:g} Hz of {FILTER_RATE} Hz of a power spectrum (window {FFT}, hop {HOP}) in dB, shorter windows "
            "repeated; embedding not normalised"
        )

    @torch.no_grad()
    def __call__(self, rows: list[Sound]) -> dict[str, Tensor]:
        """Clips of any length and rate -> embedding (W, D) float32 on the CPU, in the order of clips and windows.

        Raises ValueError, naming the clip, for NaN, no sample, or a rate that cannot be resampled.
        """
        windows = []
        for number, sound in enumerate(rows):
            waveform = self.protocol.waveform(sound, SAMPLE_RATE, f"clip {number} of {len(rows)}")
            windows += [self._filled(window) for window in self.protocol.windows(waveform, SAMPLE_RATE)]
        if not windows:
            raise ValueError(f"{self.name} was given no clip")
        parts = [torch.stack(windows[first : first + MAX_WINDOWS]) for first in range(0, len(windows), MAX_WINDOWS)]
        found = [self.network(spectrogram(part, self.filters).to(self.device)).float().cpu() for part in parts]
        return {"embedding": self.protocol.rounded(torch.cat(found))}

    def _filled(self, window: Tensor) -> Tensor:
        """A window (L,) that is too short is repeated to its length, the last time in part."""
        length = self.protocol.window(SAMPLE_RATE)
        return window.repeat(-(-length // len(window)))[:length]


def mel_filters() -> Tensor:
    """Weights (frequencies, M) of the mels."""
    import librosa  # which only a run needs

    filters = librosa.filters.mel(sr=FILTER_RATE, n_fft=FFT, n_mels=MELS, fmin=LOWEST, fmax=HIGHEST)
    return torch.from_numpy(filters.T).contiguous()


def spectrogram(waveforms: Tensor, filters: Tensor) -> Tensor:
    """Samples (B, L) -> power of mels in dB (B, T, M)."""
    spectrum = torch.stft(waveforms, FFT, HOP, window=torch.hann_window(FFT), return_complex=True)
    power = spectrum.real.square() + spectrum.imag.square()
    return 10 * torch.log10((power.transpose(1, 2) @ filters).clamp_min(LEAST_POWER))
