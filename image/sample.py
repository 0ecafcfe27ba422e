"""`python -m image.sample run=<dir>`: a grid, single PNGs and an .npz from a run or a published checkpoint."""

from __future__ import annotations

import dataclasses
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
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


def write_samples(media: Tensor, labels: Tensor, folder: Path) -> None:
    """Write grid.png, png/000000.png ... and an ADM-style samples.npz (`arr_0` uint8 NHWC, `arr_1` labels).

    A grey image is repeated over three channels in the .npz, as the evaluator expects.
    """
    ImagePreview().save(media, labels, folder / "grid")
    (folder / "png").mkdir()
    for i, picture in enumerate(to_images(media)):
        picture.save(folder / "png" / f"{i:06d}.png")
    pixels = to_uint8(media).permute(0, 2, 3, 1).numpy()
    pixels = np.repeat(pixels, 3, axis=3) if pixels.shape[3] == 1 else pixels
    content = io.BytesIO()
    np.savez(content, arr_0=pixels, arr_1=labels.numpy())
    (folder / "samples.npz").write_bytes(content.getvalue())


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
    with tqdm(total=config.num, desc="sampling", unit="image") as bar:
        media = make_generator(trained, domain, device)(labels, config.seed, config.batch_size, bar.update)
    with atomic_dir(out) as folder:
        write_samples(media, labels, folder)
        protocol = {**plain(config), "checkpoint": str(source), "sampler": plain(trained.sampler)}
        (folder / "protocol.yaml").write_text(yaml.safe_dump(protocol, sort_keys=False))
    print(f"{config.num} images: {RunDirectory(out).shown()} (grid.png, png/, samples.npz, protocol.yaml)")


if __name__ == "__main__":
    run_entry(main, config_module="image.conf", config_name="sample", schema=SampleConfig)
