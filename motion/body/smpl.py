"""Body models SMPL+H and SMPL from a local directory: joints and mesh of poses, by the functions of smplx.

The files come from their sites, under their licences, and are read as plain arrays: pickles are never opened. Joints
need no skin: they are a linear function of the shape, turned along the kinematic tree, which saves the 6890 vertices of
every frame.

Letters: F frames, J joints of the model (SMPL+H 52, SMPL 24), V vertices, S numbers of shape, P = 9 (J - 1).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from core.extras import extra
from core.storage.arrays import npz_array, npz_keys

NUM_BETAS = 10
BODY_JOINTS = 22  # the first of SMPL, SMPL+H and SMPL-X: those of HumanML3D
GENDERS = ("male", "female", "neutral")
PARENTS = (-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19)  # of the body's joints
FLAVOURS = {24: "SMPL", 52: "SMPL+H"}  # by the number of joints
SMPLX_JOINTS, SMPLX_VERTICES = 55, 10475
AT_ONCE = 256  # frames of a mesh that are computed together: 80 MB a step with 6890 vertices
NAMES = (  # where the model of a gender lies: as the sites pack it, and as smplx names it
    *("smplh/{gender}/model.npz", "{gender}/model.npz", "smplh/SMPLH_{GENDER}.npz", "SMPLH_{GENDER}.npz"),
    *("smpl/SMPL_{GENDER}.npz", "SMPL_{GENDER}.npz"),
)
FETCH = (
    "fetch 'Extended SMPL+H model' from https://mano.is.tue.mpg.de (after registering) and unpack it there, so that "
    "<body_models>/smplh/male/model.npz and <body_models>/smplh/female/model.npz exist"
)
CONVERT = (
    "pickles are not opened, since they can run code and the official ones need chumpy: open it once in an environment "
    "with chumpy and write its arrays with numpy.savez(..., **{key: numpy.asarray(value)}), sparse ones by .toarray(), "
    "or take the .npz of SMPL+H, whose mesh is the same"
)


@dataclass(frozen=True)
class BodyModel:
    """One body model; float32.

    rest_joints (J, 3) of the mean shape, joint_directions (J, 3, S), parents (J,), path of its file
    """

    path: Path
    rest_joints: Tensor
    joint_directions: Tensor
    parents: Tensor

    @classmethod
    def read(cls, path: Path) -> BodyModel:
        """From an .npz; ValueError, naming it, for a model of another kind or a file of Python objects."""
        template, regressor = _array(path, "v_template"), _array(path, "J_regressor")
        shapes, tree = _array(path, "shapedirs"), _array(path, "kintree_table")
        vertices, joints = len(template), len(regressor)
        if vertices == SMPLX_VERTICES or joints == SMPLX_JOINTS:
            raise ValueError(f"{path} is a body model of SMPL-X ({joints} joints); needed is SMPL+H: {FETCH}")
        if joints not in FLAVOURS:
            raise ValueError(f"{path} has {joints} joints; a body model of SMPL+H has 52, of SMPL 24")
        expected = {"v_template": (template, (vertices, 3)), "J_regressor": (regressor, (joints, vertices))}
        expected |= {"shapedirs": (shapes, (vertices, 3, shapes.shape[-1])), "kintree_table": (tree, (2, joints))}
        for key, (found, shape) in expected.items():
            if found.shape != shape:
                raise ValueError(f"{path}: {key} has the shape {found.shape}, expected {shape}")
        if shapes.shape[-1] < NUM_BETAS:
            raise ValueError(f"{path} has {shapes.shape[-1]} directions of shape; needed are {NUM_BETAS}")
        parents = np.r_[-1, tree[0, 1:].astype(np.int64)]
        if tuple(parents[:BODY_JOINTS]) != PARENTS:
            raise ValueError(f"{path}: the first {BODY_JOINTS} joints hang together differently from SMPL's")
        rest = np.einsum("jv,vc->jc", regressor, template)
        directions = np.einsum("jv,vcs->jcs", regressor, shapes[..., :NUM_BETAS])
        return cls(path, _float(rest), _float(directions), torch.from_numpy(parents))

    @property
    def flavour(self) -> str:
        """SMPL+H or SMPL."""
        return FLAVOURS[len(self.parents)]

    def joints(self, poses: Tensor, betas: Tensor, trans: Tensor) -> Tensor:
        """The body's joints (F, 22, 3) in metres, in the axes of `trans`.

        poses (F, 3 n) axis angles of the first n >= 22 joints, betas (>= 10,) numbers of shape, trans (F, 3) metres
        """
        lbs = _lbs()
        rotations = lbs.batch_rodrigues(poses[:, : 3 * BODY_JOINTS].reshape(-1, 3)).reshape(-1, BODY_JOINTS, 3, 3)
        shaped = self.rest_joints + self.joint_directions @ betas[:NUM_BETAS]
        shaped = shaped[:BODY_JOINTS].expand(len(poses), -1, -1)
        turned, _ = lbs.batch_rigid_transform(rotations, shaped, self.parents[:BODY_JOINTS])
        return turned + trans[:, None]

    def mesh(self, poses: Tensor, betas: Tensor, trans: Tensor) -> tuple[Tensor, Tensor]:
        """Vertices (F, V, 3) in metres and faces (f, 3) int64; poses (F, 3 n), joints that they lack are not turned."""
        skin, count = self._skin, len(self.parents)
        whole = torch.zeros(len(poses), 3 * count)
        whole[:, : poses.shape[1]] = poses[:, : 3 * count]
        parts = []
        for first in range(0, len(poses), AT_ONCE):
            part = whole[first : first + AT_ONCE]
            shape = betas[None, :NUM_BETAS].expand(len(part), -1)
            vertices, _ = _lbs().lbs(
                *(shape, part, skin["v_template"], skin["shapedirs"], skin["posedirs"]),
                *(skin["J_regressor"], self.parents, skin["weights"]),
            )
            parts.append(vertices + trans[first : first + AT_ONCE, None])
        return torch.cat(parts), skin["f"]

    @functools.cached_property
    def _skin(self) -> dict[str, Tensor]:
        """What only a mesh needs, read when one is asked for: hundreds of megabytes."""
        names = ("v_template", "shapedirs", "posedirs", "J_regressor", "weights", "f")
        arrays = {name: _array(self.path, name) for name in names}
        vertices, joints = len(arrays["v_template"]), len(self.parents)
        shapes = {"posedirs": (vertices, 3, 9 * (joints - 1)), "weights": (vertices, joints)}
        for name, shape in shapes.items():
            if arrays[name].shape != shape:
                raise ValueError(f"{self.path}: {name} has the shape {arrays[name].shape}, expected {shape}")
        arrays["shapedirs"] = arrays["shapedirs"][..., :NUM_BETAS]
        arrays["posedirs"] = arrays["posedirs"].reshape(-1, shapes["posedirs"][-1]).T
        faces = torch.from_numpy(arrays.pop("f").astype(np.int64))
        return {**{name: _float(array) for name, array in arrays.items()}, "f": faces}


class BodyModels:
    """The models of a directory by gender, each read when it is first needed.

    root  the directory; key  the config key that names it

    Raises ValueError for a directory that is not there or holds no model.
    """

    def __init__(self, root: Path | str, key: str = "body_models"):
        self.root, self.key, self._read = Path(root).expanduser(), key, {}
        if not self.root.is_dir():
            raise ValueError(f"{key} is {str(root)!r}, which is not a folder; {FETCH.replace('<body_models>', key)}")

    def model(self, gender: str) -> BodyModel:
        """The model of male, female or neutral; ValueError saying what to fetch where it is not there."""
        if gender not in GENDERS:
            raise ValueError(f"a body model of {gender!r} is asked for; allowed: {', '.join(GENDERS)}")
        if gender not in self._read:
            self._read[gender] = BodyModel.read(self._find(gender))
        return self._read[gender]

    def joints(self, poses: Tensor, betas: Tensor, trans: Tensor, gender: str) -> Tensor:
        """See `BodyModel.joints`: (F, 22, 3) in metres."""
        return self.model(gender).joints(poses, betas, trans)

    def mesh(self, poses: Tensor, betas: Tensor, trans: Tensor, gender: str) -> tuple[Tensor, Tensor]:
        """See `BodyModel.mesh`: vertices (F, V, 3) in metres and faces (f, 3)."""
        return self.model(gender).mesh(poses, betas, trans)

    def _find(self, gender: str) -> Path:
        names = [name.format(gender=gender, GENDER=gender.upper()) for name in NAMES]
        for name in names:
            if (self.root / name).is_file():
                return self.root / name
        where = f"{self.key}={self.root} holds no body model for {gender!r}"
        pickles = sorted(path.relative_to(self.root) for path in self.root.rglob("*.pkl"))
        if pickles:
            raise ValueError(f"{where}, but {pickles[0]}: {CONVERT}, as {names[0]}")
        if any(self.root.rglob("SMPLX_*.npz")) or (self.root / "smplx").is_dir():
            raise ValueError(f"{where}, but one of SMPL-X, which is another; {FETCH}")
        raise ValueError(f"{where} (looked for: {', '.join(names)}); {FETCH}")


def _array(path: Path, key: str) -> np.ndarray:
    """An array of numbers of a model; ValueError saying what to do with one of Python objects."""
    keys = npz_keys(path)
    if key not in keys:
        raise ValueError(f"{path} is no body model: it has no {key}; it holds: {', '.join(keys) or 'nothing'}")
    try:
        found = np.asarray(npz_array(path, key))
    except ValueError as error:
        if "Object arrays" not in str(error):
            raise
        raise ValueError(
            f"{path}: {key} is a Python object (of chumpy or scipy), no array of numbers; {CONVERT}"
        ) from error
    if found.dtype.kind not in "fiu":
        raise ValueError(f"{path}: {key} holds {found.dtype}, expected numbers")
    return found


def _float(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


def _lbs() -> ModuleType:
    """The module of smplx that poses a body."""
    return extra("smplx.lbs", "a body model", "motion")
