"""What is done to a clip before its numbers are taken: other bones, the floor, the start, the first facing, a mirror.

Letters: F frames, J joints. All take and give joints (..., F, J, 3) in metres, y up.
"""

from __future__ import annotations

import torch
from torch import Tensor

from motion.body.features import check_joints, headings, to_features, to_joints, turn
from motion.body.skeleton import Skeleton


def retarget(joints: Tensor, offsets: Tensor, skeleton: Skeleton) -> Tensor:
    """The same motion of a body with other bones: directions stay, lengths are those of `offsets` (J, 3).

    The root's path is scaled by the legs: the sum over `skeleton.legs` of the largest part of each bone of the rest
    pose, of the new body over that of the clip's first frame. ValueError for a first frame whose legs have no length.
    """
    parents, legs = skeleton.parents, list(skeleton.legs)
    own = skeleton.offsets(joints[..., 0, :, :])[..., legs, :].abs().amax(-1).sum(-1)
    if not bool((own > 0).all()):
        raise ValueError(f"the bones of joints {legs} have no length in the first frame, so that no scale can be found")
    offsets = offsets.to(joints)
    scale = offsets[legs].abs().amax(-1).sum(-1) / own
    placed = [joints[..., 0, :] * scale[..., None, None]] * skeleton.joints
    lengths = offsets.norm(dim=-1)
    for chain in skeleton.chains:
        for joint in chain[1:]:
            bone = joints[..., joint, :] - joints[..., parents[joint], :]
            placed[joint] = placed[parents[joint]] + torch.nn.functional.normalize(bone, dim=-1) * lengths[joint]
    return torch.stack(placed, dim=-2)


def on_floor(joints: Tensor) -> Tensor:
    """The lowest joint of the whole clip at y = 0."""
    lowest = joints[..., 1].amin((-2, -1))
    return joints - lowest[..., None, None, None] * joints.new_tensor((0.0, 1.0, 0.0))


def centred(joints: Tensor) -> Tensor:
    """The root of frame 0 above the origin."""
    return joints - joints[..., :1, :1, :] * joints.new_tensor((1.0, 0.0, 1.0))


def facing_forward(joints: Tensor, skeleton: Skeleton) -> Tensor:
    """The whole clip turned so that frame 0 faces +z; as it is where the line across the body has no length."""
    facing = headings(joints[..., :1, :, :], skeleton, smooth=False, published=False)
    return turn(joints, facing[..., None, :])


def place(joints: Tensor, skeleton: Skeleton) -> Tensor:
    """The clip on the floor, begun at the origin, facing +z."""
    return facing_forward(centred(on_floor(joints)), skeleton)


def process(joints: Tensor, offsets: Tensor, skeleton: Skeleton, name: str = "joints") -> tuple[Tensor, Tensor]:
    """The published preparation of a clip (..., F, J, 3): its rows (..., F - 1, C), and the joints that they hold.

    Other bones, floor, origin, facing, rows; the joints (..., F - 1, J, 3) are read back from the rows, as the
    published `new_joints` are. ValueError, naming `name`, for joints that have no rows.
    """
    check_joints(joints, skeleton, name)
    rows = to_features(place(retarget(joints.float(), offsets, skeleton), skeleton), skeleton, name)
    return rows, to_joints(rows, skeleton)


def mirror(joints: Tensor, skeleton: Skeleton) -> Tensor:
    """Joints (..., F, J, 3) of the mirrored clip. Twice is the clip itself, to the bit."""
    check_joints(joints, skeleton, frames=1)
    return joints[..., list(skeleton.mirrored), :] * joints.new_tensor((-1.0, 1.0, 1.0))
