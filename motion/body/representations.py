"""The numbers of a frame that a network can be trained on, and what is lost from one kind to another.

Letters: F frames, J joints, C numbers of a frame.

    full       the published row: 263 numbers of HumanML3D, 251 of KIT-ML
    positions  its beginning, root and positions: 67 and 64
    joints     absolute coordinates in metres: 66 and 63
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from motion.body.features import BLOCKS, check_joints, check_rows, slices, to_features, to_joints
from motion.body.placing import centred, facing_forward
from motion.body.skeleton import Skeleton


@dataclass(frozen=True)
class Representation:
    """One kind of rows (..., F, C) of a clip, made of the joints (..., F + 1, J, 3) of one frame more.

    Every clip begins at the origin and faces +z; where it stood and looked before is not in its rows.
    """

    name: str
    blocks: tuple[str, ...]

    def slices(self, skeleton: Skeleton) -> dict[str, slice]:
        """Where each block of a row stands."""
        published = slices(skeleton)
        return {name: published[name] for name in self.blocks} or {"joints": slice(0, 3 * skeleton.joints)}

    def size(self, skeleton: Skeleton) -> int:
        """C."""
        return max(place.stop for place in self.slices(skeleton).values())

    def from_joints(self, joints: Tensor, skeleton: Skeleton, name: str = "joints") -> Tensor:
        """Rows (..., F, C) of joints (..., F + 1, J, 3) in metres; ValueError, naming `name`, for what has no rows.

        Turns across -z are mended, so that `to_joints` gives the joints again; published rows are `placing.process`'s.
        """
        check_joints(joints, skeleton, name)
        joints = facing_forward(centred(joints.float()), skeleton)
        if not self.blocks:
            return joints[..., :-1, :, :].flatten(-2)
        return to_features(joints, skeleton, name, mend_turns=True)[..., : self.size(skeleton)]

    def to_joints(self, rows: Tensor, skeleton: Skeleton) -> Tensor:
        """Joints (..., F, J, 3) in metres of rows (..., F, C); ValueError for another C."""
        check_rows(rows, self.size(skeleton), f"rows of representation {self.name!r}")
        return to_joints(rows, skeleton) if self.blocks else rows.unflatten(-1, (skeleton.joints, 3))

    def convert(self, rows: Tensor, target: Representation, skeleton: Skeleton) -> Tensor:
        """Rows (..., F, C) as those of another kind; `conversion` says what is lost, and whether a frame is."""
        return conversion(self.name, target.name).apply(rows, skeleton)


REPRESENTATIONS = {
    "full": Representation("full", BLOCKS),
    "positions": Representation("positions", BLOCKS[:4]),
    "joints": Representation("joints", ()),
}


def representation_by_name(name: str) -> Representation:
    """The one that `data.representation` names; ValueError with the allowed ones."""
    if name in ("272", "motionstreamer"):
        raise ValueError(
            f"data.representation is {name!r}: the 272 numbers of MotionStreamer need true rotations at 30 frames per "
            f"second, which none of these holds, and are not built; allowed: {list(REPRESENTATIONS)}"
        )
    if name not in REPRESENTATIONS:
        raise ValueError(f"data.representation is {name!r}; allowed: {list(REPRESENTATIONS)}")
    return REPRESENTATIONS[name]


@dataclass(frozen=True)
class Conversion:
    """A way from one representation to another.

    frames_lost  how many frames fewer there are
    loss         what is not the same afterwards, in words; empty: nothing
    """

    source: str
    target: str
    frames_lost: int
    loss: str

    def apply(self, rows: Tensor, skeleton: Skeleton) -> Tensor:
        """Rows (..., F, C) of the source as rows (..., F - frames_lost, C) of the target."""
        start, end = REPRESENTATIONS[self.source], REPRESENTATIONS[self.target]
        check_rows(rows, start.size(skeleton), f"rows of representation {self.source!r}")
        if start.blocks[: len(end.blocks)] == end.blocks and end.blocks:
            return rows[..., : end.size(skeleton)]
        joints = start.to_joints(rows, skeleton)
        return end.from_joints(joints, skeleton, f"rows of {self.source!r}") if end.blocks else joints.flatten(-2)


_NEW_START = "the last frame, and where the clip stood and looked at its start, are lost"
_NEW_ROTATIONS = (
    "rotations are found from the directions of the bones: no twist about a bone, and not those of a body model"
)
CONVERSIONS = (
    Conversion("full", "positions", 0, "rotations, velocities and contacts are left out"),
    Conversion("full", "joints", 0, "joints are those of the positions; rotations, velocities, contacts are left out"),
    Conversion("positions", "joints", 0, ""),
    Conversion("positions", "full", 1, f"{_NEW_START}; headings are found again from the joints; {_NEW_ROTATIONS}"),
    Conversion("joints", "positions", 1, f"{_NEW_START}; headings are found from hips and shoulders"),
    Conversion("joints", "full", 1, f"{_NEW_START}; headings are found from hips and shoulders; {_NEW_ROTATIONS}"),
)


def conversion(source: str, target: str) -> Conversion:
    """The way between two representations by their names; ValueError for a name that is none."""
    names = representation_by_name(source).name, representation_by_name(target).name
    ways = [way for way in CONVERSIONS if (way.source, way.target) == names]
    return ways[0] if ways else Conversion(*names, 0, "")
