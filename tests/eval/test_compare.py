"""`python -m eval.compare`: its command line, matched runs, interruption, the sweep file."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml

from core.commands.entry import compose_config
from core.processes.failures import RunError
from core.storage.checkpoint import CheckpointStore
from core.storage.lines import read_lines
from core.train.tracking import EVALUATIONS, METRICS
from eval.compare import ENTRY, arguments
from eval.measure.record import Provenance, write_records
from eval.methods.queue import QueuedRun, RunQueue
from eval.statistics.estimate import Estimate
from image.train import ENTRY as TRAIN
from slurm.sweep import load_sweep
from tests.eval.matched_runs import METHODS, SEEDS, STEPS, make_runs, toy, toy_plan
from tests.rows import every_row

RESULT = "comparison_frechet_distance.json"


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """The folder of four finished toy runs."""
    return make_runs(tmp_path_factory.mktemp("compared"))


@pytest.fixture
def copied(runs: Path, tmp_path: Path) -> Path:
    """A copy of the finished runs, to be spoilt."""
    return Path(shutil.copytree(runs, tmp_path / "copied"))


def error(capsys: pytest.CaptureFixture, *words: str) -> str:
    """What a command that must fail with exit code 2 says."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_:
        ENTRY.run(words)
    assert exit_.value.code == 2
    return capsys.readouterr().err


def test_words_become_keys():
    """The domain, own keys, keys of the runs and keys of a method each find their place."""
    words = [
        "image",
        "seeds=2",
        "+cases.sra.alignment=layersync",
        "backbone.depth=3",
        "+cases.sra.alignment.weight=0.5",
    ]
    config = ENTRY.config([*words, "methods=[baseline,sra]"])
    assert config.domain == "image" and config.seeds == 2
    assert config.overrides == ["backbone.depth=3"]
    assert config.cases == {"sra": ["alignment=layersync", "alignment.weight=0.5"]}
    assert arguments(["--help"]) == ["--help"]
    with pytest.raises(ValueError, match="'audio' is no key=value"):
        arguments(["image", "audio"])


@every_row(
    ("words", "parts"),
    [
        (["alignment.weight=-1"], ["run layersync-seed0: alignment.weight is -1.0"]),
        (["alignment.pairs=[]"], ["run layersync-seed0: alignment.pairs is empty"]),
        (["alignment.pairs=[[1,99]]"], ["run layersync-seed0: alignment.pairs", "99"]),
        (["optimizer.lr=nan"], ["'optimizer.lr' is nan"]),
        (["+cases.other.alignment.weight=inf", "methods=[baseline,other]"], ["'alignment.weight' is inf"]),
        (["tracking.wandb_project=2024"], ["'tracking.wandb_project' is 2024", '"2024"']),
        (["better=up"], ["'better' is 'up'"]),
        (["seeds=[1,nan]"], ["seeds", "nan"]),
        (["replicates=1000000000000"], ["replicates is 1000000000000; it must be 1000000 at most"]),
        (["steps=10000000000000000000000"], ["'steps' is 1000", "a whole number"]),
    ],
)
@every_row("more", [[], ["sweep=runs.yaml"]])
def test_what_no_run_can_use_is_told_before_anything_is_made(capsys, tmp_path, monkeypatch, words, parts, more):
    monkeypatch.chdir(tmp_path)
    said = error(capsys, "image", *words, *more)
    assert all(part in said for part in parts) and said.count("\n") == 1, said
    assert list(tmp_path.iterdir()) == []


def test_words_of_the_runs_reach_them_as_they_were_written():
    words = [r"data.root='a\${b}'", 'tracking.wandb_project="2024"', "device=cpu${seed}", "backbone.depth=3"]
    assert ENTRY.config(["image", *words]).overrides == words


def test_a_method_wins_over_the_common_keys(tmp_path: Path):
    """The baseline leaves out the alignment that all runs are told, and the runs are otherwise the same."""
    configs = toy_plan().check(tmp_path)
    left, right = (configs[method, 1] for method in METHODS)
    assert type(left.alignment).__name__ == "NoAlignmentConfig"
    assert right.alignment.pairs == [(1, 2)] or [list(pair) for pair in right.alignment.pairs] == [[1, 2]]
    assert left.seed == right.seed == 1 and left.backbone == right.backbone


