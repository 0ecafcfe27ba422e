"""`python -m image.sample run=<dir>`: a grid, single PNGs and an .npz from a run or from published weights."""

from __future__ import annotations

import collections
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from einops import rearrange
from torch import Tensor
from tqdm import tqdm

from core.checkpoint import CheckpointStore, atomic_dir, follow_latest, load_into, load_weights
from core.config import Entry, compose_config, override
from core.contracts import Tokenizer
from core.distributed import World, joined
from core.generate import Generator, make_generator
from core.parallel import Compile, ParallelConfig, spread
from core.pixels import to_uint8
from core.precision import Precision, allow_tf32
from core.rundir import RunDirectory
from core.schema import plain, strict
from image.conditioning import LabelConditioning
from image.preview import ImagePreview, to_images
from image.tokenizer import build_tokenizer, cache_constants
from image.train import ImageConfig

MAX_SHOWN = 100  # samples in the grid
UINT8_RULE = "uint8: 127.5 x + 128, cut to 0..255, truncated"


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """What to sample, from a run or from published weights.

    run           the run's folder: its config says what the model is
    architecture  instead of a run: the experiment file that says what the model is; needs a checkpoint
    overrides     keys of that experiment to change: +overrides.tokenizer.path=vae
    checkpoint    weights to use instead of the run's newest: a checkpoint folder, .safetensors, or a published .pt
    weights       ema, model, or another average that a checkpoint folder holds: ema_decay0.999
    labels        a class, a list of classes to cycle through, or null for the config's own rule over all classes
    sampler       keys of the sampler to change; null leaves the config's own
    precision     fp32, or autocast to bf16 or fp16 for the backbone; the solver's arithmetic stays fp32
    compile       none, model or blocks
    tf32          fp32 products on a GPU may use TF32
    out           output folder; null: <run>/samples/<weights>_<labels>_seed<seed>, or samples/<architecture>/...
    """

    run: str | None = None
    architecture: str | None = None
    overrides: dict
    checkpoint: str | None = None
    weights: str = "ema"
    labels: int | list[int] | None = None
    num: int = 64
    seed: int = 0
    batch_size: int = 256
    device: str = "auto"
    precision: Precision = "fp32"
    compile: Compile = "none"
    tf32: bool = False
    sampler: dict
    out: str | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        if (self.run is None) == (self.architecture is None):
            raise ValueError(f"run is {self.run!r} and architecture {self.architecture!r}; give one of them")
        if self.architecture is not None and self.checkpoint is None:
            raise ValueError(
                f"architecture is {self.architecture!r} but checkpoint is null: there are no weights to sample"
            )
        if self.run is not None and self.overrides:
            raise ValueError(f"overrides is {self.overrides}; a run's config is what it was trained with")
        if self.num < 1 or self.batch_size < 1:
            raise ValueError(f"num is {self.num} and batch_size {self.batch_size}; both must be at least 1")


def model_config(config: SampleConfig) -> ImageConfig:
    """The training config that says what the model is, with the keys of its sampler changed that are not null."""
    if config.run is not None:
        values = RunDirectory.find(config.run).config()
    else:  # what samples do not need, such as the data's folder, may stay open
        overrides = [f"experiment={config.architecture}", *dotted(config.overrides)]
        values = compose_config("image.conf", "train", overrides, complete=False)
    values["sampler"] |= {key: value for key, value in config.sampler.items() if value is not None}
    return strict(ImageConfig, values)


def dotted(values: dict, key: str = "") -> list[str]:
    """Nested values as overrides of a command line, key.key=value."""
    parts = []
    for name, value in values.items():
        parts += dotted(value, f"{key}{name}.") if isinstance(value, dict) else [override(f"{key}{name}", value)]
    return parts


def weights_file(config: SampleConfig) -> Path:
    """The checkpoint asked for, or the run's newest whose weights are not damaged."""
    if config.checkpoint is not None:
        return follow_latest(Path(config.checkpoint))
    run = RunDirectory.find(config.run)
    newest = CheckpointStore(run.checkpoints).newest_sound(only=(config.weights,))
    if newest is None:
        raise ValueError(f"the run {run.path} has no checkpoint yet; checkpoint=... takes one from elsewhere")
    return newest


def check_weights(source: Path, weights: str) -> None:
    """Raises ValueError for weights that the checkpoint does not hold; a single file is asked for ema or model only."""
    held = ["ema", "model"]
    if source.is_dir():
        held = sorted(file.stem for file in source.glob("*.safetensors") if re.fullmatch("ema.*|model", file.stem))
    if held and weights not in held:
        raise ValueError(f"config key 'weights' is {weights!r}; {source} holds: {', '.join(held)}")


