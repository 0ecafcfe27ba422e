"""Captions of prepared clips: their format, those of a mirror, and where they come from."""

import zipfile

import pytest

from motion.preparation.layout import Layout
from motion.preparation.takes import Span
from motion.preparation.texts import LARGEST, Texts, formatted, mirrored, part, write_texts
from tests.rows import every_row


@every_row(
    ("line", "expected"),
    [
        ("a man walks.", "a man walks.#a/OTHER man/OTHER walks/OTHER#0.0#0.0"),
        ("A man's #1 jump", "A man's  1 jump#a/OTHER man's/OTHER 1/OTHER jump/OTHER#0.0#0.0"),
        ("walks#walk/VERB#1.5#4.0", "walks#walk/VERB#1.5#4.0"),
        ("über die Brücke", "über die Brücke#über/OTHER die/OTHER brücke/OTHER#0.0#0.0"),
    ],
)
def test_a_caption_alone_gets_its_words_and_the_whole_clip(line, expected):
    assert formatted(line) == expected


@every_row(
    ("line", "expected"),
    [
        ("left leg, right arm", "right leg, left arm"),
        ("Left, RIGHT; lefts", "Right, LEFT; rights"),
        ("turns left#turn/VERB left/ADV#0.0#0.0", "turns right#turn/VERB right/ADV#0.0#0.0"),
        ("left_hand and right-handed", "right_hand and left-handed"),
        ("walks clockwise, then counterclockwise", "walks counterclockwise, then clockwise"),
        ("anti-clockwise and counter clockwise", "clockwise and clockwise"),
        ("leftover brightness, upright", "leftover brightness, upright"),
    ],
)
def test_a_mirror_has_left_and_right_exchanged(line, expected):
    assert mirrored(line) == expected
    if "anti" not in line:
        assert mirrored(expected) == line


@every_row(
    ("seconds", "expected"),
    [
        ("0.0#0.0", "0.0#0.0"),
        ("nan#nan", "nan#nan"),
        ("12.0#15.5", "2.000#5.500"),
        ("5.0#12.0", "0.000#2.000"),
        ("5.0#25.0", "0.0#0.0"),
        ("0.0#10.5", None),
        ("20.0#22.0", None),
        ("soon#late", "soon#late"),
    ],
)
def test_captions_of_a_part_are_about_its_own_seconds(seconds, expected):
    found = part(f"walks#walk/VERB#{seconds}", Span("take", 10.0, 20.0))
    assert found == (None if expected is None else f"walks#walk/VERB#{expected}")


def test_texts_of_a_folder_and_of_a_zip_are_the_same(tmp_path):
    (tmp_path / "texts" / "walks").mkdir(parents=True)
    (tmp_path / "texts" / "walks" / "a.txt").write_text("\ufeffgoes left\n\n", encoding="utf-8")
    (tmp_path / "texts" / "b.txt").write_text("\n")
    with zipfile.ZipFile(tmp_path / "texts.zip", "w") as archive:
        archive.writestr("texts/walks_a.txt", "\ufeffgoes left\n\n")
        archive.writestr("texts/b.txt", "\n")
        archive.writestr("__MACOSX/texts/._b.txt", b"\xff")
    found = {}
    for source in (tmp_path / "texts", tmp_path / "texts.zip"):
        layout = Layout(tmp_path / f"out of {source.name}")
        without = write_texts(Texts(source), layout, ["walks_a", "Mwalks_a", "b", "c"], {})
        assert without == ["b", "c"]
        found[source.name] = {file.name: file.read_text() for file in layout.texts.iterdir()}
    expected = {"walks_a.txt": "goes left#goes/OTHER left/OTHER#0.0#0.0\n"}
    expected["Mwalks_a.txt"] = expected["walks_a.txt"].replace("left", "right")
    assert found["texts"] == found["texts.zip"] == expected


def test_what_are_no_texts_is_refused(tmp_path):
    (tmp_path / "none").mkdir()
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "a.txt").write_bytes(b"\xff\xfe")
    (tmp_path / "some" / "b.txt").write_text("x" * (LARGEST + 1))
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.txt", "x" * (LARGEST + 1))
    rows = {
        "needed: a folder of text files, or a zip": lambda: Texts(tmp_path / "absent"),
        "holds no .txt file": lambda: Texts(tmp_path / "none"),
        "a.txt is no text in UTF-8": lambda: Texts(tmp_path / "some").read("a"),
        "b.txt is a text file of more than": lambda: Texts(tmp_path / "some").read("b"),
        "bomb.zip: a.txt is a text file of more than": lambda: Texts(tmp_path / "bomb.zip"),
    }
    for words, read in rows.items():
        with pytest.raises(ValueError, match=words):
            read()
