"""Values as words of a command line: hydra reads back what was written, through its parser and through an entry."""

import random
from datetime import date

import pytest

from core.commands.entry import compose_config
from core.commands.overrides import override, read_overrides
from image.train import ENTRY
from tests.rows import every_row

LOOK_LIKE = [
    "",
    " ",
    "2024",
    "1e3",
    "1.",
    ".5",
    "true",
    "NULL",
    "null",
    "nan",
    "-inf",
    "-5",
    "1_000",
    "007",
    "~",
    "???",
]
SPECIAL = [
    "a\\",
    "\\",
    "\\\\",
    "'",
    '"',
    "\\'",
    '\\"',
    "${seed}",
    "\\${seed}",
    "\\\\${seed}",
    "${",
    "$",
    "{a: 1}",
    "[1]",
]
CALLS = ["choices(a,b)", "range(1,3)", "glob(*)", "a,b=c", "a: b", " a ", "\t", "a\nb", "größe", "日本", "\x00", "x#y"]
PIECES = ["\\", "$", "{", "}", "${", "'", '"', "a", " ", ",", "=", "[", "]", ":", "\n", "\t", "é", "?", "%", "#", "("]
PIECES += [")", "x", "0", "_", "-", ".", "oc.env:A", "~", "+", "@", "|", "\\${", "\U0001f600", "???"]


def texts(count):
    """Texts of special characters, the same each time."""
    draw = random.Random(0)
    return ["".join(draw.choices(PIECES, k=draw.randint(0, 9))) for _ in range(count)]


TEXTS = [*LOOK_LIKE, *SPECIAL, *CALLS, *texts(500)]


def test_every_text_is_read_back_by_hydras_parser():
    wrong = [text for text in TEXTS if read_overrides([override("data.root", text)]) != {"data.root": text}]
    assert wrong == []


def test_every_text_goes_through_composing_alone_in_a_list_and_in_a_mapping():
    words = [override(f"+k{i}", text) for i, text in enumerate(TEXTS)]
    nested = {"a": [TEXTS, [None, True, 1, -0.5]], "b c": {"1x": {}, "d": []}, "x=y": 1, "e.f": "null"}
    values = compose_config("image.conf", "train", [*words, override("+list", TEXTS), override("+nested", nested)])
    assert [values[f"k{i}"] for i in range(len(TEXTS))] == TEXTS
    assert (values["list"], values["nested"]) == (TEXTS, nested)


@pytest.mark.parametrize("text", ["2024", "${name}", "???", "a\tb\\"])
def test_text_reaches_a_config_as_text(text):
    word = override("tracking.wandb_project", text)
    assert ENTRY.config([word, "tracking.tensorboard=off"]).tracking.wandb_project == text


@every_row(
    ("value", "word"),
    [
        ("runs/a-b_c.1", "k=runs/a-b_c.1"),
        ("two words", 'k="two words"'),
        ("2024", 'k="2024"'),
        (2024, "k=2024"),
        (1e-5, "k=1e-05"),
        (True, "k=true"),
        (None, "k=null"),
        ([0.9, "a", [1, 2]], 'k=[0.9, "a", [1, 2]]'),
        ((1, 2), "k=[1, 2]"),
        ({"a": 1, 2: [None]}, "k={a: 1, 2: [null]}"),
    ],
)
def test_a_word_is_as_a_person_would_write_it(value, word):
    assert override("k", value) == word
    read = read_overrides([word])["k"]
    assert read == (list(value) if isinstance(value, tuple) else value)
    assert type(read) is (list if isinstance(value, tuple) else type(value))


@every_row("value", [float("inf"), float("-inf"), 10**30, 1e300, -0.0])
def test_numbers_are_read_back_whatever_they_are(value):
    assert repr(read_overrides([override("k", value)])["k"]) == repr(value)


@every_row(
    ("value", "part"),
    [
        (date(2026, 1, 31), "of type date"),
        ([{1, 2}], "of type set"),
        (b"a", "of type bytes"),
        ({"1": 0}, "the key '1'"),
        ({"": 0}, "the key ''"),
        ({'a"': 0}, "the key"),
    ],
)
def test_what_no_command_line_can_hold_is_told(value, part):
    with pytest.raises(ValueError, match=r"^k ") as caught:
        override("k", value)
    assert part in str(caught.value)


@every_row("word", ["a", "~a", "a=1,2", "a=[1", "a=${b}", "a='${'", "a=range(1,3)"])
def test_a_word_that_is_no_single_value_is_told(word):
    with pytest.raises(ValueError) as caught:
        read_overrides([word])
    assert repr(word) in str(caught.value) and "\n" not in str(caught.value)


def test_the_signs_of_a_key_stay_and_escapes_are_read():
    assert read_overrides(["+a=1", "++b=x", r"c='\${d}'"]) == {"+a": 1, "++b": "x", "c": "${d}"}
