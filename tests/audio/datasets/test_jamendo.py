"""MTG-Jamendo's TSV files: tracks, tags, vocabularies, and tracks that are not there."""

import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch

from audio.datasets.jamendo import JamendoConfig, JamendoDataset, near_matches, read_tracks, read_vocabulary, tag_set
from audio.sounds.sound import ClipFormat
from core.data import duplicates
from core.schema import plain, strict
from core.storage.atomic import sha256_file
from tests.audio.audio_files import music, write_sound

RATE, CLIP = 8000, ClipFormat.of(8000, 1, 0.5, 500)
HEADER = "TRACK_ID\tARTIST_ID\tALBUM_ID\tPATH\tDURATION\tTAGS"
LINES = [
    "track_0000214\tartist_000014\talbum_000031\t14/214.mp3\t124.6\tgenre---punkrock\tinstrument---guitar",
    "track_0000215\tartist_000014\talbum_000031\t15/215.mp3\t151.4\tgenre---rock\tgenre---metal\tmood/theme---sad",
    "track_0000382\tartist_000020\talbum_000046\t82/382.mp3\t211.1\tmood/theme---happy",
]
ALL = [
    "genre---metal",
    "genre---punkrock",
    "genre---rock",
    "instrument---guitar",
    "mood/theme---happy",
    "mood/theme---sad",
]


def write_tsv(path, lines=LINES, header=HEADER):
    """A TSV as published; returns its path as a string."""
    path.write_text("\n".join([header, *lines, ""]))
    return str(path)


@pytest.fixture
def root(tmp_path):
    """The audio of `LINES`, one track of it as in the archive of lower quality."""
    for seed, name in enumerate(["14/214.mp3", "15/215.low.mp3", "82/382.mp3"]):
        write_sound(tmp_path / "audio" / name, music(1, RATE, 1, seed), RATE)
    return tmp_path / "audio"


def config_of(root, **options):
    """The data set of `LINES` with options."""
    tsv = options.pop("tsv", None) or write_tsv(root.parent / "genre-train.tsv")
    common = {"seconds": 0.5, "sample_rate": RATE, "channels": 1, "min_seconds": 0.1, "cache_dir": None}
    return JamendoConfig(root=str(root), tsv=tsv, **common | options)


def dataset(root, **options):
    """The opened data set of `config_of`."""
    return JamendoDataset(config_of(root, **options), CLIP)


def tags_of(data, index):
    """Names of the tags of an item."""
    return [data.tag_names[k] for k in np.flatnonzero(data.tag_sets[index])]


def test_tracks_and_their_tags(root):
    data = dataset(root)
    assert data.tag_names == ALL
    assert data.tag_sets.dtype == torch.uint8
    assert [tags_of(data, index) for index in range(len(data))] == [
        ["genre---punkrock", "instrument---guitar"],
        ["genre---metal", "genre---rock", "mood/theme---sad"],
        ["mood/theme---happy"],
    ]
    assert [data.name(index) for index in range(3)] == [
        str(root / name) for name in ("14/214.mp3", "15/215.low.mp3", "82/382.mp3")
    ]
    assert data.labels is None
    assert data.conditions.tolist() == [0, 0, 0]
    assert data.item(1, np.random.default_rng(0))["media"].shape == CLIP.shape


def test_the_path_of_the_tsv_comes_before_the_low_one(root):
    write_sound(root / "15" / "215.mp3", music(1, RATE, 1, 5), RATE)
    assert dataset(root).name(1) == str(root / "15" / "215.mp3")


def test_categories_are_kept_as_asked(root):
    data = dataset(root, tags=("genre",))
    assert data.tag_names == ["genre---metal", "genre---punkrock", "genre---rock"]
    assert data.tag_sets.sum(1).tolist() == [1, 2, 0]  # a track without such a tag stays


def test_windows_of_a_track_share_its_tags(root):
    data = dataset(root, window="tiled")
    assert len(data) > 3
    files = [data.name(index).split(" from ")[0] for index in range(len(data))]
    assert all((tags_of(data, 0) == tags_of(data, i)) == (files[0] == files[i]) for i in range(len(data)))


@pytest.mark.parametrize("kind", ["txt", "tsv"])
def test_splits_share_a_vocabulary(root, tmp_path, kind):
    if kind == "tsv":
        vocabulary = write_tsv(tmp_path / "all.tsv", [*LINES, "t\ta\tb\tp.mp3\t1\tgenre---jazz"])
        expected = sorted([*ALL, "genre---jazz"])
    else:
        expected = ["mood/theme---sad", "genre---jazz", *ALL[:5]]  # in the file's own order
        (tmp_path / "tags.txt").write_text("\n".join(expected) + "\n")
        vocabulary = str(tmp_path / "tags.txt")
    data = dataset(root, vocabulary=vocabulary)
    assert data.tag_names == expected
    assert tags_of(data, 2) == ["mood/theme---happy"]


