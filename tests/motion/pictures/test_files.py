"""The files of single samples."""

import numpy as np
import pytest

from motion.body.bvh import read_bvh
from motion.body.skeleton import T2M
from motion.data import MotionFormat
from motion.pictures.files import ClipFiles, Extras
from tests.motion.walker import walk
from tests.played import read

FORMAT = MotionFormat(T2M, "full", 60)
TITLES = ["somebody walks", "somebody turns"]


def test_each_clip_has_an_mp4_and_on_request_a_bvh_file_whose_distance_is_told(tmp_path):
    rough = walk(T2M, 9) + np.random.default_rng(0).normal(size=(9, 22, 3)) * 0.01
    files = ClipFiles(tmp_path / "a", FORMAT, TITLES, Extras(bvh=True))
    for number, joints in enumerate((walk(T2M, 4), rough)):
        files.write(number, joints.astype(np.float32))
    found = sorted(str(file.relative_to(tmp_path / "a")) for file in (tmp_path / "a").rglob("*.*"))
    assert found == ["bvh/000000.bvh", "bvh/000001.bvh", "mp4/000000.mp4", "mp4/000001.mp4"]
    frames, times = read(tmp_path / "a" / "mp4" / "000001.mp4")
    assert len(frames) == 9 and times[1] == pytest.approx(0.05)
    told = np.linalg.norm(read_bvh(tmp_path / "a" / found[1]).joints(T2M) - rough, axis=-1).mean()
    assert files.distances["bvh"] == pytest.approx([0.0, told], abs=1e-5) and told > 0.005
    ClipFiles(tmp_path / "b", FORMAT, TITLES, Extras()).write(1, walk(T2M, 2))
    assert [file.name for file in (tmp_path / "b").rglob("*.*")] == ["000001.mp4"]


def test_a_clip_that_is_not_finite_is_named(tmp_path):
    broken = walk(T2M, 4)
    broken[2] = np.nan
    with pytest.raises(ValueError, match=r"clip 1 \('somebody turns'\) cannot be drawn.* from frame 2 of 4"):
        ClipFiles(tmp_path, FORMAT, TITLES, Extras(bvh=True)).write(1, broken)
    assert not list(tmp_path.iterdir())