def test_bad_input_is_one_line(capsys: pytest.CaptureFixture, tmp_path: Path):
    """Each error names the key, the value and what is allowed, before anything runs."""
    place = f"runs_dir={tmp_path}"
    assert "methods holds sra; allowed: baseline, layersync" in error(capsys, *toy("methods=[baseline,sra]", place))
    assert "no command python -m pictures.train" in error(capsys, "pictures", place)
    assert "unknown config key 'seedz'" in error(capsys, *toy("seedz=3", place))
    assert "holds seed; the comparison sets it" in error(capsys, *toy("seed=3", place))
    assert "are the same run" in error(capsys, *toy("methods=[layersync,x]", "+cases.x.device=auto", place))
    assert "nothing is compared" in error(capsys, *(w for w in toy("evaluation=none", place) if "evaluation." not in w))
    assert "alignment is none" in error(capsys, *(w for w in toy("alignment=none", place) if "alignment.p" not in w))
    assert not (tmp_path / "compare").exists()


def test_reads_finished_runs(runs: Path, capsys: pytest.CaptureFixture):
    """The file holds every value that the runs measured, and the means and gains of them."""
    ENTRY.run(toy(f"runs={runs}"))
    content = json.loads((runs / RESULT).read_text())
    assert content["steps"] == [4, 8, 12] and content["seeds"] == list(SEEDS)
    for method in METHODS:
        for place, seed in enumerate(SEEDS):
            lines = read_lines(runs / "image" / f"{method}-seed{seed}" / EVALUATIONS)
            assert content["values"][method][place] == [line["frechet_distance"] for line in lines]
    ends = {method: [row[-1] for row in content["values"][method]] for method in METHODS}
    assert content["mean"]["baseline"][-1]["value"] == pytest.approx(sum(ends["baseline"]) / 2)
    gain = (sum(ends["baseline"]) - sum(ends["layersync"])) / sum(ends["baseline"])
    assert content["gain"]["layersync"][-1]["value"] == pytest.approx(gain)
    assert content["changes"]["layersync"]["alignment.pairs"] == [[1, 2]] and content["changes"]["baseline"] == {}
    printed = capsys.readouterr().out
    assert "lower is better" in printed and "layersync" in printed and "numbers    " in printed
    assert "FLOPs/step" in printed and "(baseline's end)" in printed
    assert (runs / RESULT).with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_costs_are_counted_until_a_value(runs: Path, capsys: pytest.CaptureFixture):
    """Steps of the mean curve, times what a run's summary says of a step; the value is the baseline's end or stated."""
    for words in ([], ["threshold=1e9"], ["threshold=0.0"]):
        ENTRY.run(toy(f"runs={runs}", *words))
        content = json.loads((runs / RESULT).read_text())
        curve = content["mean"]["baseline"]
        cost, baseline = content["costs"]["layersync"], content["costs"]["baseline"]
        summaries = [json.loads((runs / "image" / f"layersync-seed{s}" / "summary.json").read_text()) for s in SEEDS]
        assert cost["flops_per_step"] == summaries[0]["flops_per_step"] == baseline["flops_per_step"] > 0
        assert cost["seconds_per_step"] == pytest.approx(sum(each["train_seconds"] for each in summaries) / 2 / STEPS)
        assert content["target"] == (float(words[0].partition("=")[2]) if words else curve[-1]["value"])
        if words:
            assert baseline["steps"] == (4 if "1e9" in words[0] else None)
            assert baseline["at_most"] == ("1e9" in words[0])
        if baseline["steps"]:
            assert baseline["flops"] == pytest.approx(baseline["steps"] * baseline["flops_per_step"])
            assert baseline["seconds"] == pytest.approx(baseline["steps"] * baseline["seconds_per_step"])
            assert baseline["epochs"] == pytest.approx(baseline["steps"] * 8 / 1438)  # batches of 8 of so many digits
        printed = capsys.readouterr().out
        whose = "stated" if words else "baseline's end"
        assert f"EP@{content['target']:.4g} ({whose}): steps" in printed
        assert ("at most 4" in printed) == ("threshold=1e9" in words)


def test_controls_are_methods_by_name_and_by_cases(tmp_path: Path):
    """Each is another run than the rest, with the method's own keys and the experiment's pair."""
    controls = "methods=[baseline,layersync,gradient_matched,random_pair,both,early,middle]"
    cases = ["alignment=several", "+alignment.of.layersync.pairs=[[1,2]]", "+alignment.of.sra2.layer=1"]
    words = [f"+cases.both.{word}" for word in cases] + ["+cases.early.alignment=none"]
    words += [
        "+cases.early.optimizer.lr_scale={blocks: 1, factor: 1.5}",
        "+cases.middle.alignment.time_range=[0.2,0.8]",
    ]
    configs = toy_plan(controls, *words).check(tmp_path)
    matched, drawn = configs["gradient_matched", 0], configs["random_pair", 0]
    assert matched.optimizer.gradient == "matched" and matched.alignment == configs["layersync", 0].alignment
    assert drawn.alignment.pairs == "random" and drawn.alignment.weight == matched.alignment.weight
    assert list(configs["both", 1].alignment.of) == ["layersync", "sra2"]
    assert configs["early", 0].optimizer.lr_scale.factor == 1.5
    assert configs["middle", 0].alignment.time_range == (0.2, 0.8)


