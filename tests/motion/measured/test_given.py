"""Samples in others' formats: what is read, cut to its length, and what is refused."""

import numpy as np
import pytest

from motion.measured.given import open_given
from tests.rows import every_row

RNG = np.random.default_rng(0)


def joints(frames, count=22):
    return RNG.normal(size=(frames, count, 3))


def results(**changes):
    content = {"motion": RNG.normal(size=(4, 22, 3, 50)), "text": ["a"] * 4, "lengths": np.array([50, 40, 30, 20])}
    return {**content, "num_samples": 4, "num_repetitions": 1, **changes}


def test_results_are_cut_to_their_lengths(tmp_path):
    content = results(num_repetitions=2)
    np.save(tmp_path / "results.npy", content)
    clips = open_given(tmp_path / "results.npy")
    assert [len(clip.rows) for clip in clips.rows(0, 4)] == [50, 40, 30, 20] and clips.texts == ["a"] * 4
    np.testing.assert_allclose(
        clips.rows(2, 3)[0].joints(), content["motion"][2, :, :, :30].transpose(2, 0, 1), rtol=1e-6
    )
    order = [len(clip.rows) for clip in clips.repeats.media.rows(0, 4)]
    assert clips.repeats.count == 2 and order == [50, 30, 40, 20]  # both of the first text, both of the second


def test_files_that_are_padded_have_their_lengths_beside_them(tmp_path):
    for number in range(3):
        np.save(tmp_path / f"{number}.npy", joints(60))
        (tmp_path / f"{number}.txt").write_text(f"text {number}#text/NOUN#0.0#0.0\nanother\n")
    (tmp_path / "lengths.txt").write_text("60\n41\n8\n")
    clips = open_given(tmp_path)
    assert [len(clip.rows) for clip in clips.rows(0, 3)] == [60, 41, 8]
    assert clips.texts == ["text 0", "text 1", "text 2"] and clips.names == ["0", "1", "2"]


def test_what_motion_sample_writes_is_read(tmp_path):
    rows, captions = RNG.normal(size=(2, 50, 263)).astype(np.float32), np.array(["walk", "run"])
    np.savez(tmp_path / "samples.npz", arr_0=rows, lengths=np.array([50, 12]), captions=captions)
    clips = open_given(tmp_path)
    assert clips.representation == "full" and clips.texts == ["walk", "run"] and len(clips.rows(1, 2)[0].rows) == 12
    assert clips.sha256 == open_given(tmp_path / "samples.npz").sha256


@every_row(
    ("content", "words"),
    [
        (
            results(lengths=np.array([50, 40, 30, 51])),
            r"results.npy has lengths .*; needed: whole numbers from 1 to 50",
        ),
        (results(lengths=np.array([50, 40])), "one for each of 4 clips"),
        (results(text=["a"]), "has 1 texts for 4 motions"),
        (results(num_repetitions=3), "4 motions are no 3 repetitions of each text"),
        (results(motion=np.zeros((4, 22, 50))), r"motion is float64 \(4, 22, 50\); needed: joints"),
        (
            results(motion=np.zeros((4, 17, 3, 50))),
            r"motion 0 of .* has shape \(50, 17, 3\); needed: joints \(F, 22 or 21",
        ),
        ({"poses": np.zeros(3)}, "holds poses; needed: motion, text and lengths"),
        ([1, 2], "holds no single object|needed: motion"),
    ],
)
def test_other_results_are_refused(tmp_path, content, words):
    np.save(tmp_path / "results.npy", np.array(content, dtype=object))
    with pytest.raises(ValueError, match=words):
        open_given(tmp_path / "results.npy")


@every_row(
    ("second", "words"),
    [
        (joints(60, 21), r"1.npy is of another form, \(60, 21, 3\), than .*0.npy"),
        (np.zeros((60, 100)), r"1.npy has shape \(60, 100\); needed"),
        (np.full((60, 22, 3), np.inf), "1.npy holds NaN or infinity"),
        (np.full((60, 22, 3), 1700.0), "1.npy has joints as far as 1700; they are read in metres"),
    ],
)
def test_other_files_are_refused(tmp_path, second, words):
    for number, array in enumerate((joints(60), second)):
        np.save(tmp_path / f"{number}.npy", array)
    with pytest.raises(ValueError, match=words):
        open_given(tmp_path)


def test_lengths_and_captions_that_do_not_fit_are_refused(tmp_path):
    for number in range(2):
        np.save(tmp_path / f"{number}.npy", joints(60))
    for name, text, words in (
        ("lengths.txt", "60\n61\n", "lengths.txt, for 1.npy, has lengths"),
        ("lengths.txt", "60\nten\n", "lengths.txt holds 'ten'; needed: a number of frames"),
        ("captions.txt", "one\n", "captions.txt has 1 lines; there are 2 clips"),
        ("0.txt", "one\n", "1.txt is not there, and 1 of 2 clips have a caption"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=words):
            open_given(tmp_path)
        (tmp_path / name).unlink()
