"""The command that measures, in a toy domain: media of different length, several rows of features for each of them."""

import numpy as np
import pytest
import scipy.linalg
import torch

from core.processes.world import World
from eval.measure.extractor import ExtractedFeatures, Extractor, FeatureExtraction, extract
from eval.measure.media import ArrayMedia, FirstMedia
from eval.measure.metrics import FrechetDistance, ReferenceStatistics
from eval.measure.record import differences, read_records
from eval.measure.reference import MediaReference, load_statistics, save_statistics
from eval.measure.table import Table, compute_metrics
from eval.statistics.frechet import Moments, frechet_distance, moments
from eval.statistics.neighbours import precision_recall
from tests.eval.waves import TABLE, Waves, Windows, measure_waves, save_waves, windows_of


@pytest.fixture
def root(tmp_path):
    save_waves(tmp_path / "ours", 12, labelled=True)
    save_waves(tmp_path / "theirs", 10, seed=1)
    return tmp_path


def measured(root, **keys):
    keys = {"samples": str(root / "ours"), "real": "theirs", "out": str(root / "out")} | keys
    told = measure_waves(root, **keys)
    return {record.metric: record for record in read_records([root / "out"])}, told


def by_hand(a, b):
    cov = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    difference = a.mean(0) - b.mean(0)
    return difference @ difference + np.trace(cov[0] + cov[1] - 2 * scipy.linalg.sqrtm(cov[0] @ cov[1]).real)


def test_distances_are_of_windows_and_records_count_waves(root):
    found, told = measured(root, metrics=["distance", "precision", "recall", "class_accuracy"])
    ours, theirs = (windows_of(root / name).astype(np.float64) for name in ("ours", "theirs"))
    assert (len(ours), len(theirs)) == (30, 23)
    assert found["distance"].value == pytest.approx(by_hand(ours, theirs), rel=1e-4)
    assert (found["distance"].num_samples, found["distance"].parameters) == (12, {"rows": 30})
    both = precision_recall(ours.astype(np.float32), theirs.astype(np.float32), k=2)
    assert found["precision"].value == pytest.approx(both.precision.value)
    assert found["recall"].value == pytest.approx(both.recall.value)
    assert found["recall"].parameters["rows"] == 30
    assert found["recall"].parameters["num_reference"] == 23
    assert found["distance"].reference == {"name": "theirs", "kind": "folder", "sha256": "0" * 64, "num_samples": 10}
    assert found["class_accuracy"].value == 1  # one row of logits for each wave
    assert (found["class_accuracy"].num_samples, found["class_accuracy"].parameters) == (12, {})
    assert found["class_accuracy"].reference["name"] == "none"
    assert [line.split()[0] for line in told[-1:]] == ["record"]


def test_rows_that_are_no_samples_have_no_labels(root):
    with pytest.raises(ValueError, match=r"window_accuracy: features 'moves' \(windows\) have 30 rows for 12 waves"):
        measured(root, metrics=["window_accuracy"])
    assert not (root / "out").exists()


def test_a_default_that_needs_labels_is_left_out_and_one_that_was_asked_for_is_not(root):
    save_waves(root / "unlabelled", 12)
    assert set(measured(root, samples=str(root / "unlabelled"))[0]) == {"distance"}
    with pytest.raises(ValueError, match=r"class_accuracy needs to know which class .*: names that end in the class"):
        measured(root, samples=str(root / "unlabelled"), metrics=["class_accuracy"])


def test_the_first_waves_keep_their_labels(root):
    found, _ = measured(root, num=5)
    assert {record.num_samples for record in found.values()} == {5}
    assert found["distance"].parameters == {"rows": 1 + 2 + 3 + 4 + 1}
    assert found["class_accuracy"].value == 1
    with pytest.raises(ValueError, match="num is 13, but ours holds 12 waves"):
        measured(root, num=13)


def test_saved_statistics_give_the_same_number_and_errors_name_the_domains_key(root):
    direct, _ = measured(root, metrics=["distance"])
    told = measure_waves(root, real="theirs", save_reference=str(root / "stats.npz"))
    assert told == [f"statistics of 10 waves in the features of windows: {root / 'stats.npz'}"]
    again, _ = measured(root, real="stats.npz", metrics=["distance"], out=str(root / "out"))
    assert again["distance"].value == pytest.approx(direct["distance"].value, rel=1e-12)
    assert again["distance"].reference == direct["distance"].reference
    with pytest.raises(ValueError, match=r"^real .*stats\.npz holds statistics only; recall need the waves themselves"):
        measured(root, real="stats.npz", metrics=["recall"])
    with pytest.raises(ValueError, match=r"^save_reference needs one extractor, got windows, and waves as real$"):
        measure_waves(root, real="stats.npz", save_reference=str(root / "x.npz"))
    np.savez(root / "damaged.npz", facts=np.array("{}"), mu=np.zeros(2), sigma=np.eye(2))
    with pytest.raises(ValueError, match=r"^real is .*damaged\.npz', whose 'facts' are damaged: they are {}; needed"):
        measured(root, real="damaged.npz")


