"""The command for one GPU, driven on the CPU at toy size: what it records, when it stops, what makes it fail."""

import inspect
import json
import math
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest
import torch

from benchmarks import measure
from benchmarks.gpu import budget, checks, throughput
from benchmarks.gpu import report as gpu_report
from benchmarks.gpu import suite as gpu
from benchmarks.gpu.budget import Budget, Skip, Stage, run_stages
from benchmarks.models import PRESETS, Work
from benchmarks.steps import OurStep
from tests.rows import every_row

CPU = torch.device("cpu")
HEAVY = ("hydra", "omegaconf", "yaml", "sklearn", "PIL", "matplotlib", "torchvision", "diffusers", "transformers")
HEAVY += ("pandas", "scipy", "tensorboard", "wandb", "datasets", "torchdiffeq")
TINY = ["--device", "cpu", "--tiny"]
COUNT = len(checks.EAGER) + len(checks.COMPILED) + 2 * len(checks.TOLERANCES)  # LayerSync and sampler in each precision


def narrow(preset):
    """The network of the checks, narrower: a CPU takes its time for products in half precision."""
    return replace(preset, backbone=replace(preset.backbone, hidden_size=32))


@pytest.fixture(autouse=True)
def narrow_checks(monkeypatch):
    """The checks of this process are of the narrower network."""
    monkeypatch.setattr(checks, "PRESET", narrow(checks.PRESET))


def process(*options):
    """The command in a process where nothing but its few requirements can be imported."""
    code = f"import sys\nfor name in {HEAVY}: sys.modules[name] = None\n"
    code += "from dataclasses import replace\nfrom benchmarks.gpu import checks, suite as gpu\n"
    code += f"{inspect.getsource(narrow)}\n"
    code += f"checks.PRESET = narrow(checks.PRESET)\nsys.exit(gpu.main({list(options)}))\n"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=measure.ROOT, check=False)


@pytest.fixture
def here(monkeypatch, tmp_path):
    """The command in this process, of which only some parts run; returns exit code and results."""

    def run(parts):
        monkeypatch.setattr(gpu, "stop_at_the_end", lambda *_: threading.Event())
        monkeypatch.setattr(gpu.Bench, "stages", parts)
        code = gpu.main([*TINY, "--out", str(tmp_path / "gpu.json")])
        return code, json.loads((tmp_path / "gpu.json").read_text())["results"]

    return run


@pytest.fixture
def journal(tmp_path):
    """An empty journal as the command makes it."""
    setting = gpu.make_setting(gpu.make_parser().parse_args(TINY))
    return gpu.make_journal(TINY, setting, str(tmp_path / "gpu.json"))


# The command


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """What the whole command prints and writes."""
    path = tmp_path_factory.mktemp("gpu") / "gpu.json"
    done = process(*TINY, "--out", str(path))
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, json.loads(path.read_text())


def test_every_part_runs_and_the_record_says_what_a_number_needs(command):
    record = command[1]
    assert record["command"] == "python -m benchmarks.gpu --device cpu --tiny"
    assert record["versions"]["torch"] == torch.__version__
    assert set(record["versions"]) >= {"python", "torch", "triton"}
    assert set(record["git"]) == {"commit", "dirty"}
    assert record["hardware"]["device"] == "cpu"
    assert record["settings"]["models"] == [{"size": "tiny", "train": [2, 4], "sample": [2]}]
    assert record["aims"] == []  # a toy has none
    results = record["results"]
    kinds = ("train", "overhead", "sample", "shapes", "kernels", "sample fp32", "train whole")
    first = ["matrix product", "checks, eager", "compiler", "checks, compiled"]
    assert list(results) == [*first, *(f"{kind} tiny" for kind in kinds)]
    assert {stage["status"] for stage in results.values()} == {"done"}
    assert all(stage["seconds"] >= 0 for stage in results.values())
    found = results["checks, eager"]["results"]["checks"] + results["checks, compiled"]["results"]["checks"]
    assert len(found) == COUNT
    assert all(check["passed"] for check in found)


def test_rows_hold_speed_mfu_and_memory(command):
    results = command[1]["results"]
    peak = results["matrix product"]["results"]["peak_tflops_per_second"]
    rows = results["train tiny"]["results"]["rows"]
    assert [row["batch"] for row in rows] == [2, 4][: len(rows)]
    for row in rows:
        assert row["mode"] == "blocks"
        assert row["images_per_second"] == pytest.approx(1000 * row["batch"] / row["ms"]["step"]["median"])
        assert row["mfu"] == pytest.approx(row["tflops_per_second"] / peak)
    cost = results["overhead tiny"]["results"]
    assert cost["term_ms"]["median"] > 0
    assert cost["step_over_step"]["low"] <= cost["step_over_step"]["median"]
    (sampled,) = results["sample tiny"]["results"]["rows"]
    assert (sampled["evaluations"], sampled["rows_per_image"], sampled["precision"]) == (4, 8, "bf16")


