"""Published evaluators written to the disk as they are published, with weights of the tests' own."""

import json
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from motion.body.representations import REPRESENTATIONS
from motion.body.skeleton import SKELETONS
from motion.body.statistics import statistics
from motion.encoders.matching import NAMES, MatchingNetworks, MatchingSizes
from motion.encoders.published import EVALUATORS, MATCHING


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


WORDS = ("sos", "eos", "unk", "a", "person", "walk", "walks", "someone", "strolls", "stroll", "kicks", "turns")


def matching_states(numbers: int, word: int = 6, seed: int = 0) -> dict[str, dict[str, Tensor]]:
    """Random weights of the three encoders, as small as they can be."""
    sizes = MatchingSizes(numbers, (8, 6), motion_hidden=10, text_hidden=9, word=word, parts=15, embedding=5)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        networks = MatchingNetworks(sizes)
    return {name: getattr(networks, name).state_dict() for name in NAMES}


def write_statistics(
    folder: Path, rows: np.ndarray, names: tuple[str, str], skeleton: str = "t2m", factor: float = 25
) -> None:
    """Mean and deviation of rows (F, C) as published with an evaluator: root and contacts divided by `factor`."""
    body = SKELETONS[skeleton]
    kind = next(kind for kind in REPRESENTATIONS.values() if kind.size(body) == rows.shape[1])
    found = statistics([torch.from_numpy(rows)], kind, body)
    std = found.std.clone()
    if kind.name == "full":
        for place in (slice(0, 4), slice(-4, None)):
            std[place] /= factor
    for name, values in zip(names, (found.mean, std), strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(folder / name, values.numpy())


def write_evaluator(folder: Path, rows: np.ndarray, name: str = "t2m263") -> Path:
    """The folder of a published evaluator with random weights, with its statistics after `rows`."""
    own = EVALUATORS[name]
    rows = rows[:, : own.numbers]
    write_matching(folder / MATCHING, matching_states(own.numbers - own.cut))
    write_statistics(folder, rows, own.statistics[0], own.skeleton)
    return folder


def write_clip_tokenizer(folder: Path) -> Path:
    """A directory with a CLIP tokenizer of the letters a and b, start 38 and end 39, as transformers saves it."""
    import transformers

    folder.mkdir(parents=True)
    words = {"a</w>": 0, "b</w>": 1, "a": 2, "b": 3, **{f"<{number}>": number for number in range(4, 38)}}
    (folder / "vocab.json").write_text(json.dumps({**words, "<|startoftext|>": 38, "<|endoftext|>": 39}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    tokenizer.save_pretrained(folder)
    return folder
