"""Labels: which are dropped, which are sampled, which are refused."""

import pytest
import torch

from core.conditioning.labels import LabelConditioning, LabelConfig, by_name
from core.draws import StepRandom
from core.schema import strict

CLASSES = 10


def conditioning(**options):
    return LabelConditioning(LabelConfig(**options), CLASSES)


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_a_share_of_the_labels_becomes_null_and_the_others_stay(share):
    labels = torch.arange(20_000) % CLASSES
    dropped = conditioning(drop=share).drop(labels, StepRandom(0, 0))
    null = dropped == CLASSES
    assert null.double().mean().item() == pytest.approx(share, abs=0.02)
    assert torch.equal(dropped[~null], labels[~null])
    per_class = torch.bincount(labels[null], minlength=CLASSES) / 2000
    assert (per_class - share).abs().max() < 0.05


def test_a_share_of_zero_drops_nothing():
    labels = torch.arange(1000) % CLASSES
    assert torch.equal(conditioning(drop=0.0).drop(labels, StepRandom(0, 0)), labels)


def test_drops_depend_on_step_and_seed_and_are_those_of_the_global_batch():
    labels = torch.zeros(64, dtype=torch.long)
    drop = conditioning(drop=0.5).drop
    first = drop(labels, StepRandom(0, 0))
    assert torch.equal(first, drop(labels, StepRandom(0, 0)))
    assert not torch.equal(first, drop(labels, StepRandom(0, 1)))
    assert not torch.equal(first, drop(labels, StepRandom(1, 0)))
    right = StepRandom(0, 0, global_rows=64, first_row=40)
    assert torch.equal(drop(labels[40:], right), first[40:])


def test_null_is_the_class_after_the_last():
    assert conditioning().null(torch.tensor([3, 7])).tolist() == [CLASSES, CLASSES]


def test_balanced_requests_give_every_class_the_same_number():
    labels = conditioning().requests(35, seed=0)
    counts = torch.bincount(labels, minlength=CLASSES)
    assert (counts.min(), counts.max()) == (3, 4)
    assert labels[:12].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]


def test_random_requests_are_uniform_and_depend_on_seed_and_index_only():
    random = conditioning(labels="random")
    labels = random.requests(2000, seed=0)
    assert torch.equal(random.requests(50, seed=0), labels[:50])
    assert not torch.equal(random.requests(50, seed=1), labels[:50])
    counts = torch.bincount(labels, minlength=CLASSES)
    assert len(counts) == CLASSES
    assert 150 < counts.min() <= counts.max() < 250
    assert labels.dtype == torch.int64


def test_classes_share_the_vectors_of_their_words():
    names = ["3 left", "3 right", "4 left", "rest"]
    embedder = LabelConditioning(LabelConfig(words=True), 4, names).embedder(8, null=True)
    embedder.initialize()
    table = embedder.embedding_table.weight  # of 3, left, right, 4, rest, and none
    assert table.shape == (6, 8)
    found = embedder(torch.arange(5))
    expected = [(table[0] + table[1]) / 2**0.5, (table[0] + table[2]) / 2**0.5, (table[3] + table[1]) / 2**0.5]
    torch.testing.assert_close(found, torch.stack([*expected, table[4], table[5]]))
    whole = LabelConditioning(LabelConfig(), 4, names).embedder(8, null=True)
    assert whole.embedding_table.weight.shape == (5, 8)
    assert LabelConditioning(LabelConfig(words=True), 4, names).embedder(8, null=False)(torch.tensor([3])).shape == (
        1,
        8,
    )


def test_chosen_labels_cycle():
    assert conditioning().chosen(3, 4).tolist() == [3, 3, 3, 3]
    assert conditioning().chosen([7, 2, 2], 5).tolist() == [7, 2, 2, 7, 2]


@pytest.mark.parametrize("labels", [10, -1, [0, 10], [-3, 1], []])
def test_labels_out_of_range_are_refused_with_the_range(labels):
    with pytest.raises(ValueError, match=r"labels is .*; allowed: 0 to 9"):
        conditioning().chosen(labels, 4)


SORTED = ["0", "1", "10", "2", "cat"]  # as folders are


def test_a_number_that_is_the_name_of_another_class_is_refused_with_both():
    classes = LabelConditioning(LabelConfig(), len(SORTED), SORTED)
    for labels in (2, [0, 2]):
        with pytest.raises(
            ValueError, match=r'labels has 2, the number of class "10", but class 3 is called "2"; .*labels=\'"2"\''
        ):
            classes.chosen(labels, 4)
    assert classes.chosen(["2", "10", 1, "cat", 4], 5).tolist() == [3, 2, 1, 4, 4]
    assert classes.requested(["10"], 2, 0).tolist() == [2, 2]
    with pytest.raises(ValueError, match=r"""labels is 10; allowed: 0 to 4, or names in quotes, such as '"10"'"""):
        classes.chosen(10, 1)
    with pytest.raises(ValueError, match="labels has 'dog', which the model does not know"):
        classes.chosen("dog", 1)
    for one, two in (("001", "002"), ("1.0", "2.0"), ("1e0", "2e0")):
        odd = LabelConditioning(LabelConfig(), 3, [one, two, "cat"])
        with pytest.raises(
            ValueError, match=f'labels has 1, the number of class "{two}", but class 0 is called "{one}"'
        ):
            odd.chosen(1, 1)


def test_a_name_of_two_classes_is_refused_with_their_numbers():
    classes = LabelConditioning(LabelConfig(), 3, ["crane", "eel", "crane"])
    with pytest.raises(ValueError, match=r"labels has 'crane', the name of the classes \[0, 2\]; ask .* by number"):
        classes.chosen(["eel", "crane"], 2)
    assert classes.chosen([2, "eel"], 2).tolist() == [2, 1] and by_name([2, 1], classes.names) == [2, "eel"]


def test_classes_that_are_numbered_otherwise_than_called_are_told(caplog):
    with caplog.at_level("INFO"):
        LabelConditioning(LabelConfig(), 3, ["cat", "dog", "eel"])
        LabelConditioning(LabelConfig(), 3)
    assert not caplog.messages
    with caplog.at_level("INFO"):
        LabelConditioning(LabelConfig(), len(SORTED), SORTED)
    assert caplog.messages == ["classes are numbered by their places, not by their names: number 2 is '10'"]


def test_records_say_names_where_they_are_not_the_numbers():
    assert by_name(["10", "2", 1, "1", "cat", 4], SORTED) == ["10", "2", 1, 1, "cat", "cat"]
    assert [by_name("0", SORTED), by_name(3, []), by_name("3", []), by_name(3, SORTED)] == [0, 3, "3", "2"]
    assert [by_name(2, SORTED), by_name(9, SORTED), by_name("dog", SORTED)] == [2, 9, "dog"], "which are refused"
    assert by_name(["000", 1], ["000", "001"]) == ["000", "001"]


@pytest.mark.parametrize(
    ("values", "message"),
    [({"drop": 1.0}, r"conditioning.drop is 1.0"), ({"drop": -0.1}, "drop"), ({"labels": "even"}, "balanced")],
)
def test_configs_refuse_values(values, message):
    with pytest.raises(ValueError, match=message):
        strict(LabelConfig, values, "conditioning")
