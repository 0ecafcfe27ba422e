"""Folders of audio: what belongs to a file, its class, its caption, its split; and the bad inputs of each."""

import pytest
import torch

from core.data.stream import collate
from tests.audio.audio_files import music, write_sound
from tests.audio.datasets.folders import RATE, folder, item, write


def test_folders_are_classes(tmp_path):
    for seed, name in enumerate(["dog/b.wav", "cat/deep/a.flac", "cat/b.wav", "loose.wav", ".x/a.wav"]):
        write_sound(tmp_path / name, music(1.2, RATE, 2, seed), RATE)
    data = folder(tmp_path, classes="folders", window="tiled")
    assert data.class_names == ["cat", "dog"]
    assert data.labels.tolist() == [0, 0, 0, 0, 0, 0, 1, 1, 1]
    assert data.labels.dtype == data.conditions.dtype == torch.int64
    assert collate([{**item(data, index), "index": index} for index in (0, 8)]).condition.tolist() == [0, 1]
    plainly = folder(tmp_path)
    assert (len(plainly), plainly.class_names, plainly.labels) == (4, [], None)
    assert plainly.conditions.tolist() == [0] * 4
    assert (plainly.tag_names, plainly.tag_sets, plainly.captions) == ([], None, None)


def test_classes_without_a_file_are_an_error(tmp_path):
    write(tmp_path, "cat/a.wav", 1)
    (tmp_path / "dog").mkdir()
    with pytest.raises(ValueError, match=r"1 class folders without an audio file, such as \['dog'\]"):
        folder(tmp_path, classes="folders")
    write(tmp_path, "dog/a.wav", 0.15)
    with pytest.raises(ValueError, match=r"every file is broken or shorter than 0.2 s in the classes \['dog'\]"):
        folder(tmp_path, classes="folders", min_seconds=0.2)
    with pytest.raises(ValueError, match="no folders"):
        folder(tmp_path / "cat", classes="folders")


TABLES = {
    "captions.csv": 'path,caption\nb/2.wav,"slow, sad piano"\na.wav, drums \n',
    "captions.jsonl": '{"path": "./a.wav", "caption": "drums"}\n{"path": "b/2.wav", "caption": "slow, sad piano"}\n',
}


@pytest.mark.parametrize("source", ["txt", *TABLES])
def test_captions_belong_to_their_files(tmp_path, source):
    write(tmp_path, "a.wav", 1.2)
    write(tmp_path, "b/2.wav", 0.7)
    if source == "txt":
        (tmp_path / "a.txt").write_text("drums\n")
        (tmp_path / "b" / "2.txt").write_text("slow, sad piano")
    else:
        (tmp_path / source).write_text(TABLES[source])
    data = folder(tmp_path, captions=source, window="tiled")
    assert data.captions == ["drums"] * 3 + ["slow, sad piano"] * 2


@pytest.mark.parametrize(
    ("source", "content", "message"),
    [
        ("c.csv", "path,caption\na.wav,drums\n", r"1 of 2 files have no caption, such as \['b.wav'\]"),
        ("c.csv", "path,caption\na.wav,drums\nb.wav,\n", r"1 of 2 files have no caption, such as \['b.wav'\]"),
        (
            "c.csv",
            "file,text\na.wav,drums\n",
            r"c.csv, line 1 is .*; needed: a header with the columns path and caption",
        ),
        ("c.jsonl", '{"path": "a.wav", "caption": "x"}\n{"path"\n', r"c.jsonl, line 2 is not JSON"),
        ("c.jsonl", '{"path": "a.wav", "caption": 5}\n', r"c.jsonl, line 1 is .*; needed: path and caption"),
        ("c.jsonl", "[1]\n", r"line 1 is \[1\]; needed"),
        ("gone.csv", None, r"data.captions is 'gone.csv': there is no file"),
        ("txt", None, r"2 of 2 files have no caption, such as \['a.wav', 'b.wav'\]"),
    ],
)
def test_bad_captions_are_refused(tmp_path, source, content, message):
    write(tmp_path, "a.wav", 1)
    write(tmp_path, "b.wav", 1)
    if content is not None:
        (tmp_path / source).write_text(content)
    with pytest.raises(ValueError, match=message):
        folder(tmp_path, captions=source)


def test_splits_part_the_files_and_a_new_file_moves_none(tmp_path):
    for seed in range(40):
        write(tmp_path, f"{seed:02}.wav", 0.6, seed % 2)

    def names(split):
        data = folder(tmp_path, split=split, heldout_share=0.25)
        return {data.name(index) for index in range(len(data))}

    train, heldout = names("train"), names("heldout")
    assert not train & heldout
    assert train | heldout == names("all")
    assert 3 <= len(heldout) <= 18
    write(tmp_path, "new.wav", 0.6)
    assert names("heldout") - {str(tmp_path / "new.wav")} == heldout


def test_an_empty_split_is_an_error(tmp_path):
    write(tmp_path, "a.wav", 1)
    with pytest.raises(ValueError, match=r"data.split is 'heldout', data.heldout_share 1e-09: none of the 1 files"):
        folder(tmp_path, split="heldout", heldout_share=1e-9)
