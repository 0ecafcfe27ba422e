"""Captions as the text-to-motion evaluators read them: word vectors and parts of speech, one-hot.

A token is `word/PART`, as the texts of HumanML3D have them; a word of one of the lists below has the list's part
instead, and a word without a vector is `unk` of part OTHER. A caption is its first 20 tokens between `sos` and `eos`.

Letters: B captions, L tokens of the longest, V words, W numbers of a word vector, P = 15 parts of speech.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from core.storage.arrays import read_array
from core.storage.pickles import read_pickle

VECTORS, INDEX, WORDS = "our_vab_data.npy", "our_vab_idx.pkl", "our_vab_words.pkl"
LONGEST = 20  # tokens of a caption
START, END, UNKNOWN = "sos/OTHER", "eos/OTHER", "unk"
OTHER = "OTHER"
LISTS = {
    "Loc_VIP": "left right clockwise counterclockwise anticlockwise forward back backward up down straight curve",
    "Body_VIP": "arm chin foot feet face hand mouth leg waist eye knee shoulder thigh",
    "Obj_VIP": "stair dumbbell chair window floor car ball handrail baseball basketball",
    "Act_VIP": (
        "walk run swing pick bring kick put squat throw hop dance jump turn stumble stop sit lift lower raise wash "
        "stand kneel stroll rub bend balance flap jog shuffle lean rotate spin spread climb"
    ),
    "Desc_VIP": "slowly carefully fast careful slow quickly happy angry sad happily angrily sadly",
}
PARTS = ("VERB", "NOUN", "DET", "ADP", "NUM", "AUX", "PRON", "ADJ", "ADV", *LISTS, OTHER)
PART_OF_WORD = {word: part for part, words in LISTS.items() for word in words.split()}


@dataclass(frozen=True)
class WordVectors:
    """The vectors of all known words.

    vectors  (V, W) float32
    places   the row of each word
    """

    vectors: np.ndarray
    places: dict[str, int]

    @classmethod
    def read(cls, folder: Path) -> WordVectors:
        """The published `our_vab_data.npy`, `our_vab_idx.pkl` and `our_vab_words.pkl` in a folder.

        Raises ValueError, naming the file, for one that is missing, damaged, refused, or fits no other.
        """
        vectors, places = read_array(folder / VECTORS), read_pickle(folder / INDEX)
        words = read_pickle(folder / WORDS)
        if vectors.ndim != 2 or not np.isfinite(vectors).all():
            raise ValueError(f"{folder / VECTORS} is {vectors.dtype} {vectors.shape}; needed: finite vectors (V, W)")
        if not isinstance(places, dict) or not all(_is_place(each, len(vectors)) for each in places.items()):
            raise ValueError(f"{folder / INDEX} is no mapping from words to rows below {len(vectors)}")
        if not isinstance(words, list) or not set(words) <= places.keys():
            raise ValueError(f"{folder / WORDS} is no list of the words in {INDEX}")
        lacking = [word for word in (UNKNOWN, "sos", "eos") if word not in set(words)]
        if lacking:
            raise ValueError(f"{folder / WORDS} lacks {', '.join(lacking)}")
        return cls(vectors.astype(np.float32), {word: places[word] for word in words})

    @property
    def size(self) -> int:
        """W."""
        return self.vectors.shape[1]

    def token(self, token: str) -> tuple[int, int]:
        """The row of a token's word and the number of its part of speech."""
        word, _, part = token.rpartition("/")
        word, part = (word, part) if word else (part, OTHER)
        if word not in self.places:
            return self.places[UNKNOWN], PARTS.index(OTHER)
        part = PART_OF_WORD.get(word, part)
        return self.places[word], PARTS.index(part if part in PARTS else OTHER)

    def embed(self, captions: Sequence[Sequence[str]]) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens of B captions -> word vectors (B, L, W), parts of speech (B, L, P), lengths (B,) with both ends."""
        framed = [[START, *tokens[:LONGEST], END] for tokens in captions]
        lengths = torch.tensor([len(tokens) for tokens in framed])
        words = torch.zeros(len(framed), int(lengths.max()), self.size)
        parts = torch.zeros(*words.shape[:2], len(PARTS))
        for row, tokens in enumerate(framed):
            places, kinds = zip(*(self.token(token) for token in tokens), strict=True)
            words[row, : len(tokens)] = torch.from_numpy(self.vectors[list(places)])
            parts[row, torch.arange(len(tokens)), torch.tensor(kinds)] = 1.0
        return words, parts, lengths


def _is_place(item: tuple[object, object], count: int) -> bool:
    word, place = item
    return isinstance(word, str) and type(place) is int and 0 <= place < count


def plain_tokens(caption: str) -> tuple[str, ...]:
    """The words of a caption of which no one has written down the parts of speech: all OTHER, but for the lists."""
    return tuple(f"{word}/{OTHER}" for word in re.findall(r"[a-z0-9]+(?:'[a-z]+)?", caption.lower()))
