"""`python -m video.evaluate` from end to end: a tiny run, clips in real files, networks with random weights."""

import json

import numpy as np
import pytest
import torch

from eval.measure.record import differences, table
from tests.rows import every_row
from tests.video.encoders.networks import save_detector, save_videomae
from tests.video.evaluations import (
    frame_folders,
    fvd_by_hand,
    measured,
    moving,
    sample,
    save_npz,
    train,
    video_files,
)
from video.evaluate import VideoEvaluateConfig, VideoEvaluation

OPTIONS = {"rescale": True, "resize": True, "return_features": True}


@pytest.fixture(scope="module")
def user(tmp_path_factory):
    """A user's folder: a tiny run and samples of it, a detector, real clips as frames and as MP4, fakes in an .npz."""
    place = tmp_path_factory.mktemp("user")
    sample(train(place), place / "samples", "num=9", "seed=3")
    save_detector(place / "i3d.pt")
    frame_folders(place / "frames", moving(8, 24))
    video_files(place / "videos", moving(8, 24))
    save_fakes(place / "fakes", moving(9, 16, seed=1))
    return place


def save_fakes(folder, clips):
    """Clips in an .npz, and what is known of who made them."""
    folder.mkdir()
    (folder / "protocol.yaml").write_text("protocol: {program: another, seed: 0}\n")
    return save_npz(folder / "fakes.npz", clips)


@pytest.fixture
def fvd(user, tmp_path):
    """The record of FVD by the small detector, of what the words say."""

    def of(*words, **changed):
        keys = {"samples": user / "fakes" / "fakes.npz", "real": user / "frames", "i3d": user / "i3d.pt"} | changed
        out = tmp_path / str(len(list(tmp_path.iterdir())))
        given = [f"{key}={value}" for key, value in keys.items() if value is not None]
        return measured("features=i3d", *given, *words, out=out)["i3d/fvd"]

    return of


def features(user, clips):
    """What the detector gives of clips (n, F, H, W, 3)."""
    network = torch.jit.load(str(user / "i3d.pt"))
    with torch.no_grad():
        return network(torch.from_numpy(clips).permute(0, 4, 1, 2, 3), **OPTIONS).numpy()


# --- a run on digits


def test_the_numbers_are_those_that_training_printed(user, tmp_path):
    run = user / "runs" / "video" / "digits"
    found = measured(f"run={run}", out=tmp_path)
    summary = json.loads((run / "summary.json").read_text())
    assert found["frechet_distance"].value == pytest.approx(summary["frechet_distance"], rel=1e-6)
    assert found["class_accuracy"].value == summary["class_accuracy"]
    assert {record.num_samples for record in found.values()} == {summary["num_samples"]}


def test_samples_that_are_made_and_those_that_were_written_give_the_same_fvd(user, fvd, tmp_path):
    run = user / "runs" / "video" / "digits"
    words = ["real=digits", f"i3d={user / 'i3d.pt'}", "features=i3d"]
    made = measured(f"run={run}", "num=9", "seed=3", *words, out=tmp_path / "made")["i3d/fvd"]
    given = measured(f"samples={user / 'samples'}", *words, out=tmp_path / "given")["i3d/fvd"]
    assert made.value == pytest.approx(given.value, rel=1e-5)
    assert differences(made, given) == {}
    assert made.protocol["clip"] == {"frames": 16, "stride": 1, "model_fps": None, "model_stride": 1}
    assert made.protocol["pixels"].startswith("uint8")
    coded = measured(f"samples={user / 'samples' / 'mp4'}", *words, out=tmp_path / "coded")["i3d/fvd"]
    assert coded.protocol["pixels"] == "video files (.mp4), as a codec left them"
    assert "protocol.pixels" in differences(made, coded)


