"""The benchmarks measure what trains, count what is computed, and write down what a reader needs."""

import json
import math
import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from benchmarks import measure, sampling, train_step
from benchmarks.baseline import BaselineStep, PlainSiT
from benchmarks.models import PRESETS, Work, build_backbone
from benchmarks.steps import AlignmentAlone, OurStep
from core.alignment.contract import NoAlignmentConfig
from core.conditioning.labels import LabelConditioning, LabelConfig
from core.contracts import Domain
from core.flow.objective import ObjectiveConfig
from core.flow.sampler import SamplerConfig
from core.latents.pixels import Pixels
from core.processes.world import World
from core.storage.run_folder import RunDirectory
from core.train.config import RunConfig, TrainerConfig
from core.train.ema import EMA, EMAConfig
from core.train.trainer import Trainer

CPU = torch.device("cpu")
WORK = Work(size="tiny", batch=3, precision="fp32", seed=0)
HEAVY = ("hydra", "omegaconf", "yaml", "sklearn", "PIL", "matplotlib", "torchvision", "diffusers", "transformers")


def nothing():
    """A mark that nobody looks at."""


def same(a, b):
    """Two state dicts are equal bit by bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# Ratios and clocks


def test_turns_are_interleaved_and_ratios_are_taken_pair_by_pair():
    order = []
    taken = measure.interleave({name: lambda name=name: order.append(name) or len(order) for name in "ab"}, rounds=3)
    assert "".join(order) == "ababab"
    assert taken == {"a": [1, 3, 5], "b": [2, 4, 6]}
    assert measure.pair_ratios(taken["b"], taken["a"]) == [2, 4 / 3, 6 / 5]
    assert measure.spread([3.0, 1.0, 2.0], scale=10) == {"median": 20, "low": 10, "high": 30}


def test_step_ratios_are_of_the_variants_that_ran():
    taken = {
        name: [{"step": seconds}] for name, seconds in {"eager": 2.0, "baseline": 3.0, "eager+layersync": 2.5}.items()
    }
    taken["alignment"] = [{"alignment": 0.25}]
    assert train_step.step_ratios(taken) == {
        "baseline / eager": [1.5],
        "baseline / eager+layersync": [1.2],
        "eager+layersync / eager": [1.25],
    }
    assert train_step.alignment_cost(taken)["share_of_step"] == {
        "eager": {"median": 0.125, "low": 0.125, "high": 0.125}
    }


def test_aims_are_judged_where_they_apply():
    options = train_step.make_parser().parse_args(["--size", "S/2", "--device", "cpu"])
    setting = train_step.make_setting(options)
    share = {"eager": {"median": 0.02}, "compiled": {"median": 0.005}}
    results = {
        "alignment": {"share_of_step": share},
        "variants": {"baseline": {"mfu": 0.5}},
        "ratios": {"baseline / eager": {"median": 1.1}, "baseline / compiled": {"median": 1.3}},
    }
    assert [(aim["measured"], aim["met"]) for aim in train_step.aims(setting, results)] == [
        (0.02, False),
        (0.005, True),
        (1.3, True),
    ]
    assert train_step.aims(setting, results)[-1]["limit"] == 2


def test_segments_add_up_to_the_step():
    clock = measure.Clock(CPU)
    turn = train_step.take_turn(OurStep(WORK, CPU, mode="none", aligned=True), clock, steps=2)
    assert list(turn) == ["step", "forward", "backward", "update"]
    assert all(seconds > 0 for seconds in turn.values())
    assert turn["step"] == pytest.approx(turn["forward"] + turn["backward"] + turn["update"])


# What is measured is what trains


def trainer(tmp_path, aligned):
    """The real trainer on the benchmark's model and batches."""
    preset = PRESETS[WORK.size]
    config = RunConfig(
        name="benchmark",
        trainer=TrainerConfig(steps=10, batch_size=WORK.batch),
        seed=WORK.seed,
        optimizer=preset.optimizer,
        ema=EMAConfig([preset.ema_decay]),
        objective=ObjectiveConfig(),
        sampler=SamplerConfig(),
        alignment=preset.alignment if aligned else NoAlignmentConfig(),
    )
    domain = Domain(
        name="image",
        unit="image",
        dataset=SimpleNamespace(media_shape=preset.latent_shape),
        tokenizer=Pixels(),
        backbone=build_backbone(preset, WORK.seed, CPU),
        conditioning=LabelConditioning(LabelConfig(), preset.num_classes),
        preview=None,
    )
    trainer = Trainer(config, domain, RunDirectory(tmp_path), World())
    trainer.stop = False
    return trainer


