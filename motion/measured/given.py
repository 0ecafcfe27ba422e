"""Samples that are there: what `python -m motion.sample` wrote, a folder of .npy files of anyone's, MDM's results.npy.

    samples.npz   arr_0 (n, F, C), lengths (n,), captions (n,)
    a folder      NAME.npy, joints (F, J, 3) in metres or rows (F, C); captions in captions.txt, one a line in the order
                  of the files' names, or in NAME.txt beside each; lengths in lengths.txt, where files are padded
    results.npy   MDM's dict with motion (n, J, 3, F), text, lengths, num_repetitions; read without executing anything

Letters: n clips, F frames, C numbers of a frame, J joints.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.storage.arrays import npz_array, npz_keys, read_array
from core.storage.pickles import read_object_array
from eval.measure.media import Repeats
from motion.body.representations import REPRESENTATIONS
from motion.body.skeleton import SKELETONS, Skeleton
from motion.measured.clips import ListedClips

SAMPLES, CAPTIONS, LENGTHS = "samples.npz", "captions.txt", "lengths.txt"
FARTHEST = 100.0  # metres; joints beyond are in another unit
FORMS = f"{SAMPLES}, a folder of .npy files, or MDM's results.npy"


def open_given(path: Path, key: str = "samples") -> ListedClips:
    """The clips at a path; ValueError, naming the config key and the file, for what is none of these forms."""
    if path.is_dir():
        return of_npz(path / SAMPLES) if (path / SAMPLES).is_file() else of_folder(path, key)
    if path.suffix == ".npz":
        return of_npz(path)
    if path.suffix == ".npy":
        return of_results(path)
    raise ValueError(f"{key} is {str(path)!r}, which is {'none' if path.exists() else 'not there'}; allowed: {FORMS}")


def of_npz(path: Path) -> ListedClips:
    """The rows that `motion.sample` wrote."""
    keys = npz_keys(path)
    if not {"arr_0", "lengths"} <= set(keys):
        raise ValueError(f"{path} holds {', '.join(keys)}; needed: arr_0 (n, F, C) and lengths (n,)")
    rows, lengths = npz_array(path, "arr_0"), npz_array(path, "lengths")
    captions = [str(text) for text in npz_array(path, "captions")] if "captions" in keys else None
    check_lengths(lengths, len(rows), rows.shape[1], str(path))
    clips = [torch.from_numpy(np.array(each[:length], np.float32)) for each, length in zip(rows, lengths, strict=True)]
    return listed(
        path.parent.name, "npz", clips, [f"sample {place} of {path}" for place in range(len(clips))], captions
    )


def of_folder(folder: Path, key: str) -> ListedClips:
    """The .npy files of a folder, in the order of their names."""
    paths = sorted(folder.glob("*.npy"))
    if len(paths) == 1 and paths[0].name == "results.npy":
        return of_results(paths[0])
    if not paths:
        raise ValueError(f"{key} is {str(folder)!r}, which holds neither {SAMPLES} nor an .npy file")
    arrays = [read_array(path) for path in paths]
    lengths = [len(array) for array in arrays]
    if (folder / LENGTHS).is_file():
        lengths = [_whole(line, folder / LENGTHS) for line in lines_of(folder / LENGTHS, len(paths))]
        for path, array, length in zip(paths, arrays, lengths, strict=True):
            check_lengths(np.array([length]), 1, len(array), f"{folder / LENGTHS}, for {path.name},")
    clips = [torch.from_numpy(array[:length].astype(np.float32)) for array, length in zip(arrays, lengths, strict=True)]
    found = listed(folder.name, "folder", clips, [str(path) for path in paths], captions_of(folder, paths))
    found.names = [path.stem for path in paths]
    return found


def captions_of(folder: Path, paths: Sequence[Path]) -> list[str] | None:
    """The captions of files, a line of one file or a file for each; None where there are none."""
    if (folder / CAPTIONS).is_file():
        return lines_of(folder / CAPTIONS, len(paths))
    own = [path.with_suffix(".txt") for path in paths]
    there = [path.is_file() for path in own]
    if any(there) and not all(there):
        raise ValueError(f"{own[there.index(False)]} is not there, and {sum(there)} of {len(own)} clips have a caption")
    return [caption_of(path.read_text(encoding="utf-8-sig"), path) for path in own] if all(there) else None


def lines_of(file: Path, count: int) -> list[str]:
    """The lines of a file, one for each clip: captions as they stand, or as HumanML3D writes them."""
    lines = [line for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    if len(lines) != count:
        raise ValueError(f"{file} has {len(lines)} lines; there are {count} clips")
    return [caption_of(line, file) for line in lines]


def caption_of(text: str, file: Path) -> str:
    """The caption in the first line of a text; `caption#tokens#start#end` is HumanML3D's form."""
    caption = text.strip().split("\n")[0].split("#")[0].strip()
    if not caption:
        raise ValueError(f"{file} holds no caption")
    return caption


