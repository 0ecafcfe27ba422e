"""The numbers of a frame as a mirror shows it: x changes its sign, left and right change places.

Letters: F frames, C numbers of a frame.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from motion.body.features import check_rows
from motion.body.representations import Representation
from motion.body.skeleton import Skeleton

# The signs of one joint's numbers. M is the mirror, R a rotation, and M R M has the columns -M R x and M R y; a yaw
# changes its sign.
SIGNS = {
    "yaw": (-1,),
    "velocity_xz": (-1, 1),
    "height": (1,),
    "positions": (-1, 1, 1),
    "rotations": (1, -1, -1, -1, 1, 1),
    "velocities": (-1, 1, 1),
    "contacts": (1,),
    "joints": (-1, 1, 1),
}


def mirror_rows(rows: Tensor, representation: Representation, skeleton: Skeleton) -> Tensor:
    """Rows (..., F, C) of the mirrored clip, without the way through joints. Twice is the clip itself, to the bit."""
    check_rows(rows, representation.size(skeleton), f"rows of representation {representation.name!r}")
    places, signs = _exchange(representation, skeleton)
    return rows[..., places.to(rows.device)] * signs.to(rows)


@cache
def _exchange(representation: Representation, skeleton: Skeleton) -> tuple[Tensor, Tensor]:
    """Which number stands in each place (C,) of a mirrored row, and its sign (C,)."""
    every = torch.tensor(skeleton.mirrored)
    orders = {
        "positions": every[1:] - 1,
        "rotations": every[1:] - 1,
        "velocities": every,
        "joints": every,
        "contacts": torch.tensor((2, 3, 0, 1)),
    }
    places, signs = [], []
    for name, place in representation.slices(skeleton).items():
        own = torch.arange(place.start, place.stop).view(-1, len(SIGNS[name]))
        places.append(own[orders.get(name, slice(None))].flatten())
        signs.append(torch.tensor(SIGNS[name]).repeat(len(own)))
    return torch.cat(places), torch.cat(signs)