@pytest.mark.parametrize("aligned", [False, True])
def test_our_step_is_the_trainers(tmp_path, aligned):
    """Two steps give the trainer's weights and averages, bit by bit."""
    ours, theirs = OurStep(WORK, CPU, mode="none", aligned=aligned), trainer(tmp_path, aligned)
    for _ in range(2):
        ours(nothing)
        theirs.update(ours.batch)
    assert same(ours.model.state_dict(), theirs.model.state_dict())
    assert same(ours.ema.state_dicts()["ema"], theirs.ema.state_dicts()["ema"])


def test_the_baseline_computes_what_the_backbone_computes():
    for preset in (PRESETS["tiny"], PRESETS["digits"]):
        model = build_backbone(preset, 0, CPU)
        x, t, y = torch.randn(3, *preset.latent_shape), torch.rand(3), torch.tensor([0, 4, preset.num_classes])
        torch.testing.assert_close(PlainSiT(model)(x, t, y), model(x, t, y), rtol=1e-5, atol=1e-6)


def test_the_baseline_learns_and_averages_as_we_do():
    step = BaselineStep(WORK, CPU)
    ema = EMA(step.model.sit, EMAConfig([PRESETS[WORK.size].ema_decay]))
    before = {name: value.clone() for name, value in step.model.sit.state_dict().items()}
    step(nothing)
    ema.update(1)
    assert math.isfinite(step.running_loss)
    assert not same(before, step.model.sit.state_dict())
    torch.testing.assert_close(step.average.sit.state_dict(), ema.state_dicts()["ema"], rtol=1e-6, atol=1e-7)


def test_alignment_alone_is_the_term_of_a_step():
    step = OurStep(WORK, CPU, mode="none", aligned=True)
    weak, strong = step.pair()
    alone = AlignmentAlone(step.preset.alignment, weak, strong)
    alone(nothing)
    by_hand = weak.clone().requires_grad_()
    (-step.preset.alignment.weight * torch.cosine_similarity(by_hand, strong, dim=-1).mean()).backward()
    torch.testing.assert_close(alone.weak.grad, by_hand.grad, rtol=1e-4, atol=1e-7)
    alone(nothing)  # adds to what is there
    torch.testing.assert_close(alone.weak.grad, 2 * by_hand.grad, rtol=1e-4, atol=1e-7)


