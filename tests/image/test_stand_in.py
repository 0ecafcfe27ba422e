"""The digit classifier behind the default's numbers, and what the numbers say of good and bad samples."""

import pytest
import torch

from image.datasets.digits import DigitsConfig
from image.stand_in import DigitsEvaluationConfig, NoEvaluationConfig

STEPS = 150


@pytest.fixture(scope="module")
def heldout():
    return DigitsConfig(split="heldout").build()


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("runs") / "cache"


@pytest.fixture(scope="module")
def evaluator(cache):
    return DigitsEvaluationConfig(classifier_steps=STEPS).build(cache, torch.device("cpu"))


def test_the_classifier_knows_digits_that_it_never_saw(evaluator, cache, heldout):
    right = (evaluator.extractor.classifier(heldout.images).argmax(1) == heldout.labels).double().mean().item()
    assert right > 0.9
    assert evaluator.classifier_accuracy == pytest.approx(right)
    assert [file.name for file in cache.iterdir()] == [f"digit_classifier-steps{STEPS}-seed0.safetensors"]


def test_real_digits_are_near_and_of_their_class(evaluator, heldout):
    assert evaluator.num_samples == len(heldout)
    numbers = evaluator.evaluate(heldout.images, heldout.labels)
    assert numbers["frechet_distance"] == pytest.approx(numbers["frechet_floor"])
    assert numbers["class_accuracy"] == numbers["classifier_accuracy"] == evaluator.classifier_accuracy
    assert numbers["num_samples"] == len(heldout)
    train = DigitsConfig(split="train").build()
    assert evaluator.evaluate(train.images, train.labels)["frechet_distance"] == pytest.approx(0, abs=1e-6)


def test_noise_and_one_digit_over_and_over_are_far_and_wrong_labels_are_wrong(evaluator, heldout):
    noise = torch.rand(heldout.images.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    numbers = evaluator.evaluate(noise, heldout.labels)
    assert numbers["frechet_distance"] > 10 * numbers["frechet_floor"]
    assert numbers["class_accuracy"] < 0.3
    assert evaluator.evaluate(heldout.images, (heldout.labels + 1) % 10)["class_accuracy"] < 0.1
    one = heldout.labels == 1
    numbers = evaluator.evaluate(heldout.images[one], heldout.labels[one])
    assert numbers["frechet_distance"] > 5 * numbers["frechet_floor"]


def test_images_of_another_size_are_refused(evaluator):
    with pytest.raises(ValueError, match=r"the digit classifier takes images \(1, 8, 8\), got \(3, 8, 8\)"):
        evaluator.evaluate(torch.zeros(4, 3, 8, 8), torch.zeros(4))


def test_nothing_is_measured_where_nothing_was_asked(tmp_path):
    assert NoEvaluationConfig().build(tmp_path, torch.device("cpu")) is None