def test_first_losses_of_matched_runs_are_equal(runs: Path):
    """With the same seed, weights, data and noise are the same; another seed has others."""
    first = {(m, s): read_lines(runs / "image" / f"{m}-seed{s}" / METRICS)[0] for m in METHODS for s in SEEDS}
    assert first["baseline", 0]["step"] == 1
    assert first["baseline", 0]["flow_loss"] == first["layersync", 0]["flow_loss"]
    assert first["baseline", 0]["flow_loss"] != first["baseline", 1]["flow_loss"]


def change(run: Path, edit) -> None:
    """Change the config that a run says it has."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    edit(config)
    (run / "config.yaml").write_text(yaml.safe_dump(config))


def test_runs_of_other_seeds_are_refused(copied: Path, capsys: pytest.CaptureFixture):
    """A run that has another seed than its name, openly or only in its losses, is no match."""
    place = copied / "image"
    shutil.rmtree(place / "layersync-seed0")
    shutil.copytree(place / "layersync-seed1", place / "layersync-seed0")
    assert "has seed 1; its name says 0" in error(capsys, *toy(f"runs={copied}"))
    change(place / "layersync-seed0", lambda config: config.update(seed=0))
    assert "seed 0 are not matched: flow_loss of step 1" in error(capsys, *toy(f"runs={copied}"))


def test_other_data_or_protocol_is_refused(copied: Path, capsys: pytest.CaptureFixture):
    """Methods share data, noise and protocol; a key of these that differs is named with both values."""
    for seed in SEEDS:
        change(copied / "image" / f"layersync-seed{seed}", lambda config: config["sampler"].update(num_steps=7))
    assert "sampler.num_steps is 7, not 2" in error(capsys, *toy(f"runs={copied}"))


def test_unfinished_and_missing_runs_are_named(copied: Path, capsys: pytest.CaptureFixture):
    """Only finished runs of the same seeds are compared."""
    (copied / "image" / "baseline-seed1" / "summary.json").unlink()
    said = error(capsys, *toy(f"runs={copied}"))
    assert "not complete" in said and "baseline-seed1" in said and "baseline-seed0" not in said
    shutil.rmtree(copied / "image" / "baseline-seed1")
    assert "other seeds" in error(capsys, *toy(f"runs={copied}", "seeds=null"))
    assert "baseline-seed1'; it must be the folder of a run" in error(capsys, *toy(f"runs={copied}"))
    assert "metric is 'beauty'" in error(capsys, *toy(f"runs={copied}", "seeds=[0]", "metric=beauty"))


def test_sweep_file_is_the_launchers(tmp_path: Path):
    """slurm/launch.py reads the file, its runs are ours by name, folder and config."""
    file = tmp_path / "sweep.yaml"
    ENTRY.run(toy(f"sweep={file}", f"runs_dir={tmp_path}"))
    sweep, plan = load_sweep(file), toy_plan(f"runs_dir={tmp_path}")
    cases = {case.name: case for case in sweep.runs()}
    assert sorted(cases) == sorted(f"{method}-seed{seed}" for method in METHODS for seed in SEEDS)
    assert sweep.run_path("baseline-seed0") == tmp_path / "sweeps" / "toy" / "image" / "baseline-seed0"
    for method in METHODS:
        ours = compose_config("image.conf", "train", plan.arguments(method, 1, sweep.folder))
        assert compose_config("image.conf", "train", cases[f"{method}-seed1"].arguments(sweep.folder)) == ours
        assert TRAIN.config(cases[f"{method}-seed1"].arguments(sweep.folder)).seed == 1


def command(place: Path, *words: str) -> subprocess.Popen:
    """The comparison as a user starts it, in a session of its own."""
    line = [sys.executable, "-m", "eval.compare", *toy(*words)]
    with (place / "screen").open("a") as screen:
        return subprocess.Popen(line, cwd=place, stdout=screen, stderr=screen, start_new_session=True)


def wait_for_a_checkpoint(run: Path, process: subprocess.Popen) -> None:
    """Wait until the run has one and is not complete."""
    deadline = time.monotonic() + 100
    while not CheckpointStore(run / "checkpoints").paths():
        assert process.poll() is None and time.monotonic() < deadline, (run.parents[3] / "screen").read_text()
        time.sleep(0.01)


@pytest.mark.slow
def test_interrupted_it_continues(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Killed with all its processes while the last of four runs is made: the same command ends as if it had not been.

    The other runs are copies of finished ones, which must stay as they are.
    """
    where = tmp_path / "runs" / "compare" / "toy"
    for name in ("baseline-seed0", "baseline-seed1", "layersync-seed1"):
        shutil.copytree(runs / "image" / name, where / "image" / name)
    process = command(tmp_path)
    wait_for_a_checkpoint(where / "image" / "layersync-seed0", process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    finished = (where / "image" / "baseline-seed0" / "summary.json").read_bytes()
    assert not (where / RESULT).exists() and not (where / "image" / "layersync-seed0" / "summary.json").exists()

    monkeypatch.chdir(tmp_path)
    ENTRY.run(toy())
    assert (where / "image" / "baseline-seed0" / "summary.json").read_bytes() == finished
    ENTRY.run(toy(f"runs={runs}"))
    ours, undisturbed = (json.loads((folder / RESULT).read_text()) for folder in (where, runs))
    for key in ("values", "mean", "gain", "steps", "seeds", "changes", "protocol"):
        assert ours[key] == undisturbed[key], key
    lines = read_lines(where / "image" / "layersync-seed0" / METRICS)
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))