def test_a_run_on_files_is_compared_with_its_own_data_as_it_was_trained(user, tmp_path, caplog):
    data = [f"data.root={user / 'frames'}", "data.size=8", "data.clip={frames: 12, stride: 2}", "data.cache_dir=null"]
    run = train(tmp_path, *data, files=True)
    words = [f"run={run}", "features=i3d", f"i3d={user / 'i3d.pt'}", "num=5"]
    found = measured(*words, out=tmp_path / "out")["i3d/fvd"]  # real=data
    assert [found.reference[key] for key in ("frames", "stride", "size", "fit")] == [12, 2, [8, 8], "crop"]
    assert found.protocol["clip"] == {"frames": 12, "stride": 1, "model_fps": None, "model_stride": 2}
    assert "frames has 8 clips of the 2048 that num_real asks for" in caplog.text
    folder = measured(*words, f"real={user / 'frames'}", f"cache_dir={tmp_path}", out=tmp_path / "folder")["i3d/fvd"]
    assert differences(found, folder) == {} and folder.value == found.value


# --- FVD


def test_fvd_is_what_stylegan_v_computes_of_the_first_frames(user, fvd):
    found = fvd("clips=first")
    real, fakes = moving(8, 24)[:, :16], moving(9, 16, seed=1)
    assert found.value == pytest.approx(fvd_by_hand(features(user, fakes), features(user, real)), rel=1e-4)
    assert found.num_samples == 9 and found.parameters == {"covariance": "biased"}
    said = found.reference
    assert (said["num_samples"], said["frames"], said["stride"], said["fps"]) == (8, 16, 1, None)
    assert said["clips"] == "the first one of each file" and said["size"] == [12, 16]
    assert said["kind"] == "folders of frames (.png)" and said["lossless"]


def test_strides_of_both_sides_are_their_own(user, fvd):
    found = fvd(
        "clips=first", "clip.frames=11", "clip.stride=2", "sample_stride=1", samples=user / "fakes" / "fakes.npz"
    )
    real, fakes = moving(8, 24)[:, 0:22:2], moving(9, 16, seed=1)[:, :11]
    assert found.value == pytest.approx(fvd_by_hand(features(user, fakes), features(user, real)), rel=1e-4)
    assert found.protocol["clip"]["stride"] == 1 and found.reference["stride"] == 2
    long = save_fakes(user / "long", moving(9, 33, seed=2))
    strided = fvd("clips=first", "clip.frames=11", "sample_stride=3", samples=long)
    by_hand = fvd_by_hand(features(user, moving(9, 33, seed=2)[:, ::3]), features(user, moving(8, 24)[:, :11]))
    assert strided.value == pytest.approx(by_hand, rel=1e-4)
    assert strided.protocol["clip"]["stride"] == 3


def test_a_seed_draws_clips_and_several_give_mean_and_deviation(user, fvd, capsys):
    alone = [fvd(f"seed={seed}") for seed in (0, 1, 2)]
    values = [record.value for record in alone]
    assert len(set(values)) == 3 and fvd("seed=1").value == values[1]
    assert differences(alone[0], alone[1]) == {}  # another draw of the same protocol
    capsys.readouterr()
    found = fvd("seeds=[0,1,2]")
    assert found.value == pytest.approx(np.mean(values), rel=1e-9)
    assert found.interval.high - found.value == pytest.approx(np.std(values, ddof=1), rel=1e-6)
    assert "over 3 seeds" in capsys.readouterr().out
    assert "parameters.seeds" in differences(alone[0], found)


def test_numbers_of_another_protocol_are_not_put_beside_each_other(user, fvd):
    one, small = fvd(), save_fakes(user / "small", moving(9, 16, (10, 10), seed=1))
    changes = {
        "clips=middle": "reference.clips",
        "clips=tiled": "reference.clips",
        "clip.stride=2 clip.frames=12": "reference.stride",
        "size=10": "reference.size",
        "fit=squeeze": "reference.fit",
        "num_real=5": "reference.num_samples",
    }
    for words, key in changes.items():
        other = fvd(*words.split(), samples=small if "size" in words else user / "fakes" / "fakes.npz")
        assert key in differences(one, other), words
        with pytest.raises(ValueError, match="different protocols"):
            table([one, other])
    coded = fvd(real=user / "videos")
    assert coded.reference["kind"] == "video files (.mp4)"
    assert {"reference.sha256", "reference.lossless"} <= differences(one, coded).keys()


