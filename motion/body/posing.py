"""Poses of a body model that moves as given joints do, so that its mesh can be shown.

The model has its mean shape; it is turned bone by bone (`motion.body.rigid`), without an optimiser: what joints do not
say, the twist of forearms and feet and the bend of fingers, is not made up.

Letters: F frames, V vertices.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from motion.body.rigid import turn
from motion.body.smpl import BODY_JOINTS, NUM_BETAS, PARENTS, BodyModel


class Pose(NamedTuple):
    """How a body model stands in F frames.

    angles    (F, 66) axis angles
    trans     (F, 3) translations, metres
    distance  of its joints from those that were asked for, the mean over joints and frames, metres
    """

    angles: Tensor
    trans: Tensor
    distance: float


def pose_body(joints: np.ndarray, model: BodyModel) -> Pose:
    """The pose of a model for joints (F, 22, 3) in metres.

    Its feet are on the mean as high as those of the joints: what floats or sinks does so in the mesh too.
    """
    from scipy.spatial.transform import Rotation

    rest = model.rest_joints[:BODY_JOINTS].double().numpy()
    motion = turn(np.asarray(joints, dtype=np.float64), PARENTS, rest - rest[np.maximum(PARENTS, 0)], adapt=False)
    angles = Rotation.from_matrix(motion.local().reshape(-1, 3, 3)).as_rotvec().reshape(len(joints), -1)
    higher = (joints[..., 1].min(1) - motion.joints[..., 1].min(1)).mean() * np.array((0.0, 1.0, 0.0))
    distance = np.linalg.norm(motion.joints + higher - joints, axis=-1).mean()
    trans = motion.root - rest[0] + higher
    return Pose(torch.from_numpy(angles).float(), torch.from_numpy(trans).float(), float(distance))


def mesh_of(pose: Pose, model: BodyModel) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (F, V, 3) in metres and faces (f, 3) of a model in a pose."""
    vertices, faces = model.mesh(pose.angles, torch.zeros(NUM_BETAS), pose.trans)
    return vertices.numpy(), faces.numpy()


def nearest_joints(model: BodyModel) -> np.ndarray:
    """Of each vertex (V,) the joint of the body that is nearest to it in the rest pose."""
    (vertices,), _ = mesh_of(Pose(torch.zeros(1, 3 * BODY_JOINTS), torch.zeros(1, 3), 0.0), model)
    return torch.cdist(torch.from_numpy(vertices), model.rest_joints[:BODY_JOINTS]).argmin(1).numpy()
