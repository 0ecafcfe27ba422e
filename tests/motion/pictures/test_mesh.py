"""A body model that moves as joints do, and its mesh in pictures."""

import numpy as np
import pytest
import torch
from PIL import Image

from motion.body.posing import mesh_of, nearest_joints, pose_body
from motion.body.skeleton import KIT, T2M
from motion.body.smpl import NUM_BETAS, BodyModels
from motion.data import MotionFormat
from motion.pictures import files
from motion.pictures.animation import blank, draw_scenes
from motion.pictures.camera import AZIMUTH
from motion.pictures.files import ClipFiles, Extras, read_body
from motion.pictures.mesh import MeshFigure
from motion.pictures.strips import POSE, POSES
from tests.motion.capsules import write_capsule_model
from tests.motion.walker import turned
from tests.played import read

FORMAT = MotionFormat(T2M, "full", 60)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return BodyModels(write_capsule_model(tmp_path_factory.mktemp("bodies"))).model("neutral")


def posed(model, frames=6, heading=0.0):
    """Joints (F, 22, 3) of the model in poses of its own: it walks, the lowest joint on the floor."""
    angles = 0.4 * torch.sin(torch.arange(frames)[:, None] * 0.3 + torch.arange(66))
    angles[:, :3] = torch.tensor([0.0, heading, 0.0])
    joints = model.joints(
        angles, torch.zeros(NUM_BETAS), torch.arange(frames)[:, None] * torch.tensor([0.0, 0.0, 0.05])
    )
    return (joints - torch.tensor([0.0, 1.0, 0.0]) * joints[..., 1].min()).double().numpy()


def test_the_models_own_joints_are_met(model):
    joints = posed(model)
    pose = pose_body(joints, model)
    found = model.joints(pose.angles, torch.zeros(NUM_BETAS), pose.trans).numpy()
    assert np.abs(found - joints).max() < 1e-4 and pose.distance < 1e-4
    vertices, faces = mesh_of(pose, model)
    assert vertices.shape == (6, len(nearest_joints(model)), 3) and faces.max() == vertices.shape[1] - 1
    away = np.linalg.norm(vertices[:, :, None] - joints[:, None], axis=-1).min(2)
    assert away.max() < 0.3, "the skin lies around the bones"


def test_who_floats_does_so_in_the_mesh_and_another_size_stands_on_the_floor(model):
    joints = posed(model)
    for larger, higher in ((1.0, 0.2), (1.15, 0.0), (0.85, 0.0)):
        wanted = joints * larger + (0.0, higher, 0.0)
        pose = pose_body(wanted, model)
        found = model.joints(pose.angles, torch.zeros(NUM_BETAS), pose.trans)
        lowest = found[..., 1].min(1).values.mean()
        assert pose.distance == pytest.approx(np.linalg.norm(found.numpy() - wanted, axis=-1).mean(), abs=1e-4)
        assert lowest == pytest.approx((joints * larger)[..., 1].min(1).mean() + higher, abs=1e-4)


def test_the_mesh_is_drawn_with_its_sides_where_a_viewer_sees_them(model):
    """Left is bluer, right redder; who looks at the camera has the left on the right of the picture."""
    for heading, sign in ((AZIMUTH, 1), (AZIMUTH + np.pi, -1)):
        joints = np.repeat(model.rest_joints[None, :22].double().numpy(), 2, axis=0) @ turned(1, heading).T
        joints[..., 1] -= joints[..., 1].min()
        figure = MeshFigure(joints, T2M, model)
        (picture,) = draw_scenes(joints, [0], figure, 20.0, blank(1, (200, 200))).astype(int)
        blue, red = (np.nonzero(sign_ * (picture[..., 2] - picture[..., 0]) > 40)[1] for sign_ in (1, -1))
        assert min(len(blue), len(red)) > 300 and sign * (blue.mean() - red.mean()) > 30


def test_samples_are_shown_as_meshes_beside_the_skeletons(tmp_path, model, monkeypatch):
    monkeypatch.setattr(files, "MAX_MESHES", 1)
    written = ClipFiles(tmp_path, FORMAT, ["a walk", "another"], Extras(body=model))
    for number in range(2):
        written.write(number, posed(model, 3))
    assert len(written.distances["mesh"]) == 1
    names = sorted(str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*.*"))
    assert names == ["mesh/000000.mp4", "mesh/000000.png", "mp4/000000.mp4", "mp4/000001.mp4"]
    frames, skeletons = (read(tmp_path / folder / "000000.mp4")[0] for folder in ("mesh", "mp4"))
    assert frames.shape == skeletons.shape == (3, *frames.shape[1:]) and (frames != skeletons).any()
    with Image.open(tmp_path / "mesh" / "000000.png") as image:
        assert image.width == POSES * POSE[0]


def test_a_body_model_that_is_not_there_or_does_not_fit_is_refused(tmp_path):
    assert read_body(None, "neutral", FORMAT) is None
    with pytest.raises(ValueError, match=r"mesh is '.*nowhere', which is not a folder"):
        read_body(str(tmp_path / "nowhere"), "neutral", FORMAT)
    with pytest.raises(ValueError, match=r"mesh=.* holds no body model for 'neutral'"):
        read_body(str(tmp_path), "neutral", FORMAT)
    with pytest.raises(ValueError, match="allowed: male, female, neutral"):
        read_body(str(tmp_path), "tall", FORMAT)
    with pytest.raises(ValueError, match="needs clips of skeleton 't2m'; those of the model are of 'kit'"):
        read_body(str(tmp_path), "neutral", MotionFormat(KIT, "full", 60))