def test_files_shorter_than_a_clip_are_left_out_and_counted(user, fvd, caplog):
    frame_folders(user / "some", np.concatenate([moving(7, 24)]))
    frame_folders(user / "some" / "short", moving(2, 12, seed=5))
    found = fvd(real=user / "some")
    assert (found.reference["num_samples"], found.reference["short_files_left_out"]) == (7, 2)
    assert "2 of 9 files are left out: shorter" in caplog.text


def test_statistics_that_were_saved_give_the_same_number(user, fvd, tmp_path):
    direct = fvd("clips=first")
    words = ["features=i3d", f"i3d={user / 'i3d.pt'}", f"real={user / 'frames'}", "clips=first", "clip.frames=16"]
    file = tmp_path / "stats.npz"
    with pytest.raises(ValueError, match="holds no record"):  # nothing is measured
        measured(*words, f"save_reference={file}", out=tmp_path / "none")
    again = fvd(real=file)
    assert again.value == pytest.approx(direct.value, rel=1e-9)
    assert differences(direct, again) == {}


def test_videomae_and_other_metrics_of_it(user, tmp_path):
    save_videomae(tmp_path / "videomae", num_frames=16)
    words = ["features=videomae", f"videomae={tmp_path / 'videomae'}", f"samples={user / 'fakes' / 'fakes.npz'}"]
    names = "metrics=[fvd,precision,recall]"
    found = measured(*words, f"real={user / 'frames'}", names, out=tmp_path / "out")
    assert (
        set(found) == {f"videomae/{name}" for name in ("fvd", "precision", "recall")}
        and found["videomae/fvd"].value > 0
    )
    assert found["videomae/fvd"].features["name"] == "videomae"
    seeds = {differences(found["videomae/fvd"], record).get("features.name") for record in found.values()}
    assert seeds == {None}


def test_moving_digits_may_be_measured_from_files(user, tmp_path):
    pixels = np.load(user / "samples" / "samples.npz")["arr_0"].repeat(3, axis=-1)
    frame_folders(user / "samples" / "frames", pixels)
    words = ["features=digits", "metrics=[frechet_distance]"]
    array, files = (
        measured(f"samples={user / 'samples' / name}", *words, out=tmp_path / name)["frechet_distance"]
        for name in ("samples.npz", "frames")
    )
    assert array.num_samples == files.num_samples == 9
    assert files.value == pytest.approx(array.value, rel=1e-5)


def test_another_array_is_cut_as_real_clips_are(user, fvd):
    real = save_npz(user / "real.npz", moving(8, 34, seed=4))
    found = fvd("clip.stride=2", "num_real=7", real=real)
    fakes, reals = moving(9, 16, seed=1), moving(8, 34, seed=4)[:7, :32:2]
    assert found.value == pytest.approx(fvd_by_hand(features(user, fakes), features(user, reals)), rel=1e-4)
    assert found.reference["num_samples"] == 7


def test_several_seeds_make_samples_anew(user, tmp_path):
    run = user / "runs" / "video" / "digits"
    words = [f"run={run}", "num=6", "metrics=[frechet_distance]"]
    alone = [measured(*words, f"seed={seed}", out=tmp_path / str(seed))["frechet_distance"].value for seed in (4, 5)]
    found = measured(*words, "seeds=[4,5]", out=tmp_path / "both")["frechet_distance"]
    assert alone[0] != alone[1] and found.value == pytest.approx(np.mean(alone), rel=1e-9)
    assert found.protocol["seed"] == [4, 5] and found.num_samples == 6
    assert [path.suffix for path in (tmp_path / "both").iterdir()] == [".json"]  # no samples are left