def test_a_tag_outside_the_vocabulary_names_track_and_near_matches(root, tmp_path):
    (tmp_path / "tags.txt").write_text("\n".join(name for name in ALL if name != "genre---punkrock"))
    with pytest.raises(ValueError, match=r"14/214\.mp3: unknown tag 'genre---punkrock'; did you mean genre---rock"):
        dataset(root, vocabulary=str(tmp_path / "tags.txt"))


def test_an_unknown_tag_of_the_user_lists_near_matches(root):
    with pytest.raises(ValueError, match=r"data.only: unknown tag 'genre---metall'; did you mean genre---metal\?"):
        dataset(root, only=("genre---metall",))
    with pytest.raises(ValueError, match=r"data.only: unknown tag 'rock'; did you mean .*genre---rock"):
        dataset(root, only=("rock",))
    with pytest.raises(ValueError, match=r"sample.tags: unknown tag 'xyz'; known are 6, such as \['genre---metal'"):
        tag_set(["xyz"], ALL, "sample.tags")
    assert near_matches("instrument---gitar", ALL) == ["instrument---guitar"]
    assert tag_set(["genre---rock"], ALL, "sample.tags").tolist() == [0, 0, 1, 0, 0, 0]


def test_only_tracks_with_a_tag(root):
    data = dataset(root, only=("genre---rock", "mood/theme---happy"))
    assert [data.name(index).split("/")[-1] for index in range(len(data))] == ["215.low.mp3", "382.mp3"]
    assert data.tag_names == ALL  # the vocabulary does not shrink
    with pytest.raises(ValueError, match=r"no track of .* has one of these tags"):
        (root.parent / "v.txt").write_text("\n".join([*ALL, "genre---jazz"]))
        dataset(root, vocabulary=str(root.parent / "v.txt"), only=("genre---jazz",))


def test_missing_tracks_are_an_error_or_are_left_out(root):
    (root / "14" / "214.mp3").unlink()
    with pytest.raises(
        ValueError, match=r"broken audio files: 1, data.max_broken is 0; the first: .*14/214\.mp3 is not there"
    ):
        dataset(root)
    data = dataset(root, max_broken=1)
    assert (len(data), data.num_broken) == (2, 1)
    assert tags_of(data, 0) == ["genre---metal", "genre---rock", "mood/theme---sad"]


