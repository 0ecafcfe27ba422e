"""Averages of other widths from snapshots, against averages that were tracked; and the entry that makes them."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from core import reconstruct_ema
from core.commands.entry import run_entry
from core.storage.weights import load_into, load_weights
from core.train.ema import EMA, EMAConfig, power_exponent
from core.train.posthoc import (
    drop_snapshots,
    fit,
    inner_products,
    reconstruct,
    save_snapshot,
    snapshots,
)
from tests.rows import every_row

STEPS, EVERY = 1000, 50
FOLDER = "ema_snapshots"
TRACKED, WANTED = (0.05, 0.10), (0.075, 0.15)


def network():
    """A layer, a buffer of numbers and one of flags."""
    torch.manual_seed(0)
    model = nn.Linear(8, 8)
    model.register_buffer("table", torch.linspace(0, 1, 3))
    model.register_buffer("flags", torch.tensor([True, False]))
    model.register_buffer("count", torch.tensor(7))
    return model


def keep(folder, step, model, ema):
    return save_snapshot(folder, step, ema.state_dicts(), ema.widths, ema.averaged)


@pytest.fixture(scope="module")
def walk(tmp_path_factory):
    """(folder of snapshots of the tracked widths, the last averages of all widths) of weights on a random walk."""
    folder = tmp_path_factory.mktemp("run") / FOLDER
    model, generator = network(), torch.Generator().manual_seed(1)
    tracked, wanted = (EMA(model, EMAConfig([], list(widths), snapshot_every=EVERY)) for widths in (TRACKED, WANTED))
    for step in range(1, STEPS + 1):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
        for ema in (tracked, wanted):
            ema.update(step)
        if tracked.snapshot_due(step):
            keep(folder, step, model, tracked)
    states = {}
    for ema in (tracked, wanted):
        for name, width in ema.widths.items():
            states[width] = {key: value.clone() for key, value in ema.state_dicts()[name].items()}
    return folder, states


def distance(a, b):
    """Distance between the averaged weights of two states, relative to the second."""
    flat_a, flat_b = (torch.cat([state[name].flatten() for name in ("weight", "bias")]).double() for state in (a, b))
    return float((flat_a - flat_b).norm() / flat_b.norm())


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@every_row("width", WANTED)
def test_a_reconstruction_is_the_average_that_was_not_kept(walk, width):
    folder, states = walk
    made, facts = reconstruct(folder, width)
    error = distance(made, states[width])
    nearest = min(distance(states[tracked], states[width]) for tracked in TRACKED)
    assert (facts.step, facts.snapshots) == (STEPS, 2 * STEPS // EVERY)
    assert error < 5e-3
    assert error < nearest / 20
    assert facts.residual < 0.02
    assert facts.total == pytest.approx(1, abs=1e-3)


@every_row("width", TRACKED)
def test_a_tracked_width_at_a_snapshot_is_the_snapshot(walk, width):
    folder, states = walk
    made, facts = reconstruct(folder, width)
    assert same(made, states[width])
    assert facts.residual == 0
    earlier, facts = reconstruct(folder, width, step=EVERY * 3)
    assert same(earlier, load_file(folder / f"step_{3 * EVERY:08d}_width{width}.safetensors"))
    assert facts.step == 3 * EVERY


def test_a_reconstruction_does_not_look_beyond_its_step(walk, tmp_path):
    folder, _ = walk
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    drop_snapshots(tmp_path, after=600)
    assert snapshots(tmp_path)[-1].step == 600
    (ours, facts), (theirs, _) = reconstruct(folder, 0.075, step=600), reconstruct(tmp_path, 0.075)
    assert same(ours, theirs)
    assert facts.snapshots == 24


def test_a_reconstruction_is_a_state_of_the_model(walk):
    model = network()
    made, _ = reconstruct(walk[0], 0.075)
    load_into(model, made, "reconstruction")
    for key, value in network().state_dict().items():
        assert made[key].dtype == value.dtype
        if key not in ("weight", "bias"):
            assert torch.equal(made[key], value), key


# --- the least squares


def test_inner_products_are_the_integrals_of_the_profiles():
    profiles = [(100, 0.05), (100, 0.2), (70, 0.1), (3, 0.28)]
    k = (np.arange(1_000_000) + 0.5) / 10_000
    values = [(power_exponent(w) + 1) / n * (k / n) ** power_exponent(w) * (k < n) for n, w in profiles]
    expected = np.array([[(a * b).mean() * 100 for b in values] for a in values])
    np.testing.assert_allclose(inner_products(profiles, profiles), expected, rtol=1e-5)


def test_no_other_coefficients_are_nearer():
    given, wanted = [(step, width) for step in (40, 70, 100) for width in TRACKED], (100, 0.08)
    best, residual = fit(given, *wanted)

    def squared(coefficients):
        both = np.append(coefficients, -1)
        products = inner_products([*given, wanted], [*given, wanted])
        return both @ products @ both / products[-1, -1]

    assert math.sqrt(squared(best)) == pytest.approx(residual, rel=1e-6)
    for i in range(len(given)):
        for shift in (-1e-3, 1e-3):
            assert squared(best + shift * np.eye(len(given))[i]) > squared(best)


def test_widths_that_are_all_but_equal_give_bounded_coefficients():
    given = [(step, width) for step in range(50, 1001, 50) for width in (0.05, 0.05 + 1e-13, 0.1)]
    coefficients, residual = fit(given, 1000, 0.075)
    assert np.abs(coefficients).max() < 2
    assert residual == pytest.approx(fit([pair for pair in given if pair[1] in TRACKED], 1000, 0.075)[1], rel=1e-3)


# --- files


def small(folder, step=10, width=0.1, **changes):
    """One snapshot of a small model; None removes a tensor."""
    state = {"weight": torch.full((2, 3), float(step)), "table": torch.arange(3.0), **changes}
    state = {key: value for key, value in state.items() if value is not None}
    return save_snapshot(folder, step, {"ema": state, "model": {}}, {"ema": width}, ["weight"])[0]


def test_a_snapshot_is_a_weights_file_that_tells_what_it_is(tmp_path):
    path = small(tmp_path / "deep" / FOLDER, step=1000, width=0.05)
    assert path == tmp_path / "deep" / FOLDER / "step_00001000_width0.05.safetensors"
    assert load_weights(path)["weight"].tolist() == [[1000.0] * 3] * 2
    with safe_open(path, framework="pt") as file:
        facts = json.loads(file.metadata()["layersync"])
    assert (facts["schema_version"], facts["step"], facts["width"], facts["buffers"]) == (1, 1000, 0.05, ["table"])
    assert [path] == list(path.parent.iterdir()), "nothing is left beside it"
    (path.parent / "width0.1_step00000010.safetensors").write_bytes(b"a reconstruction")
    (path.parent / ".step_00000010_width0.2.safetensors.1.tmp").write_bytes(b"half")
    assert [snapshot.path for snapshot in snapshots(path.parent)] == [path]


def test_a_snapshot_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    def full(state, file, metadata):
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("core.train.posthoc.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        small(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_width_step_or_folder_that_is_not_covered_is_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ValueError, match=r"no snapshots; ema.widths and ema.snapshot_every"):
            reconstruct(folder, 0.1)
    small(tmp_path, 10), small(tmp_path, 20)
    for width in (0.0, 0.281, -1.0, math.nan):
        with pytest.raises(ValueError, match=r"width is .*; a relative width must lie in \(0, 0.28\]"):
            reconstruct(tmp_path, width)
    for step in (9, 21, 0):
        with pytest.raises(ValueError, match=rf"step is {step}; the snapshots in .* allow 10 to 20"):
            reconstruct(tmp_path, 0.1, step)


def cut(path):
    path.write_bytes(path.read_bytes()[:-5])


def empty(path):
    path.write_bytes(b"")


def flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@every_row("damage", [cut, empty, flip])
def test_a_damaged_snapshot_is_named(tmp_path, damage):
    small(tmp_path, 10)
    path = small(tmp_path, 20)
    damage(path)
    with pytest.raises(ValueError, match=rf"snapshot {path} is damaged"):
        reconstruct(tmp_path, 0.05, 20)


def test_a_file_that_tells_nothing_is_named(tmp_path):
    path = tmp_path / "step_00000010_width0.1.safetensors"
    save_file({"weight": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=rf"{path} is no snapshot"):
        reconstruct(tmp_path, 0.1)
    for facts in (
        "[" * 100_000,
        "[]",
        json.dumps({"schema_version": 1, "step": "1", "width": 0.1, "buffers": [], "sha256": ""}),
    ):
        save_file({"weight": torch.zeros(1)}, path, {"layersync": facts})
        with pytest.raises(ValueError, match=rf"{path} is no snapshot"):
            reconstruct(tmp_path, 0.1)
    save_file({"weight": torch.zeros(1)}, path, {"layersync": json.dumps({"schema_version": 9})})
    with pytest.raises(ValueError, match=rf"{path} has snapshot schema 9"):
        reconstruct(tmp_path, 0.1)


@every_row(
    ("changes", "key"),
    [
        ({"weight": torch.zeros(3, 3)}, "weight"),
        ({"weight": torch.zeros(2, 3).bfloat16()}, "weight"),
        ({"table": None}, "table"),
        ({"more": torch.zeros(1)}, "more"),
    ],
)
def test_snapshots_of_different_architectures_are_refused(tmp_path, changes, key):
    small(tmp_path, 20)
    other = small(tmp_path, 10, **changes)
    with pytest.raises(ValueError, match=rf"snapshots {other} and .* different architectures: .*'{key}'"):
        reconstruct(tmp_path, 0.05)


# --- the entry


@pytest.fixture
def run(walk, tmp_path, monkeypatch):
    """A run's folder that holds the walk's snapshots, in the user's folder."""
    run = tmp_path / "runs" / "toy" / "walk"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("name: walk\n")
    shutil.copytree(walk[0], run / FOLDER)
    monkeypatch.chdir(tmp_path)
    return run