def test_several_seeds_make_one_record_of_their_mean_and_deviation(root):
    keys = {"samples": str(root / "ours"), "real": "theirs", "metrics": ["distance"], "drawn": 7}
    for seed in (3, 5, 8):
        measure_waves(root, **keys, seed=seed, out=str(root / f"{seed}"))
    values = [read_records([root / f"{seed}"])[0].value for seed in (3, 5, 8)]
    assert len(set(values)) == 3
    found, told = measured(root, metrics=["distance"], drawn=7, seeds=[3, 5, 8], out=str(root / "out"))
    record, mean, std = found["distance"], np.mean(values), np.std(values, ddof=1)
    assert record.value == pytest.approx(mean, rel=1e-12)
    assert (record.interval.low, record.interval.high) == pytest.approx((mean - std, mean + std), rel=1e-9)
    assert record.parameters == {"rows": 30, "seeds": 3}
    for value, seed in zip(values, (3, 5, 8), strict=True):
        assert f"{value:.6g} ({seed})" in record.interval.kind
    assert any("± sample standard deviation over 3 seeds" in line for line in told)
    one = read_records([root / "3"])[0]
    assert differences(one, record)["parameters.seeds"] == (None, 3)  # a mean is not put beside one draw


def test_what_no_seed_changes_is_measured_once(root, monkeypatch):
    looked = []
    monkeypatch.setattr(Windows, "__call__", counting(Windows.__call__, looked))
    found, _ = measured(root, metrics=["distance"], seeds=[0, 1])
    assert sum(looked) == 2 * 12 + 10  # the samples, which are opened with each seed, and the reference
    assert found["distance"].interval.low == found["distance"].interval.high == found["distance"].value


def counting(call, looked):
    def counted(self, rows):
        looked.append(len(rows))
        return call(self, rows)

    return counted


def test_which_covariance_is_taken_stands_in_the_record(root):
    ours, theirs = (windows_of(root / name).astype(np.float32) for name in ("ours", "theirs"))
    samples = ExtractedFeatures(Windows(), Waves(root / "ours"), {"moves": ours})
    reference = ReferenceStatistics({"moves": moments(theirs)})
    found = {
        kind: FrechetDistance("distance", ("windows",), covariance=kind).compute(samples, reference)
        for kind in (None, "unbiased", "biased")
    }
    assert found[None].value == found["unbiased"].value != found["biased"].value
    sides = [
        Moments(x.mean(0), np.cov(x, rowvar=False, bias=True), None) for x in (ours.astype(float), theirs.astype(float))
    ]
    assert found["biased"].value == pytest.approx(frechet_distance(*sides), rel=1e-9)
    assert [each.parameters for each in found.values()] == [*({}, {"covariance": "unbiased"}, {"covariance": "biased"})]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"seeds": [1]}, r"^seeds are \[1\]; needed: 2 or more different"),
        ({"seeds": [1, 1]}, r"^seeds are \[1, 1\]; needed"),
        ({"seeds": [1, -1]}, r"^seeds are \[1, -1\]; needed"),
        ({"seeds": []}, r"^seeds are \[\]; needed"),
        ({"seeds": [0, 1], "seed": 2}, r"^seed is 2 and seeds are \[0, 1\]; give one"),
        ({"real": None}, "^real is null; needed: a folder of waves$"),
        ({"samples": None}, "run, architecture and samples are null"),
        ({"features": "eyes"}, "features is 'eyes'; allowed: windows"),
        ({"metrics": ["fad"]}, "'metrics' has 'fad'; allowed: distance, precision"),
        ({"num": 2, "metrics": ["recall"]}, "recall with features=windows needs at least 3 samples, there are 2"),
        ({"real": "few", "metrics": ["kid"]}, "kid .* needs at least 4 waves of the reference, there are 3"),
        ({"samples": "equal"}, "all 4 waves of equal are equal; nothing can be measured"),
        (
            {"samples": "broken"},
            r"'moves' \(windows\) of 1 wave's rows of broken are NaN .*first at wave's row 1",
        ),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(root, keys, message):
    save_waves(root / "few", 3, seed=2)
    for name in ("equal", "broken"):
        (root / name).mkdir()
        for number in range(4):
            np.save(root / name / f"{number}.npy", np.ones(8 + 8 * (name == "broken") * (number == 0), np.float32))
    wave = np.load(root / "broken" / "0.npy")
    wave[9] = np.nan
    np.save(root / "broken" / "0.npy", wave)
    if keys.get("samples"):
        keys = {"samples": str(root / keys["samples"]), "metrics": ["distance"]}
    with pytest.raises(ValueError, match=message):
        measured(root, **keys)
    assert not (root / "out").exists()


