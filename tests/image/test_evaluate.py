"""`python -m image.evaluate` from end to end: a tiny run, folders and .npz files in real formats, random networks."""

import json
import os
import shutil
import signal

import numpy as np
import pytest
import scipy.linalg
import torch

import image.evaluate
import image.sample
import image.train
from core.data.pixels import to_uint8
from core.storage.provenance import json_sha256
from core.storage.run_folder import RunDirectory
from eval.measure.inception import InceptionFeatures
from eval.measure.record import differences, read_records, table
from eval.statistics.neighbours import Blocks, precision_recall
from image.extractors import DinoFeatures, WeightsSource
from image.media import open_images, open_reference
from tests.core.processes.started import Launched
from tests.end_to_end.image_runs import tiny
from tests.image.evaluations import adm_reference, measured, pictures, save_folder, save_npz
from tests.image.networks import save_dinov2, save_inception

RUN = "runs/image/digits"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def user(tmp_path_factory):
    """A user's folder with a tiny run on digits."""
    place = tmp_path_factory.mktemp("user")
    steps = ["trainer.steps=4", "trainer.preview_every=0", "evaluation.num_samples=45"]
    image.train.ENTRY.run(tiny(*steps, f"runs_dir={place / 'runs'}", evaluate=True))
    return place


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory):
    return save_dinov2(tmp_path_factory.mktemp("dinov2"))


# --- a run


def test_the_numbers_are_those_that_training_printed(user, tmp_path, capsys):
    found = measured(f"run={user / RUN}", out=tmp_path)
    summary = json.loads((user / RUN / "summary.json").read_text())
    assert found["frechet_distance"].value == pytest.approx(summary["frechet_distance"], rel=1e-6)
    assert found["class_accuracy"].value == summary["class_accuracy"]
    assert {record.num_samples for record in found.values()} == {summary["num_samples"]} == {45}
    assert "frechet_distance" in capsys.readouterr().out
    record = found["frechet_distance"]
    assert record.step == 4
    assert record.config_sha256 == json_sha256(RunDirectory(user / RUN).config())
    assert record.protocol["sampler"]["num_steps"] == 2
    assert [record.protocol[key] for key in ("weights", "labels", "seed", "precision")] == [
        "ema",
        "balanced",
        0,
        "fp32",
    ]
    assert record.reference["num_samples"] == 1438
    assert [path.suffix for path in tmp_path.iterdir()] == [".json"]  # the samples are gone


def test_another_sampler_is_another_protocol_and_another_seed_is_not(user, tmp_path):
    one, other, seed = (
        measured(f"run={user / RUN}", "num=20", change, out=tmp_path / str(number))["frechet_distance"]
        for number, change in enumerate(["seed=0", "sampler.num_steps=3", "seed=1"])
    )
    assert differences(one, other) == {"protocol.sampler.num_steps": (2, 3)}
    assert differences(one, seed) == {}
    assert len({one.value, other.value, seed.value}) == 3
    with pytest.raises(ValueError, match=r"frechet_distance: protocol\.sampler\.num_steps is 2 or 3"):
        table([one, other])
    raw = measured(f"run={user / RUN}", "num=20", "weights=model", out=tmp_path / "raw")["frechet_distance"]
    assert differences(one, raw) == {"protocol.weights": ("ema", "model")}


def chunked(user, place, *args):
    where = ["batch_size=4", "num=30", "device=cpu", "keep_samples=true", f"out={place}"]
    return ["image.evaluate", f"run={user / RUN}", *where, *args]


