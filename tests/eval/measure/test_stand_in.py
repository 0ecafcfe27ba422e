"""The extractor that trains its own classifier, and its evaluator, on a toy data set of waves with three classes."""

from types import MappingProxyType

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from core.data.pixels import from_uint8, to_uint8
from core.storage.atomic import sha256_file
from eval.measure.stand_in import Classifier, ClassifierOptions, StandInEvaluator, StandInExtractor
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


class WaveFeatures(StandInExtractor):
    name, title, plural, shape, preprocessing = "waves", "wave classifier", "waves", (1, LENGTH), "none"
    fit_rows = 32

    def split(self, name):
        return {"train": waves(90, 0), "heldout": waves(40, 1)}[name]

    def network(self):
        return WaveClassifier()


class Louder(WaveFeatures):
    def augment(self, media, random):
        return media * random.uniform("gain", (1,))


class NeverTrained(WaveFeatures):
    def fit(self):
        raise AssertionError("trained again")


def options(**changes):
    return ClassifierOptions(**{"classifier_steps": 80, **changes})


def test_the_numbers_are_those_of_the_networks_features(tmp_path):
    extractor = WaveFeatures(options(), tmp_path, CPU)
    evaluator = StandInEvaluator(extractor)
    assert evaluator.num_samples == 40
    assert extractor.weights_sha256 == sha256_file(tmp_path / "wave_classifier-steps80-seed0.safetensors")
    assert evaluator.classifier_accuracy > 0.9
    (train, _), (heldout, labels) = extractor.split("train"), extractor.split("heldout")
    features = [extractor.classifier.features(media).detach().double().numpy() for media in (train, heldout)]
    numbers = evaluator.evaluate(heldout, labels)
    by_hand = frechet_distance(moments(features[1]), moments(features[0]))
    assert numbers["frechet_distance"] == pytest.approx(by_hand, rel=1e-4) == numbers["frechet_floor"]
    assert numbers["class_accuracy"] == numbers["classifier_accuracy"]
    assert numbers["num_samples"] == 40
    assert evaluator.evaluate(heldout, (labels + 1) % CLASSES)["class_accuracy"] < 0.1
    assert evaluator.evaluate(-heldout, labels)["frechet_distance"] > 10 * numbers["frechet_floor"]


def drowned(media):
    return media + 3 * torch.randn(media.shape, generator=torch.Generator().manual_seed(2))


class OddOrNot(WaveFeatures):
    aspects = MappingProxyType({"odd": [1, 0, 1]})  # of one, two and three periods

    def controls(self, media):
        return {"drowned": drowned(media)}


def test_aspects_of_classes_and_controls_have_numbers_of_their_own(tmp_path):
    evaluator = StandInEvaluator(OddOrNot(options(), tmp_path, CPU))
    media, labels = waves(40, 1)
    numbers = evaluator.evaluate(media, labels)
    assert numbers["odd_accuracy"] == numbers["classifier_odd_accuracy"] >= numbers["class_accuracy"] > 0.9
    swapped = torch.tensor([2, 1, 0])[labels]  # the other odd class: wrong, and of the same aspect
    numbers = evaluator.evaluate(media, swapped)
    assert numbers["class_accuracy"] < 0.5 < 0.9 < numbers["odd_accuracy"]
    found = evaluator.measure(drowned(media), labels)
    assert {f"drowned_{name}": value for name, value in found.items()}.items() <= numbers.items()
    assert numbers["drowned_class_accuracy"] < 0.8 and numbers["drowned_frechet_distance"] > numbers["frechet_floor"]
    assert set(StandInEvaluator(WaveFeatures(options(), tmp_path, CPU)).evaluate(media, labels)) == {
        *("frechet_distance", "frechet_floor", "class_accuracy", "classifier_accuracy", "num_samples")
    }


def test_heldout_media_are_measured_as_they_are_and_changed(tmp_path):
    evaluator = StandInEvaluator(WaveFeatures(options(), tmp_path, CPU))
    same = evaluator.measure_heldout(100, lambda media: media)
    assert same.pop("num_samples") == 40  # all that there are
    assert same == {"frechet_distance": evaluator.floor, "class_accuracy": evaluator.classifier_accuracy}
    worse = evaluator.measure_heldout(25, drowned)
    assert worse["num_samples"] == 25 and worse["frechet_distance"] > same["frechet_distance"]
    media, labels = (each[:25] for each in waves(40, 1))
    assert worse.items() >= evaluator.measure(drowned(media), labels).items()


