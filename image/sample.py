"""`python -m image.sample run=<dir>`: a grid, single PNGs and an .npz from a run or from published weights."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from core.commands.entry import Entry
from core.commands.sample import ModelParts, Sampling, SamplingOptions
from core.data.pixels import to_uint8
from core.generate import Generator
from core.storage.atomic import reserve
from core.storage.checkpoint import State
from image.conditioning import LabelConditioning
from image.preview import ImagePreview, to_images
from image.train import ENTRY as TRAIN

MAX_SHOWN = 100  # samples in the grid
UINT8_RULE = "uint8: 127.5 x + 128, cut to 0..255, truncated"


@dataclass(frozen=True, kw_only=True)
class ImageSampleConfig(SamplingOptions):
    """What to sample, from a run or from published weights; see `core.commands.sample.SamplingOptions`.

    labels  a class, a list of classes to cycle through, or null for the config's own rule over all classes
    """

    labels: int | list[int] | None = None


def main(config: ImageSampleConfig) -> None:
    """Sample images from a run or from published weights: a grid, single PNGs and an ADM-style .npz.

    Sample i depends on (seed, i), its label and the weights only, never on num, batch_size or the device count.
    """
    ImageSampling(config).run(print)


class ImageSampling(Sampling):
    """Images of the classes that are asked for."""

    train, unit, files = TRAIN, "image", "grid.png, png/, samples.npz"
    config: ImageSampleConfig

    def build_model(self, state: State, source: Path, device: torch.device) -> ModelParts:
        """The model for weights, which know their classes."""
        model = self.model_config
        num_classes = model.backbone.num_classes_in(state, str(source))
        tokenizer = model.tokenizer.build(device)
        latent_shape = tuple(tokenizer.latent_shape(model.data.media_shape))
        conditioning = LabelConditioning(model.conditioning, num_classes)
        return ModelParts(tokenizer, model.backbone.build(latent_shape, num_classes), conditioning, latent_shape)

    def condition_name(self) -> str:
        """The classes: all, label3, label1-2."""
        labels = self.config.labels
        named = "-".join(map(str, labels)) if isinstance(labels, list) else labels
        return "all" if labels is None else f"label{named}"

    def requests(self, conditioning: LabelConditioning) -> Tensor:
        """Labels (num,) of the samples to make."""
        return conditioning.requested(self.config.labels, self.config.num, self.config.seed)

    def protocol_entries(self) -> dict[str, Any]:
        """Which labels, and how pixels are stored."""
        labels = self.config.labels
        return {"labels": self.model_config.conditioning.labels if labels is None else labels, "pixels": UINT8_RULE}

    def write(self, generator: Generator, batches: Iterable[Tensor], requests: Tensor, folder: Path) -> None:
        """Write grid.png of the first samples, png/000000.png ..., and samples.npz, holding one batch in memory.

        The .npz is ADM's: `arr_0` uint8 (num, Y, X, 3), a grey image three times over as its evaluator expects, and
        labels in `arr_1`.
        """
        (folder / "png").mkdir()
        pixels, shown, done = None, [], 0
        for media in batches:
            rows = rearrange(to_uint8(media), "b c y x -> b y x c").numpy()
            if pixels is None:
                shape = (len(requests), *rows.shape[1:3], 3)
                pixels = np.lib.format.open_memmap(folder / "pixels.npy", "w+", dtype=np.uint8, shape=shape)
                reserve(folder / "pixels.npy")
            pixels[done : done + len(rows)] = rows
            for i, picture in enumerate(to_images(media)):
                picture.save(folder / "png" / f"{done + i:06d}.png")
            shown += list(media[: MAX_SHOWN - done]) if done < MAX_SHOWN else []
            done += len(rows)
        ImagePreview().save(torch.stack(shown), requests[: len(shown)], folder / "grid")
        np.savez(folder / "samples.npz", arr_0=pixels, arr_1=requests.numpy())
        (folder / "pixels.npy").unlink()


ENTRY = Entry(main, "image.conf", "sample", ImageSampleConfig)

if __name__ == "__main__":
    ENTRY.run()
