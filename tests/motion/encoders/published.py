"""Published evaluators written to the disk as they are published, with weights of the tests' own."""

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


def write_matching(path: Path, states: Mapping[str, Mapping[str, Tensor]], epoch: int = 28) -> Path:
    """`finest.tar` of three state dicts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({**states, "epoch": epoch}, path)
    return path


def write_words(folder: Path, words: Sequence[str], size: int) -> Path:
    """The three files of word vectors, as NumPy and pickle write them."""
    folder.mkdir(parents=True, exist_ok=True)
    vectors = np.random.default_rng(0).normal(size=(len(words), size))
    np.save(folder / "our_vab_data.npy", vectors)
    (folder / "our_vab_words.pkl").write_bytes(pickle.dumps(list(words)))
    (folder / "our_vab_idx.pkl").write_bytes(pickle.dumps({word: place for place, word in enumerate(words)}))
    return folder
