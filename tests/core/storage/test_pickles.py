"""Pickles of others: plain values and arrays are read, anything else is refused and never executed."""

import pickle
from collections import OrderedDict

import numpy as np
import pytest

from core.storage.pickles import read_object_array, read_pickle
from tests.rows import every_row


class Harmful:
    """An object that would run something when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_plain_values_come_back(tmp_path):
    value = {"walk": 3, "list": ["a", 2.5, None, True, ("t", 1)], "deep": {"x": {"y": [1, 2, 3]}}}
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        (tmp_path / "x.pkl").write_bytes(pickle.dumps(value, protocol))
        assert read_pickle(tmp_path / "x.pkl") == value


def test_a_dict_of_arrays_comes_back(tmp_path):
    motion = np.arange(24, dtype=np.float64).reshape(2, 3, 4)
    content = {"motion": motion, "text": ["a", "b"], "lengths": np.array([3, 4]), "num_samples": np.int64(2)}
    np.save(tmp_path / "results.npy", content)
    found = read_object_array(tmp_path / "results.npy")
    assert found["text"] == content["text"] and found["num_samples"] == 2
    np.testing.assert_array_equal(found["motion"], motion)
    np.testing.assert_array_equal(found["lengths"], content["lengths"])


def test_what_would_run_something_is_refused_and_runs_nothing(tmp_path):
    made = tmp_path / "made"
    (tmp_path / "x.pkl").write_bytes(pickle.dumps([1, Harmful(made)]))
    np.save(tmp_path / "x.npy", {"motion": Harmful(made)})
    with pytest.raises(ValueError, match=r"x\.pkl is refused, it holds more than plain values: .*open"):
        read_pickle(tmp_path / "x.pkl")
    with pytest.raises(ValueError, match=r"x\.npy is refused, it holds more than plain values: .*open"):
        read_object_array(tmp_path / "x.npy")
    assert not made.exists()


@every_row(
    ("content", "words"),
    [
        (pickle.dumps(OrderedDict(a=1)), "refused.*collections.OrderedDict"),
        (pickle.dumps(np.ones(3)), "refused.*_reconstruct"),
        (pickle.dumps({"a": 1})[:-4], "truncated or damaged"),
        (b"no pickle", "truncated or damaged"),
        (b"", "truncated or damaged"),
    ],
)
def test_other_pickles_are_refused(tmp_path, content, words):
    (tmp_path / "x.pkl").write_bytes(content)
    with pytest.raises(ValueError, match=rf"x\.pkl is {words}"):
        read_pickle(tmp_path / "x.pkl")


def test_other_arrays_are_refused(tmp_path):
    np.save(tmp_path / "numbers.npy", np.ones(3))
    np.save(tmp_path / "several.npy", np.array([{"a": 1}, {"b": 2}]))
    for name, words in (("numbers", "it is an array of float64, no Python object"), ("several", "no single object")):
        with pytest.raises(ValueError, match=rf"{name}\.npy is truncated or damaged: .*{words}"):
            read_object_array(tmp_path / f"{name}.npy")
    with pytest.raises(ValueError, match=r"absent\.npy is not there"):
        read_object_array(tmp_path / "absent.npy")
