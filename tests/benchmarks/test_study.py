"""The study: runs seed by seed, stopped and resumed, and a page whose numbers are those of the records."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest

from benchmarks.measure import RESULTS
from benchmarks.study import command
from benchmarks.study.__main__ import ENTRY, PAGE
from benchmarks.study.networks import find_networks, known_methods, known_networks
from benchmarks.study.page import curves, page
from benchmarks.study.plan import Study
from benchmarks.study.record import pair_facts
from benchmarks.study.records import read_studies
from core.commands.entry import compose_config
from core.storage.lines import read_lines
from core.storage.provenance import ROOT
from eval.methods.queue import QueuedRun
from eval.methods.text import gain_text, number, percent
from image.train import ENTRY as TRAIN
from slurm.sweep import load_sweep
from tests.end_to_end.commands import told_to_stop
from tests.end_to_end.zygote import SPARED, remember_configs

STEPS = 8
TOY = [
    *("image", "networks=[digits]", "methods=[baseline,layersync]", "seeds=2", f"steps={STEPS}", "every=4"),
    *("device=cpu", "trainer.batch_size=8", "trainer.num_previews=2", "backbone.depth=5", "backbone.hidden_size=16"),
    *(
        "backbone.num_heads=2",
        "optimizer.warmup_steps=2",
        "optimizer.lr=0.05",
        "ema.decays=[0.5]",
        "sampler.num_steps=2",
    ),
    *("evaluation.classifier_steps=5", "evaluation.num_samples=24", "pilot_steps=4"),
]


class HereQueue:
    """The queue's runs in this process, one after the other, without the seconds of a start."""

    made: ClassVar[list[str]] = []

    def __init__(self, *options: object, forgiving: bool):
        self.failed: dict[str, str] = {}

    def make(self, jobs: Sequence[QueuedRun]) -> bool:
        for job in jobs:
            HereQueue.made.append(job.name)
            importlib.import_module(job.arguments[1]).ENTRY.run(job.arguments[2:])
        return True


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder for the toy study, whose runs are made in this process."""
    for name, instead in SPARED.items():
        monkeypatch.setattr(name, instead)
    monkeypatch.setattr("core.commands.entry.compose_config", compose_config)  # as it was, afterwards
    remember_configs()
    monkeypatch.setattr("benchmarks.study.record.REPLICATES", 20)
    monkeypatch.setattr(command, "RunQueue", HereQueue)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(HereQueue, "made", [])
    return tmp_path


def study(folder: Path, *words: str) -> dict:
    """Make the toy study, and read its record."""
    keys = {word.partition("=")[0] for word in words}
    kept = [word for word in TOY if word.partition("=")[0] not in keys]
    try:
        ENTRY.run([*kept, f"runs_dir={folder}", f"results={folder}", *words])
    finally:
        (file,) = folder.glob("*-study-image-digits-cpu.json")
    return json.loads(file.read_text())


def test_stopped_it_goes_on_and_the_page_says_what_the_record_does(here: Path):
    """Seed by seed; a stop leaves a record of what is complete, and the same command goes on where it was."""
    make = HereQueue.make

    def until_the_last(self, jobs):
        make(self, jobs[:3])
        with told_to_stop(6):
            return make(self, jobs[3:])

    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as exit_:
        patch.setattr(HereQueue, "make", until_the_last)
        study(here)
    assert exit_.value.code == 143
    assert HereQueue.made == ["baseline-seed0", "layersync-seed0", "baseline-seed1", "layersync-seed1"]
    first = json.loads(next(here.glob("*.json")).read_text())["results"]["methods"]
    assert first["baseline"]["seeds"] == [0, 1] and first["layersync"]["seeds"] == [0]
    HereQueue.made.clear()
    record = study(here)
    methods = record["results"]["methods"]
    assert HereQueue.made == ["layersync-seed1", "similarity-baseline-seed0", "similarity-baseline-seed1"]
    runs = [here / "compare/study-image-digits/image" / f"layersync-seed{seed}" for seed in (0, 1)]
    lines, ends = ([read_lines(run / name) for run in runs] for name in ("metrics.jsonl", "evaluations.jsonl"))
    assert [line["step"] for line in lines[1]] == list(range(1, STEPS + 1))
    own = methods["layersync"]
    assert own["comparison"]["values"]["layersync"] == [[line["frechet_distance"] for line in each] for each in ends]
    last = [[line["similarity/2->3"] for line in each[4:]] for each in lines]
    assert own["similarity"]["2->3"][-1] == pytest.approx(sum(map(sum, last)) / 8)
    final = [each[-1]["loss_by_time_ema/0.4-0.6"] for each in lines]
    assert own["loss_by_time"]["0.4-0.6"]["mean"]["value"] == pytest.approx(sum(final) / 2)
    assert own["comparison"]["costs"]["layersync"]["cpu_seconds_per_step"] > 0
    likeness = record["results"]["baseline_similarity"]
    assert likeness["runs"] == 2 and list(likeness["pairs"]) == ["2->3"] and 0 < likeness["pairs"]["2->3"] < 1
    assert str(here) not in json.dumps(record)  # no path of a machine
    the_page_is_that_of_the_record(here, record)


def the_page_is_that_of_the_record(folder: Path, record: dict) -> None:
    """Numbers of the tables are the record's, what was not run says so, and the page is made again to the byte."""
    out = folder / "page" / "results.md"
    PAGE.run([f"results={folder}", f"out={out}"])
    text = out.read_text()
    comparison = record["results"]["methods"]["layersync"]["comparison"]
    assert f"| layersync | 2 | {comparison['mean']['layersync'][-1]['value']:.4g} ± " in text
    before, last = (point["value"] for point in comparison["mean"]["baseline"])
    assert f"; the baseline's last evaluation is {percent(last / before - 1)} % from the one before. study on " in text
    gain = comparison["gain"]["layersync"][-1]
    assert abs(gain["value"]) > 1e-3 and text.count(gain_text(gain)) == 3  # the first answer, the sizes, the table
    assert "Not run: baseline, layersync" in text  # the networks of other data
    assert (out.parent / "results-image-digits.png").read_bytes().startswith(b"\x89PNG")
    assert page(read_studies(folder), out) == text


