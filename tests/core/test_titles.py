"""Titles of samples, and which of many are shown."""

import torch

from core.titles import class_titles, one_of_each_first, slug


def test_labels_have_the_names_of_their_classes_and_nothing_else_has():
    assert class_titles(torch.tensor([1, 0, 2]), ["piano", "bell"]) == ["bell", "piano", "no class"]
    for condition in (None, torch.ones(3), torch.ones(3, 2, dtype=torch.long)):
        assert class_titles(condition, ["piano", "bell"]) is None
    assert class_titles(torch.tensor([1]), []) is None


def test_shown_rows_are_whole_rounds_of_the_titles():
    assert one_of_each_first([str(i % 12) for i in range(40)], 20) == list(range(12))
    assert one_of_each_first(list("aabab"), 4) == [0, 2, 1, 4]
    assert one_of_each_first(list("aaab"), 20) == [0, 3, 1, 2]
    assert one_of_each_first([str(i) for i in range(40)], 20) == list(range(20))


def test_slugs():
    assert slug("Hi-hat / open") == "hi-hat-open" and slug("../../x") == "x" and slug("音") == "sample"
    assert len(slug("a" * 500)) == 32
