"""The strips of what is trained on, before it is."""

import numpy as np
import pytest
import torch
from PIL import Image

from core.latents.cache import LastAxisMasks
from motion.body.skeleton import T2M
from motion.data import motion_format
from motion.datasets.moves import MovesConfig
from motion.datasets.sheet import title, write_data_sheet
from motion.pictures import strips

CONFIG = MovesConfig(num_clips=140, frames=60, min_frames=40, representation="joints")


def test_items_are_shown_as_long_as_training_sees_them_under_their_captions(tmp_path, monkeypatch):
    seen, sheet = [], strips.sheet
    monkeypatch.setattr(strips, "sheet", lambda *drawn: seen.append(drawn) or sheet(*drawn))
    data = CONFIG.build(LastAxisMasks(CONFIG.frames, 4))
    file = write_data_sheet(data, motion_format(CONFIG), tmp_path / "run" / "data.png", items=3)
    ((clips, titles, skeleton, fps),) = seen
    assert [len(clip) for clip in clips] == [-(-int(data.lengths[row]) // 4) * 4 for row in (0, 70, 139)]
    first = data.media[70].T.unflatten(-1, (22, 3))[: len(clips[1])]
    assert np.abs(clips[1] - first.numpy()).max() < 1e-6 and (skeleton, fps) == (T2M, 20.0)
    assert titles[1].startswith("clip 70 of train: ") and all(text in titles[1] for text in data.captions_at(70))
    with Image.open(file) as image:
        assert image.width == strips.POSES * strips.POSE[0] and image.height > 3 * strips.POSE[1]


def test_titles_of_actions_have_no_caption():
    data = CONFIG.build()
    data.captions = []
    data.name = lambda row: f"clips/{row}.npy"
    assert title(data, 3) == f"clips/3.npy · {data.class_names[3]}"


def test_an_item_that_cannot_be_drawn_ends_a_run_before_it_begins(tmp_path):
    data = CONFIG.build()
    data.media[139, 5, 8] = torch.nan
    with pytest.raises(
        ValueError, match=r"clip 1 \('clip 139 of train: .*its joints are not finite from frame 8 of 60"
    ):
        write_data_sheet(data, motion_format(CONFIG), tmp_path / "data.png", items=2)
    assert not list(tmp_path.iterdir())
