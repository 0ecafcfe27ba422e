"""The classifier of moving digits behind the default's numbers, and what they say of good and bad samples."""

import numpy as np
import pytest
import torch

from video.datasets.clips import ClipConfig
from video.datasets.digits import CLASSES, DigitsConfig
from video.stand_in import ASPECTS, DigitFeatures, DigitsEvaluationConfig

STEPS = 120
DATA = DigitsConfig(num_clips=1600, size=12, clip=ClipConfig(frames=8))


@pytest.fixture(scope="module")
def evaluator(tmp_path_factory):
    cache = tmp_path_factory.mktemp("runs") / "cache"
    return DigitsEvaluationConfig(classifier_steps=STEPS).build(cache, torch.device("cpu"), DATA)


@pytest.fixture(scope="module")
def heldout():
    data = DigitsConfig(split="heldout", num_clips=DATA.num_clips, size=12, clip=DATA.clip).build()
    return data.all(), data.labels


@pytest.fixture(scope="module")
def real(evaluator, heldout):
    return evaluator.evaluate(*heldout)


def test_the_classifier_knows_digits_and_ways_that_it_never_saw(evaluator, heldout, real):
    media, labels = heldout
    assert evaluator.num_samples == len(media) == 80
    found = evaluator.extractor.classifier(media).argmax(1)
    for name, groups in ASPECTS.items():
        of = torch.tensor(groups)
        right = (of[found] == of[labels]).double().mean().item()
        assert right > {"digit": 0.5, "direction": 0.9}[name]
        assert real[f"{name}_accuracy"] == real[f"classifier_{name}_accuracy"] == pytest.approx(right)
    assert real["class_accuracy"] == real["classifier_accuracy"] <= min(real[f"{name}_accuracy"] for name in ASPECTS)
    assert real["frechet_distance"] == pytest.approx(real["frechet_floor"])


def test_shuffled_frames_cost_the_direction_more_than_the_digit(real):
    assert real["shuffled_direction_accuracy"] < 0.6 < real["classifier_direction_accuracy"]
    lost = {name: real[f"classifier_{name}_accuracy"] - real[f"shuffled_{name}_accuracy"] for name in ASPECTS}
    assert lost["direction"] > 2 * lost["digit"]
    assert real["shuffled_frechet_distance"] > 3 * real["frechet_floor"]


def test_mirrored_clips_go_the_other_way(evaluator, heldout):
    media, labels = heldout
    level = labels % 4 < 2  # right and left stand beside each other
    mirrored, labels = media[level].flip(-1), labels[level]
    assert evaluator.evaluate(mirrored, labels)["direction_accuracy"] < 0.1
    assert evaluator.evaluate(mirrored, labels ^ 1)["direction_accuracy"] > 0.9


def test_noise_is_far_and_wrong_labels_are_wrong(evaluator, heldout):
    media, labels = heldout
    noise = torch.rand(media.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert evaluator.evaluate(noise, labels)["frechet_distance"] > 10 * evaluator.floor
    wrong = evaluator.evaluate(media, (labels + 5) % len(CLASSES))  # another digit and another way
    assert wrong["digit_accuracy"] < 0.3 and wrong["direction_accuracy"] < 0.1


def test_it_takes_floats_and_grey_frames_and_refuses_colours(evaluator, heldout):
    features, media = evaluator.extractor, heldout[0][:3]
    frames = (127.5 * media + 128).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 4, 1)
    for rows in (frames, frames.repeat(1, 1, 1, 1, 3)):
        torch.testing.assert_close(features(rows)["hidden"], features(media)["hidden"], atol=0.2, rtol=0.05)
    coloured = frames.repeat(1, 1, 1, 1, 3)
    coloured[0, 0, 0, 0, 1] += 1
    with pytest.raises(ValueError, match="the clips have colours"):
        features(coloured)
    with pytest.raises(ValueError, match=r"the digit motion classifier takes clips \(1, 8, 12, 12\), got \(1, 4, 12"):
        features(media[:, :, :4])


def test_another_canvas_has_a_classifier_of_its_own(evaluator, tmp_path):
    name = evaluator.extractor.file.name
    one = DigitFeatures(
        DigitsEvaluationConfig(classifier_steps=1), DigitsConfig(num_clips=40), tmp_path, torch.device("cpu")
    )
    assert name.startswith("digit_motion_classifier-") and name.split("-")[1] != one.file.name.split("-")[1]
    orders = one.controls(torch.arange(32.0).reshape(2, 1, 16, 1, 1))["shuffled"]
    assert not torch.equal(orders[0].flatten(), torch.arange(16.0))
    assert not np.array_equal(orders[0].flatten() % 16, orders[1].flatten() % 16)
    assert torch.equal(orders[1].flatten().sort().values, torch.arange(16.0, 32))