# The commands


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    """Both commands at toy size, in a process where nothing heavy can be imported; what they print and write."""
    folder = tmp_path_factory.mktemp("results")
    train = ["--size", "tiny", "--batch", "3", "--rounds", "2", "--steps", "1", "--no-memory", "--device", "cpu"]
    train += ["--variants", "eager", "eager+layersync", "baseline", "--out", str(folder / "train_step.json")]
    sample = ["--size", "tiny", "--batch", "2", "--steps", "3", "--mode", "eager", "--rounds", "2", "--device", "cpu"]
    sample += [f"--out={folder / 'sampling.json'}"]
    code = (
        f"import sys\nfor name in {HEAVY}: sys.modules[name] = None\n"
        "from benchmarks import sampling, train_step\n"
        f"train_step.main({train})\nprint('=====')\nsampling.main({sample})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=measure.ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split("====="), folder


def test_the_record_says_what_a_number_needs(commands):
    for name in ("train_step", "sampling"):
        text = (commands[1] / f"{name}.json").read_text()
        record = json.loads(text)
        assert (record["benchmark"], record["torch"]) == (name, torch.__version__)
        assert set(record["git"]) == {"commit", "dirty"}
        hardware = record["hardware"]
        assert hardware["device"] == "cpu" and hardware["cpu"] and hardware["threads"] >= 1
        assert record["settings"]["size"] == "tiny"
        assert record["command"].startswith(f"python -m benchmarks.{name} --size tiny")
        for private in (str(commands[1]), str(measure.ROOT), socket.gethostname(), "--out"):
            assert private not in text


def test_train_step_reports_every_variant(commands):
    results = json.loads((commands[1] / "train_step.json").read_text())["results"]
    assert list(results["variants"]) == ["eager", "eager+layersync", "baseline"]
    for variant in results["variants"].values():
        assert set(variant["ms"]) == {"step", "forward", "backward", "update"}
        assert variant["images_per_second"] == pytest.approx(3000 / variant["ms"]["step"]["median"])
        assert 0 < variant["mfu"] < 1
    assert set(results["ratios"]) == {"baseline / eager", "baseline / eager+layersync", "eager+layersync / eager"}
    assert results["alignment"]["ms"]["median"] > 0
    table = commands[0][0].strip().splitlines()
    assert table[-1].startswith("written to")
    assert any(line.startswith("variant ") and "images/s" in line for line in table)


def test_sampling_counts_evaluations_and_what_the_interval_spares(commands):
    results = json.loads((commands[1] / "sampling.json").read_text())["results"]
    cases = {(case["solver"], case["guidance"]): case for case in results["cases"]}
    assert {solver for solver, _ in cases} == set(sampling.SOLVERS)
    heun = {way: cases["heun", way] for way in (sampling.GUIDED, sampling.UNGUIDED, sampling.INTERVAL)}
    assert [case["evaluations"] for case in heun.values()] == [6, 6, 6]  # two for each of three steps
    # t = 0, 1/3, 1/3, 2/3, 2/3, 1, of which the middle four lie in the interval
    assert [case["rows_per_image"] for case in heun.values()] == [12, 6, 10]
    assert "batch 2: heun guided eager / heun interval eager" in results["ratios"]
    assert "written to" in commands[0][1].strip().splitlines()[-1]


def test_peak_memory_is_taken_in_a_process_of_its_own():
    options = train_step.make_parser().parse_args(["--size", "tiny", "--batch", "2", "--device", "cpu"])
    peak = train_step.peak_memory(train_step.make_setting(options), "eager")
    if sys.platform == "linux":
        assert 0 < peak["before_mib"] <= peak["peak_mib"]


def test_bad_options_are_one_line(capsys):
    for module, options in ((train_step, ["--device", "nonsense"]), (sampling, ["--steps", "1"])):
        with pytest.raises(SystemExit) as stopped:
            module.main(options)
        assert stopped.value.code == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert "allowed: auto, cpu, cuda, cuda:N" in errors[0]
    assert "sampler.num_steps is 1" in errors[1]


def test_default_file_is_named_by_date_benchmark_and_device(monkeypatch, tmp_path):
    monkeypatch.setattr(measure, "RESULTS", tmp_path)
    record = {"date": "2026-11-22T10:00:00+00:00", "hardware": {"device": "cpu"}}
    path = measure.write(record, "train_step-S2-b8-fp32", None)
    assert path == tmp_path / "2026-11-22-train_step-S2-b8-fp32-cpu.json"
    assert json.loads(path.read_text()) == record


def test_compiled_variants_keep_their_hooks_apart(monkeypatch, tmp_path):
    """With and without LayerSync, compiled in one process: each graph is the one of its own model."""
    compile_ = torch.compile  # eager: what is kept apart is looked at, not how fast it is
    monkeypatch.setattr(torch, "compile", lambda model, **options: compile_(model, **{**options, "backend": "eager"}))
    options = ["--size", "tiny", "--batch", "2", "--rounds", "1", "--steps", "1", "--no-memory", "--device", "cpu"]
    options += ["--variants", "compiled", "compiled+layersync", "--out", str(tmp_path / "out.json")]
    variants = train_step.main(options)["results"]["variants"]
    assert set(variants) == {"compiled", "compiled+layersync"}
