"""`python -m image.sample run=<dir>`: a grid, single PNGs and an .npz from a run or a published checkpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import yaml
from einops import rearrange
from torch import Tensor
from tqdm import tqdm

from core.checkpoint import CheckpointStore, atomic_dir, load_into, load_weights
from core.config import run_entry
from core.contracts import Domain
from core.pixels import to_uint8
from core.rundir import RunDirectory
from core.schema import plain, strict
from core.trainer import make_generator, pick_device
from image.preview import ImagePreview, to_images
from image.train import ImageConfig, build_domain

MAX_SHOWN = 100  # samples in the grid


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """What to sample from a run.

    run         the run's folder: its config says what the model is
    checkpoint  weights to use instead of the run's newest: a checkpoint folder, .safetensors, or a published .pt
    labels      a class, a list of classes to cycle through, or null for the run's own rule over all classes
    sampler     keys of the run's sampler to change; null leaves the run's own
    out         output folder; null: <run>/samples/<weights>_<labels>_seed<seed>
    """

    run: str
    checkpoint: str | None = None
    weights: Literal["ema", "model"] = "ema"
    labels: int | list[int] | None = None
    num: int = 64
    seed: int = 0
    batch_size: int = 256
    device: str = "auto"
    sampler: dict
    out: str | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.num < 1 or self.batch_size < 1:
            raise ValueError(f"num is {self.num} and batch_size {self.batch_size}; both must be at least 1")


def run_config(run: RunDirectory, sampler: dict[str, Any]) -> ImageConfig:
    """The config of a run, with the keys of its sampler changed that are not null."""
    values = run.config()
    values["sampler"] |= {key: value for key, value in sampler.items() if value is not None}
    return strict(ImageConfig, values)


def weights_file(config: SampleConfig, run: RunDirectory) -> Path:
    """The checkpoint asked for, or the run's newest."""
    if config.checkpoint is not None:
        return Path(config.checkpoint)
    latest = CheckpointStore(run.checkpoints).latest()
    if latest is None:
        raise ValueError(f"the run {run.path} has no checkpoint yet; checkpoint=... takes one from elsewhere")
    return latest


def output_folder(config: SampleConfig, run: RunDirectory) -> Path:
    """Where the samples go; an existing folder is kept unless overwrite=true."""
    named = "-".join(map(str, config.labels)) if isinstance(config.labels, list) else config.labels
    label = "all" if config.labels is None else f"label{named}"
    out = Path(config.out) if config.out else run.path / "samples" / f"{config.weights}_{label}_seed{config.seed}"
    if out.exists() and not config.overwrite:
        raise ValueError(f"{out} exists; out=... names another folder, overwrite=true replaces it")
    return out


def requested_labels(config: SampleConfig, domain: Domain) -> Tensor:
    """Labels (num,) of the samples to make."""
    if config.labels is None:
        return domain.conditioning.requests(config.num, config.seed)
    return domain.conditioning.chosen(config.labels, config.num)


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


def told(batches: Iterable[Tensor], bar: tqdm) -> Iterator[Tensor]:
    """The batches, each counted on the bar."""
    for media in batches:
        yield media
        bar.update(len(media))


def main(config: SampleConfig) -> None:
    """Sample images from a trained run: a grid, single PNGs and an ADM-style .npz.

    Sample i depends on (seed, i), its label and the weights only, never on num, batch_size or the device count.
    """
    run = RunDirectory.find(config.run)
    device = pick_device(config.device)
    trained = run_config(run, config.sampler)
    source, out = weights_file(config, run), output_folder(config, run)
    domain = build_domain(trained, device, evaluate=False)
    labels = requested_labels(config, domain)
    load_into(domain.backbone, load_weights(source, prefer=config.weights), str(source))
    domain = dataclasses.replace(domain, backbone=domain.backbone.to(device))
    generator = make_generator(trained, domain, device)
    with atomic_dir(out) as folder, tqdm(total=config.num, desc="sampling", unit="image") as bar:
        write_samples(told(generator.batches(labels, config.seed, config.batch_size), bar), labels, folder)
        protocol = {**plain(config), "checkpoint": str(source), "sampler": plain(trained.sampler)}
        (folder / "protocol.yaml").write_text(yaml.safe_dump(protocol, sort_keys=False))
    print(f"{config.num} images: {RunDirectory(out).shown()} (grid.png, png/, samples.npz, protocol.yaml)")


if __name__ == "__main__":
    run_entry(main, config_module="image.conf", config_name="sample", schema=SampleConfig)
