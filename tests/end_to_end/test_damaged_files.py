"""Some seven hundred damaged files, made by seed from valid ones of every format that is read.

Whatever is done to a file, one of three things follows: it is read, in the shape that was asked for, and rightly where
its format has a checksum; it is refused in one line that names it; or it is left out and counted. Nothing hangs, and no
memory is taken for numbers that are not there.
"""

import json
import logging
import resource
import signal
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from audio.data import ClipFormat
from audio.datasets.folder import FolderConfig as SoundFolder
from audio.datasets.jamendo import read_tracks
from core.data.captions import read_captions
from core.latents.cache import CONDITIONS, LatentShards, shard_file
from core.storage.arrays import npz_array
from core.storage.atomic import sha256_file
from core.storage.checkpoint import MANIFEST, CheckpointStore, read_checkpoint
from core.storage.lines import JsonLines, lost_lines, read_lines
from core.storage.run_folder import RunDirectory
from core.storage.weights import load_weights
from eval.statistics.frechet import Moments, load_moments, save_moments
from image.datasets.files import FolderConfig, ParquetConfig
from image.media import open_images
from slurm.sweep import load_sweep
from tests.audio.audio_files import music, write_sound
from tests.core.latents.caches import MAKE, make
from tests.end_to_end.damages import DAMAGES
from tests.video.video_files import numbered_frames, write_frames, write_video
from video.datasets.clips import ClipConfig
from video.datasets.folder import FolderConfig as VideoFolder

EACH = 24  # damaged files of each format
SECONDS, MEBIBYTES = 10, 512  # that one file may take
SIDE, RATE = 8, 8000
RNG = np.random.default_rng(0)


@dataclass(frozen=True)
class Format:
    """A kind of file: `write` makes a valid one in a folder and returns it, `read` is what the product does with it.

    exact: what is read from a damaged file is what was written
    """

    write: Callable[[Path], Path]
    read: Callable[[Path], object]
    exact: bool = False


# images, sound and video: a folder of three files, of which one may be left out


