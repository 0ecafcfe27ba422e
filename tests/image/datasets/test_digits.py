"""The handwritten digits: which ones, in which split."""

import torch

from core.draws import fold_seed, numpy_rng
from image.datasets.digits import DigitsConfig


def test_digits_are_the_real_ones_in_range():
    data = DigitsConfig(split="all").build()
    assert data.images.shape == (len(data), *data.media_shape) == (1797, 1, 8, 8)
    assert (data.images.min(), data.images.max()) == (-1, 1)
    assert data.class_names == list("0123456789")
    assert data.labels[:10].tolist() == list(range(10))
    item = data.item(3, numpy_rng(0))
    assert torch.equal(item["media"], data.images[3]) and item["condition"] == 3 and type(item["condition"]) is int
    grey = (data.images[0, 0, 0] * 8 + 8).tolist()
    assert grey == [0, 0, 5, 13, 9, 1, 0, 0]  # the first row of the first digit that scikit-learn documents


def test_digits_split_is_disjoint_complete_and_stratified():
    train, heldout, everything = (DigitsConfig(split=split).build() for split in ("train", "heldout", "all"))
    assert len(train) + len(heldout) == len(everything)
    both = torch.cat([train.images, heldout.images]).flatten(1)
    assert torch.equal(_sorted_rows(both), _sorted_rows(everything.images.flatten(1)))
    counts = torch.bincount(everything.labels)
    assert torch.equal(torch.bincount(heldout.labels), (counts * 0.2).round().long())


def _sorted_rows(rows):
    return torch.tensor(sorted(rows.tolist()))


def test_digits_split_never_changes():
    heldout = DigitsConfig(split="heldout").build()
    assert len(heldout) == 359
    assert fold_seed(*heldout.labels.tolist()) == 6373324681388999246
    assert fold_seed(*(heldout.images.sum((1, 2, 3)) * 8).long().tolist()) == 3657353959267459567


def test_digits_are_not_flipped_and_items_are_copies():
    data = DigitsConfig().build()
    assert not data.flip
    before = data.images[0].clone()
    for seed in range(8):
        media = data.item(0, numpy_rng(seed))["media"]
        assert torch.equal(media, before)
        media.zero_()
    assert torch.equal(data.images[0], before)
    assert torch.equal(data.pixels(0, mirror=True), before.flip(-1))
