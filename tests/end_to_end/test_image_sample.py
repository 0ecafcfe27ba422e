"""`python -m image.sample`: what it writes, on what a sample depends, and that nothing is overwritten unasked."""

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from core.storage.weights import load_weights
from tests.end_to_end.commands import call, finish, is_one_line_error, newest, start
from tests.end_to_end.image_runs import train_here


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A user's folder with a short run in it."""
    place = tmp_path_factory.mktemp("user")
    quick = ["trainer.steps=60", "trainer.num_previews=1", "optimizer.lr=1e-2", "ema.decays=[0.9,0.5]"]
    train_here(place, *quick)
    return place


@pytest.fixture
def sample(place, monkeypatch):
    """`python -m image.sample run=... args` in the user's folder."""
    monkeypatch.chdir(place)
    return lambda *args: call("image.sample", "run=runs/image/digits", "device=cpu", *args)


@pytest.fixture
def made(sample, place, request):
    """The images (n, 8, 8, 3) and labels of a call, each into a folder of its own."""
    counter = iter(range(100))

    def make(*args):
        out = place / request.node.name / str(next(counter))
        outcome = sample(*args, f"out={out}")
        assert outcome.code == 0, outcome
        content = np.load(out / "samples.npz")
        return content["arr_0"], content["arr_1"]

    return make


def nearly(a, b):
    """The same pictures, but for the rounding of a number that lies between two bytes."""
    difference = np.abs(a.astype(int) - b.astype(int))
    return difference.max() <= 1 and (difference > 0).mean() < 0.01


def test_it_writes_a_grid_single_pictures_an_archive_and_its_protocol(place):
    outcome = finish(start("image.sample", "run=runs/image/digits", "labels=3", "num=6", "seed=5", cwd=place))
    assert outcome.code == 0, outcome
    out = place / "runs" / "image" / "digits" / "samples" / "ema_label3_seed5"
    assert "runs/image/digits/samples/ema_label3_seed5" in outcome.out
    assert {path.name for path in out.iterdir()} == {"grid.png", "png", "samples.npz", "protocol.yaml"}
    assert sorted(path.name for path in (out / "png").iterdir()) == [f"{i:06d}.png" for i in range(6)]
    content = np.load(out / "samples.npz")
    assert content["arr_0"].shape == (6, 8, 8, 3)
    assert content["arr_0"].dtype == np.uint8
    assert content["arr_1"].tolist() == [3] * 6
    for i in range(6):
        with Image.open(out / "png" / f"{i:06d}.png") as picture:
            assert np.array_equal(np.asarray(picture.convert("RGB")), content["arr_0"][i])
    protocol = yaml.safe_load((out / "protocol.yaml").read_text())
    assert protocol["sampler"]["num_steps"] == 2
    assert protocol["sampler"]["guidance_scale"] == 1.5
    assert protocol["checkpoint"].endswith("step_00000060")
    assert (protocol["seed"], protocol["weights"]) == (5, "ema")


def test_a_sample_depends_on_seed_label_weights_and_sampler(made):
    images, _ = made("num=4", "labels=3")
    assert np.array_equal(made("num=4", "labels=3")[0], images)
    for change in ("seed=1", "labels=4", "weights=model", "sampler.num_steps=3", "sampler.guidance_scale=4"):
        args = [arg for arg in ("num=4", "labels=3") if arg.split("=")[0] != change.split("=")[0]]
        assert not nearly(made(*args, change)[0], images), change


def test_labels_are_all_classes_in_turn_or_the_ones_asked_for(made):
    assert made("num=12")[1].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    assert made("num=5", "labels=[7,2]")[1].tolist() == [7, 2, 7, 2, 7]


def test_an_output_that_exists_is_kept_unless_asked(sample, place):
    args = "num=2", "labels=1", f"out={place / 'mine'}"
    assert sample(*args).code == 0
    before = (place / "mine" / "samples.npz").read_bytes()
    is_one_line_error(sample(*args, "seed=3"), "mine exists", "out=", "overwrite=true")
    assert (place / "mine" / "samples.npz").read_bytes() == before
    (place / "mine" / "old.txt").touch()
    assert sample(*args, "seed=3", "overwrite=true").code == 0
    assert (place / "mine" / "samples.npz").read_bytes() != before
    assert not (place / "mine" / "old.txt").exists()


