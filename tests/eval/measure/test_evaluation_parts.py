"""The parts of an evaluation on a toy domain: clips of different length, several rows of features for a piece."""

import numpy as np
import pytest
import torch
from torch import nn

from core.processes.world import World
from eval.measure.extractor import Extractor, extract
from eval.measure.generated import ChunkMedia, Chunks, Form
from eval.measure.media import ArrayMedia, FirstMedia
from eval.measure.reference import MediaReference
from eval.measure.stand_in import ClassifierEvaluator, Fit, StandIn, fit_classifier
from eval.measure.table import Metric, ReferenceStatistics, Table, class_accuracy, frechet

CPU = torch.device("cpu")


class Halves(Extractor):
    """Mean and deviation of each half of a signal: two rows for a piece."""

    name, main, preprocessing, weights_sha256 = "halves", "moments", "none", "0"

    def __call__(self, rows):
        halves = [half.float() for signal in rows for half in signal.chunk(2)]
        values = torch.stack([torch.stack([half.mean(), half.std()]) for half in halves])
        return {"moments": values, "logits": values}


def signals(count, seed=0):
    """Signals of different lengths."""
    random = torch.Generator().manual_seed(seed)
    return [torch.randn(6 + 2 * (number % 3), generator=random) for number in range(count)]


TABLE = Table(
    {"distance": Metric(frechet, ("halves",)), "accuracy": Metric(class_accuracy, ("halves",), "logits", "nothing")},
    {"halves": ("distance",)},
    unit="signal",
)


def test_lists_of_any_length_are_looked_at_and_counted_as_pieces():
    media = ArrayMedia("toy", "signal", signals(7), torch.zeros(7, dtype=torch.int64))
    told = []
    features = extract(media, Halves(), 3, World(), told.append)
    assert features["moments"].shape == (14, 2) and told == [3, 3, 1]
    whole = extract(media, Halves(), 7, World())
    np.testing.assert_array_equal(features["moments"], whole["moments"])
    reference = MediaReference(ArrayMedia("other", "signal", signals(5, seed=1)), size=None)
    against = reference.against(
        TABLE.of(["distance"]), Halves(), lambda each, extractor: extract(each, extractor, 5, World())
    )
    found = TABLE.measure(["distance"], Halves(), features, against, media, CPU)["distance"]
    assert found.num_samples == 7 and found.parameters["rows"] == 14


def test_labels_are_not_laid_beside_rows_that_are_no_pieces():
    media = ArrayMedia("toy", "signal", signals(7), torch.zeros(7, dtype=torch.int64))
    features = extract(media, Halves(), 3, World())
    with pytest.raises(ValueError, match=r"accuracy: features 'logits' \(halves\) have 14 rows for 7 signals"):
        TABLE.measure(["accuracy"], Halves(), features, ReferenceStatistics({}, {}), media, CPU)


def test_equal_pieces_are_refused_whatever_they_are():
    media = ArrayMedia("toy", "signal", [torch.ones(4)] * 3)
    with pytest.raises(ValueError, match="all 3 signals of toy are equal"):
        extract(media, Halves(), 2, World())


def test_the_first_pieces_have_an_identity_of_their_own():
    media = ArrayMedia("toy", "signal", signals(4))
    assert len({FirstMedia(media, count).sha256 for count in (2, 3)} | {media.sha256}) == 3
    with pytest.raises(ValueError, match="num is 9, but toy holds 4 signals"):
        FirstMedia(media, 9)


class Constant:
    """Makes sample i of value i / 10."""

    def one_batch(self, condition, seed, first):
        return torch.arange(first, first + len(condition)).float()[:, None].expand(-1, 4) / 10


def test_generated_media_are_kept_in_the_form_that_files_would_have(tmp_path):
    form = Form("int16", floats=False, store=lambda x: (1000 * x).round().to(torch.int16), load=lambda x: x / 1000)
    chunks = Chunks(tmp_path, {"seed": 0}, torch.arange(5), 2, form)
    missing = chunks.begin()
    assert list(chunks.make(Constant(), 0, missing, World(), lambda: False)) == [2, 2, 1]
    assert np.load(chunks.file(0)).dtype == np.int16
    media = ChunkMedia(chunks, "toy", "signal")
    torch.testing.assert_close(media.rows(1, 5)[:, 0], torch.tensor([0.1, 0.2, 0.3, 0.4]))
    assert chunks.begin() == []  # another session finds them
    chunks.file(1).write_bytes(b"cut")
    assert chunks.begin() == [1]


class Tiny(nn.Module):
    """A classifier of the sign of a signal."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 2)

    def features(self, media):
        return media

    def forward(self, media):
        return self.head(media)


def test_a_stand_ins_classifier_is_kept_and_damage_is_named(tmp_path):
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 2
    media = torch.randn(60, 4, generator=random) + 4.0 * labels[:, None] - 2
    fits = []

    def fit(media, labels):
        fits.append(len(media))
        return fit_classifier(Tiny, media, labels, Fit("toy", 60, 0, batch=16, learning_rate=0.1))

    train, heldout = (media[:40], labels[:40]), (media[40:], labels[40:])
    about = StandIn("toy", "signals", "toy classifier", train, heldout, Tiny, fit, tmp_path / "toy.safetensors", 7)
    first, again = (ClassifierEvaluator(about, None, CPU) for _ in range(2))
    assert fits == [40] and first.weights_sha256 == again.weights_sha256
    assert first.classifier_accuracy > 0.9 and first.num_samples == 20
    found = again.evaluate(heldout[0], heldout[1])
    assert found["frechet_distance"] == pytest.approx(found["frechet_floor"])
    about.file.write_bytes(about.file.read_bytes()[:-5])
    with pytest.raises(ValueError, match=r"cached classifier .*toy\.safetensors is damaged, delete it"):
        ClassifierEvaluator(about, None, CPU)
