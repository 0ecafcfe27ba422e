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
from core.commands.sample import ModelParts, Sampling, SamplingOptions, in_a_name
from core.conditioning.labels import by_name
from core.data.pixels import UINT8_RULE, to_uint8
from core.generate import Generator
from core.storage.atomic import reserve
from core.storage.checkpoint import State
from core.storage.coming import without_weights
from image.conditioning import LabelConditioning
from image.preview import ImagePreview, to_images
from image.train import ENTRY as TRAIN

MAX_SHOWN = 100  # samples in the grid


@dataclass(frozen=True, kw_only=True)
class ImageSampleConfig(SamplingOptions):
    """What to sample, from a run or from published weights; see `core.commands.sample.SamplingOptions`.

    labels  a class, or a list of classes to cycle through, by number or name; null for the config's own rule over all
    """

    labels: int | str | list[int | str] | None = None


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
        names = self.class_names if len(self.class_names) == num_classes else None
        conditioning = LabelConditioning(model.conditioning, num_classes, names)
        with without_weights():
            backbone = model.backbone.build(latent_shape, num_classes)
        return ModelParts(tokenizer, backbone, conditioning, latent_shape)

    def condition_name(self) -> str:
        """The classes: all, label3, label1-2, labelcat."""
        if self.config.labels is None:
            return "all"
        labels = by_name(self.config.labels, self.class_names)
        return f"label{in_a_name(labels if isinstance(labels, list) else [labels])}"

    def requests(self, conditioning: LabelConditioning) -> Tensor:
        """Labels (num,) of the samples to make."""
        return conditioning.requested(self.config.labels, self.config.num, self.config.seed)

    def protocol_entries(self) -> dict[str, Any]:
        """Which labels, and how pixels are stored."""
        labels, rule = self.config.labels, self.model_config.conditioning.labels
        return {"labels": rule if labels is None else by_name(labels, self.class_names), "pixels": UINT8_RULE}

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
