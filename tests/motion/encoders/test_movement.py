"""The movement encoder as a target: the published network's steps, of clips that hold the numbers that it takes."""

import numpy as np
import pytest
import torch

from motion.body.representations import REPRESENTATIONS
from motion.body.skeleton import SKELETONS
from motion.data import MotionFormat
from motion.encoder import encoder_sha256, make_encoder
from motion.encoders.matching import read_matching
from motion.encoders.published import EVALUATORS, MATCHING
from tests.core.alignment.parts import rows
from tests.motion.encoders.published import write_evaluator

CPU, FRAMES = torch.device("cpu"), 24
DRAWN = np.random.default_rng(0).normal(size=(50, 263)).astype(np.float32)
CLIPS = torch.randn(2, 263, FRAMES, generator=torch.Generator().manual_seed(1))


def clips_of(representation="full", skeleton="t2m"):
    return MotionFormat(SKELETONS[skeleton], representation, FRAMES)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The folders of evaluators, by name."""
    root = tmp_path_factory.mktemp("evaluators")
    return {name: write_evaluator(root / name, DRAWN, name) for name in ("t2m263", "mardm67")}


def test_a_step_is_the_published_networks_for_four_frames_and_padding_is_zeros(folders):
    for name, folder in folders.items():
        own = EVALUATORS[name]
        encoder = make_encoder(f"t2m:{folder}", CPU, clips_of())
        mean, std = (torch.from_numpy(np.load(folder / file)) for file in own.statistics[0])
        normal = ((CLIPS.mT[..., : own.numbers] - mean) / std)[..., : own.numbers - own.cut]
        mask = torch.arange(6) < torch.tensor([6, 4])[:, None]
        normal[1, 16:] = 0
        with torch.no_grad():
            wanted = read_matching(folder / MATCHING).movement_encoder(normal)
        found = encoder(rows(CLIPS, mask))
        assert found.shape == (2, encoder.width, FRAMES // 4) and encoder.flops > 0
        torch.testing.assert_close(found.mT, wanted)
        other = CLIPS.clone()
        other[1, :, 16:] = 9
        assert torch.equal(encoder(rows(other, mask)), found)
        assert not torch.equal(encoder(rows(other)), found)


def test_clips_without_its_numbers_are_refused(folders, tmp_path):
    places = REPRESENTATIONS["positions"].size(SKELETONS["t2m"])
    encoder = make_encoder(f"t2m:{folders['mardm67']}", CPU, clips_of("positions"))
    assert encoder(rows(CLIPS[:, :places])).shape[-1] == FRAMES // 4
    name = f"t2m:{folders['t2m263']}"
    for clips, message in (
        (clips_of("positions"), "259 numbers are of 'full' of the skeleton 't2m', but the clips are 'positions'"),
        (clips_of("joints"), "but the clips are 'joints' of 't2m', which do not hold them"),
        (clips_of("full", "kit"), "but the clips are 'full' of 'kit'"),
        (MotionFormat(SKELETONS["t2m"], "full", 3), r"4 frames at least; data\.frames is 3"),
    ):
        with pytest.raises(ValueError, match=f"encoder is 't2m:.*{message}"):
            make_encoder(name, CPU, clips)
    with pytest.raises(ValueError, match=r"encoder is 't2m:.*holds no text_mot_match/model/finest\.tar"):
        make_encoder(f"t2m:{tmp_path}", CPU, clips_of())
    other = write_evaluator(tmp_path / "other", DRAWN * 2)
    assert encoder_sha256(name, clips_of()) != encoder_sha256(f"t2m:{other}", clips_of())
    (other / "t2m_std.npy").unlink()
    with pytest.raises(ValueError, match=r"encoder is 't2m:.*holds no t2m_mean\.npy"):
        make_encoder(f"t2m:{other}", CPU, clips_of())
