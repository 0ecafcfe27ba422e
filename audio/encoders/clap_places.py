"""Features of CLAP along time for the media of a training batch, as a target of `alignment=external`.

Letters: B batch, C channels, L samples, E features (768 in published models), T places in time.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from audio.encoders.clap import ClapFeatures, ClapSource
from audio.encoders.protocols import laion_int16
from audio.sounds.sound import Sound
from core.contracts import Batch

FINER = 4  # parts of a place, so that the end of a clip is cut to 1 / 128 of a window


class ClapPlaces:
    """The encoder `clap:<folder or .pt file>`: what HTSAT gives before it is pooled, the mean over frequencies.

    A clip is mixed to mono, resampled, and cut into windows of 10 s; the last is filled as CLAP fills short clips, and
    of its places those of the clip count. clip: (C, L) and sample_rate of the media.
    """

    def __init__(self, name: str, device: torch.device, clip: tuple[int, ...], sample_rate: int):
        self.clap = ClapFeatures(ClapSource("clap", path=Path(name.partition(":")[2]).expanduser()), device=device)
        self.audio, self.clip, self.sample_rate = self.clap.network.audio_model, clip, sample_rate
        self.width = self.audio.config.hidden_size

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Tensor:
        """Clips (B, C, L) in [-1, 1] -> (B, E, T), T equal parts of a clip."""
        return self._features(batch.media)

    def _features(self, media: Tensor) -> Tensor:
        mel, found = self.clap.mel, []
        for number, samples in enumerate(media.detach().float().cpu()):
            sound = Sound(samples, self.sample_rate)
            waveform = self.clap.protocol.waveform(sound, mel.sampling_rate, f"clip {number} of {len(media)}")
            waveform = laion_int16(waveform) if self.clap.laion else waveform
            windows = [part.numpy() for part in waveform.flatten().split(mel.nb_max_samples)]
            places = self._places(windows).repeat_interleave(FINER, dim=-1)
            shares = [len(window) / mel.nb_max_samples for window in windows]
            ends = [max(1, round(share * places.shape[-1])) for share in shares]
            found.append(torch.cat([part[:, :end] for part, end in zip(places, ends, strict=True)], dim=-1))
        return torch.stack(found).to(media.device)

    def _places(self, windows: list[np.ndarray]) -> Tensor:
        """Windows of mono samples -> (windows, E, places of a window)."""
        inputs = self.clap.mel(windows, sampling_rate=self.clap.mel.sampling_rate, return_tensors="np")
        spectrograms = torch.from_numpy(np.stack(inputs["input_features"])).float().to(self.clap.device)
        with torch.autocast(spectrograms.device.type, enabled=False):
            return self.audio(input_features=spectrograms).last_hidden_state.mean(2)

    @cached_property
    def flops(self) -> int:
        """FLOPs of one clip's pass."""
        from torch.utils.flop_counter import FlopCounterMode  # brings Triton, which only a run needs

        with FlopCounterMode(display=False) as counter, torch.no_grad():
            self._features(torch.zeros(1, *self.clip))
        return counter.get_total_flops()