def samples_in(place):
    """Name and bytes of all that is kept of the samples."""
    return {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*.npy")}


def values_in(place):
    return {record.metric: record.value for record in read_records([place])}


@pytest.fixture(scope="module")
def undisturbed(user, tmp_path_factory):
    """What one process leaves that nobody disturbs."""
    place = tmp_path_factory.mktemp("undisturbed")
    (outcome,) = Launched(1, *chunked(user, place), cwd=user).wait()
    assert outcome.code == 0, outcome
    assert len(samples_in(place)) == 8
    return place


@pytest.mark.parametrize("size", [2, 3])
def test_several_processes_leave_what_one_leaves(user, undisturbed, tmp_path, size):
    outcomes = Launched(size, *chunked(user, tmp_path), cwd=user).wait()
    assert [outcome.code for outcome in outcomes] == [0] * size, outcomes
    assert samples_in(tmp_path) == samples_in(undisturbed)
    assert values_in(tmp_path) == values_in(undisturbed)
    assert ["frechet_distance" in outcome.out for outcome in outcomes] == [True] + [False] * (size - 1)
    assert read_records([tmp_path])[0].hardware["processes"] == size


def die_in_the_third_chunk(rank):
    _signal_in_the_third_chunk(signal.SIGKILL)


def be_told_to_stop(rank):
    _signal_in_the_third_chunk(signal.SIGTERM)


def _signal_in_the_third_chunk(number):
    from eval.measure.generated import Chunks

    write = Chunks._write

    def interrupted(self, chunk, images):
        if chunk == 2:
            os.kill(os.getpid(), number)
        write(self, chunk, images)

    Chunks._write = interrupted


@pytest.mark.parametrize(
    ("before", "code", "made"), [(die_in_the_third_chunk, -signal.SIGKILL, 2), (be_told_to_stop, 143, 3)]
)
def test_an_interrupted_evaluation_goes_on_to_the_same_bytes(user, undisturbed, tmp_path, before, code, made):
    (outcome,) = Launched(1, *chunked(user, tmp_path), cwd=user, before=before).wait()
    assert outcome.code == code, outcome
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("chunk_*.npy")}
    assert len(kept) == made
    assert not list(tmp_path.glob("evaluation_*"))
    assert [outcome.code for outcome in Launched(2, *chunked(user, tmp_path), cwd=user).wait()] == [0, 0]
    assert {path: path.stat().st_mtime_ns for path in kept} == kept  # not made again
    assert samples_in(tmp_path) == samples_in(undisturbed)
    assert values_in(tmp_path) == values_in(undisturbed)


def test_more_samples_go_on_with_what_is_there_and_overwrite_makes_all_anew(user, tmp_path):
    run = [f"run={user / RUN}", "batch_size=4", "keep_samples=true"]
    measured(*run, "num=10", out=tmp_path)
    (folder,) = tmp_path.glob("samples_*")
    before = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in sorted(folder.glob("*.npy"))}
    measured(*run, "num=12", out=tmp_path)
    after = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in sorted(folder.glob("*.npy"))}
    assert [after[name] == before[name] for name in before] == [True, True, False]  # the last one was short
    measured(*run, "num=12", "overwrite=true", out=tmp_path)
    anew = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in sorted(folder.glob("*.npy"))}
    assert [new[1] for new in anew.values()] == [old[1] for old in after.values()]
    assert all(new[0] > old[0] for new, old in zip(anew.values(), after.values(), strict=True))


# --- samples that are there


def test_what_image_sample_wrote_is_measured_under_its_protocol(user, tmp_path):
    config = [f"run={user / RUN}", "num=30", f"out={tmp_path / 'samples'}", "device=cpu"]
    image.sample.ENTRY.main(image.sample.ENTRY.config(config))
    found = measured(f"samples={tmp_path / 'samples'}", "reference=digits", out=tmp_path / "a")
    own = measured(f"run={user / RUN}", "num=30", out=tmp_path / "b")
    pixels = {"protocol.pixels": tuple(each["class_accuracy"].protocol["pixels"] for each in (own, found))}
    assert differences(own["class_accuracy"], found["class_accuracy"]) == pixels  # bytes there, floats here
    assert found["frechet_distance"].step == 4
    assert found["frechet_distance"].value == pytest.approx(own["frechet_distance"].value, rel=0.05)
    folder = measured(f"samples={tmp_path / 'samples' / 'png'}", "reference=digits", out=tmp_path / "c")
    assert set(folder) == {"frechet_distance"}  # nobody says what the digits are to be
    assert folder["frechet_distance"].value == found["frechet_distance"].value