class AsBytes(WaveFeatures):
    def split(self, name):
        media, labels = super().split(name)
        return (to_uint8(media) if name == "heldout" else media), labels

    def take(self, media):
        return super().take(media if media.is_floating_point() else from_uint8(media))


def test_heldout_bytes_are_changed_as_numbers(tmp_path):
    evaluator, seen = StandInEvaluator(AsBytes(options(), tmp_path, CPU)), []
    evaluator.measure_heldout(3, lambda media: seen.append(media) or media)
    assert seen[0].is_floating_point() and seen[0].shape == (3, 1, LENGTH) and -1 <= seen[0].min() < 0 < seen[0].max()


def test_how_many_the_network_is_given_at_once_moves_nothing(tmp_path, monkeypatch):
    evaluator, media = StandInEvaluator(WaveFeatures(options(num_samples=5), tmp_path, CPU)), waves(20, 2)
    whole = evaluator.evaluate(*media)
    assert evaluator.num_samples == 5
    for count in (1, 7, None):
        monkeypatch.setattr(WaveFeatures, "evaluate_rows", count)
        assert evaluator.evaluate(*media) == pytest.approx(whole, rel=1e-4), count


def test_it_is_trained_once_and_then_read(tmp_path):
    first, again = WaveFeatures(options(), tmp_path, CPU), NeverTrained(options(), tmp_path, CPU)
    assert again.weights_sha256 == first.weights_sha256
    assert not again.classifier.training
    for other in ({"classifier_steps": 81}, {"classifier_seed": 1}):
        with pytest.raises(AssertionError, match="trained again"):
            NeverTrained(options(**other), tmp_path, CPU)


def test_a_damaged_cache_is_refused_in_one_line(tmp_path):
    file = WaveFeatures(options(), tmp_path, CPU).file
    content = file.read_bytes()
    state = {name: values.clone() for name, values in load_file(file).items()}  # which maps the file
    for damage in (
        lambda: file.write_bytes(content[:100]),
        lambda: file.write_bytes(b""),
        lambda: save_file({**state, "head.weight": torch.zeros(5, 6)}, file),
        lambda: save_file({name: state[name] for name in state if name != "head.bias"}, file),
    ):
        file.unlink()  # a process may still map it
        damage()
        with pytest.raises(ValueError, match=r"cached classifier .*wave_classifier.* is damaged, delete") as error:
            WaveFeatures(options(), tmp_path, CPU)
        assert "\n" not in str(error.value)


def test_training_depends_on_its_options_and_not_on_the_global_generator(tmp_path):
    found = {}
    for name, kind, seed in (("plain", WaveFeatures, 0), ("seed", WaveFeatures, 1), ("augment", Louder, 0)):
        weights = []
        for place in "ab":
            torch.manual_seed(ord(place))
            before = torch.get_rng_state()
            folder = tmp_path / name / place
            weights.append(kind(options(classifier_steps=3, classifier_seed=seed), folder, CPU).classifier.head.weight)
            assert torch.equal(torch.get_rng_state(), before)
        assert torch.equal(*weights)
        found[name] = weights[0]
    assert not torch.equal(found["plain"], found["seed"])
    assert not torch.equal(found["plain"], found["augment"])


def test_media_of_another_shape_and_media_that_are_not_finite_are_refused(tmp_path):
    evaluator = StandInEvaluator(WaveFeatures(options(), tmp_path, CPU))
    with pytest.raises(ValueError, match=r"the wave classifier takes waves \(1, 12\), got \(2, 12\)"):
        evaluator.evaluate(torch.zeros(4, 2, LENGTH), torch.zeros(4))
    media, labels = waves(6, 3)
    media[2] = torch.nan
    with pytest.raises(ValueError, match="of 1 samples are NaN or infinite, first at row 2"):
        evaluator.evaluate(media, labels)
    for key in ("num_samples", "classifier_steps"):
        with pytest.raises(ValueError, match=rf"evaluation\.{key} is 0"):
            options(**{key: 0})
