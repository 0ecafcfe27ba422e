"""VGGish (Hershey et al. 2017) with torchvggish's weights: 128 features for every 0.96 s of a clip.

As fadtk takes it: no PCA, no quantisation, and without the last ReLU. Google's TensorFlow checkpoint gives other
numbers; never mix the two in one table.

Letters: L samples, T frames of 10 ms, E examples of 96 frames, M = 64 mels.
"""

from __future__ import annotations

from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor, nn

from audio.encoders.clap_keys import check_names
from audio.encoders.protocols import ONE_WINDOW, WindowProtocol
from audio.sounds.sound import Sound
from core.storage.weights import check_finite_weights, load_weights
from eval.measure.extractor import Extractor
from eval.weights import locate_file

SAMPLE_RATE = 16_000
FRAME, HOP, FFT = 400, 160, 512  # 25 ms, 10 ms, the next power of 2
MELS, LOWEST, HIGHEST = 64, 125.0, 7500.0
LOG_OFFSET = 0.01
EXAMPLE_FRAMES = 96
CHANNELS = (64, "pool", 128, "pool", 256, 256, "pool", 512, 512, "pool")
MAX_EXAMPLES = 32  # through the network at once


class VggishNetwork(nn.Module):
    """VGG with the names of torchvggish: features.0 ... features.13, embeddings.0, .2 and .4."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 1
        for channels in CHANNELS:
            if channels == "pool":
                layers.append(nn.MaxPool2d(2, 2))
            else:
                layers += [nn.Conv2d(inputs, channels, 3, padding=1), nn.ReLU()]
                inputs = channels
        self.features = nn.Sequential(*layers)
        flat = inputs * (EXAMPLE_FRAMES // 16) * (MELS // 16)
        self.embeddings = nn.Sequential(
            nn.Linear(flat, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 128)
        )

    def forward(self, examples: Tensor) -> Tensor:
        """Log-mel examples (E, 96, M) -> (E, 128); the channel runs fastest before the dense layers."""
        maps = self.features(examples[:, None])
        return self.embeddings(rearrange(maps, "e c t m -> e (t m c)"))


class VggishFeatures(Extractor):
    """VGGish as an extractor: embedding (E, 128) of every whole 0.96 s of a clip; protocol windows play no part."""

    name, main = "vggish", "embedding"

    def __init__(
        self,
        path: Path | None = None,
        protocol: WindowProtocol = ONE_WINDOW,
        device: torch.device | str = "cpu",
        root: Path | None = None,
    ):
        """path: torchvggish's file, to take instead of the registry's under `root`. ValueError where it is none."""
        self.protocol, self.device = protocol, torch.device(device)
        path, self.weights_sha256 = locate_file("vggish", path, root, "vggish")
        self.network = read_vggish(path).to(self.device)

    @property
    def preprocessing(self) -> str:
        """The protocol, and what the network's own front end does."""
        return (
            f"{self.protocol.text}; zeros up to 1 s; {SAMPLE_RATE} Hz, log({LOG_OFFSET} + {MELS} mels {LOWEST:g} to "
            f"{HIGHEST:g} Hz of a magnitude spectrum (window {FRAME}, hop {HOP})), all whole examples of "
            f"{EXAMPLE_FRAMES} frames; no PCA, no last ReLU"
        )

    @torch.no_grad()
    def __call__(self, rows: list[Sound]) -> dict[str, Tensor]:
        """Clips of any length and rate -> embedding (E, 128) float32 on the CPU, in the order of clips and time.

        Raises ValueError, naming the clip, for NaN, no sample, or a rate that cannot be resampled.
        """
        if not rows:
            raise ValueError("vggish was given no clip")
        examples = torch.cat([self._examples(sound, f"clip {i} of {len(rows)}") for i, sound in enumerate(rows)])
        found = [self.network(part.to(self.device)).cpu() for part in examples.split(MAX_EXAMPLES)]
        return {"embedding": self.protocol.rounded(torch.cat(found))}

    def _examples(self, sound: Sound, name: str) -> Tensor:
        waveform = self.protocol.waveform(sound, SAMPLE_RATE, name)
        return examples_of(nn.functional.pad(waveform, (0, max(0, SAMPLE_RATE - len(waveform)))))


def read_vggish(path: Path) -> VggishNetwork:
    """The network of torchvggish's file; the PCA (pproc.*), which fadtk leaves out, is not looked at.

    Raises ValueError for a damaged file, one with foreign objects, or one of another network.
    """
    state = {name: value for name, value in load_weights(path, prefer=None).items() if not name.startswith("pproc.")}
    with torch.device("meta"):
        network = VggishNetwork()
    check_names(state, network.state_dict(), path)
    network.load_state_dict(state, assign=True)
    check_finite_weights(network, str(path))
    return network.float().eval().requires_grad_(False)


def examples_of(waveform: Tensor) -> Tensor:
    """Samples (L,) at 16 kHz -> log-mel examples (E, 96, M) float32 without overlap; what is left at the end is cut.

    L samples make T = 1 + (L - 400) // 160 frames, and these T // 96 examples.
    """
    frames = waveform.double().unfold(0, FRAME, HOP)
    hann = torch.hann_window(FRAME, periodic=True, dtype=torch.float64)
    magnitudes = torch.fft.rfft(frames * hann, FFT).abs()
    log_mel = (magnitudes @ mel_matrix() + LOG_OFFSET).log()
    whole = len(log_mel) // EXAMPLE_FRAMES
    return rearrange(log_mel[: whole * EXAMPLE_FRAMES], "(e t) m -> e t m", t=EXAMPLE_FRAMES).float()


def mel_matrix() -> Tensor:
    """Frequencies of the spectrum to mels, (257, M) float64: triangles on the mel scale, 1127 ln(1 + f / 700).

    Other libraries draw the triangles straight over Hz.
    """
    mel = _mel(torch.linspace(0, SAMPLE_RATE / 2, FFT // 2 + 1, dtype=torch.float64))[:, None]
    lowest, highest = (_mel(torch.tensor(edge, dtype=torch.float64)) for edge in (LOWEST, HIGHEST))
    edges = torch.linspace(float(lowest), float(highest), MELS + 2, dtype=torch.float64)
    lower, centre, upper = edges[:-2], edges[1:-1], edges[2:]
    return torch.minimum((mel - lower) / (centre - lower), (upper - mel) / (upper - centre)).clamp_min(0)


def _mel(frequency: Tensor) -> Tensor:
    return 1127.0 * torch.log1p(frequency / 700.0)
