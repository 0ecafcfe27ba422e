"""Motion at toy size: a few moves, a folder in HumanML3D's format, a random VAE."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import torch

from motion.body.representations import REPRESENTATIONS
from motion.body.skeleton import T2M
from motion.codecs.autoencoder import MotionAutoencoder, MotionAutoencoderConfig, save_autoencoder
from tests.end_to_end.toys.contract import Toy
from tests.motion.encoders.published import write_evaluator
from tests.motion.motion_files import write_folder

FRAMES = 40  # of an item of the files
LENGTHS = (60, 45, 40, 44, 41, 52, 48, 40)  # frames of the files
FULL = REPRESENTATIONS["full"].size(T2M)


def write_motions(root: Path) -> None:
    """Eight motions of several lengths to train on, and two held-out ones."""
    write_folder(root, LENGTHS)
    write_folder(root, (44, 40), split="val", first=len(LENGTHS))


def save_vae(path: Path) -> Path:
    """A random VAE of some thousand weights, as `motion.train_tokenizer` writes it."""
    config = MotionAutoencoderConfig(latent_channels=4, stride=4, width=8, blocks=1)
    torch.manual_seed(0)
    network = MotionAutoencoder(config, (torch.zeros(FULL), torch.ones(FULL)), ("t2m", "full"))
    path.mkdir(parents=True)
    save_autoencoder(path, network, [0.0] * 4, [1.0] * 4)
    return path


def save_encoder(folder: Path) -> None:
    """A random evaluator as it is published."""
    write_evaluator(folder, np.random.default_rng(0).normal(size=(50, FULL)).astype(np.float32))


def on_files(root: Path, weights: Path) -> tuple[str, ...]:
    clip = ("data=humanml3d", f"data.root={root}", f"data.frames={FRAMES}", "data.window=first")
    vae = ("tokenizer=conv_vae", f"tokenizer.path={weights}", "tokenizer.allow_untrained=true")
    return (*clip, *vae, "backbone.patch_size=1", *UNCONDITIONAL)


def read_rows(folder: Path) -> np.ndarray:
    """Thousandths of the samples' numbers."""
    with np.load(folder / "samples.npz") as arrays:
        return (1000 * arrays["arr_0"]).round().astype(int)


def no_numbers(root: Path) -> tuple[str, ...]:
    (root / "new_joint_vecs" / "000001.npy").write_text("these are the steps")
    return ("000001.npy",)


def not_finite(root: Path) -> tuple[str, ...]:
    rows = np.load(root / "new_joint_vecs" / "000002.npy")
    rows[3, 7] = np.nan
    np.save(root / "new_joint_vecs" / "000002.npy", rows)
    return ("000002.npy",)


def no_caption(root: Path) -> tuple[str, ...]:
    (root / "texts" / "000000.txt").unlink()
    return ("000000.txt",)


def other_statistics(root: Path) -> tuple[str, ...]:
    np.save(root / "Std.npy", np.load(root / "Std.npy") / 25)
    return ("Std.npy",)


def no_motion(root: Path) -> tuple[str, ...]:
    shutil.rmtree(root)
    root.mkdir()
    (root / "notes.txt").write_text("later")
    return "data.split is 'train'", "train.txt"


UNCONDITIONAL = ("conditioning=none", "sampler.guidance_scale=1")
TOY = Toy(
    domain="motion",
    name="moves",
    encoder=("t2m", save_encoder),
    stand_in=("data.num_clips=320", "data.frames=48"),
    measured=("evaluation.steps=5", "evaluation.num_samples=32"),
    unmeasured=("conditioning=labels",),
    num_samples=32,
    numbers=("moves/fid", "moves/r_precision_3"),
    of_real=("moves/real_fid", "moves/real_r_precision_3"),
    request=('prompts=["somebody strolls along","a man kicks"]', "seconds=[2,1.6]", "bvh=true"),
    media=read_rows,
    sight='src="data:video/mp4;base64,',
    codec=("data.num_clips=140", "data.frames=40", "autoencoder.width=8", "autoencoder.latent_channels=4", "steps=2"),
    untrained=("tokenizer.allow_untrained=true",),
    files=write_motions,
    weights=save_vae,
    on_files=on_files,
    bad=(
        (("data.split=test",), ("data.split", "'test'", "heldout")),
        (("data.num_clips=2",), ("data.num_clips is 2", "140")),
        (("data.frames=10",), ("data.frames is 10", "40 to 100")),
        (("data.representation=272",), ("data.representation",)),
        (("backbone.patch_size=5",), ("data.frames is 48", "multiple of 5", "backbone.patch_size 5")),
        (("backbone.hidden_size=15",), ("backbone.hidden_size 15",)),
        (("tokenizer=vae",), ("tokenizer", "vae", "features")),
        (("tokenizer=conv_vae",), ("tokenizer.path", "runs/tokenizer/moves", "motion.train_tokenizer")),
        (("tokenizer.latent_mean=0",), ("give both or none",)),
        (("evaluation=moves",), ("evaluation is 'moves'", "conditioning=text")),
        (("evaluation=moves", "evaluation.num_samples=3"), ("evaluation.num_samples is 3", "32")),
        (("conditioning=text", "conditioning.prompts=[]"), ("conditioning.prompts is []", "one text or more")),
        (("conditioning=text", "conditioning.encoder=clip"), ("conditioning.path is None", "the text encoder")),
        (("data=latents", "data.root=nowhere"), ("data.root is 'nowhere'", "python -m motion.cache")),
        (("data=humanml3d",), ("data.root",)),
    ),
    bad_files=(
        (("data.root=nowhere",), ("data.root is 'nowhere'", "not there")),
        (("data.frames=200",), ("data.frames is 200", "196")),
        (("data.split=test",), ("test.txt",)),
        (("data.skeleton=kit",), ("263", "251")),
        (("conditioning=labels",), ("conditioning is 'labels'", "no classes")),
        (("evaluation=moves",), ("evaluation is 'moves' but data is 'humanml3d'; allowed there: none",)),
        (("tokenizer.path=nowhere",), ("tokenizer.path is 'nowhere'",)),
        (("tokenizer.allow_untrained=false",), ("explain", "Are its weights random")),
        (("sampler.guidance_scale=2",), ("sampler.guidance_scale is not 1 but conditioning.drop is 0",)),
    ),
    damage=(no_numbers, not_finite, no_caption, other_statistics, no_motion),
    leaves=frozenset({"data.png"}),
)