def _whole(line: str, file: Path) -> int:
    try:
        return int(line)
    except ValueError:
        raise ValueError(f"{file} holds {line!r}; needed: a number of frames on each line") from None


def of_results(path: Path) -> ListedClips:
    """MDM's dict of joints; several repetitions of a text serve multimodality too."""
    content = read_object_array(path)
    keys = list(content) if isinstance(content, dict) else []
    if not {"motion", "lengths"} <= set(keys):
        raise ValueError(f"{path} holds {', '.join(map(str, keys)) or 'no dict'}; needed: motion, text and lengths")
    motion, lengths = np.asarray(content["motion"]), np.asarray(content["lengths"]).reshape(-1)
    if motion.ndim != 4 or motion.shape[2] != 3 or motion.dtype.kind != "f":
        raise ValueError(f"{path}: motion is {motion.dtype} {motion.shape}; needed: joints (n, J, 3, frames)")
    check_lengths(lengths, len(motion), motion.shape[3], str(path))
    clips = [
        torch.from_numpy(each[..., : int(length)].astype(np.float32)).permute(2, 0, 1).contiguous()
        for each, length in zip(motion, lengths, strict=True)
    ]
    texts = content.get("text")
    texts = None if texts is None else [str(text) for text in np.asarray(texts).reshape(-1)]
    if texts is not None and len(texts) != len(clips):
        raise ValueError(f"{path} has {len(texts)} texts for {len(clips)} motions")
    found = listed(path.stem, "results", clips, [f"motion {place} of {path}" for place in range(len(clips))], texts)
    return repeated(found, content.get("num_repetitions", 1), path)


def repeated(clips: ListedClips, repetitions: Any, path: Path) -> ListedClips:
    """The clips with their repetitions, all texts of the first, then all of the second, as repeats of each text."""
    count = int(repetitions)
    if count < 1 or len(clips) % count:
        raise ValueError(f"{path}: {len(clips)} motions are no {repetitions} repetitions of each text")
    if count > 1:
        texts = len(clips) // count
        by_text = [clips.clips[place + texts * turn] for place in range(texts) for turn in range(count)]
        again = ListedClips(f"{clips.name}, repeats", clips.kind, by_text, clips.representation, clips.skeleton)
        clips.repeats = Repeats(again, count)
    return clips


def check_lengths(lengths: np.ndarray, count: int, frames: int, source: str) -> None:
    """Raises ValueError for lengths that are not one whole number, from 1 to the frames there are, for each clip."""
    if lengths.shape != (count,) or lengths.dtype.kind not in "iu" or not ((lengths >= 1) & (lengths <= frames)).all():
        found = f"{lengths.dtype} {lengths.shape}, such as {lengths.reshape(-1)[:3].tolist()}"
        needed = f"whole numbers from 1 to {frames}, one for each of {count} clips"
        raise ValueError(f"{source} has lengths {found}; needed: {needed}")


def listed(
    name: str, kind: str, clips: Sequence[Tensor], sources: Sequence[str], texts: list[str] | None
) -> ListedClips:
    """Clips of joints (F, J, 3) or rows (F, C), all of one form; ValueError, naming the source, for any other."""
    if not clips:
        raise ValueError(f"{name} holds no clip")
    form = form_of(clips[0], sources[0])
    for clip, source in zip(clips, sources, strict=True):
        if form_of(clip, source) != form:
            raise ValueError(f"{source} is of another form, {tuple(clip.shape)}, than {sources[0]}")
        if not clip.isfinite().all():
            raise ValueError(f"{source} holds NaN or infinity")
        if form[1] == "joints" and clip.abs().max() > FARTHEST:
            raise ValueError(f"{source} has joints as far as {float(clip.abs().max()):.4g}; they are read in metres")
    found = ListedClips(name, kind, [clip.flatten(1) for clip in clips], form[1], form[0])
    found.texts = texts
    return found


def form_of(clip: Tensor, source: str) -> tuple[Skeleton, str]:
    """Skeleton and representation of a clip, by its shape; ValueError, naming the source, for a shape of none."""
    shape = tuple(clip.shape)
    for skeleton in SKELETONS.values():
        if len(shape) == 3 and shape[1:] == (skeleton.joints, 3):
            return skeleton, "joints"
        for name, kind in REPRESENTATIONS.items():
            if len(shape) == 2 and shape[1] == kind.size(skeleton):
                return skeleton, name
    sizes = ", ".join(str(kind.size(each)) for each in SKELETONS.values() for kind in REPRESENTATIONS.values())
    joints = " or ".join(str(each.joints) for each in SKELETONS.values())
    raise ValueError(f"{source} has shape {shape}; needed: joints (F, {joints}, 3) or rows (F, C) with C of {sizes}")
