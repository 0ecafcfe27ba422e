"""The published motion and text encoders: recorded embeddings, in the order of the input."""

import pytest
import torch

from motion.encoders.matching import MatchingNetworks, MatchingSizes, read_matching
from tests.golden_files import load_golden, with_prefix
from tests.motion.encoders.published import write_matching


@pytest.fixture(params=["t2m_evaluators", "mardm_evaluators"])
def recorded(request):
    """Tensors of a file of recorded numbers, and the three states in it."""
    tensors, facts = load_golden(request.param)
    names = {"movement_encoder": "state.movement.", "motion_encoder": "state.motion.", "text_encoder": "state.text."}
    return tensors, facts, {name: with_prefix(tensors, prefix) for name, prefix in names.items()}


def test_the_recorded_embeddings_come_out_in_the_order_of_the_input(recorded, tmp_path):
    tensors, facts, states = recorded
    networks = read_matching(write_matching(tmp_path / "finest.tar", states))
    assert networks.sizes.numbers == facts["sizes"]["dim_pose"] - 4 * (facts["sizes"]["dim_pose"] == 263)
    rows, frames = tensors["motions"][..., : networks.sizes.numbers], tensors["m_lens"]
    torch.testing.assert_close(networks.movement_encoder(rows), tensors["movement_out"], atol=1e-5, rtol=0)
    motion = networks.embed_motion(rows, frames)
    torch.testing.assert_close(motion, tensors["motion_out_input_order"], atol=1e-5, rtol=0)
    text = networks.embed_text(tensors["word_embs"], tensors["pos_onehot"], tensors["cap_lens"])
    torch.testing.assert_close(text, tensors["text_out_input_order"], atol=1e-5, rtol=0)
    order = tensors["order_by_motion_length"]  # the published wrapper gives these
    for ours, name in ((motion, "wrapper.motion"), (motion, "wrapper.motion_only"), (text, "wrapper.text")):
        torch.testing.assert_close(ours[order], tensors[name], atol=1e-5, rtol=0)


def test_a_row_does_not_depend_on_its_batch(recorded):
    tensors, _, states = recorded
    networks = MatchingNetworks(MatchingSizes.of(states, "recorded")).eval()
    rows, frames = tensors["motions"][..., : networks.sizes.numbers], tensors["m_lens"]
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    whole = networks.embed_motion(rows, frames)
    torch.testing.assert_close(networks.embed_motion(rows[order], frames[order]), whole[order], atol=1e-6, rtol=0)
    torch.testing.assert_close(networks.embed_motion(rows[:1], frames[:1]), whole[:1], atol=1e-6, rtol=0)


def test_a_clip_without_a_step_and_a_file_of_other_networks_are_refused(recorded, tmp_path):
    tensors, _, states = recorded
    networks = MatchingNetworks(MatchingSizes.of(states, "recorded"))
    rows = tensors["motions"][..., : networks.sizes.numbers]
    with pytest.raises(ValueError, match="a clip of 3 frames; the evaluator takes 4 at least"):
        networks.embed_motion(rows[:2], torch.tensor([20, 3]))
    file = tmp_path / "finest.tar"
    torch.save({"vq_encoder": states["movement_encoder"], "epoch": 3}, file)
    with pytest.raises(
        ValueError, match=r"finest.tar holds no weights movement_encoder.*; it holds: vq_encoder, epoch"
    ):
        read_matching(file)
    with pytest.raises(ValueError, match=r"finest.tar is of other networks .* no 'main.0.weight'"):
        read_matching(write_matching(file, {**states, "movement_encoder": {"other": torch.ones(1)}}))
    changed = {**states["motion_encoder"], "output_net.3.weight": torch.ones(3, 28)}
    with pytest.raises(ValueError, match=r"motion_encoder of .* is of another architecture"):
        read_matching(write_matching(file, {**states, "motion_encoder": changed}))
    broken = {**states["text_encoder"], "hidden": torch.full_like(states["text_encoder"]["hidden"], torch.nan)}
    with pytest.raises(ValueError, match=r"finest.tar holds NaN or infinity in text_encoder.hidden"):
        read_matching(write_matching(file, {**states, "text_encoder": broken}))
