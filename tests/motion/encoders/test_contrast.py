"""MARDM's contrastive evaluator: recorded embeddings of both sides."""

import pytest
import torch

from motion.encoders.contrast import positions, read_contrast
from tests.golden_files import load_golden, with_prefix

TENSORS, FACTS = load_golden("mardm_evaluators")
HEADS = FACTS["sizes"]["clip"]["heads"]


def written(path, **changes):
    """A published file with the recorded weights."""
    state = with_prefix(TENSORS, "state.contrast.")
    state["motion_encoder.sequence_pos_encoder.pe"] = torch.zeros(1, 5, 3)  # a fixed table, which is made anew
    torch.save({"contrast_model": {**state, **changes}, "epoch": 1}, path)
    return path


def test_the_recorded_embeddings_come_out_in_the_order_of_the_input(tmp_path):
    networks = read_contrast(written(tmp_path / "finest.tar"), HEADS)
    motion, frames = TENSORS["motions"], TENSORS["m_lens"]
    torch.testing.assert_close(networks.motion_encoder(motion, frames), TENSORS["clip.motion_raw"], atol=1e-5, rtol=0)
    torch.testing.assert_close(networks.embed_motion(motion, frames), TENSORS["wrapper.clip_motion"], atol=1e-5, rtol=0)
    tokens = TENSORS["token_ids"]
    torch.testing.assert_close(networks.raw_text(tokens), TENSORS["clip.text_raw"], atol=1e-5, rtol=0)
    torch.testing.assert_close(networks.embed_text(tokens), TENSORS["wrapper.clip_text"], atol=1e-5, rtol=0)
    logits = networks.logit_scale.exp() * networks.embed_motion(motion, frames) @ networks.embed_text(tokens).T
    torch.testing.assert_close(logits, TENSORS["clip.logits_per_motion"], atol=1e-4, rtol=1e-5)


def test_the_recorded_positions_come_out():
    recorded = TENSORS["clip.pe_head"]
    torch.testing.assert_close(positions(*recorded.shape), recorded, atol=1e-6, rtol=0)


def test_padded_frames_are_not_seen(tmp_path):
    networks = read_contrast(written(tmp_path / "finest.tar"), HEADS)
    motion, frames = TENSORS["motions"].clone(), TENSORS["m_lens"]
    for row, length in enumerate(frames):
        motion[row, length:] = 7.0
    torch.testing.assert_close(networks.embed_motion(motion, frames), TENSORS["wrapper.clip_motion"], atol=1e-5, rtol=0)


def test_a_file_of_another_network_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"finest.tar holds no weights contrast_model; it holds: movement_encoder"):
        torch.save({"movement_encoder": {"a": torch.ones(1)}}, tmp_path / "finest.tar")
        read_contrast(tmp_path / "finest.tar", HEADS)
    with pytest.raises(ValueError, match="is of another architecture than the configured backbone: unexpected other"):
        read_contrast(written(tmp_path / "finest.tar", other=torch.ones(1)), HEADS)
