"""Left and right change places, in joints and in the numbers of a frame."""

import pytest
import torch

from motion.body.mirroring import mirror_rows
from motion.body.placing import facing_forward, mirror, place
from motion.body.representations import REPRESENTATIONS
from motion.body.skeleton import SKELETONS, T2M
from tests.motion.bodies import moving
from tests.rows import every_row


@every_row("skeleton", SKELETONS.values())
def test_a_mirror_twice_is_the_clip_itself(skeleton):
    joints = place(moving(skeleton, 40, seed=5, degrees=2.0), skeleton)
    seen = mirror(joints, skeleton)
    assert torch.equal(mirror(seen, skeleton), joints)
    hand, other = (skeleton.joint_names.index(f"{side}_wrist") for side in ("left", "right"))
    assert torch.equal(seen[:, hand], joints[:, other] * torch.tensor((-1.0, 1.0, 1.0)))
    assert (facing_forward(seen, skeleton) - seen).abs().max() < 1e-5


@every_row("skeleton", SKELETONS.values())
@every_row("name", REPRESENTATIONS)
def test_rows_of_the_mirrored_clip_are_the_mirrored_rows(skeleton, name):
    joints = place(moving(skeleton, 80, seed=6, degrees=3.0, swing=0.6), skeleton)
    kind = REPRESENTATIONS[name]
    rows = kind.from_joints(joints, skeleton)
    seen = mirror_rows(rows, kind, skeleton)
    # a joint that is 1e-6 of its way in the wrong place is far on the scale of millimetres
    tolerance = 2e-5 * (skeleton.units if kind.blocks else 1.0)
    assert (seen - kind.from_joints(mirror(joints, skeleton), skeleton)).abs().max() < tolerance
    assert torch.equal(mirror_rows(seen, kind, skeleton), rows)
    assert (seen - rows).abs().max() > 0.1


def test_rows_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"'full' has shape \(9, 67\); rows are \(frames, 263\)"):
        mirror_rows(torch.zeros(9, 67), REPRESENTATIONS["full"], T2M)