def write_images(suffix, **options):
    def write(folder):
        for name in ("a", "b", "c"):
            (folder / "files" / name).mkdir(parents=True)
            pixels = RNG.integers(0, 256, (SIDE, SIDE + 2, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "files" / name / f"0{suffix}", **options)
        return folder / "files" / "b" / f"0{suffix}"

    return write


def read_images(file):
    data = FolderConfig(root=str(file.parents[1]), size=SIDE, flip=False, max_broken=1).build()
    assert all(data.pixels(index).shape == (3, SIDE, SIDE) for index in range(len(data)))
    return left_out(len(data) + data.num_broken, data.num_broken)


def left_out(total, count):
    assert total == 3 and count in (0, 1)
    return "left out" if count else "read"


def write_sounds(suffix):
    def write(folder):
        for number in range(3):
            write_sound(folder / "files" / f"{number}{suffix}", music(0.5, rate=RATE, channels=1), rate=RATE)
        return folder / "files" / f"1{suffix}"

    return write


def read_sounds(file):
    config = SoundFolder(
        root=str(file.parent),
        seconds=0.25,
        sample_rate=RATE,
        channels=1,
        min_seconds=0.01,
        silence_db=None,
        max_broken=1,
        cache_dir=None,
    )
    data = config.build(ClipFormat(sample_rate=RATE, channels=1, num_samples=2000, token_samples=1), 1)
    for index in range(len(data)):
        media = data.item(index, np.random.default_rng(0))["media"]
        assert media.shape[-1] == 2000 and media.isfinite().all()
    return left_out(3, 3 - len(data))


def write_videos(name):
    def write(folder):
        for number in range(3):
            write = write_frames if name == "frames" else write_video
            write(folder / "files" / f"{number}{name}", numbered_frames(12, (16, 24)))
        return folder / "files" / (f"1{name}" if name != "frames" else "1frames/frame7.png")

    return write


def read_videos(file):
    root = file.parents[1 if file.parent.name == "1frames" else 0]
    data = VideoFolder(
        root=str(root), clip=ClipConfig(12), size=SIDE, short="pad", max_broken=1, cache_dir=None
    ).build()
    for index in range(len(data)):
        media = data.item(index, np.random.default_rng(0))["media"]
        assert media.shape == (3, 12, SIDE, SIDE) and media.isfinite().all()
    return left_out(len(data) + data.num_broken, data.num_broken)


def write_parquet(folder):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    write_images(".png")(folder)
    images = [{"bytes": path.read_bytes(), "path": path.name} for path in sorted((folder / "files").rglob("*.png"))]
    (folder / "shards").mkdir()
    parquet.write_table(arrow.table({"image": images, "label": [0, 1, 0]}), folder / "shards" / "train-0.parquet")
    return folder / "shards" / "train-0.parquet"


def read_parquet(file):
    cache = str(file.parents[1] / "arrow")
    data = ParquetConfig(str(file.parent), SIDE, flip=False, max_broken=1, cache_dir=cache).build()
    assert all(data.pixels(index).shape == (3, SIDE, SIDE) for index in range(len(data)))
    return "left out" if data.num_broken else "read"


# arrays and weights


def write_samples(folder):
    np.savez(folder / "samples.npz", RNG.integers(0, 256, (3, SIDE, SIDE, 3), dtype=np.uint8), np.arange(3))
    return folder / "samples.npz"


def read_samples(file):
    images = open_images(file, "samples")
    return images.rows(0, 3).numpy(), images.labels.numpy()


def write_compressed(folder):
    np.savez_compressed(folder / "a.npz", arr_0=RNG.normal(size=(40, 5)))
    return folder / "a.npz"


def write_statistics(folder):
    features = RNG.normal(size=(50, 6))
    return save_moments(folder / "reference.npz", Moments(features.mean(0), np.cov(features.T), 50))


def read_statistics(file):
    moments = load_moments(file)
    return moments.mean, moments.covariance, moments.num_samples


def state():
    return {"a.weight": torch.arange(64.0).reshape(8, 8), "b": torch.ones(5, dtype=torch.bfloat16)}


def write_safetensors(folder):
    save_file(state(), folder / "weights.safetensors")
    return folder / "weights.safetensors"


def write_pickle(folder):
    torch.save({"model": state(), "ema": state()}, folder / "weights.pt")
    return folder / "weights.pt"


def read_weights(file):
    found = load_weights(file)
    assert all(isinstance(value, torch.Tensor) for value in found.values())
    return {name: np.array(value.float().tolist()) for name, value in found.items()}


# what a run and a cache leave


def write_checkpoint(folder, name=MANIFEST):
    store = CheckpointStore(folder)
    store.save(5, {"model": state(), "ema": state()}, {"seed": 1})
    return store.save(10, {"model": state(), "ema": state()}, {"seed": 1}) / name


def read_one_checkpoint(file):
    checkpoint = read_checkpoint(file.parent)
    groups = {f"{group}.{name}": t.float().numpy() for group, s in checkpoint.groups.items() for name, t in s.items()}
    return checkpoint.step, checkpoint.notes, groups


def read_newest_checkpoint(file):
    """What a run goes on from: this one, or the one before, with a word."""
    newest = CheckpointStore(file.parents[1]).newest_intact()
    assert newest is not None and newest.name in ("step_00000005", "step_00000010")
    return "left out" if newest.name == "step_00000005" else "read"


def write_latents(name):
    def write(folder):
        root = make(folder / "cache")
        return shard_file(root, 0) if name is None else root / name

    return write


def read_latents(file):
    data = LatentShards(file.parent, kind="number", flip=True, make_command=MAKE)
    media = data.items(np.arange(len(data)), [np.random.default_rng(0)] * len(data))["media"]
    assert media.shape == (23, 2, 2, 3)
    return "read"


def write_config(folder):
    file = folder / "config.yaml"
    file.write_bytes((Path(__file__).parents[1] / "data/run_before_the_move/image/run/config.yaml").read_bytes())
    return file


def read_config(file):
    values = RunDirectory(file.parent).config()
    assert isinstance(values, dict)
    return "read"


STEPS = 20


def write_lines(folder):
    lines = JsonLines(folder / "metrics.jsonl", 0)
    for step in range(STEPS):
        lines.write({"step": step, "loss": 1 / (step + 1)})
    return folder / "metrics.jsonl"


def read_records(file):
    """What a checkpoint remembers of them tells what is lost."""
    assert all(isinstance(line, dict) for line in read_lines(file))
    (beside := file.parent / "beside").mkdir(exist_ok=True)
    whole = write_lines(beside)
    noted = {"lines": STEPS, "bytes": whole.stat().st_size, "sha256": sha256_file(whole)}
    return "left out" if lost_lines(file, noted, STEPS) else "read"


# tables and sweeps


def write_sweep(folder):
    sweep = {
        "name": "table",
        "entry": "image.train",
        "overrides": {"data": "digits", "trainer.steps": 3},
        "grid": {"optimizer.lr": [1e-4, 2e-4], "alignment": ["none", "layersync"]},
        "resources": {"partition": "gpu", "time": "1:00:00"},
    }
    (folder / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    return folder / "sweep.yaml"


def write_captions(suffix):
    def write(folder):
        rows = [{"path": f"{name}.wav", "caption": f"a sound, {name}"} for name in "abcdef"]
        text = "path,caption\n" + "".join(f'{row["path"]},"{row["caption"]}"\n' for row in rows)
        if suffix == ".jsonl":
            text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"captions{suffix}").write_text(text)
        return folder / f"captions{suffix}"

    return write


def read_table(file):
    texts = read_captions(file.parent, [f"{name}.wav" for name in "abcdef"], file.name)
    assert len(texts) == 6 and all(texts)
    return "read"


def write_tracks(folder):
    header = "TRACK_ID\tARTIST_ID\tALBUM_ID\tPATH\tDURATION\tTAGS\n"
    rows = (
        f"track_{n}\tartist_{n}\talbum_{n}\t{n:02}/{n}.mp3\t10.0\tgenre---rock\tmood/theme---sad\n" for n in range(6)
    )
    (folder / "tracks.tsv").write_text(header + "".join(rows))
    return folder / "tracks.tsv"


FORMATS = {
    "png": Format(write_images(".png"), read_images),
    "jpeg": Format(write_images(".jpg"), read_images),
    "webp": Format(write_images(".webp"), read_images),
    "wav": Format(write_sounds(".wav"), read_sounds),
    "flac": Format(write_sounds(".flac"), read_sounds),
    "ogg": Format(write_sounds(".ogg"), read_sounds),
    "mp3": Format(write_sounds(".mp3"), read_sounds),
    "m4a": Format(write_sounds(".m4a"), read_sounds),
    **{name: Format(write_videos(f".{name}"), read_videos) for name in ("mp4", "mkv", "webm", "avi", "gif")},
    "folder of frames": Format(write_videos("frames"), read_videos),
    "parquet": Format(write_parquet, read_parquet),
    "npz of samples": Format(write_samples, read_samples, exact=True),
    "compressed npz": Format(write_compressed, lambda file: npz_array(file, "arr_0"), exact=True),
    "npz of statistics": Format(write_statistics, read_statistics, exact=True),
    "safetensors": Format(write_safetensors, read_weights),
    "pt": Format(write_pickle, read_weights, exact=True),
    "checkpoint.json": Format(write_checkpoint, read_one_checkpoint, exact=True),
    "checkpoint.json on resume": Format(write_checkpoint, read_newest_checkpoint),
    "checkpoint's weights": Format(lambda f: write_checkpoint(f, "model.safetensors"), read_one_checkpoint, exact=True),
    "latents": Format(write_latents(None), read_latents),
    "latents' manifest": Format(write_latents("manifest.json"), read_latents),
    "latents' conditions": Format(write_latents(CONDITIONS), read_latents),
    "config": Format(write_config, read_config),
    "records": Format(write_lines, read_records),
    "sweep": Format(write_sweep, lambda file: bool(load_sweep(file).runs())),
    "captions.csv": Format(write_captions(".csv"), read_table),
    "captions.jsonl": Format(write_captions(".jsonl"), read_table),
    "tracks.tsv": Format(write_tracks, lambda file: len(read_tracks(file, ["genre"]))),
}


# outcomes


@contextmanager
def limited():
    """Inside, one file may take so much time and memory."""

    def give_up(number, frame):
        raise AssertionError(f"it took more than {SECONDS} s")

    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    before, handler = peak(), signal.signal(signal.SIGALRM, give_up)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)
    assert peak() - before < MEBIBYTES, f"{peak() - before:.0f} MiB were taken"


