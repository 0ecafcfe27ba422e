"""The table of audio's metrics: what each needs, how clips are paired, which draws FAD-infinity takes."""

from dataclasses import dataclass

import numpy as np
import pytest

from audio.encoders.protocols import FADTK, ONE_WINDOW, WindowProtocol
from audio.extractors import CLAPS
from audio.metrics import EMBEDDINGS, TABLE
from eval.measure.extractor import ExtractedFeatures
from eval.measure.media import Media, PlannedSamples
from eval.measure.metrics import ReferenceStatistics
from eval.measure.table import compute_metrics
from eval.statistics.frechet import frechet_infinity, moments

SMALLEST = 500  # of FAD-infinity


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


def measured(name, ear, rows, reference, names=None):
    """The estimate of a metric of the table for rows (n, D), one for each clip."""
    samples = ExtractedFeatures(ear, Clips(len(rows), names), {ear.main: rows})
    return compute_metrics(TABLE.of([name]), samples, reference)[name]


def divergence(own, theirs, own_names=None, their_names=None):
    """`kl` of logits through the table."""
    reference = ReferenceStatistics(features={"logits": theirs}, media=Clips(len(theirs), their_names))
    return measured("classifier/kl", Ear("classifier", "logits"), own, reference, own_names)


def test_every_default_is_defined_for_its_features():
    for features, names in TABLE.defaults.items():
        assert TABLE.by_extractor(None, features) == {features: TABLE.of(names)}


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
    with pytest.raises(ValueError, match="classifier/kl pairs files by name, but 2 have no partner, such as b"):
        divergence(rows(2), rows(2), ["a", "b"], ["a", "c"])


@pytest.mark.parametrize(("protocol", "replace"), [(ONE_WINDOW, False), (FADTK, True)])
def test_fad_infinity_draws_with_replacement_as_fadtk_does_and_without_otherwise(protocol, replace):
    own, reference = rows(SMALLEST + 20), moments(rows(600, seed=1))
    expected = {each: frechet_infinity(own, reference, points=25, smallest=500, replace=each) for each in (False, True)}
    assert expected[False].value != expected[True].value
    found = measured(
        "clap/fad_infinity", Ear("clap", "embedding", protocol), own, ReferenceStatistics({"embedding": reference})
    )
    assert found.value == expected[replace].value


def test_fad_infinity_asks_many_samples_and_no_large_reference():
    fad, infinity, kid = TABLE.of(["fad", "fad_infinity", "kid"], "clap")
    for metric in (fad, infinity):
        metric.check_count("clap", SMALLEST + 1, 3, "clip")
    with pytest.raises(ValueError, match="fad_infinity with features=clap needs at least 501 samples, there are 500"):
        infinity.check_count("clap", SMALLEST, 5_000, "clip")
    with pytest.raises(ValueError, match="kid with features=clap needs at least 1000 clips of the reference"):
        kid.check_count("clap", 1_000, 999, "clip")
    with pytest.raises(ValueError, match="fad with features=clap needs at least 2 clips of the reference, there are 1"):
        fad.check_count("clap", 10, 1, "clip")


def test_what_samples_lack_is_said_before_they_are_made():
    def lacking(count, labelled=True, texts=None):
        planned = PlannedSamples(count, "clip", None, labelled, texts)
        return {metric.name: metric.missing(planned) for metric in TABLE.metrics if metric.missing(planned)}

    claps, infinity = {f"{name}/clap_score" for name in CLAPS}, {f"{name}/fad_infinity" for name in EMBEDDINGS}
    assert set(lacking(SMALLEST)) == claps | infinity
    assert set(lacking(SMALLEST + 1, labelled=False)) == claps | {"class_accuracy"}
    assert set(lacking(1, texts=["rain"])) == infinity
    told = lacking(9, labelled=False)
    assert told["class_accuracy"].startswith("needs to know which class each sample was asked to be: a run with")
    assert "prompts=[...], a run with conditioning=text" in told["clap/clap_score"]


@pytest.mark.parametrize(("metric", "features"), [("fad", "notes"), ("kl", "clap"), ("clap_score", "vggish")])
def test_a_metric_belongs_to_its_features(metric, features):
    with pytest.raises(ValueError, match=f"'{metric}' but features is '{features}'; allowed for it: "):
        TABLE.by_extractor([metric], features)


def test_every_metric_is_of_extractors_that_there_are():
    assert {name for metric in TABLE.metrics for name in metric.extractors} <= set(TABLE.defaults)


def test_several_evaluators_may_be_asked_for_at_once():
    """A bare name is that of `features`; a whole one is taken with its own evaluator."""
    found = TABLE.by_extractor(["fad", "clap_audio/fad", "vggish/kad_bandwidth_reference"], "clap_music")
    names = {extractor: [metric.name for metric in metrics] for extractor, metrics in found.items()}
    assert names == {
        "clap_music": ["clap_music/fad"],
        "clap_audio": ["clap_audio/fad"],
        "vggish": ["vggish/kad_bandwidth_reference"],
    }