def enter(*argv):
    schema = reconstruct_ema.ReconstructConfig
    run_entry(
        reconstruct_ema.main, config_module="core.conf", config_name="reconstruct_ema", schema=schema, argv=list(argv)
    )


def test_the_entry_writes_a_weights_file_and_says_how_to_sample(run, walk, capsys):
    expected, facts = reconstruct(walk[0], 0.075)
    for arguments, out in (
        ([], f"runs/toy/walk/{FOLDER}/width0.075_step00001000.safetensors"),
        (["out=mine/made.safetensors"], "mine/made.safetensors"),
    ):
        enter("run=runs/toy/walk", "width=0.075", *arguments)
        printed = capsys.readouterr().out
        assert f"written    {out}" in printed
        assert f"{facts.residual:.2%}" in printed
        assert f"python -m toy.sample run=runs/toy/walk checkpoint={out}" in printed
        assert same(load_weights(out), expected)
    enter("run=runs/toy/walk", "width=0.075", "step=500")
    assert same(load_weights(run / FOLDER / "width0.075_step00000500.safetensors"), reconstruct(walk[0], 0.075, 500)[0])


@every_row(
    ("arguments", "parts"),
    [
        (["width=0.1"], ["'run'"]),
        (["run=runs/toy/walk"], ["'width'"]),
        (["run=nowhere", "width=0.1"], ["run is 'nowhere'"]),
        (["run=runs/toy/walk", "width=0.5"], ["width is 0.5", "(0, 0.28]"]),
        (["run=runs/toy/walk", "width=0.1", "step=2000"], ["step is 2000", "50 to 1000"]),
        (["run=runs/toy/walk", "width=0.1", "out=made.pt"], ["out is 'made.pt'", ".safetensors"]),
        (["run=runs/toy/walk", "width=0.1", "out=old.safetensors"], ["'old.safetensors'", "exists"]),
        (["run=runs/toy/walk", "width=0.1", "widht=0.1"], ["widht", "width"]),
    ],
)
def test_bad_input_of_the_entry_is_one_line(run, capsys, arguments, parts):
    (run.parents[2] / "old.safetensors").touch()
    with pytest.raises(SystemExit) as exit_:
        enter(*arguments)
    captured = capsys.readouterr()
    assert exit_.value.code == 2
    assert captured.err.count("\n") == 1
    for part in parts:
        assert part in captured.err
    assert captured.out == ""
    assert not list((run / FOLDER).glob("width*"))
