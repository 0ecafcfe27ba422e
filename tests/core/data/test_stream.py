"""The stream of samples: a pure function of (seed, position), whatever reads it and from wherever."""

import numpy as np
import pytest
import torch

from core.contracts import Batch
from core.data.pixels import from_uint8
from core.data.stream import SampleStream, StepPositions, collate, on_device, step_batches
from tests.rows import every_row

ROWS, BATCH = 10, 4


class Numbers:
    """Row i holds i plus noise from its generator; with masks, row i has i + 1 real tokens."""

    media_shape = (2,)
    class_names = ("a", "b")

    def __init__(self, rows=ROWS, masked=False):
        self.rows, self.masked = rows, masked

    def __len__(self):
        return self.rows

    def item(self, index, rng):
        media = torch.tensor([index, index + rng.random()], dtype=torch.float64)
        item = {"media": media, "condition": index % 2}
        if self.masked:
            item["mask"] = torch.arange(self.rows) <= index
        return item


def batches(first, last, *, seed=0, rows=(0, BATCH), num_workers=0, dataset=None):
    positions = StepPositions(first, last, BATCH, rows)
    return list(step_batches(dataset or Numbers(), seed, positions, num_workers, pin=False))


def same(a, b):
    return len(a) == len(b) and all(
        torch.equal(getattr(x, name), getattr(y, name))
        for x, y in zip(a, b, strict=True)
        for name in ("media", "condition", "index")
    )


def test_an_epoch_visits_every_row_once_and_the_next_in_another_order():
    stream = SampleStream(Numbers(), seed=0)
    epochs = [[stream.index(epoch * ROWS + i) for i in range(ROWS)] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(ROWS)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert epochs[0] != list(range(ROWS))
    seen = torch.cat([batch.index for batch in batches(0, 5)])  # two epochs of ten rows in batches of four
    assert seen.tolist() == epochs[0] + epochs[1]


def test_a_sample_does_not_depend_on_what_was_read_before():
    forwards, jumping = SampleStream(Numbers(), 0), SampleStream(Numbers(), 0)
    in_order = [forwards[position] for position in range(3 * ROWS)]
    for position in (25, 3, 14, 29, 3):
        sample = jumping[position]
        assert sample["index"] == in_order[position]["index"]
        assert torch.equal(sample["media"], in_order[position]["media"])


class Bytes(Numbers):
    """Numbers whose media are bytes; `item` gives them as floats."""

    def stored(self, index, rng):
        return {"media": torch.tensor([index, rng.integers(256)], dtype=torch.uint8), "condition": index % 2}

    def item(self, index, rng):
        stored = self.stored(index, rng)
        return {**stored, "media": from_uint8(stored["media"])}


def test_media_that_are_bytes_become_floats_on_the_device_alone():
    class Floats(Numbers):
        def item(self, index, rng):
            return Bytes().item(index, rng)

    stored = batches(0, 6, dataset=Bytes())
    assert {batch.media.dtype for batch in stored} == {torch.uint8}
    assert same([on_device(batch, "cpu") for batch in stored], batches(0, 6, dataset=Floats()))
    plain = batches(0, 6)
    assert same([on_device(batch, "cpu") for batch in plain], plain)


@every_row("start", [1, 2, 3, 7])
def test_the_loader_resumes_at_any_step(start):
    assert same(batches(start, 8), batches(0, 8)[start:])


@every_row("num_workers", [1, 2])
def test_the_number_of_workers_changes_nothing(num_workers):
    assert same(batches(1, 7, num_workers=num_workers), batches(1, 7))


def test_the_parts_of_a_global_batch_make_up_the_whole():
    whole, left, right = batches(0, 6), batches(0, 6, rows=(0, 1)), batches(0, 6, rows=(1, BATCH))
    for all_rows, first, rest in zip(whole, left, right, strict=True):
        assert (len(first.index), len(rest.index)) == (1, BATCH - 1)
        for name in ("media", "condition", "index"):
            joined = torch.cat([getattr(first, name), getattr(rest, name)])
            assert torch.equal(joined, getattr(all_rows, name))


def test_the_seed_decides_order_and_augmentation():
    a, again, other = (torch.cat([batch.media for batch in batches(0, 5, seed=seed)]) for seed in (0, 0, 1))
    assert torch.equal(a, again)
    assert not torch.equal(a[:, 0], other[:, 0])
    noise, other_noise = (set((media[:, 1] - media[:, 0]).tolist()) for media in (a, other))
    assert not noise & other_noise


def test_a_row_is_augmented_anew_in_every_epoch():
    seen = torch.cat([batch.media for batch in batches(0, 5)])
    noise = (seen[:, 1] - seen[:, 0]).tolist()
    assert len(set(noise)) == len(noise)


def test_global_generators_are_not_read():
    np.random.seed(0)
    torch.manual_seed(0)
    before = np.random.get_state()[1].copy()
    first = batches(0, 3)
    assert np.array_equal(np.random.get_state()[1], before)
    np.random.seed(1)
    torch.manual_seed(1)
    assert same(first, batches(0, 3))


def test_a_data_set_smaller_than_a_batch_is_gone_through_several_times():
    batch = batches(0, 1, dataset=Numbers(rows=3))[0]
    assert sorted(batch.index[:3].tolist()) == [0, 1, 2]
    assert len(batch.index) == BATCH


def test_an_empty_data_set_is_refused():
    with pytest.raises(ValueError, match="the data set is empty"):
        SampleStream(Numbers(rows=0), 0)


def test_positions_know_their_number():
    for first, last, length in ((0, 5, 5), (3, 5, 2), (5, 5, 0), (7, 5, 0)):
        positions = StepPositions(first, last, BATCH, (0, BATCH))
        assert len(positions) == len(list(positions)) == length


# --- batches


def test_samples_are_stacked_with_their_rows_and_masks():
    dataset = Numbers(masked=True)
    batch = batches(0, 1, dataset=dataset)[0]
    assert batch.media.shape == (BATCH, 2)
    assert batch.condition.tolist() == [index % 2 for index in batch.index.tolist()]
    assert batch.mask.sum(1).tolist() == [index + 1 for index in batch.index.tolist()]
    assert batches(0, 1)[0].mask is None


def test_a_sample_that_is_masked_as_a_whole_is_refused_with_its_row():
    item = {"media": torch.zeros(2), "condition": 0, "index": 17, "mask": torch.zeros(5, dtype=torch.bool)}
    with pytest.raises(ValueError, match="sample 17 of the data set is masked as a whole"):
        collate([item])


def test_a_batch_moves_as_a_whole():
    batch = Batch(torch.zeros(2, 3), torch.zeros(2), torch.arange(2), torch.ones(2, 3, dtype=torch.bool))
    moved = batch.to("meta")
    devices = {getattr(moved, name).device.type for name in ("media", "condition", "index", "mask")}
    assert devices == {"meta"}
    assert Batch(torch.zeros(2, 3), torch.zeros(2), torch.arange(2)).to("meta").mask is None


class Broken(Numbers):
    """No row can be read."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def item(self, index, rng):
        raise self.error


@every_row("num_workers", [0, 1])
def test_an_error_of_the_data_set_comes_from_a_worker_as_it_was(num_workers):
    error = ValueError("two files:\n  a.png: 3 bytes\n  b.png: 4 bytes\nnothing was left out")
    with pytest.raises(ValueError) as caught:
        batches(0, 1, dataset=Broken(error), num_workers=num_workers)
    assert str(caught.value) == str(error)
