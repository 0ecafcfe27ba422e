"""Arrays are read as they were written, or refused with the file's name: never another number, no hang, no memory."""

import io
import os
import zipfile

import numpy as np
import pytest

from core.storage.arrays import map_array, npz_array, npz_keys, read_array
from tests.rows import every_row

NUMBERS = np.arange(12.0).reshape(3, 4)
ARRAYS = {
    "numbers": NUMBERS,
    "fortran": np.asfortranarray(NUMBERS),
    "text": np.array("text"),
    "scalar": np.int64(5),
    "empty": np.zeros((3, 0)),
    "bytes": np.random.default_rng(0).integers(0, 256, (50, 32, 32, 3), np.uint8),
}


def npy(array, shape=None, **header):
    """The bytes of an .npy whose header says `shape` and `header` instead of the truth."""
    content = io.BytesIO()
    fields = np.lib.format.header_data_from_array_1_0(array) | ({} if shape is None else {"shape": shape}) | header
    np.lib.format.write_array_header_1_0(content, fields)
    return content.getvalue() + array.tobytes()


def packed(path, content, method=zipfile.ZIP_STORED, name="x.npy"):
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr(name, content)
    return path


@every_row("save", [np.savez, np.savez_compressed])
def test_arrays_of_every_kind_come_back(tmp_path, save):
    save(tmp_path / "a.npz", **ARRAYS)
    assert set(npz_keys(tmp_path / "a.npz")) == set(ARRAYS)
    for name, written in ARRAYS.items():
        read = npz_array(tmp_path / "a.npz", name)
        np.testing.assert_array_equal(read, written, strict=True)
        np.save(tmp_path / "a.npy", written)
        np.testing.assert_array_equal(read_array(tmp_path / "a.npy"), written, strict=True)
        np.testing.assert_array_equal(map_array(tmp_path / "a.npy"), written, strict=True)


def test_what_is_not_compressed_stays_on_the_disk(tmp_path):
    np.savez(tmp_path / "a.npz", **ARRAYS)
    np.savez_compressed(tmp_path / "b.npz", **ARRAYS)
    assert isinstance(npz_array(tmp_path / "a.npz", "bytes"), np.memmap)
    assert not isinstance(npz_array(tmp_path / "b.npz", "bytes"), np.memmap)


def test_an_array_that_lost_its_name_is_not_passed_over(tmp_path):
    np.savez(tmp_path / "a.npz", x=NUMBERS, labels=NUMBERS)
    content = (tmp_path / "a.npz").read_bytes()
    place = content.rindex(b"labels.npy")  # in the table of contents, which has no checksum
    (tmp_path / "a.npz").write_bytes(content[:place] + b"lobels" + content[place + 6 :])
    with pytest.raises(ValueError, match=r"a\.npz is truncated or damaged.*differ"):
        npz_keys(tmp_path / "a.npz")


@every_row("save", [np.savez, np.savez_compressed])
def test_a_flipped_bit_is_found_wherever_it_is(tmp_path, save):
    """Or it is in a name or a date, and the numbers are right."""
    save(tmp_path / "a.npz", x=NUMBERS)
    whole, refused = (tmp_path / "a.npz").read_bytes(), 0
    for place in range(0, 8 * len(whole), 11):
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        (tmp_path / "b.npz").write_bytes(damaged)
        try:
            read = npz_array(tmp_path / "b.npz", "x")
        except ValueError as error:
            assert "b.npz" in str(error)
            refused += 1
        else:
            np.testing.assert_array_equal(read, NUMBERS, strict=True)
    assert refused > len(whole) / 4


SHAPES = [(1_000_000, 256, 256, 3), (2**62, 4), (3, 5), (3, 3), (), (-3, -4), (3, 4, 10**30)]


@every_row("shape", SHAPES)
def test_a_header_that_lies_is_refused_before_memory_is_taken(tmp_path, shape):
    content = npy(NUMBERS, shape)
    (tmp_path / "a.npy").write_bytes(content)
    files = [
        packed(tmp_path / f"{method}.npz", content, method) for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    ]
    reads = [lambda: read_array(tmp_path / "a.npy"), lambda: map_array(tmp_path / "a.npy")]
    for read in reads + [lambda file=file: npz_array(file, "x") for file in files]:
        with pytest.raises(ValueError, match=r"np[yz] is truncated or damaged: its header says float64 .* are there"):
            read()


@every_row(
    ("content", "message"),
    [
        (npy(np.zeros((0, 3)), (10**12, 0)), "without a number in it"),
        (npy(np.zeros(0, "V0"), (10**12,), descr="|V0"), "are there"),
        (npy(np.array([0]), descr="|O"), "Object arrays are not read"),
        (b"\x93NUMPY\x03\x00" + npy(NUMBERS)[8:], "its version is"),
        (b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65535, "damaged"),
        (b"\x93NUMPY\x01\x00\xf0\x00" + b"(" * 240, "damaged"),
        (b"", "damaged"),
        (b"<html>", "damaged"),
    ],
)
def test_headers_that_are_built_to_harm_are_refused(tmp_path, content, message):
    (tmp_path / "a.npy").write_bytes(content)
    for read in (read_array, map_array):
        with pytest.raises(ValueError, match=rf"a\.npy .*{message}"):
            read(tmp_path / "a.npy")


def test_a_bomb_is_refused_by_its_sizes(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros(1 << 20), y=np.random.default_rng(0).normal(size=1 << 12))
    assert not npz_array(tmp_path / "a.npz", "x").any()  # so little is no harm
    monkeypatch.setattr("core.storage.arrays.LARGEST_FREE", 1 << 14)
    assert len(npz_array(tmp_path / "a.npz", "y")) == 1 << 12
    with pytest.raises(ValueError, match=r"a\.npz .* bytes are to become 8388736 of x, which no array"):
        npz_array(tmp_path / "a.npz", "x")


def test_archives_of_another_kind_are_refused_by_name(tmp_path):
    file = packed(tmp_path / "a.npz", npy(NUMBERS))
    content = bytearray(file.read_bytes())
    for start, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(start) + place] |= 1  # encrypted
    (tmp_path / "locked.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"locked\.npz is truncated or damaged: .*encrypted"):
        npz_array(tmp_path / "locked.npz", "x")
    with zipfile.ZipFile(file, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("x.npy", npy(NUMBERS + 1))
    with pytest.raises(ValueError, match=r"a\.npz .*a name stands in it twice"):
        npz_array(file, "x")
    with pytest.raises(ValueError, match=r"b\.npz has no x; it holds: y"):
        npz_array(packed(tmp_path / "b.npz", npy(NUMBERS), name="y.npy"), "x")


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for read in (read_array, map_array, npz_keys):
        with pytest.raises(ValueError, match=r"pipe is no file"):
            read(tmp_path / "pipe")
        with pytest.raises(ValueError, match=r"nothing is not there"):
            read(tmp_path / "nothing")
