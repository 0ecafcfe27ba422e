"""Captions of motions: lines with words, parts of speech and times."""

import pytest

from motion.datasets.splits import check_apart, read_split
from motion.datasets.texts import read_descriptions
from tests.rows import every_row


def test_a_line_is_a_caption_its_words_and_its_seconds(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text(
        "a cafe\u0301.#a/DET cafe\u0301/NOUN#0.0#0.0\n\nhe sits.#he/PRON sit/VERB#nan#nan\nx#y/Z#1.25#2.5\n"
    )
    whole, nan, part = read_descriptions(file)
    assert whole.caption == "a caf\u00e9." and whole.whole and nan.whole and not part.whole
    assert nan.tokens == ["he/PRON", "sit/VERB"]
    assert whole.rows(20, 77) == (0, 77) and part.rows(20, 77) == (25, 25) and part.rows(20, 30) == (25, 5)


@every_row(
    ("content", "words"),
    [
        ("", "is empty; needed: a line caption#word/POS"),
        ("only a caption\n", "line 1 is 'only a caption'; needed: caption#word/POS word/POS#start#end"),
        ("fine#fine/ADJ#0#0\n#a/DET#0#0\n", "line 2 is '#a/DET#0#0'"),
        ("x#y/Z#soon#0\n", "line 1: the time 'soon' is no number"),
        ("x#y/Z#-1#0\n", "line 1: the time '-1' is none"),
        ("x#y/Z#inf#0\n", "the time 'inf' is none"),
        (b"\xff\xfe", "is not UTF-8 text"),
    ],
)
def test_what_is_no_caption_is_refused_with_its_place(content, words, tmp_path):
    file = tmp_path / "000021.txt"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError) as raised:
        read_descriptions(file)
    assert words in str(raised.value) and "000021.txt" in str(raised.value)


@every_row(
    ("content", "words"),
    [
        (None, "data.split is 'train': there is no file"),
        ("000001\n000001\n", "names 1 motions twice"),
        ("\n", "is empty"),
        ("000001\n../secret\n", "name 2 is '../secret'"),
    ],
)
def test_lists_that_are_none(content, words, tmp_path):
    (tmp_path / "val.txt").write_text("000002\n")
    if content is not None:
        (tmp_path / "train.txt").write_text(content)
    with pytest.raises(ValueError) as raised:
        read_split(tmp_path, "train")
    assert words in str(raised.value)
    assert content is not None or "lists there: val" in str(raised.value)


def test_a_motion_and_its_mirror_image_are_in_one_split(tmp_path):
    (tmp_path / "val.txt").write_text("000002\n")
    check_apart(tmp_path, "train", ["000001", "M000001", "Move2"])
    check_apart(tmp_path, "all", ["000002"])
    with pytest.raises(ValueError, match=r"1 motions of train.txt, or their mirror images, are in val.txt too"):
        check_apart(tmp_path, "train", ["000001", "M000002"])
