"""A folder of videos: classes, captions both ways, splits, the index that is kept."""

import json
from dataclasses import replace

import pytest

from tests.video.video_files import numbered_frames, write_frames, write_video
from video.datasets import files, windows
from video.datasets.clips import ClipConfig
from video.datasets.folder import FolderConfig


def build(root, **options):
    return FolderConfig(root=str(root), clip=ClipConfig(2), size=16, **{"cache_dir": None, **options}).build()


def three(root):
    for name in ("cats/a.mp4", "dogs/b.webm"):
        write_video(root / name, numbered_frames(3))
    write_frames(root / "dogs" / "c", numbered_frames(3))
    return root


def test_the_folders_in_the_root_are_classes(tmp_path):
    data = build(three(tmp_path), classes="folders")
    assert data.class_names == ["cats", "dogs"] and data.labels.tolist() == [0, 1, 1]
    assert data.conditions is data.labels
    assert data.name(2).endswith("dogs/c")


def test_a_class_whose_only_file_is_too_short_is_refused(tmp_path):
    write_video(three(tmp_path) / "cats" / "a.mp4", numbered_frames(1))
    with pytest.raises(
        ValueError, match=r"every file is broken or shorter than a data\.clip .* in the classes \['cats'\]"
    ):
        build(tmp_path, classes="folders")


@pytest.mark.parametrize("source", ["txt", "captions.csv", "captions.jsonl"])
def test_every_video_needs_its_caption_and_a_caption_without_a_video_is_told(source, tmp_path, caplog):
    texts = {"cats/a.mp4": "a cat", "dogs/b.webm": "a dog, running", "dogs/c": "frames of a dog"}
    write_captions(three(tmp_path), source, texts)
    assert build(tmp_path, captions=source).captions == list(texts.values())
    caplog.set_level("INFO")
    write_captions(tmp_path, source, texts | {"gone.mp4": "nobody"})
    assert len(build(tmp_path, captions=source)) == 3
    assert source == "txt" or "1 rows are of no file, such as ['gone.mp4']" in caplog.text
    write_captions(tmp_path, source, {name: text for name, text in texts.items() if name != "dogs/b.webm"})
    with pytest.raises(ValueError, match=r"1 of 3 files have no caption, such as \['dogs/b\.webm'\]"):
        build(tmp_path, captions=source)


def write_captions(root, source, texts):
    if source == "txt":
        for file in root.rglob("*.txt"):
            file.unlink()
        for name, text in texts.items():
            (root / name).with_suffix(".txt").write_text(text)
    elif source.endswith(".csv"):
        (root / source).write_text("path,caption\n" + "".join(f'{name},"{text}"\n' for name, text in texts.items()))
    else:
        rows = (json.dumps({"path": name, "caption": text}) + "\n" for name, text in texts.items())
        (root / source).write_text("".join(rows))


def test_splits_share_no_file_and_cover_all(tmp_path):
    for number in range(12):
        write_frames(tmp_path / str(number), numbered_frames(2))
    parts = [build(tmp_path, split=split, heldout_share=0.4) for split in ("train", "heldout")]
    names = [{part.name(row) for row in range(len(part))} for part in parts]
    assert not names[0] & names[1] and len(names[0] | names[1]) == 12


def test_the_index_is_kept_and_only_changed_files_are_looked_at_again(tmp_path, monkeypatch):
    root, seen = three(tmp_path / "videos"), []
    kind = replace(files.VIDEO, probe=lambda path: seen.append(path.name) or files.probe_clip(path))
    monkeypatch.setattr(windows, "VIDEO", kind)
    for _ in range(2):
        build(root, cache_dir=str(tmp_path / "cache"))
    assert sorted(seen) == ["a.mp4", "b.webm", "c"]
    write_video(root / "cats" / "a.mp4", numbered_frames(5))
    build(root, cache_dir=str(tmp_path / "cache"))
    assert sorted(seen) == ["a.mp4", "a.mp4", "b.webm", "c"]


def test_a_root_without_video_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(ValueError, match=r"data\.root is .*: no video file there \(\.avi, \.gif"):
        build(tmp_path)
    with pytest.raises(ValueError, match=r"data\.root is .*, which is not there"):
        build(tmp_path / "gone")
