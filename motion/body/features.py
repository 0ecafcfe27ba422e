"""The published numbers of a frame, from joints and back: HumanML3D's 263, KIT-ML's 251.

Letters: F frames of joints, J joints, C numbers of a frame; rows are F - 1, because each needs the frame after it.

The published data hold three mistakes of the program that made them, and so do these rows: the hips are exchanged in
the line across the body from which each frame's facing is found (not in the turn of the whole clip); the rotations of
the arms are relative to the root; and a step of the heading across -z has the other sign, so that the joints that are
read back turn by twice the step from there on (`mend_turns` gives it its own). The heading of frame 0 is set to +z,
whatever it is.

The heading is a yaw alone, so that "into the facing frame" is a rotation of x and z by the facing (sin, cos).
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import torch
from torch import Tensor

from motion.body.quaternions import between, inverse, multiply, six_to_matrix, to_six
from motion.body.skeleton import Skeleton

SIGMA = 20.0  # frames, of the Gaussian that smooths the facing
RADIUS = 80  # frames on either side at which it is cut off: 4 sigma
BLOCKS = ("yaw", "velocity_xz", "height", "positions", "rotations", "velocities", "contacts")


@cache
def slices(skeleton: Skeleton) -> dict[str, slice]:
    """Where each block of a row stands, by its name in `BLOCKS`."""
    others = skeleton.joints - 1
    sizes = (1, 2, 1, 3 * others, 6 * others, 3 * skeleton.joints, 4)
    ends = torch.tensor(sizes).cumsum(0).tolist()
    return {name: slice(end - size, end) for name, size, end in zip(BLOCKS, sizes, ends, strict=True)}


def check_joints(joints: Tensor, skeleton: Skeleton, name: str = "joints", frames: int = 2) -> None:
    """ValueError, with the name, unless these are finite joints (..., F, J, 3) of at least `frames` frames."""
    shape = tuple(joints.shape)
    if len(shape) < 3 or shape[-1] != 3:
        raise ValueError(f"{name} has shape {shape}; joints are (frames, {skeleton.joints}, 3)")
    if shape[-2] != skeleton.joints:
        raise ValueError(
            f"{name} has {shape[-2]} joints (shape {shape}); the skeleton {skeleton.name!r} has {skeleton.joints}"
        )
    if shape[-3] < frames:
        raise ValueError(f"{name} has {shape[-3]} frames; {frames} are needed, because a row needs the frame after it")
    if not joints.is_floating_point():
        raise ValueError(f"{name} has numbers of type {joints.dtype}; joints are floating-point metres")
    if not bool(joints.isfinite().all()):
        raise ValueError(f"{name} has {int((~joints.isfinite()).sum())} numbers that are NaN or infinite")


def check_rows(rows: Tensor, size: int, name: str = "rows") -> None:
    """ValueError, in one line with the name, unless these are rows (..., F, C) with F >= 1 and C = `size`."""
    if rows.dim() < 2 or rows.shape[-1] != size or rows.shape[-2] < 1:
        raise ValueError(f"{name} has shape {tuple(rows.shape)}; rows are (frames, {size})")


def to_features(joints: Tensor, skeleton: Skeleton, name: str = "joints", mend_turns: bool = False) -> Tensor:
    """The rows (..., F - 1, C) of joints (..., F, J, 3) in metres, as they stand: see `placing.place`.

    mend_turns  the heading's steps across -z have their own sign, not the published one
    ValueError, naming `name`, for other shapes, fewer than two frames and numbers that are not finite.
    """
    check_joints(joints, skeleton, name)
    stand = contacts(joints.float(), skeleton)
    joints = joints.float() * skeleton.units
    facing = headings(joints, skeleton)
    now, then = facing[..., :-1, None, :], facing[..., 1:, :]
    steps = joints[..., 1:, :, :] - joints[..., :-1, :, :]
    path = turn(steps[..., 0, :], then)
    here = joints[..., :-1, :, :]
    root = here[..., :1, :] * here.new_tensor((1.0, 0.0, 1.0))
    local = turn((here - root)[..., 1:, :], now)
    six = to_six(joint_rotations(here, facing[..., :-1, :], skeleton)[..., 1:, :])
    return torch.cat(
        (
            yaw_steps(facing, mend_turns)[..., None].to(here.dtype),
            path[..., [0, 2]],
            here[..., 0, 1:2],
            local.flatten(-2),
            six.flatten(-2),
            turn(steps, now).flatten(-2),
            stand.to(here.dtype),
        ),
        dim=-1,
    )


def to_joints(features: Tensor, skeleton: Skeleton) -> Tensor:
    """Joints (..., F, J, 3) in metres of rows (..., F, C), from their positions: what is evaluated and drawn.

    Only the numbers of the root and of the positions are read; rows that end behind them are taken as well.
    """
    height, positions = slices(skeleton)["height"], slices(skeleton)["positions"]
    check_rows(features[..., : positions.stop], positions.stop)
    features = features.float()
    facing, path = root_motion(features)
    local = features[..., positions].unflatten(-1, (-1, 3))
    moved = turn_back(local, facing[..., None, :])
    ground = path * path.new_tensor((1.0, 0.0, 1.0))
    root = torch.stack((path[..., 0], features[..., height.start], path[..., 2]), dim=-1)
    return torch.cat((root[..., None, :], moved + ground[..., None, :]), dim=-2) / skeleton.units


def joints_from_rotations(features: Tensor, offsets: Tensor, skeleton: Skeleton) -> Tensor:
    """Joints (..., F, J, 3) in metres of rows (..., F, C), from their rotations and bones (J, 3) of the rest pose.

    Arms are turned from the root, as the rows are made, so that this is the inverse of `to_features`.
    """
    check_rows(features, skeleton.size, "features")
    facing, path = root_motion(features)
    height = features[..., slices(skeleton)["height"].start]
    own = six_to_matrix(features[..., slices(skeleton)["rotations"]].unflatten(-1, (-1, 6)))
    turned = [_yaw_matrix(facing)]
    placed = [torch.stack((path[..., 0], height, path[..., 2]), dim=-1) / skeleton.units]
    turned += [own[..., joint - 1, :, :] for joint in range(1, skeleton.joints)]
    placed += [placed[0]] * (skeleton.joints - 1)
    for chain in skeleton.chains:
        for parent, joint in pairwise(chain):
            turned[joint] = turned[skeleton.relative_to[joint]] @ turned[joint]
            placed[joint] = placed[parent] + turned[joint] @ offsets[joint].to(features)
    return torch.stack(placed, dim=-2)


def headings(joints: Tensor, skeleton: Skeleton, smooth: bool = True, published: bool = True) -> Tensor:
    """Facing (..., F, 2) = (x, z) of unit length, in float64, of joints (..., F, J, 3), smoothed along time.

    As published the hips are exchanged and frame 0 is +z. A frame whose line across has no length adds nothing to its
    neighbours' facing, and where nothing is left the facing is +z.
    """
    first_hip, second_hip, first_shoulder, second_shoulder = skeleton.face
    if published:
        first_hip, second_hip = second_hip, first_hip
    hips = joints[..., first_hip, :] - joints[..., second_hip, :]
    across = hips + joints[..., first_shoulder, :] - joints[..., second_shoulder, :]
    across = torch.nn.functional.normalize(across.double(), dim=-1)
    facing = torch.stack((across[..., 2], -across[..., 0]), dim=-1)
    facing = _unit(_smoothed(facing) if smooth else facing)
    if published:
        facing[..., 0, :] = facing.new_tensor((0.0, 1.0))
    return facing


def quaternions_of(facing: Tensor) -> Tensor:
    """The shortest rotations (..., 4), in float64, from unit facings (..., 2) = (x, z) to +z: from world to body."""
    real, up = _half_angle(facing)
    nothing = torch.zeros_like(real)
    return torch.stack((real, nothing, up, nothing), dim=-1)


def yaw_steps(facing: Tensor, mend_turns: bool = False) -> Tensor:
    """Half the angle (..., F - 1), in float64, by which each frame's rotation to +z differs from the one before it.

    It is the arc sine of a sine alone, as published: where the rotations change their sign, at -z, so does the step.
    """
    real, up = _half_angle(facing)
    sines = up[..., 1:] * real[..., :-1] - real[..., 1:] * up[..., :-1]
    if mend_turns:
        sines = torch.where(real[..., 1:] * real[..., :-1] + up[..., 1:] * up[..., :-1] < 0, -sines, sines)
    return sines.clamp(-1.0, 1.0).asin()


def _half_angle(facing: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine, in float64, of half the angle of the shortest rotation from a facing (x, z) to +z."""
    x, z = facing.double().unbind(-1)
    length = torch.hypot(1 + z, x)
    back = length == 0
    return torch.where(back, 0.0, (1 + z) / length), torch.where(back, 1.0, -x / length)