def test_begun_with_another_config_is_refused(copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    """Runs that are there with other keys, of the sampler too, are neither kept nor overwritten."""
    where = tmp_path / "runs" / "compare" / "toy"
    where.parent.mkdir(parents=True)
    copied.rename(where)
    said = error(capsys, *toy(f"runs_dir={tmp_path / 'runs'}", "sampler.num_steps=3"))
    assert "sampler.num_steps (2 before, 3 now); choose another name" in said
    ENTRY.run(toy(f"runs_dir={tmp_path / 'runs'}"))  # nothing to make: all four are complete
    assert capsys.readouterr().out.count(": complete") == 4


def job(name: str, place: Path, program: str) -> QueuedRun:
    """A run that is a line of Python."""
    return QueuedRun(name, place / name, ("-c", program))


def test_a_failed_run_ends_the_queue(tmp_path: Path):
    """The error names the run and its last words; what still runs is told to stop, what waits is not begun."""
    told: list[str] = []
    failing = "import sys; print('error: no data here', file=sys.stderr); sys.exit(2)"
    last = f"open({str(tmp_path / 'begun')!r}, 'w')"
    jobs = [job("sleeps", tmp_path, "import time; time.sleep(60)"), job("fails", tmp_path, failing)]
    begun = time.monotonic()
    with pytest.raises(RunError, match="fails ended with exit code 2: error: no data here"):
        RunQueue(tmp_path / "logs", 2, told.append).make([*jobs, job("waits", tmp_path, last)])
    assert time.monotonic() - begun < 30 and not (tmp_path / "begun").exists()


def test_told_to_stop_it_stops_its_runs(tmp_path: Path):
    """On SIGTERM the runs get it too, and the command ends as a run does when it was stopped."""
    told: list[str] = []
    file = tmp_path / "stopped"
    program = (
        f"import signal, sys, time; signal.signal(15, lambda *_: (open({str(file)!r}, 'w'), sys.exit(143))); "
        f"open({str(tmp_path / 'ready')!r}, 'w'); time.sleep(60)"
    )

    def stop() -> None:
        while not (tmp_path / "ready").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(SystemExit) as exit_:
        RunQueue(tmp_path / "logs", 1, told.append).make([job("one", tmp_path, program)])
    thread.join()
    assert exit_.value.code == 143 and file.exists() and told[-1] == "stopped; the same command continues"


def test_metric_from_records(copied: Path, capsys: pytest.CaptureFixture):
    """A metric that runs did not measure themselves is read from the records of their checkpoints, of one protocol."""
    for method in METHODS:
        for seed in SEEDS:
            run = copied / "image" / f"{method}-seed{seed}"
            for step in (6, STEPS):
                protocol = {"steps": 250, "seed": seed}
                facts = Provenance(protocol=protocol, hardware={}, created="2026-01-01", step=step, run=str(run))
                value = 100.0 - step - 10 * (method == "layersync") - seed
                write_records(run / "evaluations", [facts.record("fid", Estimate(value, 50), {}, {})])
    ENTRY.run(toy(f"runs={copied}", "metric=fid"))
    content = json.loads((copied / "comparison_fid.json").read_text())
    assert content["steps"] == [6, STEPS] and content["values"]["layersync"] == [[84.0, 78.0], [83.0, 77.0]]
    assert content["protocol"]["steps"] == 250 and content["num_samples"] == 50
    facts = Provenance(protocol={"steps": 20, "seed": 0}, hardware={}, created="2026-01-02", step=6, run="another")
    write_records(copied / "image" / "baseline-seed1" / "evaluations", [facts.record("fid", Estimate(1.0, 50), {}, {})])
    said = error(capsys, *toy(f"runs={copied}", "metric=fid"))
    assert "another are of another protocol: protocol.steps is 20, not 250" in said
