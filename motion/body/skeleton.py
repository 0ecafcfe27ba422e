"""The two skeletons of the published data sets: HumanML3D's 22 joints (`T2M`) and KIT-ML's 21 (`KIT`).

Letters: J joints.

Everywhere y is up, joints are in metres and frame 0 faces +z; HumanML3D's left is then on +x, KIT-ML's on -x.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

_RIGHT, _LEFT, _UP, _DOWN, _FRONT = (-1, 0, 0), (1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1)


@dataclass(frozen=True)
class Skeleton:
    """What the numbers of a frame depend on.

    joint_names        one for each joint; joint 0 is the root
    chains             the kinematic chains in the published order; the first joint of each is known before it
    raw_offsets        unit direction of each joint's bone in the rest pose
    face               hip on -x, hip on +x, shoulder on -x, shoulder on +x of a body that faces +z
    feet               the joints of the four contact numbers: two of the foot on +x, two of that on -x
    legs               the two joints whose bones scale the path when a body is retargeted
    left_right         pairs of joints that change places in a mirror
    fps                frames per second of the data set
    units              units of the published rows in a metre: HumanML3D's are metres, KIT-ML's millimetres
    contact_threshold  a foot stands where its squared step, in the rows' units, is below this
    """

    name: str
    joint_names: tuple[str, ...]
    chains: tuple[tuple[int, ...], ...]
    raw_offsets: tuple[tuple[int, int, int], ...]
    face: tuple[int, int, int, int]
    feet: tuple[int, int, int, int]
    legs: tuple[int, int]
    left_right: tuple[tuple[int, int], ...]
    fps: float
    units: float
    contact_threshold: float

    @property
    def joints(self) -> int:
        """J, the root included."""
        return len(self.joint_names)

    @property
    def size(self) -> int:
        """How many numbers a frame has: 4 of the root, 3 + 6 of each other joint, 3 of each joint, 4 contacts."""
        return 4 + 9 * (self.joints - 1) + 3 * self.joints + 4

    @cached_property
    def parents(self) -> tuple[int, ...]:
        """Each joint's parent in the body; -1 for the root."""
        return self._links(body=True)

    @cached_property
    def relative_to(self) -> tuple[int, ...]:
        """The joint to which each joint's rotation is relative: the one before it in its chain, the root for the first.

        The published rotations of the arms are therefore relative to the root and not to the spine that bears them.
        """
        return self._links(body=False)

    @cached_property
    def mirrored(self) -> tuple[int, ...]:
        """The joint that stands for each joint in a mirror."""
        places = list(range(self.joints))
        for left, right in self.left_right:
            places[left], places[right] = right, left
        return tuple(places)

    @cached_property
    def left(self) -> frozenset[int]:
        """The joints of the left side."""
        return frozenset(left for left, _ in self.left_right)

    @cached_property
    def right(self) -> frozenset[int]:
        """The joints of the right side."""
        return frozenset(right for _, right in self.left_right)

    def bones(self, pose: Tensor) -> Tensor:
        """(..., J) lengths of the bones of joints (..., J, 3), 0 for the root."""
        parents = torch.tensor([max(0, parent) for parent in self.parents], device=pose.device)
        return (pose - pose[..., parents, :]).norm(dim=-1)

    def offsets(self, pose: Tensor) -> Tensor:
        """(..., J, 3) rest-pose bones as long as those of joints (..., J, 3), as `features.retarget` takes them."""
        return torch.tensor(self.raw_offsets, dtype=pose.dtype, device=pose.device) * self.bones(pose)[..., None]

    def _links(self, body: bool) -> tuple[int, ...]:
        links = [-1] * self.joints
        for chain in self.chains:
            for place, joint in enumerate(chain[1:]):
                links[joint] = chain[place] if body or place else 0
        return tuple(links)


T2M = Skeleton(
    name="t2m",
    joint_names=(
        *("pelvis", "left_hip", "right_hip", "spine1", "left_knee", "right_knee", "spine2", "left_ankle"),
        *("right_ankle", "spine3", "left_foot", "right_foot", "neck", "left_collar", "right_collar", "head"),
        *("left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist"),
    ),
    chains=((0, 2, 5, 8, 11), (0, 1, 4, 7, 10), (0, 3, 6, 9, 12, 15), (9, 14, 17, 19, 21), (9, 13, 16, 18, 20)),
    raw_offsets=(
        *((0, 0, 0), _LEFT, _RIGHT, _UP, _DOWN, _DOWN, _UP, _DOWN, _DOWN, _UP, _FRONT, _FRONT),
        *(_UP, _LEFT, _RIGHT, _FRONT, _DOWN, _DOWN, _DOWN, _DOWN, _DOWN, _DOWN),
    ),
    face=(2, 1, 17, 16),
    feet=(7, 10, 8, 11),
    legs=(5, 8),
    left_right=((1, 2), (4, 5), (7, 8), (10, 11), (13, 14), (16, 17), (18, 19), (20, 21)),
    fps=20.0,
    units=1.0,
    contact_threshold=0.002,
)

# Sides are named as by their source, the Master Motor Map. The published preparation takes 11 for the right hip, and
# so on: in its rows the left side is on -x where frame 0 faces +z, as if seen in a mirror. The unit is inferred from
# the radius of its plots, 240 x 8 where HumanML3D's is 4.
KIT = Skeleton(
    name="kit",
    joint_names=(
        *("root", "pelvis", "thorax", "neck", "head", "left_shoulder", "left_elbow", "left_wrist"),
        *("right_shoulder", "right_elbow", "right_wrist", "left_hip", "left_knee", "left_ankle", "left_midfoot"),
        *("left_foot", "right_hip", "right_knee", "right_ankle", "right_midfoot", "right_foot"),
    ),
    chains=((0, 11, 12, 13, 14, 15), (0, 16, 17, 18, 19, 20), (0, 1, 2, 3, 4), (3, 5, 6, 7), (3, 8, 9, 10)),
    raw_offsets=(
        *((0, 0, 0), _UP, _UP, _UP, _UP, _LEFT, _DOWN, _DOWN, _RIGHT, _DOWN, _DOWN),
        *(_LEFT, _DOWN, _DOWN, _FRONT, _FRONT, _RIGHT, _DOWN, _DOWN, _FRONT, _FRONT),
    ),
    face=(11, 16, 5, 8),
    feet=(19, 20, 14, 15),
    legs=(17, 18),
    left_right=((5, 8), (6, 9), (7, 10), (11, 16), (12, 17), (13, 18), (14, 19), (15, 20)),
    fps=12.5,
    units=1000.0,
    contact_threshold=0.05,
)

SKELETONS = {"t2m": T2M, "kit": KIT}
