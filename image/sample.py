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

from core.commands import sample as sampling
from core.commands.entry import Entry
from core.commands.sample import ModelParts, SamplingDomain, weights_file
from core.conditioning.labels import LabelConditioning
from core.contracts import Tokenizer
from core.data.pixels import to_uint8
from core.generate import Generator
from core.processes.world import World
from core.storage.checkpoint import State
from image.conditioning import requested_labels as labels_for
from image.preview import ImagePreview, to_images
from image.tokenizer import build_tokenizer
from image.train import ENTRY as TRAIN
from image.train import ImageConfig

__all__ = ["SampleConfig", "load_generator", "model_config", "protocol_of", "requested_labels", "weights_file"]

MAX_SHOWN = 100  # samples in the grid
UINT8_RULE = "uint8: 127.5 x + 128, cut to 0..255, truncated"


@dataclass(frozen=True, kw_only=True)
class SampleConfig(sampling.SampleConfig):
    """What to sample, from a run or from published weights; see `core.commands.sample.SampleConfig`.

    labels  a class, a list of classes to cycle through, or null for the config's own rule over all classes
    """

    labels: int | list[int] | None = None


def model_config(config: SampleConfig) -> ImageConfig:
    """The training config that says what the model is."""
    return sampling.model_config(config, TRAIN)


def model_parts(
    config: SampleConfig, model: ImageConfig, state: State, source: Path, device: torch.device
) -> ModelParts:
    """The model for weights, which know their classes: the training data is not needed."""
    num_classes = model.backbone.num_classes_in(state, str(source))
    tokenizer = build_tokenizer(model.tokenizer, device)
    latent_shape = tuple(tokenizer.latent_shape(model.data.media_shape))
    conditioning = LabelConditioning(model.conditioning, num_classes)
    return ModelParts(tokenizer, model.backbone.build(latent_shape, num_classes), conditioning, latent_shape)


def load_generator(config: SampleConfig, model: ImageConfig, source: Path, world: World) -> Generator:
    """The model with the weights in `source`."""
    return sampling.load_generator(config, DOMAIN, model, source, world)


def requested_labels(config: SampleConfig, conditioning: LabelConditioning) -> Tensor:
    """Labels (num,) of the samples to make."""
    return labels_for(config.labels, conditioning, config.num, config.seed)


def protocol_of(
    config: SampleConfig, model: ImageConfig, tokenizer: Tokenizer, pixels: str = UINT8_RULE
) -> dict[str, Any]:
    """How samples are made; `pixels` says how they are stored."""
    return sampling.protocol_of(config, model, tokenizer, told(config, model) | {"pixels": pixels})


def asked(config: SampleConfig) -> str:
    """The classes, as a part of a folder's name."""
    named = "-".join(map(str, config.labels)) if isinstance(config.labels, list) else config.labels
    return "all" if config.labels is None else f"label{named}"


def told(config: SampleConfig, model: ImageConfig) -> dict[str, Any]:
    """What the protocol says of labels and pixels."""
    return {"labels": model.conditioning.labels if config.labels is None else config.labels, "pixels": UINT8_RULE}


def write_samples(
    config: SampleConfig, generator: Generator, batches: Iterable[Tensor], labels: Tensor, folder: Path
) -> None:
    """Write grid.png of the first samples, png/000000.png ..., and samples.npz, holding one batch in memory.

    The .npz is ADM's: `arr_0` uint8 (num, Y, X, 3), a grey image three times over as its evaluator expects, and labels
    in `arr_1`.
    """
    (folder / "png").mkdir()
    pixels, shown, done = None, [], 0
    for media in batches:
        rows = rearrange(to_uint8(media), "b c y x -> b y x c").numpy()
        if pixels is None:
            shape = (len(labels), *rows.shape[1:3], 3)
            pixels = np.lib.format.open_memmap(folder / "pixels.npy", "w+", dtype=np.uint8, shape=shape)
        pixels[done : done + len(rows)] = rows
        for i, picture in enumerate(to_images(media)):
            picture.save(folder / "png" / f"{done + i:06d}.png")
        shown += list(media[: MAX_SHOWN - done]) if done < MAX_SHOWN else []
        done += len(rows)
    ImagePreview().save(torch.stack(shown), labels[: len(shown)], folder / "grid")
    np.savez(folder / "samples.npz", arr_0=pixels, arr_1=labels.numpy())
    (folder / "pixels.npy").unlink()


DOMAIN = SamplingDomain(
    train=TRAIN,
    parts=model_parts,
    asked=asked,
    request=requested_labels,
    told=told,
    write=write_samples,
    unit="image",
    files="grid.png, png/, samples.npz",
)


def main(config: SampleConfig) -> None:
    """Sample images from a run or from published weights: a grid, single PNGs and an ADM-style .npz.

    Sample i depends on (seed, i), its label and the weights only, never on num, batch_size or the device count.
    """
    sampling.run_sampling(config, DOMAIN, print)


ENTRY = Entry(main, "image.conf", "sample", SampleConfig)

if __name__ == "__main__":
    ENTRY.run()