def outcome(kind, file, whole):
    """One of the three things that may follow."""
    try:
        with limited():
            found = kind.read(file)
    except (ValueError, OSError) as error:  # what every command prints in one line
        assert "\n" not in str(error), f"several lines: {error}"
        assert file.name in str(error) or file.parent.name in str(error), f"no name of the file: {error}"
        return "refused"
    if kind.exact:
        np.testing.assert_equal(found, whole)
    return "left out" if isinstance(found, str) and found == "left out" else "read"


@pytest.mark.parametrize("name", FORMATS)
def test_a_damaged_file_is_read_refused_or_left_out(name, tmp_path, caplog):
    caplog.set_level(logging.CRITICAL)
    kind, seen, failures = FORMATS[name], Counter(), []
    (tmp_path / "whole").mkdir()
    source = kind.write(tmp_path / "whole")
    whole, data = kind.read(source), source.read_bytes()
    for number in range(EACH):
        damage = DAMAGES[number % len(DAMAGES)]
        folder = tmp_path / str(number)
        folder.mkdir()
        file = kind.write(folder)
        file.write_bytes(damage(data, np.random.default_rng(number)))
        try:
            seen[outcome(kind, file, whole)] += 1
        except Exception as error:  # noqa: BLE001, all are told below
            failures.append(f"{damage.__name__}, seed {number}: {type(error).__name__}: {error!s:.300}")
    assert not failures, f"{len(failures)} of {EACH} {name}: {seen}\n" + "\n".join(failures)
    assert seen["refused"] + seen["left out"] >= 2, seen  # an empty file and one of brackets are no media
