"""Word vectors and parts of speech, from files as they are published."""

import pickle

import numpy as np
import pytest
import torch

from motion.encoders.words import PARTS, WordVectors, plain_tokens
from tests.motion.encoders.published import write_words
from tests.rows import every_row

WORDS = ["sos", "eos", "unk", "walk", "person", "left", "slowly", "the"]


@pytest.fixture
def vectors(tmp_path):
    """A vocabulary of 8 words of 6 numbers."""
    write_words(tmp_path, WORDS, 6)
    return WordVectors.read(tmp_path)


@every_row(
    ("token", "word", "part"),
    [
        ("person/NOUN", "person", "NOUN"),
        ("walk/VERB", "walk", "Act_VIP"),  # the lists come before what the token says
        ("left/ADJ", "left", "Loc_VIP"),
        ("slowly/ADV", "slowly", "Desc_VIP"),
        ("the/X", "the", "OTHER"),  # a part that is none of the 15
        ("zombie/NOUN", "unk", "OTHER"),  # a word without a vector loses its part as well
        ("kick/VERB", "unk", "OTHER"),  # even one of the lists
        ("walk", "walk", "Act_VIP"),
        ("person", "person", "OTHER"),
        ("either/or/NOUN", "unk", "OTHER"),
    ],
)
def test_a_token_is_a_word_and_a_part_of_speech(vectors, token, word, part):
    place, number = vectors.token(token)
    assert (WORDS[place], PARTS[number]) == (word, part)


def test_captions_stand_between_their_ends_and_are_padded(vectors):
    words, parts, lengths = vectors.embed([["the/DET", "person/NOUN"], ["walk/VERB"] * 30])
    assert lengths.tolist() == [4, 22] and words.shape == (2, 22, 6) and parts.shape == (2, 22, 15)
    of = {word: torch.from_numpy(vectors.vectors[place]) for word, place in vectors.places.items()}
    assert torch.equal(words[0, :4], torch.stack([of["sos"], of["the"], of["person"], of["eos"]]))
    assert not words[0, 4:].any() and not parts[0, 4:].any() and (parts[1].sum(-1) == 1).all()
    assert parts[0, :4].argmax(-1).tolist() == [14, 2, 1, 14] and torch.equal(words[1, 21], of["eos"])


def test_a_caption_without_tokens_has_words_of_no_part():
    assert plain_tokens("A person's hand, slowly!") == ("a/OTHER", "person's/OTHER", "hand/OTHER", "slowly/OTHER")
    assert plain_tokens("...") == ()


def test_an_empty_caption_is_its_ends(vectors):
    words, _, lengths = vectors.embed([[], []])
    assert lengths.tolist() == [2, 2] and words.shape == (2, 2, 6)


def test_damaged_files_are_refused(tmp_path):
    def refused(file, content, words):
        write_words(tmp_path, WORDS, 6)
        (tmp_path / file).write_bytes(content)
        with pytest.raises(ValueError, match=rf"{file} {words}"):
            WordVectors.read(tmp_path)

    refused("our_vab_idx.pkl", pickle.dumps({"walk": 99}), "is no mapping from words to rows below 8")
    refused("our_vab_idx.pkl", pickle.dumps(["walk"]), "is no mapping")
    refused("our_vab_words.pkl", pickle.dumps(["walk", "jump"]), "is no list of the words in our_vab_idx.pkl")
    refused("our_vab_words.pkl", pickle.dumps(["walk"]), "lacks unk, sos, eos")
    refused("our_vab_words.pkl", pickle.dumps(np.array(["walk"])), "is refused, it holds more than plain values")
    np.save(tmp_path / "x.npy", np.full((8, 6), np.nan))
    refused("our_vab_data.npy", (tmp_path / "x.npy").read_bytes(), r"is float64 \(8, 6\); needed: finite vectors")
