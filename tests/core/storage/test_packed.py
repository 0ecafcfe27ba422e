"""Files of tensors that we lay out ourselves: the bytes of safetensors', and what disk and caller may do meanwhile."""

import hashlib

import pytest
import torch
from safetensors.torch import save

import core.storage.packed
from core.storage.packed import Kind, Packed, save_file
from tests.core.storage.states import assert_same_state, state

EVERY_KIND = {f"{number}": torch.arange(3).to(dtype) for number, dtype in enumerate(core.storage.packed.TYPES)}
STATES = [state(), EVERY_KIND, {'ü "quoted"\n': torch.ones(()), "b" * 300: torch.ones(5, 0, 2)}, {}]


@pytest.mark.parametrize("block", [1, 48, core.storage.packed.BLOCK])
def test_the_bytes_are_those_of_safetensors_whatever_memory_is_taken_at_once(tmp_path, monkeypatch, block):
    monkeypatch.setattr(core.storage.packed, "BLOCK", block)
    monkeypatch.setattr(core.storage.packed, "CHUNK", 7)
    for number, tensors in enumerate(STATES):
        facts, expected = save_file(tensors, tmp_path / str(number)), save(_contiguous(tensors))
        assert (tmp_path / str(number)).read_bytes() == expected
        assert facts == {"bytes": len(expected), "sha256": hashlib.sha256(expected).hexdigest()}


def _contiguous(tensors):
    return {name: value.clone(memory_format=torch.contiguous_format) for name, value in tensors.items()}


def test_memory_is_filled_again_without_being_taken_again(tmp_path):
    packed, places = Packed(Kind.of(state())), []
    for seed in (0, 1):
        for name, value in state(seed).items():
            packed.views[name].copy_(value)
        assert_same_state(packed.views, state(seed))
        places.append([block.data_ptr() for block in packed.blocks])
        save_file(packed, tmp_path / "file")
        assert (tmp_path / "file").read_bytes() == save(_contiguous(state(seed)))
    assert places[0] == places[1]


def test_a_disk_that_gives_back_something_else_is_told(tmp_path, monkeypatch):
    write = core.storage.packed._write
    wrong = {"changed": lambda piece: bytes([piece[0] ^ 1, *piece[1:]]), "cut": lambda piece: bytes(piece[:-1])}
    for name, spoil in wrong.items():
        monkeypatch.setattr(
            core.storage.packed, "_write", lambda opened, piece, spoil=spoil: write(opened, spoil(piece))
        )
        with pytest.raises(OSError, match=f"{name} is not what was written"):
            save_file(state(), tmp_path / name)


def test_a_caller_ends_the_writing_between_two_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(core.storage.packed, "CHUNK", 8)
    calls = iter(range(100))

    def check():
        if next(calls) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_file(state(), tmp_path / "file", check)
    assert 0 < (tmp_path / "file").stat().st_size < len(save(_contiguous(state())))


def test_a_tensor_that_no_file_holds_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"tensor 'wide' is torch\.complex128; a checkpoint holds uint64, "):
        save_file({"wide": torch.zeros(2, dtype=torch.complex128)}, tmp_path / "file")
