"""Body models: joints as an independent forward kinematics gives them, the mesh as smplx's own class, and refusals."""

import pickle
import shutil

import numpy as np
import pytest
import torch

from motion.body.smpl import BodyModels
from tests.motion.amass_files import body_arrays, expected_joints, recording_arrays, write_body_models
from tests.rows import every_row


def tensors(recording):
    """Poses, betas and path of a recording."""
    return [torch.from_numpy(recording[key]).float() for key in ("poses", "betas", "trans")]


@every_row("joints", [52, 24])
def test_joints_are_those_of_forward_kinematics(joints, tmp_path):
    root, recording = write_body_models(tmp_path / str(joints), joints=joints), recording_arrays(frames=5)
    poses, betas, trans = tensors(recording)
    found = BodyModels(root).joints(poses[:, : 3 * joints], betas, trans, "female").numpy()
    expected = expected_joints(body_arrays(1, joints), recording, 1)
    np.testing.assert_allclose(found * [-1, 1, 1], expected[..., [0, 2, 1]], atol=2e-6)


def test_mesh_is_that_of_the_class_of_smplx(tmp_path):
    """SMPLHLayer of smplx, which needs hands and the vertices of a face beside, of the same arrays."""
    from smplx.body_models import SMPLHLayer
    from smplx.lbs import batch_rodrigues
    from smplx.utils import Struct
    from smplx.vertex_ids import vertex_ids

    poses, betas, trans = tensors(recording_arrays(frames=4))
    vertices, faces = BodyModels(write_body_models(tmp_path)).mesh(poses, betas, trans, "male")
    hands = {f"hands_{name}": np.zeros(shape) for name, shape in _hands()}
    with np.errstate(all="ignore"):
        layer = SMPLHLayer(
            "unused",
            data_struct=Struct(**body_arrays(0), **hands),
            vertex_ids=dict.fromkeys(vertex_ids["smplh"], 0),
            use_pca=False,
            flat_hand_mean=True,
        )
    turns = batch_rodrigues(poses.reshape(-1, 3)).reshape(4, 52, 3, 3)
    parts = {"global_orient": turns[:, :1], "body_pose": turns[:, 1:22]}
    parts |= {"left_hand_pose": turns[:, 22:37], "right_hand_pose": turns[:, 37:]}
    expected = layer(betas=betas[None, :10].expand(4, -1), transl=trans, **parts).vertices
    torch.testing.assert_close(vertices, expected, atol=1e-5, rtol=0)
    assert faces.tolist() == body_arrays(0)["f"].tolist()


def _hands():
    for side in "lr":
        yield f"components{side}", (45, 45)
        yield f"mean{side}", (45,)


def test_the_pose_of_the_body_alone_is_enough_for_a_mesh(tmp_path):
    """Joints that a pose lacks are not turned; neutral is asked for by who knows no gender."""
    models = BodyModels(write_body_models(tmp_path, genders=("neutral",)))
    poses, betas, trans = tensors(recording_arrays(frames=3))
    poses[:, 66:] = 0
    whole, _ = models.mesh(poses, betas, trans, "neutral")
    body, _ = models.mesh(poses[:, :66], betas, trans, "neutral")
    assert torch.equal(whole, body)


def save(path, arrays):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)


def missing(root):
    shutil.rmtree(root)


def empty(root):
    shutil.rmtree(root / "smplh")


def pickled(root):
    shutil.rmtree(root / "smplh")
    (root / "SMPLH_MALE.pkl").write_bytes(pickle.dumps({"v_template": np.zeros((4, 3))}))


def smplx_beside(root):
    shutil.rmtree(root / "smplh")
    save(root / "smplx" / "SMPLX_MALE.npz", {"v_template": np.zeros((10475, 3))})


def smplx_in_place(root):
    arrays = body_arrays(0) | {"J_regressor": np.zeros((55, 60))}
    save(root / "smplh" / "male" / "model.npz", arrays)


def other_joints(root):
    arrays = body_arrays(0)
    save(root / "smplh" / "male" / "model.npz", arrays | {"J_regressor": arrays["J_regressor"][:45]})


def objects(root):
    save(root / "smplh" / "male" / "model.npz", body_arrays(0) | {"J_regressor": np.array({"a": 1}, dtype=object)})


def other_tree(root):
    arrays = body_arrays(0)
    arrays["kintree_table"][0, 5] = 3
    save(root / "smplh" / "male" / "model.npz", arrays)


def damaged(root):
    path = root / "smplh" / "male" / "model.npz"
    path.write_bytes(path.read_bytes()[:2000])


def recording_instead(root):
    save(root / "smplh" / "male" / "model.npz", recording_arrays(frames=3))


@every_row(
    ("spoil", "words"),
    [
        (missing, ("body_models is", "not a folder", "https://mano.is.tue.mpg.de")),
        (empty, ("no body model for 'male'", "smplh/male/model.npz", "https://mano.is.tue.mpg.de")),
        (pickled, ("SMPLH_MALE.pkl", "pickles are not opened", "numpy.savez")),
        (smplx_beside, ("one of SMPL-X", "Extended SMPL+H")),
        (smplx_in_place, ("body model of SMPL-X (55 joints)", "Extended SMPL+H")),
        (other_joints, ("has 45 joints", "52", "24")),
        (objects, ("J_regressor is a Python object", "chumpy", "toarray()")),
        (other_tree, ("hang together differently",)),
        (damaged, ("model.npz is truncated or damaged",)),
        (recording_instead, ("is no body model: it has no v_template", "poses")),
    ],
)
def test_what_is_no_body_model_is_refused_in_one_line(spoil, words, tmp_path):
    root = write_body_models(tmp_path / spoil.__name__)
    spoil(root)
    with pytest.raises(ValueError) as refused:
        BodyModels(root).model("male")
    told = str(refused.value)
    assert "\n" not in told and all(word in told for word in words), told


def test_a_gender_that_is_none_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'Male' is asked for; allowed: male, female, neutral"):
        BodyModels(write_body_models(tmp_path)).model("Male")
