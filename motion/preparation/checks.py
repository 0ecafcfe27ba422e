"""Whether a folder in the format of HumanML3D is whole: every file is read, and each kind of fault is a finding.

Letters: F frames, C numbers of a row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from core.data.index import in_threads
from core.storage.arrays import map_array, read_array
from motion.body.skeleton import Skeleton
from motion.body.statistics import Statistics, check_statistics
from motion.datasets.humanml3d import LEAST_FRAMES, LONGEST
from motion.datasets.splits import APART, PUBLISHED, PUBLISHED_NAN, check_apart, read_split
from motion.datasets.texts import read_descriptions
from motion.preparation.layout import Layout, names_in

FARTHEST = 1.0  # deviations by which Mean.npy may be off the rows' own mean


@dataclass(frozen=True)
class Finding:
    """What was found, and in which clips; `broken` where the folder is not to be used as it is."""

    what: str
    names: tuple[str, ...] = ()
    broken: bool = True


@dataclass(frozen=True)
class Clip:
    """What the files of a clip hold: F and C, the sum (C,) of its rows, and what is wrong."""

    frames: int = 0
    total: np.ndarray | None = None
    faults: tuple[str, ...] = field(default=())


def check_folder(layout: Layout, skeleton: Skeleton, published: bool) -> tuple[dict[str, Clip], list[Finding]]:
    """The clips of a folder by their names, and all findings; the clips of all three lists, and those in none.

    published  whether it has to hold as many clips as the published data set
    """
    there = layout.clips()
    if not there:
        raise ValueError(f"root is {str(layout.root)!r}: its folder {layout.rows.name} holds no clip")
    listed, findings = _lists(layout)
    findings += _counts(listed, skeleton.name) if published else []
    clips = dict(in_threads(lambda name: look(layout, name, skeleton), there))
    nan = PUBLISHED_NAN[skeleton.name] if published else set()
    findings += _of_clips(clips, nan) + _lengths(clips, LEAST_FRAMES[skeleton.name])
    named = {name for names in listed.values() for name in names}
    findings += _of_names("listed, without a file in new_joint_vecs", named - clips.keys())
    findings += _of_names("in none of train, val and test", clips.keys() - named, broken=False) if listed else []
    findings += _captions(layout, sorted(named & clips.keys()) or there)
    return clips, findings + _statistics(layout, skeleton, clips.values())


def look(layout: Layout, name: str, skeleton: Skeleton) -> Clip:
    """What the rows and the joints of a clip hold."""
    try:
        rows = read_array(layout.rows / f"{name}.npy")
    except ValueError as error:
        return Clip(faults=(f"cannot be read ({_without_path(error, layout.rows)})",))
    if rows.ndim != 2 or rows.shape[1] != skeleton.size or rows.dtype.kind != "f":
        return Clip(faults=(f"{rows.dtype} {rows.shape} instead of rows of {skeleton.size} numbers",))
    faults = () if np.isfinite(rows).all() else ("NaN or infinity",)
    joints = layout.joints / f"{name}.npy"
    if joints.exists():
        faults += _joints(joints, (len(rows), skeleton.joints, 3))
    return Clip(len(rows), rows.sum(0, dtype=np.float64), faults)


def _joints(file: Path, expected: tuple[int, ...]) -> tuple[str, ...]:
    try:
        shape = map_array(file).shape
    except ValueError:
        return ("joints that cannot be read",)
    one = shape == expected[1:] and expected[0] == 1  # the published program writes a single frame so
    return () if shape == expected or one else ("joints that are not of its rows",)


def _lists(layout: Layout) -> tuple[dict[str, list[str]], list[Finding]]:
    listed, findings = {}, []
    for split in APART:
        if not layout.split(split).is_file():
            findings.append(Finding(f"there is no {split}.txt"))
            continue
        try:
            listed[split] = read_split(layout.root, split)
            if split != APART[0]:  # each pair once
                check_apart(layout.root, split, listed[split])
        except ValueError as error:
            findings.append(Finding(str(error)))
    return listed, findings


def _counts(listed: dict[str, list[str]], skeleton: str) -> Iterator[Finding]:
    for split, names in listed.items():
        expected = PUBLISHED[skeleton].get(split)
        if expected is not None and len(names) != expected:
            yield Finding(
                f"{split}.txt names {len(names)} clips, the published one {expected} (against=none: no matter)"
            )


def _of_clips(clips: dict[str, Clip], expected_nan: set[str]) -> list[Finding]:
    """A finding for each kind of fault."""
    kinds: dict[str, list[str]] = {}
    for name, clip in clips.items():
        for fault in clip.faults:
            known = name in expected_nan and fault.startswith("NaN")
            kinds.setdefault(f"{fault}, as published: left out in training" if known else fault, []).append(name)
    return [Finding(fault, tuple(names), "as published" not in fault) for fault, names in kinds.items()]


def _lengths(clips: dict[str, Clip], shortest: int) -> list[Finding]:
    short = [name for name, clip in clips.items() if not clip.faults and clip.frames < shortest]
    long = [name for name, clip in clips.items() if clip.frames >= LONGEST]
    left_out = "published training leaves them out"
    found = _of_names(f"fewer than {shortest} rows: {left_out}", short, broken=False)
    return found + _of_names(f"{LONGEST} rows or more: {left_out}", long, broken=False)


def _of_names(what: str, names: Iterable[str], broken: bool = True) -> list[Finding]:
    names = tuple(sorted(names))
    return [Finding(what, names, broken)] if names else []


def _captions(layout: Layout, names: Sequence[str]) -> list[Finding]:
    there = set(names_in(layout.texts, ".txt"))
    findings = _of_names("without a file of captions in texts", [name for name in names if name not in there])
    faults: dict[str, list[str]] = {}
    for name, fault in in_threads(lambda name: _caption_fault(layout, name), [n for n in names if n in there]):
        if fault:
            faults.setdefault(fault, []).append(name)
    return findings + [Finding(fault, tuple(found)) for fault, found in faults.items()]


def _caption_fault(layout: Layout, name: str) -> str:
    file = layout.texts / f"{name}.txt"
    try:
        read_descriptions(file)
    except ValueError as error:
        return (
            "captions that cannot be read ("
            + _without_path(error, layout.texts).replace(f"{name}.txt", "its file")
            + ")"
        )
    return ""


def _statistics(layout: Layout, skeleton: Skeleton, clips: Iterable[Clip]) -> list[Finding]:
    try:
        mean, std = (torch.from_numpy(np.array(read_array(file))) for file in (layout.mean, layout.std))
        found = check_statistics(mean, std, skeleton)
    except ValueError as error:
        return [Finding(str(error))]
    whole = [clip for clip in clips if not clip.faults and clip.frames]
    if not whole:
        return []
    own = sum(clip.total for clip in whole) / sum(clip.frames for clip in whole)
    return _distance(found, own)


def _distance(found: Statistics, own: np.ndarray) -> list[Finding]:
    """Whether the mean of the file is about that of the rows (C,)."""
    off = np.abs(found.mean.double().numpy() - own) / found.std.double().numpy()
    where = int(off.argmax())
    if off[where] <= FARTHEST:
        return []
    told = f"number {where} is {float(found.mean[where]):.4g}, the mean of the rows {own[where]:.4g}"
    return [Finding(f"Mean.npy is of other data: {told}, {off[where]:.1f} deviations away")]


def _without_path(error: ValueError, folder: Path) -> str:
    return str(error).replace(f"{folder}/", "")