def output_folder(config: SampleConfig) -> Path:
    """Where the samples go; an existing folder is kept unless overwrite=true."""
    named = "-".join(map(str, config.labels)) if isinstance(config.labels, list) else config.labels
    label = "all" if config.labels is None else f"label{named}"
    parent = Path(config.run) / "samples" if config.run is not None else Path("samples") / config.architecture
    out = Path(config.out) if config.out else parent / f"{config.weights}_{label}_seed{config.seed}"
    if out.exists() and not config.overwrite:
        raise ValueError(f"{out} exists; out=... names another folder, overwrite=true replaces it")
    return out


def load_generator(config: SampleConfig, model: ImageConfig, source: Path, world: World) -> Generator:
    """The model with the weights in `source`, which know their classes: the training data is not needed."""
    device = world.device
    check_weights(source, config.weights)
    state = load_weights(source, prefer=config.weights)
    num_classes = model.backbone.num_classes_in(state, str(source))
    tokenizer = build_tokenizer(model.tokenizer, device)
    latent_shape = tuple(tokenizer.latent_shape(model.data.media_shape))
    backbone = model.backbone.build(latent_shape, num_classes)
    load_into(backbone, state, str(source))
    conditioning = LabelConditioning(model.conditioning, num_classes)
    allow_tf32(config.tf32)
    generator = make_generator(model, tokenizer, backbone.to(device), conditioning, latent_shape, world)
    network = spread(backbone, ParallelConfig(), config.compile, World())  # each process has all of it
    return replace(generator, network=network, precision=config.precision)


def requested_labels(config: SampleConfig, conditioning: LabelConditioning) -> Tensor:
    """Labels (num,) of the samples to make."""
    if config.labels is None:
        return conditioning.requests(config.num, config.seed)
    return conditioning.chosen(config.labels, config.num)


def protocol_of(
    config: SampleConfig, model: ImageConfig, tokenizer: Tokenizer, pixels: str = UINT8_RULE
) -> dict[str, Any]:
    """How samples are made, all that must be equal for numbers of two models to be comparable; see `eval.record`."""
    return {
        "sampler": plain(model.sampler),
        "weights": config.weights,
        "precision": config.precision,
        "tf32": config.tf32,
        "labels": model.conditioning.labels if config.labels is None else config.labels,
        "num": config.num,
        "seed": config.seed,
        "decoder": cache_constants(tokenizer.constants()),
        "pixels": pixels,
    }


def write_samples(batches: Iterable[Tensor], labels: Tensor, folder: Path) -> None:
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


def told(batches: Iterable[Tensor], total: int) -> Iterator[Tensor]:
    """The batches, each counted on a bar."""
    with tqdm(total=total, desc="sampling", unit="image") as bar:
        for media in batches:
            yield media
            bar.update(len(media))


def main(config: SampleConfig) -> None:
    """Sample images from a run or from published weights: a grid, single PNGs and an ADM-style .npz.

    Sample i depends on (seed, i), its label and the weights only, never on num, batch_size or the device count.
    """
    with joined(config.device) as world:
        model, out, source = world.on_main(lambda: (model_config(config), output_folder(config), weights_file(config)))
        generator = load_generator(config, model, source, world)
        labels = requested_labels(config, generator.conditioning)
        batches = generator.batches(labels, config.seed, config.batch_size)
        if world.is_main:
            protocol = protocol_of(config, model, generator.tokenizer)
            made_from = {"checkpoint": str(source), "sampler": plain(model.sampler), "protocol": protocol}
            write_all(config, made_from, told(batches, config.num), labels, out)
        else:
            collections.deque(batches, maxlen=0)  # takes its turns; what it makes goes to the main process


def write_all(
    config: SampleConfig, made_from: dict[str, Any], batches: Iterable[Tensor], labels: Tensor, out: Path
) -> None:
    """The samples and the protocol that made them, in a folder that appears when all is there."""
    with atomic_dir(out) as folder:
        write_samples(batches, labels, folder)
        protocol = yaml.safe_dump({**plain(config), **made_from}, sort_keys=False)
        (folder / "protocol.yaml").write_text(protocol)
    print(f"{config.num} images: {RunDirectory(out).shown()} (grid.png, png/, samples.npz, protocol.yaml)")


ENTRY = Entry(main, "image.conf", "sample", SampleConfig)

if __name__ == "__main__":
    ENTRY.run()
