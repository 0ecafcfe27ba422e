"""Tensors of every kind that a file must keep, and how two such states are compared."""

import torch


def state(seed=0):
    """Six tensors by name: a matrix, its transpose, half precision, a scalar, flags, and none at all."""
    matrix = torch.randn(4, 3, generator=torch.Generator().manual_seed(seed))
    return {
        "a.weight": matrix,
        "a.transposed": matrix.t(),
        "a.half": matrix.bfloat16(),
        "step": torch.tensor(7 + seed),
        "mask": matrix > 0,
        "empty": torch.zeros(0, 3),
    }


def assert_same_state(actual, expected):
    """Equal names, types and values, bit by bit."""
    assert set(actual) == set(expected)
    for name, value in expected.items():
        assert actual[name].dtype == value.dtype
        assert torch.equal(actual[name], value), name


def names_in(folder):
    """Everything in a folder, hidden files too."""
    return sorted(path.name for path in folder.iterdir())