@every_row(
    ("features", "seed", "num_real"),
    [("i3d", 0, 2048), ("i3d_cdfvd", 42, None), ("videomae", 42, None), ("inception", 0, None)],
)
def test_each_protocol_has_its_own_seed_and_number(features, seed, num_real):
    def evaluation(**keys):
        return VideoEvaluation(VideoEvaluateConfig(features=features, samples="a", real="b", **keys))

    assert (evaluation().clip_seed, evaluation().num_real) == (seed, num_real)
    assert (evaluation(seed=7).clip_seed, evaluation(num_real=9).num_real) == (7, 9)
    assert evaluation(num_real="all").num_real is None
    assert evaluation().num == 2048


# --- bad input


@every_row(
    ("words", "message"),
    [
        (["clip.frames=9"], r"have 9 frames; features=i3d needs 10 at least \(clip\.frames\)"),
        (["clip.frames=9", "features=i3d_cdfvd"], "have 9 frames; features=i3d_cdfvd needs 10 at least"),
        (["clip.frames=12", "features=videomae"], "have 12 frames; features=videomae needs 16 "),
        (["num=1"], "fvd with features=i3d needs at least 2 samples, there are 1"),
        (["real=one"], "fvd with features=i3d needs at least 2 clips of the reference, there are 1"),
        (["clip.frames=20"], r"clips of fakes\.npz have 16 frames with stride 1; needed: clip\.frames, 20"),
        (["sample_stride=2", "clip.frames=16"], r"have 8 frames with stride 2; needed: clip\.frames, 16"),
        (
            ["clip.stride=9"],
            r"^real is .*frames': no file is left; a clip of 16 frames with stride 9.* needs 136 frames",
        ),
        (["size=20"], r"samples have 16 frames of 16x12 pixels, the reference frames 16 frames of 20x20 pixels; both"),
        (["real=nowhere"], "^real is 'nowhere', which is not there; allowed: a folder of video files"),
        (["real=data"], "^real is 'data', and no run is known whose data that were"),
        (["samples=nowhere"], "^samples is 'nowhere', which is not there; allowed: an .npz, or a folder of videos"),
        (["samples=empty", "size=8"], "^samples is .*empty': no video file there"),
        (["features=i3d2"], "^features is 'i3d2'; allowed: i3d, i3d_cdfvd, videomae, inception, digits"),
        (["metrics=[fid]"], "'metrics' has 'fid'; allowed: fvd, precision"),
        (["num_real=0"], "^num_real is 0; it must be at least 1"),
        (["sample_stride=0"], "^sample_stride is 0; it must be at least 1"),
        (["features=digits", "sample_stride=2"], "^features is 'digits', which takes whole clips"),
        (["i3d=nowhere.pt"], "^config key 'i3d': there is no file nowhere.pt"),
        (["weights_dir=empty", "i3d=null"], r"^weights 'i3d' are missing.*python -m eval\.weights fetch i3d"),
    ],
)
def test_bad_input_is_one_error_before_anything_is_measured(user, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir(exist_ok=True)
    frame_folders(tmp_path / "one", moving(1, 24))
    given = [
        f"samples={user / 'fakes' / 'fakes.npz'}",
        f"real={user / 'frames'}",
        f"i3d={user / 'i3d.pt'}",
        "features=i3d",
    ]
    with pytest.raises(ValueError, match=message):
        measured(*given, *words, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_run_whose_clips_are_too_short_is_refused_before_samples_are_made(user, tmp_path):
    run = user / "runs" / "video" / "digits"
    words = [f"run={run}", "real=digits", "features=i3d", f"i3d={user / 'i3d.pt'}", "sample_stride=2", "num=4"]
    with pytest.raises(ValueError, match="have 8 frames; features=i3d needs 10 at least"):
        measured(*words, out=tmp_path / "out")
    assert not list(tmp_path.glob("out/samples_*"))