def test_a_split_never_parts_an_artist(root):
    """Six artists of four tracks each."""
    lines = [f"t\ta{n // 4}\tb\t{n}.mp3\t1\tgenre---rock" for n in range(24)]
    tsv = write_tsv(root.parent / "many.tsv", lines)
    for n in range(24):
        write_sound(root / f"{n}.mp3", music(0.6, RATE, 1, n), RATE)
    artists = {}
    for split in ("train", "heldout"):
        data = dataset(root, tsv=tsv, split=split, heldout_share=0.4)
        tracks = [int(Path(data.name(index)).stem) for index in range(len(data))]
        artists[split] = {n // 4 for n in tracks}
        assert len(tracks) == 4 * len(artists[split])
    assert artists["train"] ^ artists["heldout"] == set(range(6))


@pytest.mark.parametrize(
    ("lines", "header", "message"),
    [
        (LINES, "TRACK_ID\tPATH", r"line 1: needed: the columns TRACK_ID ARTIST_ID"),
        ([LINES[0], "track\tartist\talbum"], HEADER, r"line 3 has 3 columns; needed: 6 or more"),
        ([LINES[0] + "\tvoice---alto"], HEADER, r"line 2: tag 'voice---alto'; allowed: genre---"),
        ([LINES[0], LINES[0]], HEADER, r"line 3: the track 14/214\.mp3 is listed twice"),
        ([LINES[0], LINES[0].replace("14/", "./14//")], HEADER, r"line 3: the track 14/214\.mp3 is listed twice"),
        ([], HEADER, "lists no tracks"),
    ],
)
def test_a_tsv_of_another_kind_is_refused_by_its_line(tmp_path, lines, header, message):
    with pytest.raises(ValueError, match=message) as error:
        read_tracks(tmp_path / write_tsv(tmp_path / "x.tsv", lines, header), ["genre"])
    assert "x.tsv" in str(error.value)


def test_names_and_tags_are_the_same_in_every_unicode_form_and_with_spaces_around(root, tmp_path):
    composed, apart = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    write_sound(root / f"{apart}.mp3", music(1, RATE, 1, 5), RATE)
    lines = [LINES[0], f"t\ta\tb\t{composed}.mp3\t1\tgenre---caf{apart}\tgenre---rock "]
    (tmp_path / "tags.txt").write_text("\n".join([*ALL, f"genre---caf{composed}"]))
    tsv = write_tsv(tmp_path / "x.tsv", lines)
    data = dataset(root, tsv=tsv, vocabulary=str(tmp_path / "tags.txt"), only=(f"genre---caf{apart}",))
    assert tags_of(data, 0) == ["genre---rock", f"genre---caf{composed}"]
    assert data.name(0) == str(root / f"{apart}.mp3")
    with pytest.raises(ValueError, match="listed twice"):
        write_tsv(tmp_path / "x.tsv", [f"t\ta\tb\t{form}.mp3\t1\tgenre---rock" for form in (composed, apart)])
        dataset(root, tsv=tsv)


def test_a_tsv_of_another_encoding_is_refused(tmp_path):
    text = "\n".join([HEADER, *LINES])
    for content, message in (
        (text.encode("utf-16"), r"data.tsv: .*x\.tsv is not UTF-8"),
        (text.replace("rock", "r\0ck").encode(), r"data.tsv: .*x\.tsv, line 2 holds a NUL byte"),
        (text.replace("14/214.mp3", " ").encode(), r"x\.tsv, line 2: the column PATH is ' '; needed: a path below"),
        (text.replace("14/214.mp3", "/etc/a.mp3").encode(), r"x\.tsv, line 2: the column PATH is '/etc/a\.mp3'"),
        (text.replace("14/214.mp3", "14/../../a.mp3").encode(), r"x\.tsv, line 2: the column PATH is '14/\.\./"),
        (text.replace("genre---rock", "genre---").encode(), r"x\.tsv, line 3: tag 'genre---'; allowed"),
    ):
        (tmp_path / "x.tsv").write_bytes(content)
        with pytest.raises(ValueError, match=message):
            read_tracks(tmp_path / "x.tsv", ["genre"])
    (tmp_path / "x.tsv").write_bytes(("\ufeff" + text.replace("\n", "\r\n")).encode())
    assert [track.path for track in read_tracks(tmp_path / "x.tsv", ["genre"])] == [
        "14/214.mp3",
        "15/215.mp3",
        "82/382.mp3",
    ]


def test_vocabularies_that_are_none_are_refused(tmp_path):
    for content, message in (("a\nb\na\n", r"repeats \['a'\]"), ("\n", "holds no tags")):
        (tmp_path / "tags.txt").write_text(content)
        with pytest.raises(ValueError, match=message):
            read_vocabulary(tmp_path / "tags.txt", ["genre"])


def test_config_keys_are_named(root):
    with pytest.raises(ValueError, match=r"data.tags is \['genres'\]; allowed"):
        config_of(root, tags=("genres",))
    with pytest.raises(ValueError, match=r"data.tsv is '/no/such.tsv', which is not a file"):
        dataset(root, tsv="/no/such.tsv")
    with pytest.raises(ValueError, match=r"data.root is .*, which is not there"):
        dataset(root / "gone")
    config = config_of(root)
    assert strict(JamendoConfig, plain(config)) == config


# --- tracks that are bit for bit the same


def copies(root):
    """A copy of the first track under a later path, and of the last under an earlier one that no TSV lists."""
    shutil.copy(root / "14" / "214.mp3", root / "15" / "215.low.mp3")
    (root / "01").mkdir()
    shutil.copy(root / "82" / "382.mp3", root / "01" / "1.low.mp3")
    shutil.copy(root / "14" / "214.mp3", root / "copy.mp3")  # no track
    shutil.copy(root / "14" / "214.mp3", root / "14" / "214.low.mp3")  # the same track


def test_tracks_that_are_bit_for_bit_the_same_are_taken_once_over_all_tsvs(root, caplog):
    copies(root)
    with caplog.at_level("WARNING"):
        data = dataset(root, cache_dir=str(root.parent / "cache"))
    assert [data.name(index) for index in range(len(data))] == [str(root / "14" / "214.mp3")]
    assert tags_of(data, 0) == ["genre---punkrock", "instrument---guitar"] and data.tag_names == ALL
    assert "2 of 3 tracks are left out" in caplog.text and "(2 files" in caplog.text
    assert len(dataset(root, duplicates="keep")) == 3
    only = write_tsv(root.parent / "only.tsv", LINES[2:])
    with pytest.raises(ValueError, match=r"data.duplicates is 'remove': every track of data.tsv equals one"):
        dataset(root, tsv=only)
    with pytest.raises(ValueError, match=r"data.duplicates is 'some'; allowed: \['remove', 'keep'\]"):
        config_of(root, duplicates="some")


def test_files_of_equal_size_alone_are_read_and_once(root, monkeypatch):
    copies(root)
    read, cache = [], str(root.parent / "cache")
    monkeypatch.setattr(duplicates, "sha256_file", lambda path: read.append(path.name) or sha256_file(path))
    paths = sorted(str(path.relative_to(root)) for path in root.rglob("*.mp3"))
    (root / "14" / "9.mp3").write_bytes(b"other")
    first = duplicates.equal_files(root, [*paths, "14/9.mp3"], cache)
    same = dict.fromkeys(("14/214.mp3", "15/215.low.mp3", "copy.mp3"), "14/214.low.mp3")
    assert first == same | {"82/382.mp3": "01/1.low.mp3"}
    assert sorted(read) == ["1.low.mp3", "214.low.mp3", "214.mp3", "215.low.mp3", "382.mp3", "copy.mp3"]
    read.clear()
    assert duplicates.equal_files(root, [*paths, "14/9.mp3"], cache) == first and read == []
    content = bytearray((root / "82" / "382.mp3").read_bytes())
    content[-1] ^= 1
    (root / "82" / "382.mp3").write_bytes(content)
    assert "82/382.mp3" not in duplicates.equal_files(root, paths, cache) and read == ["382.mp3"]
