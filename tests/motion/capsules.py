"""A body model whose mesh is a tube around each bone: in SMPL's format, and one can see what it does."""

from pathlib import Path

import numpy as np

from tests.motion.amass_files import BONES, kinematic_tree

JOINTS, SHAPES = 24, 10


def capsule_arrays(rings=4, sides=8):
    """The arrays of a model with (JOINTS - 1) rings * sides vertices."""
    parents, rest, vertices, faces = kinematic_tree(JOINTS), np.zeros((JOINTS, 3)), [], []
    for joint in range(1, JOINTS):
        rest[joint] = rest[parents[joint]] + BONES.get(joint, (0.08 if joint == 22 else -0.08, 0, 0))
    regressor = np.zeros((JOINTS, (JOINTS - 1) * rings * sides))
    weights = np.zeros((len(regressor[0]), JOINTS))
    for joint in range(1, JOINTS):
        first = len(vertices)
        vertices += list(tube(rest[parents[joint]], rest[joint], rings, sides))
        faces += [[first + corner for corner in face] for face in tube_faces(rings, sides)]
        weights[first : len(vertices), parents[joint]] = 1.0
        regressor[joint, len(vertices) - sides : len(vertices)] = 1 / sides
    regressor[0, :sides] = 1 / sides
    tree = np.array([[0, *parents[1:]], range(JOINTS)])
    tree[0, 0] = 2**32 - 1
    return {
        "v_template": np.array(vertices),
        "shapedirs": np.zeros((len(vertices), 3, SHAPES)),
        "posedirs": np.zeros((len(vertices), 3, 9 * (JOINTS - 1))),
        "J_regressor": regressor,
        "weights": weights,
        "kintree_table": tree.astype(np.uint32),
        "f": np.array(faces, dtype=np.uint32),
    }


def tube(start, end, rings, sides, radius=0.045):
    """(rings * sides, 3) points around a bone, a circle in each of the rings."""
    along = (end - start) / np.linalg.norm(end - start)
    across = np.cross(along, np.eye(3)[np.abs(along).argmin()])
    across /= np.linalg.norm(across)
    angles = 2 * np.pi * np.arange(sides) / sides
    circle = radius * (np.outer(np.cos(angles), across) + np.outer(np.sin(angles), np.cross(along, across)))
    return np.concatenate([start + part * (end - start) + circle for part in np.linspace(0, 1, rings)])


def tube_faces(rings, sides):
    """Two triangles between neighbours of neighbouring rings, their outer side counter-clockwise."""
    found = []
    for ring in range(rings - 1):
        for side in range(sides):
            a, b = ring * sides + side, ring * sides + (side + 1) % sides
            found += [(a, b, a + sides), (b, b + sides, a + sides)]
    return found


def write_capsule_model(root, **options):
    """<root>/smpl/SMPL_NEUTRAL.npz; returns the root."""
    path = Path(root) / "smpl" / "SMPL_NEUTRAL.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **capsule_arrays(**options))
    return Path(root)