def test_a_folder_and_an_npz_of_the_same_images_give_the_same_numbers(tmp_path, dinov2):
    rows, others = pictures(12), pictures(12, seed=1, low=100)
    ours = {"folder": save_folder(tmp_path / "a", rows), "npz": save_npz(tmp_path / "a.npz", rows)}
    theirs = save_folder(tmp_path / "b", others)
    common = [f"reference={theirs}", "features=dinov2", f"dinov2={dinov2}", "feature_batch_size=5"]
    metrics = "metrics=[fd_dinov2,precision,recall]"
    found = {
        name: measured(f"samples={path}", metrics, *common, out=tmp_path / f"out-{name}") for name, path in ours.items()
    }
    values = [{name: record.value for name, record in each.items()} for each in found.values()]
    assert values[0] == values[1]
    record = found["npz"]["fd_dinov2"]
    assert record.protocol == {"source": "unknown: samples given"}
    assert record.features["name"] == "dinov2"
    assert record.reference["kind"] == "folder"
    assert record.value > 0
    extractor = DinoFeatures(WeightsSource(dinov2=dinov2), CPU)
    a, b = (extractor(torch.from_numpy(each))["cls"].double().numpy() for each in (rows, others))
    difference = a.mean(0) - b.mean(0)
    cov = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    by_hand = difference @ difference + np.trace(cov[0] + cov[1] - 2 * scipy.linalg.sqrtm(cov[0] @ cov[1]).real)
    assert record.value == pytest.approx(by_hand, rel=1e-3)


def test_digits_are_a_reference_for_every_extractor(tmp_path, dinov2):
    digits = open_reference("digits_heldout")
    rows = to_uint8(digits.media.rows(0, 20)).permute(0, 2, 3, 1).numpy()
    samples, stats = save_npz(tmp_path / "a.npz", rows), tmp_path / "stats.npz"
    common = ["features=dinov2", f"dinov2={dinov2}"]
    save = ["reference=digits_heldout", f"save_reference={stats}", "device=cpu", *common]
    image.evaluate.ENTRY.main(image.evaluate.ENTRY.config(save))
    live, saved = (
        measured(f"samples={samples}", f"reference={each}", *common, out=tmp_path / out)["fd_dinov2"]
        for each, out in (("digits_heldout", "live"), (stats, "saved"))
    )
    assert saved.value == pytest.approx(live.value, rel=1e-6) and live.value > 0
    extractor = DinoFeatures(WeightsSource(dinov2=dinov2), CPU)
    seen = digits.media_for(extractor).rows(0, 20)
    assert seen.dtype == torch.uint8 and torch.equal(seen.permute(0, 2, 3, 1), torch.from_numpy(rows))


def test_saved_statistics_give_the_numbers_of_the_images(tmp_path, dinov2):
    samples, images_ = (save_npz(tmp_path / f"{name}.npz", pictures(10, seed=name)) for name in (0, 1))
    common = ["features=dinov2", f"dinov2={dinov2}"]
    stats = tmp_path / "stats.npz"
    save = [f"reference={images_}", f"save_reference={stats}", "device=cpu", *common]
    image.evaluate.ENTRY.main(image.evaluate.ENTRY.config(save))
    found = [
        measured(f"samples={samples}", f"reference={reference}", *common, out=tmp_path / f"{number}")["fd_dinov2"]
        for number, reference in enumerate([images_, stats])
    ]
    assert found[1].value == pytest.approx(found[0].value, rel=1e-6)
    assert found[1].reference == found[0].reference
    with pytest.raises(ValueError, match=r"holds statistics only; dinov2/precision need the images"):
        measured(f"samples={samples}", f"reference={stats}", *common, "metrics=[precision]", out=tmp_path / "x")
    other = save_dinov2(tmp_path / "other", seed=1)
    with pytest.raises(ValueError, match="a reference of another protocol: features' weights_sha256"):
        measured(f"samples={samples}", f"reference={stats}", "features=dinov2", f"dinov2={other}", out=tmp_path / "x")


@pytest.fixture(scope="module")
def inception(tmp_path_factory):
    return save_inception(tmp_path_factory.mktemp("inception") / "weights.pth")


def test_fd_dinov2_stands_beside_fid_where_it_can(tmp_path, dinov2, monkeypatch):
    """By default, where its weights are there and the reference is images; nothing else asks for it."""
    monkeypatch.setenv("LAYERSYNC_WEIGHTS", str(tmp_path))
    images_, _ = save_npz(tmp_path / "a.npz", pictures(4)), adm_reference(tmp_path / "adm.npz", pictures(4))
    common = ["samples=some.npz", "features=inception_torch_fidelity"]

    def requested(*words, reference=images_):
        config = image.evaluate.ENTRY.config([*common, f"reference={reference}", *words])
        return list(image.evaluate.ImageEvaluation(config).requested_metrics())

    there = f"dinov2={dinov2}"
    assert requested(there) == ["inception_torch_fidelity", "dinov2"]
    assert requested() == requested(there, "metrics=[fid]") == ["inception_torch_fidelity"]
    assert requested(there, "features=inception_adm", reference=tmp_path / "adm.npz") == ["inception_adm"]