# --- the parts


class Longest(Extractor):
    name, main = "longest", "x"

    def __call__(self, rows):
        return {"x": torch.stack([max(rows, key=len)[:1]])}


def test_features_with_fewer_rows_than_media_are_refused(root):
    with pytest.raises(ValueError, match=r"'x' \(longest\) of ours have 1 rows for 4 waves; each wave needs"):
        extract(Waves(root / "ours"), Longest(), 4, World())


def test_waves_of_another_length_are_not_equal():
    waves = [torch.ones(8), torch.ones(16)]
    assert extract(ArrayMedia("waves", "wave", waves), Windows(), 1, World())["moves"].shape == (3, 2)


def test_the_batch_does_not_move_the_rows(root):
    found = [extract(Waves(root / "ours"), Windows(), size, World())["moves"] for size in (1, 5, 100)]
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])
    np.testing.assert_allclose(found[0], windows_of(root / "ours"), rtol=1e-4, atol=1e-6)


def test_what_arrays_are_named_by_follows_their_values():
    one = ArrayMedia("a", "wave", torch.arange(6.0).reshape(2, 3))
    same = ArrayMedia("b", "wave", torch.arange(6.0).reshape(2, 3))
    other = ArrayMedia("a", "wave", torch.arange(6.0).reshape(3, 2))
    assert one.sha256 == same.sha256 != other.sha256
    parts = ArrayMedia("a", "wave", [torch.zeros(2), torch.zeros(3)]), ArrayMedia("a", "wave", [torch.zeros(3)])
    assert parts[0].sha256 != parts[1].sha256
    assert FirstMedia(one, 1).sha256 != one.sha256


def features_of(media, batch_size=4):
    return FeatureExtraction(World(), batch_size, "wave").extract_features(media, Windows())


def test_statistics_of_other_features_than_the_file_holds_are_refused(root):
    media = Waves(root / "theirs")
    save_statistics(root / "s.npz", MediaReference(media, None), features_of(media))
    assert load_statistics(root / "s.npz", TABLE.of(["distance"]), Windows()).moments["moves"].num_samples == 23
    with pytest.raises(ValueError, match="holds statistics of features 'moves' only, not of other's"):
        load_statistics(root / "s.npz", [FrechetDistance("other", ("windows",), "logits")], Windows())


def test_a_metric_that_stands_beside_others_has_its_own_extractor():
    a, b = FrechetDistance("a", ("one",)), FrechetDistance("b", ("two", "one"), beside=True)
    table = Table((a, b), {"one": ("a", "b"), "two": ("b",)}, unit="wave")
    assert table.by_extractor(None, "one") == {"one": [a], "two": [b]}
    assert table.by_extractor(["b", "a", "b"], "one") == {"two": [b], "one": [a]}
    with pytest.raises(ValueError, match="'a' but features is 'two'; allowed for it: one"):
        table.by_extractor(["a"], "two")


def test_precision_and_recall_are_computed_once(monkeypatch):
    calls = []

    def counted(*args, **options):
        calls.append(options)
        return precision_recall(*args, **options)

    monkeypatch.setattr("eval.measure.metrics.precision_recall", counted)
    rng = np.random.default_rng(0)
    ours, theirs = (rng.normal(size=(20, 2)).astype(np.float32) for _ in range(2))
    samples = ExtractedFeatures(Windows(), ArrayMedia("waves", "wave", torch.zeros(20, 1)), {"moves": ours})
    names = ["recall", "precision"]
    found = compute_metrics(TABLE.of(names), samples, ReferenceStatistics(features={"moves": theirs}))
    assert list(found) == names
    assert len(calls) == 1
    assert found["recall"] != found["precision"]
