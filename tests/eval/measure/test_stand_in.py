"""The evaluator that trains its own classifier, on a toy data set of waves with three classes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from core.storage.atomic import sha256_file
from eval.measure.stand_in import Classifier, ClassifierEvaluator, Fit, StandIn, fit_classifier
from eval.statistics.frechet import frechet_distance, moments

CPU = torch.device("cpu")
LENGTH, CLASSES = 12, 3


class WaveClassifier(Classifier):
    def __init__(self):
        super().__init__()
        self.hidden, self.head = nn.Linear(LENGTH, 6), nn.Linear(6, CLASSES)

    def features(self, media):
        return self.hidden(media[:, 0]).tanh()


def waves(count, seed):
    """Media (n, 1, L), class k having k + 1 periods, and labels (n,)."""
    labels = torch.arange(count) % CLASSES
    noise = torch.randn(count, 1, LENGTH, generator=torch.Generator().manual_seed(seed))
    time = torch.arange(LENGTH) * (2 * np.pi / LENGTH)
    return 0.8 * torch.sin((labels[:, None, None] + 1) * time) + 0.1 * noise, labels


def fit(media, labels, steps=80, seed=0, augment=lambda rows, random: rows):
    return fit_classifier(WaveClassifier, media, labels, Fit("wave classifier", steps, seed, batch=32), augment)


def stand_in(folder, **changes):
    about = StandIn(
        name="waves",
        media="waves",
        title="wave classifier",
        train=waves(90, 0),
        heldout=waves(40, 1),
        make=WaveClassifier,
        fit=fit,
        file=folder / "cache" / "wave_classifier.safetensors",
    )
    return replace(about, **changes)


def refuse(*args):
    raise AssertionError("trained again")


def test_the_numbers_are_those_of_the_networks_features(tmp_path):
    about = stand_in(tmp_path)
    evaluator = ClassifierEvaluator(about, None, CPU)
    assert evaluator.num_samples == 40
    assert evaluator.weights_sha256 == sha256_file(about.file)
    assert evaluator.classifier_accuracy > 0.9
    (train, _), (heldout, labels) = about.train, about.heldout
    features = [evaluator.classifier.features(media).detach().double().numpy() for media in (train, heldout)]
    numbers = evaluator.evaluate(heldout, labels)
    by_hand = frechet_distance(moments(features[1]), moments(features[0]))
    assert numbers["frechet_distance"] == pytest.approx(by_hand, rel=1e-4) == numbers["frechet_floor"]
    assert numbers["class_accuracy"] == numbers["classifier_accuracy"]
    assert numbers["num_samples"] == 40
    assert evaluator.evaluate(heldout, (labels + 1) % CLASSES)["class_accuracy"] < 0.1
    assert evaluator.evaluate(-heldout, labels)["frechet_distance"] > 10 * numbers["frechet_floor"]


@pytest.mark.parametrize("batch_size", [1, 7, None])
def test_how_many_the_network_is_shown_at_once_moves_nothing(tmp_path, batch_size):
    whole = ClassifierEvaluator(stand_in(tmp_path), 5, CPU)
    parts = ClassifierEvaluator(stand_in(tmp_path, batch_size=batch_size), 5, CPU)
    media, labels = waves(20, 2)
    assert parts.evaluate(media, labels) == pytest.approx(whole.evaluate(media, labels), rel=1e-4)
    assert parts.num_samples == 5


def test_it_is_trained_once_and_then_read(tmp_path):
    first = ClassifierEvaluator(stand_in(tmp_path), None, CPU)
    again = ClassifierEvaluator(stand_in(tmp_path, fit=refuse), None, CPU)
    assert again.weights_sha256 == first.weights_sha256
    assert not again.classifier.training
    with pytest.raises(AssertionError, match="trained again"):
        ClassifierEvaluator(stand_in(tmp_path, fit=refuse, file=tmp_path / "other.safetensors"), None, CPU)


def cut_short(file):
    file.write_bytes(file.read_bytes()[:100])


def of_other_classes(file):
    save_file({**load_file(file), "head.weight": torch.zeros(5, 6)}, file)


@pytest.mark.parametrize("damage", [cut_short, of_other_classes])
def test_a_damaged_cache_is_refused_in_one_line(tmp_path, damage):
    about = stand_in(tmp_path)
    ClassifierEvaluator(about, None, CPU)
    damage(about.file)
    with pytest.raises(ValueError, match=r"cached classifier .*wave_classifier.* is damaged, delete") as error:
        ClassifierEvaluator(about, None, CPU)
    assert "\n" not in str(error.value)


def test_training_depends_on_its_settings_and_not_on_the_global_generator():
    def state(seed=0, **options):
        torch.manual_seed(seed + 9)
        before = torch.get_rng_state()
        found = fit(*waves(30, 0), steps=3, seed=seed, **options).state_dict()
        assert torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(5)
        again = fit(*waves(30, 0), steps=3, seed=seed, **options).state_dict()
        assert all(torch.equal(found[name], again[name]) for name in found)
        return found["head.weight"]

    plain = state()
    assert not torch.equal(plain, state(seed=1))
    assert not torch.equal(plain, state(augment=lambda rows, random: rows * random.uniform("gain", (1,))))


def test_media_of_another_shape_and_media_that_are_not_finite_are_refused(tmp_path):
    evaluator = ClassifierEvaluator(stand_in(tmp_path), None, CPU)
    with pytest.raises(ValueError, match=r"evaluation=waves measures waves \(1, 12\), got \(2, 12\)"):
        evaluator.evaluate(torch.zeros(4, 2, LENGTH), torch.zeros(4))
    media, labels = waves(6, 3)
    media[2] = torch.nan
    with pytest.raises(ValueError, match="of 1 samples are NaN or infinite, first at row 2"):
        evaluator.evaluate(media, labels)
