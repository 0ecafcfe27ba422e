"""Published evaluators as extractors: files, statistics, sizes, order, and what is done to a clip."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from motion.body.skeleton import SKELETONS
from motion.encoders.published import (
    CONTRAST,
    EVALUATORS,
    LONGEST,
    MATCHING,
    ContrastExtractor,
    EvaluatorFiles,
    MatchingExtractor,
)
from motion.measured.clips import Clip
from tests.golden_files import load_golden, with_prefix
from tests.motion.encoders.published import (
    WORDS,
    matching_states,
    write_clip_tokenizer,
    write_evaluator,
    write_matching,
    write_statistics,
    write_words,
)
from tests.motion.motion_files import walking_rows
from tests.rows import every_row

T2M, KIT, CPU = SKELETONS["t2m"], SKELETONS["kit"], torch.device("cpu")
ROWS = {name: np.concatenate([walking_rows(60, seed, name) for seed in range(3)]) for name in ("t2m", "kit")}


def files_of(folder, name="t2m263"):
    """The files of a tiny evaluator below a folder."""
    own = EVALUATORS[name]
    write_evaluator(folder / name, ROWS[own.skeleton], name)
    return EvaluatorFiles(folder / name, write_words(folder / "glove", WORDS, 6))


def extractor(files, name="t2m263", tokens=lambda text: None):
    return MatchingExtractor(EVALUATORS[name], files, tokens, CPU)


def clip(frames, seed=0, skeleton=T2M):
    return Clip(torch.from_numpy(walking_rows(frames, seed, skeleton.name)), "full", skeleton)


@every_row("name", list(EVALUATORS))
def test_every_evaluator_takes_its_numbers_and_keeps_the_order(tmp_path, name):
    own = EVALUATORS[name]
    network = extractor(files_of(tmp_path, name), name)
    clips = [clip(frames, seed, own.body) for seed, frames in enumerate((40, 88, 61))]
    found = network(clips)["motion"]
    assert found.shape == (3, 5)
    alone = torch.cat([network([each])["motion"] for each in clips])
    torch.testing.assert_close(found, alone, atol=1e-5, rtol=0)
    assert network.facts()["name"] == name and len(network.facts()["statistics_sha256"]) == 64


def test_a_clip_is_normalised_by_the_evaluators_statistics_cut_and_padded_with_zeros(tmp_path):
    files, seen = files_of(tmp_path), {}
    network = extractor(files)
    embed = network.networks.embed_motion

    def remembered(rows, frames):
        seen.update(rows=rows, frames=frames)
        return embed(rows, frames)

    network.networks.embed_motion = remembered
    rows = torch.from_numpy(walking_rows(63))
    network([Clip(rows, "full", T2M)])
    mean, std = (torch.from_numpy(np.load(files.folder / f"t2m_{which}.npy")) for which in ("mean", "std"))
    assert seen["frames"].tolist() == [60] and seen["rows"].shape == (1, LONGEST, 259)
    torch.testing.assert_close(seen["rows"][0, :60], ((rows - mean) / std)[:60, :259])
    assert not seen["rows"][0, 60:].any()
    network([clip(240)])
    assert seen["frames"].tolist() == [LONGEST]


def test_the_recorded_normalisation_of_mardm_comes_out(tmp_path):
    tensors, _ = load_golden("mardm_evaluators")
    files = files_of(tmp_path, "mardm67")
    for which in ("mean", "std"):
        np.save(files.folder / f"eval_{which}.npy", tensors[f"norm.eval_{which}"].numpy())
    network = extractor(files, "mardm67")
    rows = tensors["norm.clip0"]
    found = network.normalised(Clip(rows, "full", T2M))
    torch.testing.assert_close(found, tensors["norm.eval_input_clip0"][: len(found)].float(), atol=1e-5, rtol=1e-5)
    assert len(found) == len(rows) // 4 * 4


def test_a_clip_of_joints_or_positions_is_brought_to_the_evaluators_numbers(tmp_path):
    network, whole = extractor(files_of(tmp_path)), clip(80)
    joints = Clip(whole.joints().flatten(1), "joints", T2M)
    again = Clip(joints.as_rows("full"), "full", T2M).joints()  # of a frame less, turned to face +z
    torch.testing.assert_close(again[..., 1], whole.joints()[:79, :, 1], atol=1e-5, rtol=0)
    torch.testing.assert_close(again.diff(dim=1).norm(dim=2), whole.joints()[:79].diff(dim=1).norm(dim=2))
    assert network([joints])["motion"].shape == (1, 5)
    of_mardm = extractor(files_of(tmp_path, "mardm67"), "mardm67")
    first = Clip(whole.rows[:, :67], "positions", T2M)
    assert torch.equal(of_mardm([whole])["motion"], of_mardm([first])["motion"])


def test_captions_are_taken_with_their_parts_of_speech_or_with_a_warning_without(tmp_path, caplog):
    known = {"a person walks": ["a/DET", "person/NOUN", "walk/VERB"]}
    network = extractor(files_of(tmp_path), tokens=known.get)
    found = network.text_features(["a person walks"] * 2)
    torch.testing.assert_close(found[0], found[1])
    assert not caplog.records
    other = network.text_features(["a person walks", "a person walk"])
    assert not torch.allclose(other[0], other[1])  # the same three words
    assert "1 of 2 captions stand in no text file" in caplog.text and "'a person walk'" in caplog.text


def test_the_evaluator_of_the_other_data_set_is_refused_by_its_sizes(tmp_path):
    files = files_of(tmp_path)
    write_matching(files.folder / MATCHING, matching_states(247))
    with pytest.raises(ValueError, match=r"takes 247 numbers of a frame, as kit251 .* does; features is 't2m263 \(263"):
        extractor(files)
    write_matching(files.folder / MATCHING, matching_states(100))
    with pytest.raises(ValueError, match="takes 100 numbers of a frame, as no known evaluator does"):
        extractor(files)
    files = files_of(tmp_path)
    with pytest.raises(ValueError, match=r"features=t2m263 takes motion of skeleton 't2m' .* there is motion of 'kit'"):
        extractor(files)([clip(40, skeleton=KIT)])


def test_the_datas_own_statistics_are_refused_in_the_place_of_the_evaluators(tmp_path):
    files, names = files_of(tmp_path), EVALUATORS["t2m263"].statistics
    write_statistics(files.folder, ROWS["t2m"], names[0], factor=1)
    with pytest.raises(
        ValueError, match=r"t2m_std.npy holds the data set's own.*needed here: the evaluator's.*25 times"
    ):
        extractor(files)
    write_statistics(files.folder, ROWS["kit"], names[0], "kit")
    with pytest.raises(
        ValueError, match=r"t2m_mean.npy has shape \(251,\), which is representation 'full' of skeleton 'kit'"
    ):
        extractor(files)
    for name in names[0]:
        (files.folder / name).unlink()
    with pytest.raises(
        ValueError, match=r"holds no t2m_mean.npy and t2m_std.npy or Comp_v6_KLD01/meta/mean.npy and std"
    ):
        extractor(files)
    write_statistics(files.folder, ROWS["t2m"], names[1])  # the other place that they are published at
    assert extractor(files)([clip(40)])["motion"].isfinite().all()


def test_absent_weights_and_words_of_another_size_are_told(tmp_path):
    files = files_of(tmp_path)
    write_words(tmp_path / "glove", WORDS, 7)
    with pytest.raises(ValueError, match="config key 'glove': vectors of 7 numbers, the evaluator takes 6"):
        extractor(files)
    (files.folder / MATCHING).unlink()
    with pytest.raises(ValueError, match=r"config key 'evaluator': .* holds no text_mot_match/model/finest.tar"):
        extractor(files)
    with pytest.raises(ValueError, match=r"weights 't2m-evaluators' are missing: .*drive.google.com.*eval.weights add"):
        extractor(EvaluatorFiles(root=tmp_path / "none"))


def test_a_clip_of_less_than_four_frames_is_refused(tmp_path):
    with pytest.raises(ValueError, match="a clip of 3 frames; features=t2m263 takes 4 at least"):
        extractor(files_of(tmp_path))([Clip(torch.from_numpy(walking_rows(8)[:3]), "full", T2M)])


def test_the_contrastive_evaluator_gives_unit_vectors_of_clips_and_captions(tmp_path):
    tensors, facts = load_golden("mardm_evaluators")
    files = files_of(tmp_path, "mardm67")
    (files.folder / CONTRAST).parent.mkdir(parents=True)
    torch.save({"contrast_model": with_prefix(tensors, "state.contrast.")}, files.folder / CONTRAST)
    own = EVALUATORS["mardm67"]
    with pytest.raises(ValueError, match="mardm67/clip_score needs CLIP's tokenizer, a local directory: clip=DIR"):
        ContrastExtractor(own, files, CPU)
    clip_folder = write_clip_tokenizer(tmp_path / "clip")
    network = ContrastExtractor(own, replace(files, clip=clip_folder), CPU)
    motion, texts = network([clip(40), clip(60, 1)])["motion"], network.text_features(["a b", "b"])
    for found in (motion, texts):
        torch.testing.assert_close(found.norm(dim=1), torch.ones(2))
    start, end = facts["start_token"], facts["end_token"]
    assert network.token_numbers(["a b", "b"]).tolist() == [[start, 0, 1, end, *[0] * 7], [start, 1, end, *[0] * 8]]
    assert network.name == "mardm67_clip"
