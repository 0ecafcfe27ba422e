"""A folder in the format of HumanML3D or KIT-ML that tests write: real rows of walking stick figures, texts, lists.

Letters: F frames, J joints, C numbers of a frame.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import torch

from motion.body.representations import REPRESENTATIONS
from motion.body.skeleton import SKELETONS
from motion.body.statistics import statistics

FULL = REPRESENTATIONS["full"]
CAPTIONS = ("a person walks.#a/DET person/NOUN walk/VERB#0.0#0.0", "someone strolls.#someone/PRON stroll/VERB#0.0#0.0")


def walking_joints(frames, seed=0, skeleton="t2m"):
    """Joints (frames, J, 3) in metres of a figure that sways, bends and walks a curve, every seed its own way."""
    body, rng = SKELETONS[skeleton], np.random.default_rng(seed)
    pose = torch.zeros(body.joints, 3)
    for chain in body.chains:
        for parent, joint in itertools.pairwise(chain):
            pose[joint] = pose[parent] + 0.25 * torch.tensor(body.raw_offsets[joint], dtype=torch.float32)
    time = torch.arange(frames)[:, None, None] / body.fps
    phase, size = (torch.from_numpy(rng.random((body.joints, 3))).float() for _ in range(2))
    joints = pose + 0.05 * size * torch.sin(2 * torch.pi * (time + phase))
    joints[..., 2] += (0.5 + 0.5 * rng.random()) * time[..., 0]
    joints[..., 0] += 0.1 * torch.sin(time[..., 0])
    return joints - joints[..., 1].min() * torch.tensor([0.0, 1.0, 0.0])


def walking_rows(frames, seed=0, skeleton="t2m"):
    """Rows (frames, C) of `walking_joints`."""
    body = SKELETONS[skeleton]
    return FULL.from_joints(walking_joints(frames + 1, seed, skeleton), body).numpy()


def write_folder(root: Path, lengths, split="train", skeleton="t2m", texts=None, first=0):
    """A folder of motions of these lengths in the list `split`; returns their names.

    texts  lines of the text file of each motion; None: `CAPTIONS`
    first  number of the first motion
    """
    for name in ("new_joint_vecs", "texts"):
        (root / name).mkdir(parents=True, exist_ok=True)
    names = [f"{first + number:06d}" for number in range(len(lengths))]
    clips = [walking_rows(length, first + number, skeleton) for number, length in enumerate(lengths)]
    for number, (name, rows) in enumerate(zip(names, clips, strict=True)):
        np.save(root / "new_joint_vecs" / f"{name}.npy", rows)
        lines = CAPTIONS if texts is None else texts[number]
        (root / "texts" / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines))
    (root / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
    if not (root / "Mean.npy").exists():
        found = statistics([torch.from_numpy(rows) for rows in clips if len(rows)], FULL, SKELETONS[skeleton])
        np.save(root / "Mean.npy", found.mean.numpy())
        np.save(root / "Std.npy", found.std.numpy())
    return names