def in_latents(folder: Path) -> Study:
    """The toy study of one seed, in latents of a tokenizer that it trains first."""
    words = [word for word in TOY if not word.startswith("seeds=")]
    config = ENTRY.config([*words, "seeds=1", f"runs_dir={folder}", f"results={folder}"])
    (network,) = find_networks("image", ["digits"])
    tokenizer = {"data": "digits", "steps": 1, "autoencoder.width": 4, "autoencoder.latent_channels": 3}
    return Study(config, replace(network, tokenizer=tokenizer, overrides={"tokenizer": "conv_kl"}))


def test_a_tokenizer_is_trained_once_and_all_runs_have_it(here: Path):
    whole = in_latents(here)
    assert command.make_study(whole, ["image", f"runs_dir={here}"], None)
    runs, asked = ["baseline-seed0", "layersync-seed0"], ["similarity-baseline-seed0", "reconstruction"]
    assert HereQueue.made == ["tokenizer", *runs, *asked]
    (file,) = here.glob("*.json")
    record = json.loads(file.read_text())
    facts = record["results"]["tokenizer"]
    assert record["settings"]["tokenizer"] == whole.network.tokenizer and facts["parameters"] > 0
    assert str(here) not in file.read_text()
    weights = here / "tokenizer/image-digits"
    run = here / "compare/study-image-digits/image/baseline-seed0"
    assert f"path: {weights}" in (run / "config.yaml").read_text()
    data, through = (facts["floor"][name]["frechet_distance"] for name in ("data", "reconstruction"))
    assert through > data > 0  # after one step
    told = f"(PSNR {facts['psnr_db']:.1f} dB; held-out data have {number(data)}, and {number(through)} through the"
    assert f", in latents of a tokenizer of ours {told} tokenizer, as samples come); " in page(
        read_studies(here), here / "results.md"
    )
    HereQueue.made.clear()
    assert command.make_study(in_latents(here), ["image"], None) and HereQueue.made == []


