"""What the tests of `python -m video.evaluate` share: the command, a run on digits, clips in real files."""

from pathlib import Path

import numpy as np
import scipy.linalg

from eval.measure.record import read_records
from tests.video.video_files import write_frames, write_video
from video.evaluate import ENTRY as EVALUATE
from video.sample import ENTRY as SAMPLE
from video.train import ENTRY as TRAIN

TOY = [
    "backbone.depth=2",
    "backbone.hidden_size=16",
    "backbone.num_heads=2",
    "alignment.pairs=[[1,2]]",
    "trainer.steps=2",
    "trainer.batch_size=4",
    "trainer.preview_every=0",
    "trainer.num_previews=2",
    "sampler.num_steps=2",
    "tracking.tensorboard=off",
    "device=cpu",
]


DIGITS = ["data.num_clips=80", "evaluation.classifier_steps=10"]
FILES = ["data=folder", "conditioning=none", "sampler.guidance_scale=1", "evaluation=none", "name=files"]


def train(place: Path, *overrides: str, files: bool = False) -> Path:
    """A finished tiny run on moving digits, or on the files that the overrides name, in `place`/runs; its folder."""
    TRAIN.main(TRAIN.config([*TOY, *(FILES if files else DIGITS), f"runs_dir={place / 'runs'}", *overrides]))
    return place / "runs" / "video" / ("files" if files else "digits")


def sample(run: Path, out: Path, *overrides: str) -> Path:
    """A folder that `video.sample` wrote."""
    SAMPLE.main(SAMPLE.config([f"run={run}", f"out={out}", "device=cpu", *overrides]))
    return out


def measured(*args: str, out: Path):
    """The records, by metric, that the command leaves in the folder `out`."""
    EVALUATE.main(EVALUATE.config([*args, "device=cpu", f"out={out}"]))
    return {record.metric: record for record in read_records([out])}


def moving(count: int, frames: int, size: tuple[int, int] = (12, 16), seed: int = 0) -> np.ndarray:
    """Clips (n, F, H, W, 3) uint8: a bright patch of its own colour and speed over noise."""
    rng = np.random.default_rng(seed)
    clips = rng.integers(0, 90, (count, frames, *size, 3), dtype=np.uint8)
    for clip in clips:
        row, speed, colour = rng.integers(size[0] - 4), rng.integers(1, 4), rng.integers(90, 256, 3)
        for number, frame in enumerate(clip):
            left = number * speed % (size[1] - 4)
            frame[row : row + 4, left : left + 4] = colour
    return clips


def frame_folders(folder: Path, clips: np.ndarray) -> Path:
    """Each clip as a folder of PNG frames; the folder of all."""
    for number, clip in enumerate(clips):
        write_frames(folder / f"clip{number:02d}", clip)
    return folder


def video_files(folder: Path, clips: np.ndarray) -> Path:
    """Each clip as an MP4; the folder of all."""
    for number, clip in enumerate(clips):
        write_video(folder / f"clip{number:02d}.mp4", clip)
    return folder


def save_npz(path: Path, clips: np.ndarray) -> Path:
    """`arr_0` of an .npz."""
    np.savez(path, arr_0=clips)
    return path


def fvd_by_hand(ours: np.ndarray, theirs: np.ndarray) -> float:
    """As StyleGAN-V's code computes it of features (n, D): raw second moments, no correction, SciPy's root."""

    def moments(rows):
        rows = rows.astype(np.float64)
        mean = rows.mean(0)
        return mean, rows.T @ rows / len(rows) - np.outer(mean, mean)

    (mean, cov), (other_mean, other_cov) = moments(ours), moments(theirs)
    root = scipy.linalg.sqrtm(cov @ other_cov)
    return float(np.real(np.square(mean - other_mean).sum() + np.trace(cov + other_cov - 2 * root)))
