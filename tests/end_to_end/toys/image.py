"""Images at toy size: digits, noise in PNG files, a random AutoencoderKL."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tests.end_to_end.toys.contract import Toy
from tests.image.networks import save_dinov2

SIDE = 32  # of the files: the tokenizer makes latents of 4


def write_images(root: Path, side: int = SIDE, counts: tuple[int, ...] = (3, 4)) -> None:
    """PNG files of noise, about as large as `side`, in a folder for each class."""
    rng = np.random.default_rng(0)
    for label, count in enumerate(counts):
        (root / f"n{label:02d}").mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 256, (side, side + 8 * number, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / f"n{label:02d}" / f"{number}.png")


def save_vae(path: Path) -> None:
    """A random AutoencoderKL that shrinks eight times, as the published one does."""
    from diffusers import AutoencoderKL

    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = AutoencoderKL(block_out_channels=(4,) * 4, latent_channels=4, norm_num_groups=2, **blocks)
    network.save_pretrained(path)


def on_files(root: Path, weights: Path) -> tuple[str, ...]:
    return ("data=folder", f"data.root={root}", f"data.size={SIDE}", "tokenizer=sd_vae", f"tokenizer.path={weights}")


def no_image(root: Path) -> tuple[str, ...]:
    (root / "n00" / "0.png").write_bytes(b"no image")
    return "broken image", "0.png", "8 bytes"


def no_images(root: Path) -> tuple[str, ...]:
    for file in root.rglob("*.png"):
        file.unlink()
    return "data.root", "no image", ".jpeg", "n00"


def no_classes(root: Path) -> tuple[str, ...]:
    for folder in root.iterdir():
        folder.rename(folder.with_name(f".{folder.name}"))
    return "data.root", "one folder per class"


TOY = Toy(
    domain="image",
    name="digits",
    encoder=("dinov2", save_dinov2),
    stand_in=(),
    measured=("evaluation.classifier_steps=5", "evaluation.num_samples=24"),
    request=("labels=[3,5]",),
    media=lambda folder: np.load(folder / "samples.npz")["arr_0"].astype(int),
    sight='src="data:image/png;base64,',
    codec=("autoencoder.width=8", "steps=2", "batch_size=8"),
    untrained=(),
    files=write_images,
    weights=save_vae,
    on_files=on_files,
    bad=(
        (("data.split=test",), ("data.split", "'test'", "heldout")),
        (("backbone.patch_size=3",), ("backbone.patch_size 3", "(8, 8)")),
        (("data=folder", "data.root=nowhere"), ("data.root is 'nowhere'", "not there")),
        (("data=folder",), ("data.root",)),
        (("tokenizer=sd_vae", "tokenizer.path=not a hub id"), ("tokenizer.path", "not a hub id")),
        (("tokenizer=conv_kl",), ("tokenizer.path", "runs/tokenizer/digits", "image.train_tokenizer")),
    ),
    bad_files=(
        (("evaluation=digits",), ("evaluation", "digits", "data", "folder")),
        (("tokenizer=pixels", "data.size=15"), ("(15, 15)", "backbone.patch_size 2")),
        (("tokenizer.path=files",), ("tokenizer.path", "files", "config.json", "save_pretrained")),
    ),
    damage=(no_image, no_images, no_classes),
)
