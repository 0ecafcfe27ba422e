"""Inception on frames: each row is that of a frame as an image, and which frames are looked at is told."""

import pytest
import torch

from eval.measure.inception import InceptionFeatures
from tests.image.networks import save_inception
from video.encoders.inception import InceptionFrames

CPU = torch.device("cpu")


def test_a_row_is_that_of_a_frame_and_the_protocol_tells_which(tmp_path):
    file = save_inception(tmp_path / "weights.pth")
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(256, (2, 3, 16, 16, 3), generator=generator, dtype=torch.uint8)
    every = InceptionFrames("all", file, None, CPU)
    images = every.images
    assert isinstance(images, InceptionFeatures) and images.name == "inception_torch_fidelity"
    by_hand = torch.cat([images(clip.permute(0, 3, 1, 2))["pool"] for clip in rows])
    torch.testing.assert_close(every(rows)["pool"], by_hand, rtol=1e-4, atol=1e-5)
    assert by_hand.shape == (6, 2048) and by_hand.std(0).mean() > 1e-3
    said = every.facts()
    for which, places in (("first", [0, 3]), ("middle", [1, 4])):
        every.frames = which
        torch.testing.assert_close(every(rows)["pool"], by_hand[places], rtol=1e-4, atol=1e-5)
        assert every.facts() != said
        assert every.preprocessing.startswith(f"the {which} frame of each clip")
    with pytest.raises(ValueError, match=r"config key 'inception': there is no file"):
        InceptionFrames("all", tmp_path / "nowhere", None, CPU)
