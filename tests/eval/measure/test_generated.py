"""Generated media on the disk: the form that they are kept in, and what is made again."""

import pytest
import torch

from core.generate import StoppedError
from core.processes.world import World
from eval.measure.generated import AS_THEY_ARE, ChunkMedia, Chunks, Form
from tests.core.test_generate import LABELS, generator


class Int16(Form):
    rule, floats = "int16: 32767 x, rounded", False

    def store(self, media):
        return (media.clamp(-1, 1) * 32767).round().to(torch.int16)

    def load(self, stored):
        return stored.float() / 32767


INT16 = Int16()


def chunks_of(tmp_path, form, size=3, **identity):
    return Chunks(tmp_path, {"solver": "heun", **identity}, LABELS, size, form)


def make(chunks, stop=lambda: False):
    missing = chunks.begin()
    return sum(chunks.make(generator(), 0, missing, World(), stop))


@pytest.mark.parametrize("size", [1, 3, 100])
def test_media_kept_as_they_are_are_the_generators(tmp_path, size):
    chunks = chunks_of(tmp_path, AS_THEY_ARE, size)
    assert make(chunks) == 7
    media = ChunkMedia(chunks, "a run", "wave")
    expected = generator()(LABELS, 0, 100)
    for first, last in ((0, 7), (2, 5), (6, 7)):
        torch.testing.assert_close(media.rows(first, last), expected[first:last])
    assert torch.equal(media.labels, LABELS)
    assert len(list(chunks.folder.glob("*.npy"))) == -(-7 // size)


def test_media_kept_in_16_bits_come_back_as_floats_near_them(tmp_path):
    chunks = chunks_of(tmp_path, INT16)
    make(chunks)
    expected = generator()(LABELS, 0, 3).clamp(-1, 1)
    found = ChunkMedia(chunks, "a run", "wave").rows(0, 7)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=0.5001 / 32767)
    assert not torch.equal(found, expected)
    assert chunks.file(0).stat().st_size < chunks_bytes(tmp_path) - 3 * 12 * 2 + 1


def chunks_bytes(tmp_path):
    whole = chunks_of(tmp_path, AS_THEY_ARE)
    make(whole)
    return whole.file(0).stat().st_size


def test_another_form_protocol_or_size_has_another_folder(tmp_path):
    folders = {
        chunks.folder
        for chunks in (
            chunks_of(tmp_path, AS_THEY_ARE),
            chunks_of(tmp_path, INT16),
            chunks_of(tmp_path, INT16, size=4),
            chunks_of(tmp_path, INT16, seed=1),
        )
    }
    assert len(folders) == 4


def test_only_what_is_missing_or_damaged_is_made_again(tmp_path):
    chunks = chunks_of(tmp_path, INT16)
    make(chunks)
    before = {path: path.read_bytes() for path in sorted(chunks.folder.glob("*.npy"))}
    chunks.file(1).write_bytes(before[chunks.file(1)][:50])
    chunks.file(2).unlink()
    assert chunks.begin() == [1, 2]
    assert make(chunks) == 4
    assert {path: path.read_bytes() for path in before} == before
    assert chunks.begin(anew=True) == [0, 1, 2]


def test_a_stop_keeps_what_is_whole(tmp_path):
    chunks, turns = chunks_of(tmp_path, INT16), []

    def stop():
        turns.append(None)
        return len(turns) == 3

    with pytest.raises(StoppedError):
        make(chunks, stop)
    assert chunks.begin() == [2]


def test_conditions_that_are_no_classes_are_no_labels(tmp_path):
    chunks = Chunks(tmp_path, {}, torch.zeros(4, 6), 2)
    assert ChunkMedia(chunks, "a run", "wave").labels is None
