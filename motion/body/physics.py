"""What joints alone say of a motion: feet that slide, jerk, a body below or above the floor, which is y = 0.

Letters: F frames, J joints; leading axes are kept. Every measure is one number a clip, over the frames that are real;
it is compared with real motion's, which is not 0: a foot joint lies some centimetres above the sole, and people jump.
"""

from __future__ import annotations

import torch
from torch import Tensor

from motion.body.features import check_joints
from motion.body.skeleton import Skeleton

# The skating ratio of Guided Motion Diffusion (Karunratanakul et al. 2023, section 5), as its program measures it.
CONTACT_HEIGHT = 0.05  # metres: a foot is on the floor where its toe joint is below this in two frames after each other
SKATE_SPEED = 0.5  # metres a second, horizontal: 2.5 cm a frame at 20 frames a second
SKATE_WINDOW = 5  # steps around each, whose mean must be as fast too, so that one step does not count
# Of PhysDiff (Yuan et al. 2023, section 4), there of the lowest vertex of a mesh, here of the lowest joint.
TOLERANCE = 0.005  # metres that a body may be below or above the floor
MILLIMETRES = 1000.0
FEWEST_FRAMES = 4  # that a third difference needs


def measures(joints: Tensor, skeleton: Skeleton, mask: Tensor | None = None) -> dict[str, Tensor]:
    """All measures (...) of joints (..., F, J, 3) in metres, by name; mask (..., F) bool, true for the real frames.

    skate_ratio  share of the steps from frame to frame in which a foot slides
    jerk         mean over joints of the third derivative's length, m/s^3
    penetration  mean depth of the lowest joint below the floor, mm
    floating     mean height of the lowest joint above the floor, mm; jumps and the flights of a run included

    ValueError for other shapes, NaN, or a clip of fewer than four real frames.
    """
    mask = _checked(joints, skeleton, mask)
    return {
        "skate_ratio": skate_ratio(joints, skeleton, mask),
        "jerk": jerk(joints, skeleton, mask),
        "penetration": penetration(joints, skeleton, mask),
        "floating": floating(joints, skeleton, mask),
    }


def skate_ratio(joints: Tensor, skeleton: Skeleton, mask: Tensor | None = None) -> Tensor:
    """Share (...) of the steps in which a foot that is below CONTACT_HEIGHT slides faster than SKATE_SPEED."""
    mask = _checked(joints, skeleton, mask)
    steps = mask[..., 1:] & mask[..., :-1]
    toes = joints[..., [skeleton.feet[1], skeleton.feet[3]], :]
    low = toes[..., 1] < CONTACT_HEIGHT
    speed = toes[..., [0, 2]].diff(dim=-3).norm(dim=-1) * skeleton.fps * steps[..., None]
    fast = (speed > SKATE_SPEED) & (_window_mean(speed) > SKATE_SPEED)
    return _mean((fast & low[..., 1:, :] & low[..., :-1, :]).any(-1).float(), steps)


def jerk(joints: Tensor, skeleton: Skeleton, mask: Tensor | None = None) -> Tensor:
    """Mean (...) over joints and frames of the length of the third difference times fps^3, m/s^3."""
    mask = _checked(joints, skeleton, mask)
    real = mask[..., 3:] & mask[..., 2:-1] & mask[..., 1:-2] & mask[..., :-3]
    third = joints.diff(n=3, dim=-3).norm(dim=-1).mean(-1) * skeleton.fps**3
    return _mean(third, real)


def penetration(joints: Tensor, skeleton: Skeleton, mask: Tensor | None = None) -> Tensor:
    """Mean (...) over frames of the depth of the lowest joint below -TOLERANCE, mm; 0 in a frame that is above."""
    mask = _checked(joints, skeleton, mask)
    return _mean((-joints[..., 1].amin(-1) - TOLERANCE).clamp_min(0), mask) * MILLIMETRES


def floating(joints: Tensor, skeleton: Skeleton, mask: Tensor | None = None) -> Tensor:
    """Mean (...) over frames of the height of the lowest joint above TOLERANCE, mm; 0 in a frame that is below."""
    mask = _checked(joints, skeleton, mask)
    return _mean((joints[..., 1].amin(-1) - TOLERANCE).clamp_min(0), mask) * MILLIMETRES


def _checked(joints: Tensor, skeleton: Skeleton, mask: Tensor | None) -> Tensor:
    """The mask (..., F), all true where there is none."""
    check_joints(joints, skeleton, "joints")
    mask = torch.ones(joints.shape[:-2], dtype=torch.bool, device=joints.device) if mask is None else mask
    if mask.shape != joints.shape[:-2]:
        raise ValueError(f"the mask has shape {tuple(mask.shape)}; joints need {tuple(joints.shape[:-2])}")
    fewest = int(mask.sum(-1).min())
    if fewest < FEWEST_FRAMES:
        raise ValueError(f"a clip has {fewest} real frames; its motion is measured from {FEWEST_FRAMES} or more")
    return mask


def _window_mean(speed: Tensor) -> Tensor:
    """Mean of speeds (..., F - 1, 2) over SKATE_WINDOW steps around each; before the clip and after it they are 0."""
    side = SKATE_WINDOW // 2
    padded = torch.nn.functional.pad(speed, (0, 0, side, side))
    return padded.unfold(-2, SKATE_WINDOW, 1).mean(-1)


def _mean(values: Tensor, real: Tensor) -> Tensor:
    """Mean (...) of values (..., F) where they are real."""
    return torch.where(real, values, 0.0).sum(-1) / real.sum(-1)
