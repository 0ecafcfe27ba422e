"""The classifier of scenes at toy size: what it learns, which sizes it sees, and what training and evaluation share."""

import json
from dataclasses import replace

import pytest
import torch

import image.evaluate
import image.train
from image.conditioning import LabelConditioning, LabelConfig
from image.datasets.scenes import ScenesConfig
from image.scenes.classes import CLASS_NAMES
from image.scenes.features import SceneFeatures, ScenesEvaluationConfig
from tests.image.evaluations import measured

DATA = ScenesConfig(num_images=480)
CPU = torch.device("cpu")
OPTIONS = ScenesEvaluationConfig(classifier_steps=30)


class ToyFeatures(SceneFeatures):
    """Small batches."""

    fit_rows = 32


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("runs") / "cache"


@pytest.fixture(scope="module")
def extractor(cache):
    return ToyFeatures(OPTIONS, DATA, cache, CPU)


def test_it_learns_within_seconds(extractor):
    media, labels = extractor.split("train")
    logits = extractor.take(media)["logits"]
    lighting = torch.tensor(extractor.aspects["lighting"])
    right = (lighting[logits.argmax(1)] == lighting[labels]).float().mean()
    assert right > 0.4  # of four


def test_one_classifier_serves_all_sizes_and_bytes_are_floats(extractor, cache):
    large = SceneFeatures(OPTIONS, replace(DATA, size=64, split="heldout"), cache, CPU)
    assert large.file == extractor.file and large.weights_sha256 == extractor.weights_sha256
    media = large.split("heldout")[0]
    assert media.dtype == torch.uint8 and media.shape == (19, 3, 64, 64)
    assert torch.equal(large.take(media)["hidden"], large.take(media.float() / 127.5 - 1)["hidden"])
    shrunk = media.float().reshape(19, 3, 32, 2, 32, 2).mean((3, 5)) / 127.5 - 1
    assert torch.allclose(large.take(media)["hidden"], extractor.take(shrunk)["hidden"], atol=1e-4)
    with pytest.raises(ValueError, match=r"takes images \(3, 32, 32\), got \(3, 64, 64\)"):
        extractor.take(media)


def test_other_scenes_have_a_classifier_of_their_own(extractor):
    assert extractor.variant() != type(extractor).variant(type("Other", (), {"training_data": replace(DATA, seed=1)})())


def test_a_label_is_asked_for_by_its_name():
    conditioning = LabelConditioning(LabelConfig(), len(CLASS_NAMES), CLASS_NAMES)
    wanted = "two striped metal cubes side by side lit from the right"
    number = next(i for i, name in enumerate(CLASS_NAMES) if name.startswith("two striped") and "cubes side" in name)
    assert conditioning.requested(CLASS_NAMES[number], 2, 0).tolist() == [number, number]
    with pytest.raises(ValueError, match="labels"):
        conditioning.requested(wanted + " and more", 1, 0)


def test_training_prints_what_the_command_measures(tmp_path, capsys):
    tiny = ["experiment=scenes32", "alignment=none", "backbone.depth=4", "backbone.hidden_size=16", "name=toy"]
    tiny += ["backbone.num_heads=2", "backbone.patch_size=8", "data.num_images=300", "evaluation.classifier_steps=2"]
    tiny += ["trainer.steps=2", "trainer.batch_size=4", "trainer.num_previews=4", "sampler.num_steps=2", "device=cpu"]
    image.train.ENTRY.main(image.train.ENTRY.config([*tiny, f"runs_dir={tmp_path}"]))
    said = capsys.readouterr().out
    assert "samples that the classifier takes for the class asked for; of real held-out scenes" in said
    run = tmp_path / "image" / "toy"
    summary = json.loads((run / "summary.json").read_text())
    assert summary["num_samples"] == 12 and "lighting_accuracy" in summary
    found = measured(f"run={run}", out=tmp_path / "out")
    assert set(found) >= {"frechet_distance", "class_accuracy", "shape_accuracy"}
    assert found["class_accuracy"].value == pytest.approx(summary["class_accuracy"])
    assert found["frechet_distance"].value == pytest.approx(summary["frechet_distance"], rel=0.05)
