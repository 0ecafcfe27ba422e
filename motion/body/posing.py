"""Poses of a body model that moves as given joints do, so that its mesh can be shown.

The model has its mean shape; it is turned bone by bone (`motion.body.rigid`), without an optimiser: what joints do not
say, the twist of forearms and feet and the bend of fingers, is not made up.

Letters: F frames, V vertices.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from motion.body.rigid import turn
from motion.body.smpl import BODY_JOINTS, NUM_BETAS, PARENTS, BodyModel


def pose_body(joints: np.ndarray, model: BodyModel) -> tuple[Tensor, Tensor]:
    """Axis angles (F, 66) and translations (F, 3) float32 of a model for joints (F, 22, 3) in metres.

    Its feet are on the mean as high as those of the joints: what floats or sinks does so in the mesh too.
    """
    from scipy.spatial.transform import Rotation

    rest = model.rest_joints[:BODY_JOINTS].double().numpy()
    motion = turn(np.asarray(joints, dtype=np.float64), PARENTS, rest - rest[np.maximum(PARENTS, 0)], adapt=False)
    angles = Rotation.from_matrix(motion.local().reshape(-1, 3, 3)).as_rotvec().reshape(len(joints), -1)
    higher = (joints[..., 1].min(1) - motion.joints[..., 1].min(1)).mean()
    return torch.from_numpy(angles).float(), torch.from_numpy(motion.root - rest[0] + (0.0, higher, 0.0)).float()


def mesh_of(joints: np.ndarray, model: BodyModel) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (F, V, 3) in metres and faces (f, 3) of a model that moves as joints (F, 22, 3) do."""
    vertices, faces = model.mesh(*_shaped(pose_body(joints, model)))
    return vertices.numpy(), faces.numpy()


def nearest_joints(model: BodyModel) -> np.ndarray:
    """Of each vertex (V,) the joint of the body that is nearest to it in the rest pose."""
    still = torch.zeros(1, 3 * BODY_JOINTS), torch.zeros(1, 3)
    vertices, _ = model.mesh(*_shaped(still))
    return torch.cdist(vertices[0], model.rest_joints[:BODY_JOINTS]).argmin(1).numpy()


def _shaped(poses: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    return poses[0], torch.zeros(NUM_BETAS), poses[1]
