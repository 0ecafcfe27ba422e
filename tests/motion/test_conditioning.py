"""What samples are asked to be: held-out captions with their lengths, texts of one's own, seconds."""

import pytest
import torch

from core.contracts import Requests
from core.latents.cache import LastAxisMasks
from motion.conditioning import Captions, TextConfig, heldout_captions
from motion.data import LatentsConfig, heldout, lengths_of
from motion.datasets.moves import MovesConfig
from motion.sample import MotionSampleConfig
from tests.rows import every_row

DATA, MASKS, CPU = MovesConfig(num_clips=140, frames=48), LastAxisMasks(48, 2), torch.device("cpu")


@pytest.fixture(autouse=True)
def embeddings(monkeypatch):
    """A text is its number of letters."""
    monkeypatch.setattr(TextConfig, "embed", lambda self, texts, device: torch.tensor([[float(len(t))] for t in texts]))


def test_requests_are_the_held_out_captions_each_as_long_as_its_clip():
    clips = heldout(DATA).build()
    asking = TextConfig().asking(heldout_captions(DATA, MASKS), CPU)
    requests = asking.requests(20, seed=5)
    firsts = [clips.captions[clips.caption_rows[row % 14]] for row in range(20)]
    assert asking.config.prompts == firsts[: len(clips)]
    assert requests.condition[:, 0].tolist() == [len(text) for text in firsts]
    assert lengths_of(torch.zeros(20, 1, 48), requests) == [int(clips.lengths[row % 14]) for row in range(20)]
    assert len({length for length in lengths_of(torch.zeros(20, 1, 48), requests)}) > 1
    assert not isinstance(TextConfig().asking(Captions(["a", "bb"]), CPU).requests(3, 0), Requests)


def test_a_cache_has_no_held_out_captions():
    with pytest.raises(
        ValueError, match=r"data is 'latents', which has no held-out captions; needed: conditioning.prom"
    ):
        heldout_captions(LatentsConfig("somewhere"), MASKS)


@every_row("prompts", [[], [""], ["walk", " "]])
def test_prompts_that_are_none_are_refused(prompts):
    with pytest.raises(ValueError, match=r"conditioning.prompts is"):
        TextConfig(prompts=prompts)


@every_row("seconds", [0, -1, [], [2, 0], float("inf"), float("nan")])
def test_seconds_that_are_none_are_refused(seconds):
    with pytest.raises(ValueError, match=r"seconds is .*; allowed: above 0"):
        MotionSampleConfig(run="x", overrides={}, sampler={}, seconds=seconds)