def frechet_to_diagonal(features, mean, covariance):
    """|difference|^2 + trace(A + B - 2 (A B)^(1/2)), B diagonal, A of rank n - 1: roots of the small matrix R^T B R."""
    x = features.double().numpy()
    deviation = (x - x.mean(0)) / np.sqrt(len(x) - 1)
    roots = np.sqrt(np.clip(np.linalg.eigvalsh(deviation * np.diag(covariance) @ deviation.T), 0, None))
    difference = x.mean(0) - mean
    return difference @ difference + np.square(deviation).sum() + np.trace(covariance) - 2 * roots.sum()


def test_a_reference_batch_of_adm_is_read_as_it_is(tmp_path, inception, dinov2):
    rows, theirs = pictures(6, seed=3), pictures(7, seed=4, low=60)
    samples, (reference, arrays) = save_npz(tmp_path / "a.npz", rows), adm_reference(tmp_path / "adm.npz", theirs)
    common = [f"samples={samples}", f"reference={reference}", f"inception={inception}", "feature_batch_size=4"]
    found = measured(*common, "metrics=[fid,sfid,precision,recall]", out=tmp_path / "out")
    extractor = InceptionFeatures("inception_adm", inception, None, CPU)
    own, other = extractor(torch.from_numpy(rows)), extractor(torch.from_numpy(theirs))
    assert found["fid"].value == pytest.approx(frechet_to_diagonal(own["pool"], arrays["mu"], arrays["sigma"]))
    by_hand = frechet_to_diagonal(own["spatial"], arrays["mu_s"], arrays["sigma_s"])
    assert found["sfid"].value == pytest.approx(by_hand)
    both = precision_recall(own["pool"], other["pool"], k=3, blocks=Blocks("adm_float16", 10_000))
    assert (found["precision"].value, found["recall"].value) == (both.precision.value, both.recall.value)
    assert found["recall"].parameters == {"k": 3, "num_reference": 7, "distances": "adm_float16"}
    assert found["fid"].reference["kind"] == "adm"
    assert found["fid"].features["name"] == "inception_adm"
    with pytest.raises(ValueError, match="is with features=inception_adm needs at least 5000 samples, there are 6"):
        measured(*common, out=tmp_path / "x")
    more = ["metrics=[fid,fd_dinov2]", f"dinov2={dinov2}"]
    with pytest.raises(ValueError, match=r"reference of another protocol.*features=dinov2"):
        measured(*common, *more, out=tmp_path / "x")
    with pytest.raises(ValueError, match=r"reference of another protocol.*features=inception_torch_fidelity"):
        measured(*common, "features=inception_torch_fidelity", "metrics=[fid]", out=tmp_path / "x")
    with pytest.raises(ValueError, match="'sfid' but features is 'inception_torch_fidelity'"):
        measured(*common, "features=inception_torch_fidelity", "metrics=[sfid]", out=tmp_path / "x")


def test_class_accuracy_needs_labels(user, tmp_path):
    digits = open_reference("digits_heldout").media
    rows = ((digits.rows(0, 30) + 1) * 127.5).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    (quick,) = (user / "runs" / "cache").glob("digit_classifier-*")  # stands in for the default's 600 steps
    (tmp_path / "cache").mkdir()
    shutil.copy(quick, tmp_path / "cache" / "digit_classifier-steps600-seed0.safetensors")
    common = ["reference=digits", f"cache_dir={tmp_path / 'cache'}", "metrics=[class_accuracy]"]
    with pytest.raises(ValueError, match="class_accuracy needs to know"):
        measured(f"samples={save_npz(tmp_path / 'a.npz', rows)}", *common, out=tmp_path / "out")
    labelled = save_npz(tmp_path / "b.npz", rows, arr_1=digits.labels[:30].numpy())
    found = measured(f"samples={labelled}", *common, out=tmp_path / "out")
    assert found["class_accuracy"].value > 0.5
    assert found["class_accuracy"].reference["name"] == "none"


def test_a_grey_image_in_a_compressed_npz_is_read(tmp_path):
    rows = pictures(5)[..., :1]
    np.savez_compressed(tmp_path / "a.npz", arr_0=rows)
    found = open_images(tmp_path / "a.npz", "samples")
    assert torch.equal(found.rows(1, 4), torch.from_numpy(rows[1:4]).permute(0, 3, 1, 2))