def joint_rotations(joints: Tensor, facing: Tensor, skeleton: Skeleton) -> Tensor:
    """Rotations (..., F, J, 4) of joints (..., F, J, 3): the root's, and each joint's relative to `relative_to`.

    With R(c) the shortest rotation of c's rest bone to its bone and R(0) the root's, c's own is R(before c)^-1 R(c).
    """
    parents = torch.tensor(skeleton.parents[1:], device=joints.device)
    before = torch.tensor(skeleton.relative_to[1:], device=joints.device)
    raw = torch.tensor(skeleton.raw_offsets[1:], dtype=joints.dtype, device=joints.device)
    bones = torch.nn.functional.normalize(joints[..., 1:, :] - joints[..., parents, :], dim=-1)
    root = quaternions_of(facing)[..., None, :].to(joints.dtype)
    turned = torch.cat((root, between(raw, bones)), dim=-2)
    return torch.cat((root, multiply(inverse(turned[..., before, :]), turned[..., 1:, :])), dim=-2)


def contacts(joints: Tensor, skeleton: Skeleton) -> Tensor:
    """Which feet of joints (..., F, J, 3) in metres stand (..., F - 1, 4), bool, in the order of `skeleton.feet`.

    A foot stands where its squared step is below the threshold, at any height.
    """
    feet = joints[..., list(skeleton.feet), :] * skeleton.units
    return (feet[..., 1:, :, :] - feet[..., :-1, :, :]).square().sum(-1) < skeleton.contact_threshold


