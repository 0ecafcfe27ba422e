"""Recordings of AMASS: joints of an independent forward kinematics, the published rates, and refusals."""

import numpy as np
import pytest

from motion.amass.recordings import Recording
from motion.body.smpl import BodyModels
from tests.motion.amass_files import (
    body_arrays,
    expected_joints,
    recording_arrays,
    write_body_models,
    write_recording,
)
from tests.rows import every_row


@every_row(
    ("fps", "stride"), [(120.0, 6), (100.0, 5), (60.0, 3), (20.0, 1), (59.94, 2), (150.0, 7), (250.0, 12), (39.9, 1)]
)
def test_every_kth_frame_is_taken_with_the_whole_part_of_the_rate_over_20(fps, stride, tmp_path):
    models = BodyModels(write_body_models(tmp_path / "bodies"))
    recording = Recording.read(write_recording(tmp_path, f"at{fps}", frames=31, fps=fps))
    assert recording.stride == stride and recording.sampled_fps == fps / stride
    found = recording.joints(models) * [-1, 1, 1]
    expected = expected_joints(body_arrays(0), recording_arrays(frames=31, fps=fps), stride)
    np.testing.assert_allclose(found, expected, atol=2e-6)


@every_row(
    ("gender", "seed"),
    [("male", 0), ("female", 1), ("neutral", 1), ("unknown", 1), ("Male", 1), (np.array(b"male"), 1)],
)
def test_whoever_is_not_male_has_the_female_body(gender, seed, tmp_path):
    """As published: a gender stored as bytes is no "male" either."""
    models = BodyModels(write_body_models(tmp_path / "bodies"))
    file = write_recording(tmp_path, "one", frames=12, gender=gender)
    expected = expected_joints(body_arrays(seed), recording_arrays(frames=12), 6)
    np.testing.assert_allclose(Recording.read(file).joints(models) * [-1, 1, 1], expected, atol=2e-6)


def test_soft_tissue_and_shape_beyond_ten_numbers_change_nothing(tmp_path):
    models = BodyModels(write_body_models(tmp_path / "bodies"))
    plain = recording_arrays(frames=12)
    changed = {"dmpls": None, "betas": np.r_[plain["betas"][:10], 9, 9, 9]}
    found = [
        Recording.read(write_recording(tmp_path, name, frames=12, **changes)).joints(models)
        for name, changes in (("plain", {}), ("changed", changed))
    ]
    np.testing.assert_array_equal(*found)


NAN = recording_arrays(frames=7)["trans"] * np.array([1, np.nan, 1])


@every_row(
    ("changes", "words"),
    [
        ({"mocap_framerate": np.array(0.0)}, "has 0 frames a second; fewer than 20"),
        ({"mocap_framerate": np.array(12.0)}, "has 12 frames a second; fewer than 20"),
        ({"mocap_framerate": np.array(np.nan)}, "mocap_framerate is nan, expected a number"),
        ({"mocap_framerate": np.array("fast")}, "mocap_framerate is 'fast', expected a number"),
        ({"mocap_framerate": None}, "is no recording of AMASS: it has no mocap_framerate"),
        ({"mocap_framerate": None, "mocap_frame_rate": np.array(120)}, "SMPL-X flavour of AMASS; needed is SMPL+H"),
        ({"surface_model_type": np.array("smplx")}, "SMPL-X flavour of AMASS; needed is SMPL+H: on https://amass"),
        ({"poses": np.zeros((7, 165))}, "poses of the 55 joints of SMPL-X"),
        ({"poses": np.zeros((7, 72))}, "poses has the shape (7, 72), expected (frames, 156)"),
        ({"trans": np.zeros((6, 3))}, "trans has the shape (6, 3), expected (7, 3)"),
        ({"trans": NAN}, "trans holds NaN"),
        ({"betas": np.zeros(8)}, "betas has the shape (8,), expected at least 10"),
        ({"gender": np.array({}, dtype=object)}, "Object arrays are not read"),
    ],
)
def test_what_is_no_recording_is_refused_with_its_file(changes, words, tmp_path):
    file = write_recording(tmp_path, "walk_poses", frames=7, **changes)
    with pytest.raises(ValueError) as refused:
        Recording.read(file)
    told = str(refused.value)
    assert words in told and str(file) in told and "\n" not in told, told