def test_the_table_comes_last(command):
    lines = command[0].strip().splitlines()
    assert lines[-1].startswith("written to")
    assert f"checks: {COUNT} of {COUNT} passed" in lines
    for header in ("with LayerSync", "cost of LayerSync", "Heun, 2 steps, guided, no decoding"):
        assert any(line.startswith(header) for line in lines)


def test_the_command_ends_when_its_time_is_over(tmp_path):
    """A part under way is stopped from outside, the rest is skipped, and the table is still printed."""
    started = time.monotonic()
    done = process(*TINY, "--minutes", "0.02", "--out", str(tmp_path / "gpu.json"))
    results = json.loads((tmp_path / "gpu.json").read_text())["results"]
    assert done.returncode == 0, done.stderr
    assert "written to" in done.stdout.strip().splitlines()[-1]
    assert len(results) == 11
    assert {stage["status"] for stage in results.values()} <= {"done", "stopped", "skipped"}
    assert all(stage["reason"] for stage in results.values() if stage["status"] != "done")
    assert results["train whole tiny"]["status"] == "skipped"
    assert time.monotonic() - started < 60


@every_row(
    ("options", "said"),
    [
        ([], "PyTorch sees no CUDA device here. To try the command without a GPU: --device cpu --tiny"),
        (["--device", "cpu"], "needs --tiny"),
        ([*TINY, "--minutes", "0"], "--minutes is 0; it must be above 0"),
    ],
)
def test_bad_options_are_one_line(options, said, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as stopped:
        gpu.main(options)
    assert stopped.value.code == 2
    assert [said in line for line in capsys.readouterr().err.splitlines() if "error:" in line] == [True]


# Checks


def test_a_check_that_fails_is_the_exit_code_and_the_rest_still_runs(here, monkeypatch, capsys):
    strict = {**checks.TOLERANCES["bf16"], "weak gradients": 1e-7}
    monkeypatch.setitem(checks.TOLERANCES, "bf16", strict)
    monkeypatch.setattr(checks, "EAGER", [checks.Case(), checks.Case("bf16")])
    for others in ("check_layersync", "check_samples"):
        monkeypatch.setattr(checks, others, lambda device: iter(()))
    code, results = here(
        lambda bench: [Stage("checks, eager", 0, bench.eager_checks), Stage("after", 0, lambda keep: {})]
    )
    assert code == 1
    passed = {check["name"]: check["passed"] for check in results["checks, eager"]["results"]["checks"]}
    assert passed["fp32 eager"] and not passed["bf16 eager"]
    assert results["after"]["status"] == "done"
    assert "FAILED  bf16 eager: {'flow loss':" in capsys.readouterr().out


def test_a_layersync_that_does_nothing_is_seen(monkeypatch):
    faint = replace(checks.PRESET, alignment=replace(checks.PRESET.alignment, weight=1e-6))
    monkeypatch.setattr(checks, "PRESET", faint)
    verdicts = list(checks.check_layersync(CPU))
    assert [verdict["flow_equal"] for verdict in verdicts] == [True, True, True]
    assert not any(verdict["passed"] for verdict in verdicts)


def test_a_gradient_that_flows_into_the_strong_side_is_seen(monkeypatch):
    """What the device computes with stop_gradient off is not what the CPU computes with it on."""
    wanted, leaking = checks.take_step(checks.Case(), CPU), replace(checks.PRESET.alignment, stop_gradient=False)
    monkeypatch.setattr(checks, "PRESET", replace(checks.PRESET, alignment=leaking))
    errors = checks.compare(checks.take_step(checks.Case(), CPU), wanted)
    assert errors["flow loss"] == errors["similarity"] == 0
    assert errors["weak gradients"] > 5 * checks.TOLERANCES["bf16"]["weak gradients"]


def test_nan_and_an_exception_do_not_pass():
    assert not checks.verdict("nan", {"samples": math.nan}, {"samples": 1.0})["passed"]
    assert checks.verdict("equal", {"samples": 1.0}, {"samples": 1.0})["passed"]
    broken = checks.attempt("broken", lambda: 1 / 0)
    assert not broken["passed"] and broken["error"].startswith("ZeroDivisionError")


def test_alike_blocks_share_a_graph_and_compute_the_same():
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return graph

    work = Work(size="digits", batch=2, precision="fp32", seed=0)
    blocks = OurStep(work, CPU, mode="blocks", aligned=True, backend=count)
    eager = OurStep(work, CPU, mode="none", aligned=True)
    for step in (blocks, eager):
        for _ in range(2):
            step(throughput.nothing)
    assert len(graphs) == 3  # eight blocks, two of them listened to, have one; the last layer; the cosine
    for ours, theirs in zip(blocks.model.parameters(), eager.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


# Sweeps


def rates(**speeds):
    """A measurement with the given images/s by batch; memory is exhausted at any other batch."""

    def run(batch):
        if f"b{batch}" not in speeds:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB\nmore")
        return {"images_per_second": speeds[f"b{batch}"]}

    return run


@every_row(
    ("speeds", "left", "batches", "ended"),
    [
        ({"b1": 10, "b2": 19}, 99, [1, 2], "batch 4 does not fit: CUDA out of memory. Tried to allocate 1 GiB"),
        ({"b1": 10, "b2": 10.2, "b4": 20}, 99, [1, 2], "batch 2 gives less than 3% over batch 1"),
        ({"b1": 10, "b2": 20, "b4": 30}, 99, [1, 2, 4], "all batches were measured"),
        ({"b1": 10, "b2": 20, "b4": 30}, -1, [1], "batch 2 was not tried"),
        ({}, 99, [], "batch 1 does not fit"),
    ],
)
def test_a_sweep_ends_with_its_reason(speeds, left, batches, ended):
    kept, spent = [], []

    def remaining():
        spent.append(None)
        return 99 if len(spent) == 1 else left

    found = throughput.sweep([1, 2, 4], rates(**speeds), remaining, lambda rows: kept.append(len(rows)))
    assert [row["batch"] for row in found["rows"]] == batches
    assert found["ended"].startswith(ended)
    assert kept[-1] == len(batches)


def test_overhead_falls_back_to_the_batch_that_fits():
    found = throughput.largest_that_fits(16, rates(b4=1))
    assert found == {"images_per_second": 1, "did_not_fit": [16, 8]}
    assert throughput.largest_that_fits(2, rates()) == {"did_not_fit": [2, 1]}


# Budget and journal


def test_stages_that_do_not_fit_are_skipped_with_the_reason(journal):
    stages = [Stage("long", 100, dict), Stage("short", 1, lambda keep: {"found": 1})]
    run_stages(stages, Budget(10), journal, lambda text: None)
    assert journal.stages["long"] == {"status": "skipped", "reason": "needs about 100 s, 10 s of the budget are left"}
    assert journal.results("short") == {"found": 1}
    assert gpu_report.exit_code(journal) == 0


def test_a_stage_that_raises_is_recorded_and_the_rest_runs(journal, capsys):
    def broken(keep):
        keep({"half": 1})  # and the file is whole meanwhile
        assert json.loads(journal.path.read_text())["results"]["broken"]["status"] == budget.RUNNING
        raise RuntimeError("no kernel")

    def impossible(keep):
        raise Skip("nothing to measure")

    stages = [Stage("broken", 0, broken), Stage("impossible", 0, impossible), Stage("last", 0, lambda keep: {})]
    run_stages(stages, Budget(10), journal, lambda text: None)
    found = json.loads(journal.path.read_text())["results"]
    assert (found["broken"]["status"], found["broken"]["error"]) == ("failed", "RuntimeError: no kernel")
    assert found["broken"]["results"] == {"half": 1}
    assert (found["impossible"]["status"], found["impossible"]["reason"]) == ("skipped", "nothing to measure")
    assert found["last"]["status"] == "done"
    assert gpu_report.exit_code(journal) == 1
    assert "no kernel" in capsys.readouterr().err


def test_aims_are_judged_by_what_was_measured(journal):
    assert [aim["met"] for aim in gpu_report.aims(journal)] == [False, False, False]
    journal.put("train XL/2", status="done", results={"rows": [{"mfu": 0.4}, {"mfu": 0.55}]})
    journal.put("overhead XL/2", status="done", results={"mode": "none", "step_over_step": {"median": 1.004}})
    journal.put("overhead B/2", status="done", results={"mode": "none", "step_over_step": {"median": 1.02}})
    journal.put("kernels XL/2", status="done", results={"busy_share": 0.985})
    found = gpu_report.aims(journal)
    assert [aim["met"] for aim in found] == [True, True, False, True]
    assert found[0]["measured"] == 0.55
    assert found[1]["measured"] == pytest.approx(0.004)


def test_the_plan_is_the_published_sizes(journal):
    setting = gpu.Setting("cpu", 8, tiny=False, seed=0)
    assert [plan.size for plan in setting.models] == ["XL/2", "B/2"]
    assert all(PRESETS[plan.size].latent_shape == (4, 32, 32) for plan in setting.models)
    stages = gpu.Bench(setting, Budget(480), journal, print).stages()
    names = [stage.name for stage in stages]
    assert names.index("checks, eager") < names.index("train XL/2") < names.index("train whole XL/2")
    assert len(set(names)) == len(names)
