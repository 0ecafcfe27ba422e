"""The digit classifier behind the default's numbers, its cache, and what the numbers say of good and bad samples."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from image import stand_in
from image.data import build_dataset
from image.datasets.digits import DigitsConfig
from image.stand_in import DigitClassifier, DigitsEvaluationConfig, NoEvaluationConfig, train_classifier

STEPS = 150


@pytest.fixture(scope="module")
def digits():
    return {split: build_dataset(DigitsConfig(split=split)) for split in ("train", "heldout")}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("runs") / "cache"


@pytest.fixture(scope="module")
def evaluator(cache):
    return DigitsEvaluationConfig(classifier_steps=STEPS).build(cache, torch.device("cpu"))


def file_of(cache):
    return cache / f"digit_classifier-steps{STEPS}-seed0.safetensors"


def test_the_classifier_knows_digits_that_it_never_saw(evaluator, digits):
    heldout = digits["heldout"]
    right = (evaluator.classifier(heldout.images).argmax(1) == heldout.labels).double().mean().item()
    assert right > 0.9
    assert evaluator.classifier_accuracy == pytest.approx(right)


def test_training_is_the_same_for_the_same_seed_whatever_the_global_generator(digits):
    train = digits["train"]

    def train_again(seed):
        torch.manual_seed(seed + 5)
        before = torch.get_rng_state()
        state = train_classifier(train.images, train.labels, 3, seed).state_dict()
        assert torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(99)
        again = train_classifier(train.images, train.labels, 3, seed).state_dict()
        assert all(torch.equal(state[name], again[name]) for name in state)
        return state

    assert not torch.equal(train_again(0)["head.weight"], train_again(1)["head.weight"])


def test_the_classifier_is_trained_once_and_then_read(evaluator, cache, monkeypatch):
    def refuse(*args):
        raise AssertionError("trained again")

    monkeypatch.setattr(stand_in, "train_classifier", refuse)
    again = DigitsEvaluationConfig(classifier_steps=STEPS).build(cache, torch.device("cpu"))
    states = evaluator.classifier.state_dict(), again.classifier.state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert (again.floor, again.classifier_accuracy) == (evaluator.floor, evaluator.classifier_accuracy)
    with pytest.raises(AssertionError, match="trained again"):
        DigitsEvaluationConfig(classifier_steps=STEPS, classifier_seed=1).build(cache, torch.device("cpu"))
    with pytest.raises(AssertionError, match="trained again"):
        DigitsEvaluationConfig(classifier_steps=STEPS + 1).build(cache, torch.device("cpu"))


def truncated(file):
    file.write_bytes(file.read_bytes()[:1000])


def emptied(file):
    file.write_bytes(b"")


def of_another_network(file):
    save_file({**load_file(file), "head.weight": torch.zeros(3, 64)}, file)


def without_a_weight(file):
    state = load_file(file)
    del state["head.bias"]
    save_file(state, file)


@pytest.mark.parametrize("damage", [truncated, emptied, of_another_network, without_a_weight])
def test_a_damaged_cache_is_refused_in_one_line_that_says_what_to_do(evaluator, cache, tmp_path, damage):
    file = file_of(tmp_path)
    file.write_bytes(file_of(cache).read_bytes())
    damage(file)
    with pytest.raises(ValueError, match=r"the cached classifier .*digit_classifier.* is damaged, delete it") as error:
        DigitsEvaluationConfig(classifier_steps=STEPS).build(tmp_path, torch.device("cpu"))
    assert "\n" not in str(error.value)


def test_real_digits_are_near_and_of_their_class(evaluator, digits):
    heldout = digits["heldout"]
    assert evaluator.num_samples == len(heldout)
    numbers = evaluator.evaluate(heldout.images, heldout.labels)
    assert numbers["frechet_distance"] == pytest.approx(numbers["frechet_floor"])
    assert numbers["class_accuracy"] == numbers["classifier_accuracy"] == evaluator.classifier_accuracy
    assert numbers["num_samples"] == len(heldout)
    train = digits["train"]
    assert evaluator.evaluate(train.images, train.labels)["frechet_distance"] == pytest.approx(0, abs=1e-6)


def test_noise_is_far_and_wrong_labels_are_wrong(evaluator, digits):
    heldout = digits["heldout"]
    noise = torch.rand(heldout.images.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    numbers = evaluator.evaluate(noise, heldout.labels)
    assert numbers["frechet_distance"] > 10 * numbers["frechet_floor"]
    assert numbers["class_accuracy"] < 0.3
    assert evaluator.evaluate(heldout.images, (heldout.labels + 1) % 10)["class_accuracy"] < 0.1


def test_one_digit_over_and_over_is_far(evaluator, digits):
    heldout = digits["heldout"]
    one = heldout.labels == 1
    numbers = evaluator.evaluate(heldout.images[one], heldout.labels[one])
    assert numbers["frechet_distance"] > 5 * numbers["frechet_floor"]


def test_images_of_another_size_are_refused(evaluator):
    with pytest.raises(ValueError, match=r"evaluation=digits measures images \(1, 8, 8\), got \(3, 8, 8\)"):
        evaluator.evaluate(torch.zeros(4, 3, 8, 8), torch.zeros(4))


def test_samples_that_are_not_finite_are_refused(evaluator):
    media = torch.zeros(4, 1, 8, 8)
    media[2] = torch.nan
    with pytest.raises(ValueError, match="features of 1 samples are NaN or infinite, first at row 2"):
        evaluator.evaluate(media, torch.zeros(4))


def test_features_are_what_the_head_reads():
    torch.manual_seed(0)
    network, images = DigitClassifier(), torch.rand(3, 1, 8, 8)
    assert network.features(images).shape == (3, 64)
    assert torch.equal(network.head(network.features(images)), network(images))


def test_nothing_is_measured_where_nothing_was_asked(tmp_path):
    assert NoEvaluationConfig().build(tmp_path, torch.device("cpu")) is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_samples": 1}, "evaluation.num_samples is 1"),
        ({"classifier_steps": 0}, "evaluation.classifier_steps is 0"),
    ],
)
def test_configs_refuse_values(values, message):
    with pytest.raises(ValueError, match=message):
        DigitsEvaluationConfig(**values)