def test_weights_come_from_any_kind_of_file(made, place):
    run = place / "runs" / "image" / "digits"
    images, _ = made("num=3")
    ema, model = (load_weights(newest(run), prefer=name) for name in ("ema", "model"))
    save_file(ema, place / "ema.safetensors")
    torch.save({"ema": ema, "model": model}, place / "published.pt")
    for file in (newest(run), place / "ema.safetensors", place / "published.pt"):
        assert np.array_equal(made("num=3", f"checkpoint={file}")[0], images)
    plain, _ = made("num=3", "weights=model")
    assert np.array_equal(made("num=3", f"checkpoint={place / 'published.pt'}", "weights=model")[0], plain)


def test_weights_are_those_that_the_protocol_names_or_refused(sample, place):
    run = place / "runs" / "image" / "digits"
    model = load_weights(newest(run), prefer="model")
    torch.save({"model": model}, place / "raw.pt")
    broken = {name: value.clone() for name, value in model.items()}
    broken["final_layer.linear.bias"][0] = torch.nan
    save_file(broken, place / "broken.safetensors")
    before = sorted(place.rglob("*"))
    is_one_line_error(sample("num=2", f"checkpoint={place / 'raw.pt'}"), "raw.pt holds no 'ema' weights, but 'model'")
    outcome = sample("num=2", f"checkpoint={place / 'broken.safetensors'}")
    is_one_line_error(outcome, "broken.safetensors holds NaN or infinity in final_layer.linear.bias")
    assert sorted(place.rglob("*")) == before


def test_every_average_of_a_checkpoint_can_be_sampled(made, place):
    run = place / "runs" / "image" / "digits"
    other, _ = made("num=3", "weights=ema_decay0.5")
    assert not np.array_equal(other, made("num=3")[0])
    save_file(load_weights(newest(run), prefer="ema_decay0.5"), place / "other.safetensors")
    assert np.array_equal(made("num=3", f"checkpoint={place / 'other.safetensors'}")[0], other)


def test_a_single_file_has_no_other_averages(sample, place):
    run = place / "runs" / "image" / "digits"
    torch.save({"ema": load_weights(newest(run))}, place / "single.pt")
    outcome = sample(f"checkpoint={place / 'single.pt'}", "weights=ema_decay0.5")
    is_one_line_error(outcome, "'weights'", "'ema_decay0.5'", "single.pt", "ema, model")


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (["labels=10"], ["labels is 10", "0 to 9"]),
        (["labels=[0,-1]"], ["labels is [0, -1]", "0 to 9"]),
        (["labels=three"], ["labels has 'three', which the model does not know"]),
        (["num=0"], ["num is 0"]),
        (["weights=best"], ["'weights'", "'best'", "holds: ema, ema_decay0.5, model"]),
        (["weights=optimizer"], ["'weights'", "'optimizer'", "holds: ema, ema_decay0.5, model"]),
        (["lables=3"], ["lables", "labels"]),
        (["sampler.num_stepps=3"], ["num_stepps", "num_steps"]),
        (["sampler.solver=rk5"], ["sampler.solver", "'rk5'", "heun"]),
        (["sampler.guidance_scale=-1"], ["sampler.guidance_scale", "-1"]),
        (["sampler.guidance_channels=2"], ["sampler.guidance_channels is 2", "1 channels"]),
        (["run=nowhere"], ["run is 'nowhere'", "config.yaml"]),
        (["checkpoint=nowhere.pt"], ["nowhere.pt"]),
        (["device=quantum"], ["device", "'quantum'", "cpu"]),
    ],
)
def test_bad_input_is_one_line(sample, place, args, parts):
    before = sorted(place.rglob("*"))
    is_one_line_error(sample("num=2", *args), *parts)
    assert sorted(place.rglob("*")) == before


def test_many_labels_make_a_short_name_and_are_all_in_the_protocol(sample, place):
    labels = [number * 7 % 10 for number in range(121)]
    outcome = sample("num=2", f"labels={labels}")
    assert outcome.code == 0, outcome
    (out,) = (place / "runs" / "image" / "digits" / "samples").glob("ema_label0-7-4-*_seed0")
    assert len(out.name) < 80
    assert yaml.safe_load((out / "protocol.yaml").read_text())["protocol"]["labels"] == labels
    assert sample("num=2", f"labels={labels[:-1]}").code == 0, "other labels, another folder"
