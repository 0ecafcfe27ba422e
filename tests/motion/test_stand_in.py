"""The evaluator of moves: what it looks at, what it is trained for, and what a run is told."""

import pytest
import torch

from core.contracts import Requests
from core.draws import numpy_rng
from motion import stand_in
from motion.datasets.moves import MovesConfig
from motion.stand_in import MovesEvaluationConfig, MovesEvaluator, MovesFeatures, TextMotionNetwork, contrast

CPU = torch.device("cpu")
DATA = MovesConfig(num_clips=320, frames=48, representation="positions")


@pytest.fixture(autouse=True)
def words(monkeypatch):
    """Each word is a direction, so that no network is read."""

    def sentences(self, texts):
        rows = [sum(torch.from_numpy(numpy_rng(word).standard_normal(384)) for word in text.split()) for text in texts]
        return torch.nn.functional.normalize(torch.stack(rows).float(), dim=1)

    monkeypatch.setattr(MovesFeatures, "sentences", sentences)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def features(place, **options):
    return MovesFeatures(MovesEvaluationConfig(steps=150, **options), DATA, place, CPU)


def test_what_lies_behind_a_clip_is_not_looked_at():
    torch.manual_seed(0)
    network, clips = TextMotionNetwork(5), torch.randn(3, 5, 20)
    lengths = torch.tensor([20, 8, 12])
    spoilt = clips.clone()
    spoilt[1, :, 8:], spoilt[2, :, 12:] = torch.nan, 1e6
    torch.testing.assert_close(network.motions(spoilt, lengths), network.motions(clips, lengths))
    alone = torch.cat([network.motions(clips[row : row + 1], lengths[row : row + 1]) for row in range(3)])
    torch.testing.assert_close(alone, network.motions(clips, lengths))
    assert (network.motions(clips, torch.tensor([20, 8, 20]))[2] != alone[2]).any()


def test_captions_that_say_the_same_are_no_mistakes():
    one, other = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    clips, words = torch.cat([one, one, other]), torch.cat([one, one, other])
    nothing = torch.zeros(3, 3, dtype=torch.bool)
    same = nothing.clone()
    same[0, 1] = same[1, 0] = True
    assert contrast(clips, words, same) < 1e-3 < 0.4 < contrast(clips, words, nothing)
    assert contrast(clips, words.flip(0), nothing) > 3


def test_real_motion_and_its_captions_find_each_other_and_others_do_not(place):
    extractor = features(place)
    evaluator = MovesEvaluator(extractor, ["unused"])
    assert evaluator.num_samples == 32
    assert evaluator.real["moves/r_precision_3"] > 0.6 > evaluator.real["moves/r_precision_1"] - 0.4
    heldout = extractor.split("heldout")
    captions = [heldout.captions[first] for first in heldout.rows[:-1]]
    mask = torch.arange(24) < (heldout.lengths[:, None] // 2)
    evaluator.prompts = captions
    found = evaluator.evaluate(heldout.clips, Requests(torch.zeros(32, 1), mask))
    for name in ("moves/fid", "moves/r_precision_3", "moves/diversity", "moves/matching_score", "skate_ratio"):
        assert found[name] == pytest.approx(evaluator.real[name], rel=1e-5), name
    evaluator.prompts = captions[1:] + captions[:1]
    assert evaluator.evaluate(heldout.clips, Requests(torch.zeros(32, 1), mask))["moves/r_precision_3"] < 0.4
    lines = stand_in.report_lines(found)
    assert len(lines) == 5 and all("real motion: " in line for line in lines) and stand_in.report_lines({}) == []


def test_it_is_trained_once_for_the_data_and_refuses_other_clips(place, monkeypatch):
    first = features(place)
    monkeypatch.setattr(MovesFeatures, "fit", lambda self: pytest.fail("trained again"))
    assert features(place).weights_sha256 == first.weights_sha256
    with pytest.raises(ValueError, match=r"clips of 67 numbers and 1 to 48 frames, got \(67, 49\)"):
        first([torch.zeros(67, 49)])
    with pytest.raises(pytest.fail.Exception):
        features(place, seed=1)


def test_too_few_held_out_clips_are_refused(tmp_path):
    small = MovesFeatures(MovesEvaluationConfig(steps=1), MovesConfig(num_clips=140, frames=40), tmp_path, CPU)
    with pytest.raises(ValueError, match=r"data.num_clips is 140, of which 14 clips are held out"):
        MovesEvaluator(small, ["x"])