def root_motion(features: Tensor) -> tuple[Tensor, Tensor]:
    """Facing (..., F, 2) and path (..., F, 3) of the root, with y = 0, in the rows' units, of rows (..., F, C >= 3).

    Both are sums over the rows before a frame, taken in float64.
    """
    yaw, velocity = features[..., 0].double(), features[..., 1:3].double()
    half = torch.nn.functional.pad(yaw[..., :-1].cumsum(-1), (1, 0))
    facing = torch.stack((-(2 * half).sin(), (2 * half).cos()), dim=-1)
    local = torch.nn.functional.pad(velocity[..., :-1, :], (0, 0, 1, 0))
    steps = torch.stack((local[..., 0], torch.zeros_like(local[..., 0]), local[..., 1]), dim=-1)
    path = turn_back(steps, facing).cumsum(-2)
    return facing.to(features.dtype), path.to(features.dtype)


def turn(vectors: Tensor, facing: Tensor) -> Tensor:
    """Vectors (..., 3) of the world as seen in the frame of a facing (..., 2)."""
    x, y, z = vectors.unbind(-1)
    sin, cos = facing.to(vectors.dtype).unbind(-1)
    return torch.stack((cos * x - sin * z, y.expand_as(x), sin * x + cos * z), dim=-1)


def turn_back(vectors: Tensor, facing: Tensor) -> Tensor:
    """Vectors (..., 3) seen in the frame of a facing (..., 2) in the world: the inverse of `turn`."""
    return turn(vectors, facing * facing.new_tensor((-1.0, 1.0)))


def _yaw_matrix(facing: Tensor) -> Tensor:
    """(..., 3, 3) of `turn`."""
    sin, cos = facing.unbind(-1)
    nothing, one = torch.zeros_like(sin), torch.ones_like(sin)
    rows = ((cos, nothing, -sin), (nothing, one, nothing), (sin, nothing, cos))
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def _unit(facing: Tensor) -> Tensor:
    """Facing of unit length; +z where there is none."""
    length = facing.norm(dim=-1, keepdim=True)
    return torch.where(length > 0, facing / length, facing.new_tensor((0.0, 1.0)))


def _smoothed(values: Tensor) -> Tensor:
    """Values (..., F, n) smoothed along F by a Gaussian, the first and last value repeated beyond the ends."""
    rows = values.transpose(-1, -2)
    padded = torch.nn.functional.pad(rows.flatten(0, -2)[:, None], (RADIUS, RADIUS), mode="replicate")
    return torch.nn.functional.conv1d(padded, _kernel().to(values)).reshape(rows.shape).transpose(-1, -2)


@cache
def _kernel() -> Tensor:
    """(1, 1, 161) weights of the Gaussian."""
    weights = (-0.5 * (torch.arange(-RADIUS, RADIUS + 1, dtype=torch.float64) / SIGMA).square()).exp()
    return (weights / weights.sum())[None, None]
