"""Captions are true, varied and English, and do not tell more than the clip shows."""

import re

import numpy as np
import pytest

from motion.moves.actions import CLASSES, render
from motion.moves.captions import PER_CLIP, PHRASES, captions_of

ROWS = range(len(CLASSES) * 24)
WORDS = {  # what captions of a clip with that detail say, one of them each
    ("speed", "slow"): r"slow|strolls|ambles|carefully|jogs|jogging|calmly",
    ("speed", "fast"): r"quick|fast|brisk|hurr|sprint|races|dashes|rapidly|excite",
    ("course", "circle"): r"circle",
    ("course", "curve"): r"curve|turns to the|veering|bearing",
    ("course", "straight"): r"straight|forward|ahead",
    ("amount", "quarter"): r"quarter|90",
    ("amount", "half"): r"around|180|half",
    ("way", "ahead"): r"forward|ahead|front",
    ("hands", "both"): r"both|two",
    ("hands", "one"): r"hand",
    ("end", "rises"): r"up|rises",
    ("count", 2): r"twice|two times|2 times",
    ("count", 3): r"three times|3 times",
}
SIDED = ("sidestep", "turn", "wave", "punch", "kick")


@pytest.fixture(scope="module")
def shown():
    """Facts and captions of each clip."""
    _, facts = render("train", ROWS, 61, np.full(len(ROWS), 50))
    return [(each, captions_of(each, "train", row)) for row, each in zip(ROWS, facts, strict=True)]


def test_captions_tell_every_detail(shown):
    seen = set()
    for facts, captions in shown:
        assert len(captions) == len(set(captions)) == PER_CLIP
        for key, value in facts.details.items():
            if (key, value) in WORDS:
                seen.add((key, value))
                assert all(re.search(WORDS[key, value], text) for text in captions), (facts, captions)
    assert seen == set(WORDS)


def test_captions_name_the_side_and_never_the_other(shown):
    for facts, captions in shown:
        other = {"left": "right", "right": "left"}[facts.side]
        named = facts.action in SIDED or facts.details.get("course") in ("curve",)
        for text in captions:
            assert not re.search(rf"\b{other}\b", text), (facts, text)
            assert not named or facts.side in text, (facts, text)
        if facts.details.get("course") == "circle":
            wrong = {"left": r"\bclockwise", "right": "counterclockwise"}[facts.side]
            assert not any(re.search(wrong, text) for text in captions), (facts, captions)


def test_captions_are_sentences_of_their_action(shown):
    for _, captions in shown:
        for text in captions:
            assert re.fullmatch(r"[a-z0-9, ]+", text) and "  " not in text and text == text.strip()
            assert 3 <= len(text.split()) <= 16, text
    texts = {name: {text for facts, captions in shown if facts.action == name for text in captions} for name in CLASSES}
    assert all(len(found) > 50 for found in texts.values()), {name: len(found) for name, found in texts.items()}
    assert list(PHRASES) == CLASSES
    for name, found in texts.items():
        assert not any(found & texts[other] for other in CLASSES if other != name), name