def test_without_its_tokenizer_no_run_begins(here: Path, monkeypatch: pytest.MonkeyPatch):
    def failing(self: HereQueue, jobs: Sequence[QueuedRun]) -> bool:
        HereQueue.made += [job.name for job in jobs]
        self.failed = {job.name: "error: disk full" for job in jobs}
        return True

    monkeypatch.setattr(HereQueue, "make", failing)
    command.make_study(in_latents(here), ["image"], None)
    assert HereQueue.made == ["tokenizer"]
    (file,) = here.glob("*.json")
    methods = json.loads(file.read_text())["results"]["methods"]
    assert {(each["state"], each["reason"]) for each in methods.values()} == {("failed", "error: disk full")}


def test_the_measured_pair_comes_of_a_short_run_of_its_own(here: Path):
    """The pilot comes first, and eval.choose_pair asks it; its pair is a method, or the reason is told."""
    words = [word for word in TOY if not word.startswith("methods=")]
    config = ENTRY.config([*words, "methods=[baseline,measured_pair]", f"runs_dir={here}"])
    study = Study(config, find_networks("image", ["digits"])[0])
    assert study.left_out() == {"measured_pair": "the short baseline run is not done"}
    assert all(HereQueue(forgiving=True).make(jobs) for jobs in study.first_jobs())
    assert HereQueue.made == ["pilot-seed0", "choose_pair"] and study.first_jobs() == []
    facts, pair = pair_facts(study), study.pair()
    assert facts["step"] == 4 and (facts["rule"]["weak"], facts["rule"]["strong"]) == (2, 3)
    assert [pair] == [(each["weak"], each["strong"]) for each in facts["pairs"][:1]] or (
        pair is None and not facts["pairs"]
    )
    named = "the measured pair is the rule's, 2 -> 3" if pair == (2, 3) else None if pair else "no pair gains"
    assert study.left_out().get("measured_pair") == named
    study.pair_file.write_text(json.dumps({"results": {"pairs": [{"weak": 1, "strong": 3}]}}))
    assert study.left_out() == {}
    assert "alignment.pairs=[[1, 3]]" in study.compared(study.methods).cases["measured_pair"]


def test_what_a_network_refuses_is_told_and_the_rest_is_planned(tmp_path: Path, capsys: pytest.CaptureFixture):
    """A block that the network has not: the sweep file has the other methods."""
    file = tmp_path / "sweep.yaml"
    words = [
        "backbone.depth=7",
        "methods=[baseline,layersync,sra2]",
        "seeds=1",
        f"sweep={file}",
        f"runs_dir={tmp_path}",
    ]
    ENTRY.run(["image", "networks=[digits]", *words])
    assert "no run of sra2, refused: " in capsys.readouterr().out
    sweep = load_sweep(file)
    assert [case.name for case in sweep.runs()] == ["baseline-seed0", "layersync-seed0"]
    config = TRAIN.config(sweep.runs()[1].arguments(sweep.folder))
    assert config.tracking.loss_by_time.every == config.trainer.evaluate_every == 200


def test_every_network_has_methods_that_are_known():
    for network in known_networks():
        assert network.methods[0] == "baseline" and {*network.methods, *network.changes} <= {*known_methods()}
        assert find_networks(network.domain, [network.name.partition("-")[2]]) == [network]
    with pytest.raises(ValueError, match="domain is 'pictures'; allowed: audio, image, motion, video"):
        find_networks("pictures", None)
    with pytest.raises(ValueError, match="networks holds x; allowed of image: digits"):
        find_networks("image", ["x"])


def test_curves_are_of_the_seeds_that_all_methods_have(here: Path):
    study(here, "seeds=2")
    (file,) = here.glob("*.json")
    record = json.loads(file.read_text())
    kept = study(here, "seeds=1")["results"]["methods"]["layersync"]
    record["results"]["methods"]["layersync"] = kept
    file.write_text(json.dumps(record))
    (found,) = (each for each in read_studies(here) if each.has_numbers)
    drawn, own = curves(found), record["results"]["methods"]["baseline"]["comparison"]["values"]["baseline"]
    assert len(own) == 2 and drawn["seeds"] == [0]
    assert [point["value"] for point in drawn["mean"]["baseline"]] == own[0]
    assert [point["value"] for point in drawn["mean"]["layersync"]] == kept["comparison"]["values"]["layersync"][0]


def test_the_published_page_is_made_of_the_published_records():
    out = ROOT / "docs" / "results.md"
    assert out.read_text() == page(read_studies(RESULTS), out)
