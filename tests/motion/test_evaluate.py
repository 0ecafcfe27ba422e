"""`python -m motion.evaluate` of clips that are there: folders of anyone's, MDM's results, real motion's row."""

import functools

import numpy as np
import pytest
import torch

from eval.measure.record import differences
from motion.body.representations import REPRESENTATIONS
from motion.body.skeleton import SKELETONS
from motion.evaluate import REPLICATIONS
from tests.motion.evaluations import evaluators, measured, real_folder
from tests.motion.motion_files import walking_rows

T2M = SKELETONS["t2m"]
NAMES = ("fid", "r_precision_1", "r_precision_2", "r_precision_3", "matching_score", "diversity")
PHYSICS = ("physics/skate_ratio", "physics/jerk", "physics/penetration", "physics/floating")
WARN = "real_row=warn"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Real motion, an evaluator, and the keys that name both."""
    root = tmp_path_factory.mktemp("motion")
    real_folder(root / "HumanML3D")
    return root, [f"real={root / 'HumanML3D'}", *evaluators(root)]


@functools.cache
def made(number):
    """Joints (F, J, 3) of a clip, of one of three lengths."""
    rows = torch.from_numpy(walking_rows(44 - number % 3, 500 + number))
    return REPRESENTATIONS["full"].to_joints(rows, T2M).numpy()


def joints_of(count):
    """The joints of so many clips."""
    return [made(number).copy() for number in range(count)]


def write_clips(folder, clips, captions=True):
    """A folder of .npy files as anyone writes them."""
    folder.mkdir(parents=True)
    for number, clip in enumerate(clips):
        np.save(folder / f"{number:03d}.npy", clip)
    if captions:
        words = ("walks", "kicks", "turns")
        lines = (f"a person {words[number % 3]} {number}." for number in range(len(clips)))
        (folder / "captions.txt").write_text("\n".join(lines) + "\n")
    return folder


def write_results(path, clips, repetitions=1):
    """MDM's results.npy: joints (n, J, 3, frames), padded, with texts and lengths."""
    longest = max(map(len, clips))
    motion = np.stack([np.pad(clip, ((0, longest - len(clip)), (0, 0), (0, 0))) for clip in clips]).transpose(
        0, 2, 3, 1
    )
    words = ("walks", "kicks", "turns")
    texts = [f"a person {words[number % 3]} {number}." for number in range(len(clips))]
    content = {"motion": motion, "text": texts, "lengths": np.array([len(clip) for clip in clips])}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, {**content, "num_samples": len(clips) // repetitions, "num_repetitions": repetitions})
    return path


def test_a_folder_of_joints_is_measured_beside_real_motion(place, tmp_path, capsys):
    _, keys = place
    clips = write_clips(tmp_path / "theirs", joints_of(36))
    found = measured(f"samples={clips}", *keys, WARN, "replications=3", out=tmp_path / "out")
    of_samples = {*(f"t2m263/{name}" for name in NAMES), *PHYSICS}
    assert found.keys() == of_samples | {
        f"{name.rpartition('/')[0]}/real_{name.rpartition('/')[2]}" for name in of_samples
    }
    record = found["t2m263/r_precision_3"]
    assert record.parameters["replications"] == 3 and record.parameters["pool"] == 32 and record.num_samples == 32
    assert record.interval.low <= record.value <= record.interval.high and record.interval.kind == "replications, 95 %"
    assert record.protocol["split"] == "test" and record.protocol["replications"] == 3
    assert record.features["name"] == "t2m263" and len(record.features["weights_sha256"]) == 64
    fid = found["t2m263/fid"]
    assert fid.num_samples == 36 and fid.value > found["t2m263/real_fid"].value >= 0
    assert fid.reference["num_samples"] == 40 and fid.reference["split"] == "test" and "left_out" in fid.reference
    assert found["physics/jerk"].value > 0 and found["physics/jerk"].features["name"] == "physics"
    shown = capsys.readouterr().out
    assert shown.index("HumanML3D, test") < shown.index("theirs")  # the row of real motion comes first
    assert "the real motion's row is not the published one of t2m263, test" in shown


def test_mdms_results_are_measured_as_the_same_joints_in_a_folder(place, tmp_path):
    _, keys = place
    clips, words = joints_of(36), [WARN, "replications=1", "metrics=[t2m263/fid,physics/jerk]"]
    in_folder = measured(f"samples={write_clips(tmp_path / 'theirs', clips)}", *place[1], *words, out=tmp_path / "a")
    results = write_results(tmp_path / "b" / "results.npy", clips)
    in_file = measured(f"samples={results.parent}", *keys, *words, out=tmp_path / "c")
    for name in ("t2m263/fid", "physics/jerk"):
        assert in_file[name].value == pytest.approx(in_folder[name].value, rel=1e-5)
    unknown = differences(in_file["t2m263/fid"], in_folder["t2m263/fid"])
    assert list(unknown) == ["protocol.source"]  # nobody wrote down how either was made


def test_repetitions_of_results_serve_multimodality(place, tmp_path):
    results = write_results(tmp_path / "results.npy", joints_of(40), repetitions=10)
    found = measured(f"samples={results}", *place[1], WARN, "replications=1", out=tmp_path / "out")
    assert found["t2m263/multimodality"].value > 0 and found["t2m263/multimodality"].num_samples == 40
    few = write_results(tmp_path / "few" / "results.npy", joints_of(40), repetitions=4)
    with pytest.raises(ValueError, match="t2m263/multimodality needs 10 samples of a text, there are 4"):
        measured(f"samples={few}", *place[1], WARN, "metrics=[t2m263/multimodality]", out=tmp_path / "none")


def test_rows_without_captions_have_no_number_of_texts(place, tmp_path):
    clips = write_clips(tmp_path / "rows", [walking_rows(60, 500 + n) for n in range(33)], captions=False)
    found = measured(f"samples={clips}", *place[1], WARN, "replications=1", out=tmp_path / "out")
    assert "t2m263/r_precision_3" not in found and {"t2m263/fid", "t2m263/diversity", "physics/jerk"} <= found.keys()
    with pytest.raises(
        ValueError, match="t2m263/r_precision_1 needs to know what each sample was asked to be in words"
    ):
        measured(f"samples={clips}", *place[1], "metrics=[t2m263/r_precision_1]", out=tmp_path / "none")


def test_every_evaluator_measures_clips_of_its_skeleton_under_its_own_name(place, tmp_path):
    folders = {"t2m": place[0] / "HumanML3D", "kit": real_folder(tmp_path / "KIT", 33, "kit")}
    theirs = {name: [walking_rows(44 - number % 3, 500 + number, name) for number in range(33)] for name in folders}
    for name, skeleton in (("mardm67", "t2m"), ("mardm64", "kit"), ("kit251", "kit")):
        keys = [f"real={folders[skeleton]}", *evaluators(tmp_path, name, skeleton), WARN, "replications=1"]
        clips = write_clips(tmp_path / f"of {name}", theirs[skeleton])
        metrics = f"metrics=[{name}/fid,{name}/r_precision_3]"
        found = measured(f"samples={clips}", *keys, metrics, out=tmp_path / f"out {name}")
        assert found.keys() == {f"{name}/{each}" for each in ("fid", "real_fid", "r_precision_3", "real_r_precision_3")}
        assert found[f"{name}/fid"].protocol["captions_without_parts_of_speech"] > 0


def test_replications_draw_other_windows_captions_and_pools_and_can_be_repeated(place, tmp_path):
    clips = write_clips(tmp_path / "theirs", joints_of(33))
    words = [f"samples={clips}", *place[1], WARN, "metrics=[t2m263/fid,t2m263/r_precision_3]"]
    first = measured(*words, "replications=1", "seed=0", out=tmp_path / "0")
    again = measured(*words, "replications=1", "seed=0", out=tmp_path / "again")
    second = measured(*words, "replications=1", "seed=1", out=tmp_path / "1")
    both = measured(*words, "replications=2", out=tmp_path / "2")
    for name in ("t2m263/fid", "t2m263/r_precision_3", "t2m263/real_fid"):
        assert again[name].value == first[name].value
        assert both[name].value == pytest.approx((first[name].value + second[name].value) / 2)
    assert first["t2m263/fid"].value != second["t2m263/fid"].value
    assert REPLICATIONS == 20


def test_a_real_row_that_is_not_the_published_one_stops_before_any_model_is_measured(place, tmp_path):
    clips = write_clips(tmp_path / "theirs", joints_of(33))
    with pytest.raises(
        ValueError, match=r"not the published one of t2m263, test: r_precision_1 0.0.* \(published 0.511, tol"
    ):
        measured(f"samples={clips}", *place[1], "replications=1", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_bad_input_is_one_clear_error(place, tmp_path):
    _, keys = place
    good = write_clips(tmp_path / "good", joints_of(33))
    few = write_clips(tmp_path / "few", joints_of(31))
    kit = real_folder(tmp_path / "KIT", 33, "kit")
    nan = joints_of(33)
    nan[4][2, 3, 1] = np.nan
    far = [1000 * clip for clip in joints_of(33)]
    short = write_clips(tmp_path / "short", joints_of(33))
    (short / "captions.txt").write_text("a person walks\n")
    (tmp_path / "empty").mkdir()
    rows = [
        (
            [f"samples={few}", *keys],
            r"t2m263/r_precision_1 with features=t2m263 needs at least 32 samples, there are 31",
        ),
        ([f"samples={good}", f"real={kit}", *keys[1:]], "features=t2m263 takes motion of skeleton 't2m' .* of 'kit'"),
        ([f"samples={good}", f"real={kit}", "features=kit251"], r"real=.*KIT takes motion of skeleton 'kit'.*of 't2m'"),
        ([f"samples={write_clips(tmp_path / 'nan', nan)}", *keys], "004.npy holds NaN or infinity"),
        ([f"samples={write_clips(tmp_path / 'far', far)}", *keys], "joints as far as .*; they are read in metres"),
        ([f"samples={short}", *keys], "captions.txt has 1 lines; there are 33 clips"),
        ([f"samples={tmp_path / 'empty'}", *keys], "holds neither samples.npz nor an .npy file"),
        ([f"samples={tmp_path / 'gone'}", *keys], "which is not there; allowed: samples.npz, a folder of .npy"),
        ([f"samples={good}", *keys, "split=val"], "val.txt"),
        (
            [f"samples={good}", "real=nowhere"],
            "real is 'nowhere', which is not there; allowed: a folder in the format of",
        ),
        ([f"samples={good}"], "real is null; needed: a folder in the format of HumanML3D"),
        ([f"samples={good}", *keys, "replications=0"], "replications is 0; it must be at least 1"),
        ([f"samples={good}", *keys[:-1], "features=fid"], "features is 'fid'; allowed: moves, t2m263, kit251"),
        ([f"samples={good}", *keys, "metrics=[mardm67/clip_score]"], "mardm67/clip_score needs CLIP's tokenizer"),
        ([f"samples={good}", *keys, "metrics=[mardm67/fid]"], "'mardm67/fid' but features is 't2m263'"),
    ]
    failures = []
    for words, expected in rows:
        try:
            with pytest.raises(ValueError, match=expected):
                measured(*words, out=tmp_path / "out")
        except (AssertionError, pytest.fail.Exception) as error:
            failures.append(f"{words}: {error}")
    assert not failures, "\n".join(failures)
