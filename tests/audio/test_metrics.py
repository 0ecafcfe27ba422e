"""The table of audio's metrics: what each needs, how clips are paired, which draws FAD-infinity takes."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from audio.encoders.protocols import FADTK, ONE_WINDOW, WindowProtocol
from audio.extractors import EXTRACTORS
from audio.metrics import METRICS, SMALLEST, TABLE, PlannedSamples, wanted
from eval.measure.media import Media
from eval.measure.table import ReferenceStatistics
from eval.statistics.frechet import frechet_infinity, moments

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Ear:
    """What metrics ask of an extractor."""

    name: str
    main: str
    protocol: WindowProtocol = ONE_WINDOW


class Clips(Media):
    """Clips of which names alone are known."""

    name, kind, unit = "clips", "data set", "clip"

    def __init__(self, count, names=None):
        self.count, self.names = count, names

    def __len__(self):
        return self.count


def rows(count, width=2, seed=0):
    return np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)


def divergence(own, theirs, own_names=None, their_names=None):
    """`kl` of logits through the table."""
    against = ReferenceStatistics({}, {"logits": theirs}, Clips(len(theirs), their_names))
    ear, samples = Ear("classifier", "logits"), Clips(len(own), own_names)
    return TABLE.measure(["kl"], ear, {"logits": own}, against, samples, CPU)["kl"]


def test_every_default_is_defined_for_its_features():
    assert tuple(TABLE.defaults) == EXTRACTORS
    for features, names in TABLE.defaults.items():
        assert TABLE.plan(None, features) == {features: list(names)}


def test_clips_are_paired_by_the_names_of_their_files_where_these_are_the_same():
    own, names = rows(4, width=3), ["a", "b", "c", "d"]
    shuffled = [2, 0, 3, 1]
    theirs, their_names = own[shuffled], [names[place] for place in shuffled]
    by_name = divergence(own, theirs, names, their_names)
    assert by_name.value == pytest.approx(0, abs=1e-12) and by_name.parameters["paired_by"] == "file name"
    by_place = divergence(own, theirs, names, ["e", "f", "g", "h"])
    assert by_place.value > 0.1 and by_place.parameters["paired_by"] == "place"
    assert divergence(own, own).parameters["paired_by"] == "place"


def test_names_of_which_only_some_are_the_same_are_refused():
    with pytest.raises(ValueError, match="kl pairs files by name, but 2 have no partner, such as b"):
        divergence(rows(2), rows(2), ["a", "b"], ["a", "c"])


@pytest.mark.parametrize(("protocol", "replace"), [(ONE_WINDOW, False), (FADTK, True)])
def test_fad_infinity_draws_with_replacement_as_fadtk_does_and_without_otherwise(protocol, replace):
    own, reference = rows(SMALLEST + 20), moments(rows(600, seed=1))
    expected = {each: frechet_infinity(own, reference, points=25, smallest=500, replace=each) for each in (False, True)}
    assert expected[False].value != expected[True].value
    ear, against = Ear("clap", "embedding", protocol), ReferenceStatistics({"embedding": reference}, {})
    found = TABLE.measure(["fad_infinity"], ear, {"embedding": own}, against, Clips(len(own)), CPU)
    assert found["fad_infinity"].value == expected[replace].value


def test_fad_infinity_asks_many_samples_and_no_large_reference():
    TABLE.check_count(["fad", "fad_infinity"], "clap", SMALLEST + 1, 3)
    with pytest.raises(ValueError, match="fad_infinity with features=clap needs at least 501 samples, there are 500"):
        TABLE.check_count(["fad_infinity"], "clap", SMALLEST, 5_000)
    with pytest.raises(ValueError, match="kid with features=clap needs at least 1000 clips of the reference"):
        TABLE.check_count(["kid"], "clap", 1_000, 999)
    with pytest.raises(ValueError, match="fad with features=clap needs at least 2 clips of the reference, there are 1"):
        TABLE.check_count(["fad"], "clap", 10, 1)


def test_defaults_are_those_that_the_samples_to_be_made_allow():
    few, many = (PlannedSamples(count, labelled=True, texts=None) for count in (SMALLEST, SMALLEST + 1))
    assert wanted(None, "clap_music", few) == {"clap_music": ["fad"]}
    assert wanted(None, "clap_music", many) == {"clap_music": ["fad", "fad_infinity"]}
    assert wanted(None, "notes", few) == {"notes": ["frechet_distance", "class_accuracy"]}
    assert wanted(None, "notes", PlannedSamples(9, labelled=False, texts=None)) == {"notes": ["frechet_distance"]}
    with pytest.raises(ValueError, match="class_accuracy needs to know which class each sample was asked to be"):
        wanted(["class_accuracy"], "notes", PlannedSamples(9, labelled=False, texts=None))
    with pytest.raises(
        ValueError, match=r"clap_score needs to know .* prompts=\[\.\.\.\], a run with conditioning=text"
    ):
        wanted(["clap_score"], "clap", few)
    assert wanted(["clap_score"], "clap", PlannedSamples(1, False, ["rain"])) == {"clap": ["clap_score"]}


@pytest.mark.parametrize(("metric", "features"), [("fad", "notes"), ("kl", "clap"), ("clap_score", "vggish")])
def test_a_metric_belongs_to_its_features(metric, features):
    with pytest.raises(ValueError, match=f"'{metric}' but features is '{features}'; allowed for it: "):
        TABLE.plan([metric], features)


def test_every_metric_is_of_extractors_that_there_are():
    assert {name for metric in METRICS.values() for name in metric.features} <= set(EXTRACTORS)
