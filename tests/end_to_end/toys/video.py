"""Video at toy size: a few moving digits, clips in files of four kinds and as frames, a random AutoencoderKL."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from tests.end_to_end.toys.contract import Toy
from tests.video.networks import save_sd_vae
from tests.video.video_files import cut, numbered_frames, write_frames, write_sound_only, write_video

FRAMES, SIDE = 4, 16  # of a clip of the files: the tokenizer makes latents of 4 frames, 4 rows and 4 columns


def save_encoder(folder: Path) -> None:
    """A random VideoMAE that sees 4 frames of 8 x 8 pixels."""
    from tests.video.encoders.networks import save_videomae

    save_videomae(folder)


def write_videos(root: Path) -> None:
    """Three classes of files, one with B-frames and sound, one turned, one shorter than a clip; UCF-101's lists."""
    long = numbered_frames(14)
    write_video(root / "video_train" / "video_00000-01000" / "video_00000.mp4", long, bf=2, g=7, sound=True)
    write_video(root / "video_train" / "video_00000-01000" / "video_00001.mp4", numbered_frames(15), rotation=90)
    for number, name in enumerate(("Jump", "Run")):
        write_video(root / name / f"v_{name}_g01_c01.avi", long[::-1] if number else long)
        write_video(root / name / f"v_{name}_g02_c01.avi", long)
    write_video(root / "Jump" / "deep" / "short.mkv", numbered_frames(2))
    write_video(root / "Run" / "loop.gif", numbered_frames(5))
    write_frames(root / "Run" / "frames", numbered_frames(6))
    lists = root / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "classInd.txt").write_text("1 Jump\n2 Run\n")
    for number, split in enumerate(("train", "test"), start=1):
        rows = [f"{name}/v_{name}_g{number:02d}_c01.avi {label}\n" for label, name in enumerate(("Jump", "Run"), 1)]
        (lists / f"{split}list01.txt").write_text("".join(rows))


def on_files(root: Path, weights: Path) -> tuple[str, ...]:
    clip = ("data=folder", f"data.root={root}", f"data.clip.frames={FRAMES}", f"data.size={SIDE}")
    own = ("data.window=tiled", "data.short=pad")  # as a cache cuts files
    vae = ("tokenizer=sd_vae", f"tokenizer.path={weights}", "tokenizer.allow_untrained=true")
    return (*clip, *own, *vae, "backbone.patch_size=2", *UNCONDITIONAL)


def text(root: Path) -> tuple[str, ...]:
    (root / "clip.mp4").write_text("this is the script")
    return ("clip.mp4",)


def empty(root: Path) -> tuple[str, ...]:
    (root / "clip.mkv").touch()
    return "clip.mkv", "empty"


def cut_off(root: Path) -> tuple[str, ...]:
    cut(write_video(root / "clip.mp4", numbered_frames(20)))
    return ("clip.mp4",)


def sound_only(root: Path) -> tuple[str, ...]:
    write_sound_only(root / "clip.mp4")
    return "clip.mp4", "no video"


def no_video(root: Path) -> tuple[str, ...]:
    shutil.rmtree(root)
    root.mkdir()
    (root / "notes.txt").write_text("later")
    return "data.root", "no video file there", ".mkv"


UNCONDITIONAL = ("conditioning=none", "sampler.guidance_scale=1")
TEXT = ("conditioning=text", "conditioning.encoder=t5", "conditioning.path=x", "conditioning.prompts=[y]")
TOY = Toy(
    domain="video",
    name="digits",
    encoder=("videomae", save_encoder),
    stand_in=("data.num_clips=80", "data.clip.frames=4"),
    measured=("evaluation.classifier_steps=5", "evaluation.num_samples=24"),
    request=('labels=["3 right",5]', "sampler.guidance_scale=40"),  # after few steps a class says little
    media=lambda folder: np.load(folder / "samples.npz")["arr_0"].astype(int),
    sight='src="data:video/mp4;base64,',
    codec=(
        "data.num_clips=40",
        "data.clip.frames=5",
        "data.size=12",
        "autoencoder.width=4",
        "steps=2",
        "batch_size=4",
        "heldout_clips=6",
    ),
    untrained=("tokenizer.allow_untrained=true", "backbone.patch_size=1"),
    files=write_videos,
    weights=save_sd_vae,
    on_files=on_files,
    bad=(
        (("data.split=test",), ("data.split", "'test'", "heldout")),
        (("data.digits=3",), ("data.digits", "3")),
        (("data.size=4",), ("data.size is 4", "10")),
        (("data.num_clips=2",), ("data.num_clips is 2", "20")),
        (("data.clip.frames=0",), ("data.clip.frames is 0", "1")),
        (("data.clip.fps=8",), ("data.clip.fps is 8", "null")),
        (("backbone.patch_size=5",), ("backbone.patch_size",)),
        (("backbone.patch_size=[4,4]",), ("backbone.patch_size", "[frames, rows, columns]")),
        (("tokenizer=vae",), ("tokenizer", "vae", "sd_vae")),
        (("tokenizer=conv3d_kl", "data.clip.frames=5"), ("tokenizer.path", "runs/tokenizer/digits", "train_tokenizer")),
        (("evaluation=digits", *UNCONDITIONAL), ("conditioning=labels",)),
        (("evaluation=digits", "evaluation.num_samples=1"), ("evaluation.num_samples is 1", "2")),
        (("data=latents", "data.root=nowhere"), ("data is 'latents' but tokenizer is 'pixels'",)),
        (("data=ucf101", "data.root=."), ("data.lists",)),
        (("data=folder",), ("data.root",)),
        (TEXT, ("no captions",)),
    ),
    bad_files=(
        (("data.root=nowhere",), ("data.root is 'nowhere'", "not there")),
        (("conditioning=labels",), ("conditioning is 'labels'", "no classes")),
        (TEXT, ("captions",)),
        (("data.captions=missing.csv",), ("data.captions is 'missing.csv'", "no file")),
        (("data.clip.frames=40", "data.short=drop"), ("no file is left", "40 frames")),
        (("data.size=15",), ("15",)),
        (("data.channels=2",), ("data.channels",)),
        (("data.split=heldout", "data.heldout_share=1e-9"), ("data.split is 'heldout'", "data.heldout_share")),
        (("evaluation=digits",), ("evaluation is 'digits' but data is 'folder'; allowed there: none",)),
        (("tokenizer.path=nowhere",), ("tokenizer.path is 'nowhere'",)),
        (("tokenizer.allow_untrained=false",), ("untrained",)),
        (("tokenizer=wan_vae", "tokenizer.path=weights"), ("weights", "AutoencoderKLWan")),
        (("data=latents", "data.root=nowhere"), ("data.root is 'nowhere'", "python -m video.cache")),
    ),
    damage=(text, empty, cut_off, sound_only, no_video),
    leaves=frozenset({"data.png"}),
)
