"""What every domain promises, once for each: a domain adds a `Toy` (tests/end_to_end/toys) and is tested here.

Commands are called in this process unless a test is about processes. What does not depend on a domain (kills, damage,
full disks, signals, many processes, SLURM) is tested with images alone.
"""

from __future__ import annotations

import importlib
import json
import math
import re
import shlex
import shutil

import numpy as np
import pytest
import yaml
from PIL import Image
from safetensors.torch import load_file

from core.commands.entry import compose_config
from core.schema import strict
from core.storage.checkpoint import read_checkpoint
from core.storage.lines import read_lines
from eval.measure.record import read_records
from tests.core.processes.started import Launched
from tests.end_to_end.commands import newest, one_line_error, same_bytes, same_run, same_weights, steps_of, told_to_stop
from tests.end_to_end.toys.contract import BLOCKS, SMALL, User, changed
from tests.end_to_end.toys.every import ROOT, TOYS
from tests.end_to_end.zygote import SPARED
from tests.slurm.commands import launch

COMMANDS = ("train", "sample", "cache", "evaluate", "train_tokenizer")
STEPS = 60
BY_TIME = "tracking.loss_by_time={bins: 2, every: 50, samples: 5}"
WHOLE = (
    f"trainer.steps={STEPS}",
    "trainer.batch_size=8",
    "trainer.preview_every=30",
    "trainer.checkpoint_every=25",
    BY_TIME,
)
METHODS = [
    path.stem
    for path in sorted((ROOT / "core" / "conf" / "alignment").glob("*.yaml"))
    if "defaults" not in yaml.safe_load(path.read_text())  # a preset of another
]


@pytest.fixture(scope="module", autouse=True)
def no_peak():
    """Without half a second of matrix products for a column of speed.jsonl."""
    with pytest.MonkeyPatch.context() as patch:
        name = "core.train.trainer.matmul_peak"
        patch.setattr(name, SPARED[name])
        yield


@pytest.fixture(scope="module", params=TOYS)
def toy(request):
    return TOYS[request.param]


@pytest.fixture
def user(toy, tmp_path):
    """A user of the domain in an empty folder."""
    return User(toy, tmp_path)


@pytest.fixture(scope="module")
def whole(toy, tmp_path_factory):
    """A user with a finished run on the stand-in, and what the command printed."""
    user = User(toy, tmp_path_factory.mktemp("whole"))
    return user, user.does("train", *(*SMALL, *toy.stand_in, *toy.measured, *aligned(toy, "layersync"), *WHOLE))


@pytest.fixture(scope="module")
def filed(toy, tmp_path_factory):
    """A user with a finished run on files of their own, of four steps, with two of the checkpoints."""
    user = User(toy, tmp_path_factory.mktemp("filed"))
    toy.files(user.place / "files")
    toy.weights(user.place / "weights")
    user.does("train", *user.on_files(*aligned(toy, "layersync"), *FOUR))
    return user


FOUR = ("trainer.steps=4", "trainer.checkpoint_every=2", BY_TIME)


def aligned(toy, method):
    """Words that choose an alignment method, with blocks that three have."""
    keys = compose_config(f"{toy.domain}.conf", "train", [f"alignment={method}"], complete=False)["alignment"]
    return (f"alignment={method}", *(f"alignment.{key}={value}" for key, value in BLOCKS.items() if key in keys))


def losses(run):
    return [line["flow_loss"] for line in read_lines(run / "metrics.jsonl")]


def printed(command, text):
    """The words of a command that was printed."""
    return shlex.split(re.search(rf"python -m {re.escape(command)} (.*)", text)[1])


def nearly(a, b):
    """The same media, but for the rounding of numbers between two integers."""
    return a.shape == b.shape and np.abs(a - b).max() <= 1


# --- a complete run


def test_it_leaves_what_it_promises(toy, whole):
    run = whole[0].run()
    names = {"config.yaml", "metrics.jsonl", "speed.jsonl", "sessions.jsonl", "loss_curve.png", "summary.json"}
    names |= {"evaluations.jsonl", "checkpoints", "previews", ".lock"} | toy.leaves
    assert {path.name for path in run.iterdir()} == names
    assert not list(run.rglob("*.tmp")) and steps_of(run) == [50, STEPS]
    assert {path.name[:13] for path in (run / "previews").iterdir()} == {"step_00000030", f"step_{STEPS:08d}"}
    for picture in run.rglob("*.png"):
        with Image.open(picture) as opened:
            opened.load()
            assert min(opened.size) > 40
    summary, saved = json.loads((run / "summary.json").read_text()), read_checkpoint(newest(run))
    weights = load_file(newest(run) / "model.safetensors")
    fixed = ("pos_embed", "temp_embed")  # codes of positions, which are no parameters
    assert summary["parameters"] == sum(value.numel() for name, value in weights.items() if name not in fixed)
    assert (summary["steps"], summary["device"], summary["num_samples"]) == (STEPS, "cpu", toy.num_samples)
    assert summary["wall_seconds"] > summary["train_seconds"] > 0
    distance, share = toy.numbers
    assert summary[distance] > 0 and summary[toy.of_real[0]] > 0 and 0 <= summary[share] <= 1
    assert (saved.step, saved.notes["domain"]) == (STEPS, toy.domain)
    assert (saved.notes["code"]["commit"] is not None) == (ROOT / ".git").exists()
    schema = importlib.import_module(f"{toy.domain}.train").ENTRY.schema
    assert strict(schema, saved.notes["config"]).trainer.steps == STEPS
    assert (saved.groups["ema"]["final_layer.linear.weight"] != weights["final_layer.linear.weight"]).any()


def test_its_loss_is_the_flow_and_the_weighted_cosine_and_falls(whole):
    lines = read_lines(whole[0].run() / "metrics.jsonl")
    weight = yaml.safe_load((whole[0].run() / "config.yaml").read_text())["alignment"]["weight"]
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    assert all(math.isfinite(value) for line in lines for value in line.values())
    for line in lines:
        assert line["loss"] == pytest.approx(line["flow_loss"] - weight * line["similarity/1->2"], abs=1e-5)
    flow = losses(whole[0].run())
    assert sum(flow[-10:]) < 0.9 * sum(flow[:10])


def test_its_loss_by_noise_level_is_in_its_records(whole, filed):
    """Of held-out rows and of files; that stopped runs, workers and processes make the same, others test."""
    names = {f"loss_by_time{weights}/{part}" for weights in ("", "_ema") for part in ("0-0.5", "0.5-1")}
    for user, steps in ((whole[0], [50, STEPS]), (filed, [4])):
        lines = read_lines(user.run() / "metrics.jsonl")
        assert [line["step"] for line in lines if names & line.keys()] == steps
        assert all(names <= line.keys() for line in lines if line["step"] in steps)


def test_called_again_it_says_that_it_is_complete_and_how_to_go_on(toy, whole):
    user, first = whole
    anew = ("config.yaml", ".lock")
    times = {file: file.stat().st_mtime_ns for file in user.run().rglob("*") if file.name not in anew}
    again = user("train", *(*SMALL, *toy.stand_in, *toy.measured, *aligned(toy, "layersync"), *WHOLE))
    assert (again.code, again.err) == (0, "")
    assert again.out.splitlines()[0].startswith(f"runs/{toy.domain}/{toy.name} is complete after {STEPS} steps")
    assert again.out.splitlines()[1:] == first.splitlines()
    assert {file: file.stat().st_mtime_ns for file in times} == times
    user.does("sample", *printed(f"{toy.domain}.sample", first), "num=1", "device=cpu", "out=as_told")


def test_every_command_explains_itself_and_refuses_a_typo(user):
    wrong = []
    for command in COMMANDS:
        assert f"python -m {user.toy.domain}.{command}" in user.does(command, "--help")
        needed = ["run=x"] if command == "sample" else []
        wrong.append(one_line_error(user(command, "devise=cpu", *needed), "unknown config key 'devise'", "device"))
    assert not any(wrong), wrong
    assert list(user.place.iterdir()) == []


# --- samples


def test_a_sample_depends_on_its_number_and_what_is_asked_for_alone(toy, whole):
    user, _ = whole

    def sampled(out, *words):
        user.does("sample", f"run={user.run()}", "device=cpu", f"out={out}", *words)
        return toy.media(user.place / out)

    usual = sampled("usual", "num=5")
    for number, words in enumerate((["num=5", "batch_size=2"], ["num=3", "batch_size=1"])):
        other = sampled(f"same{number}", *words)
        assert nearly(other, usual[: len(other)]), words
    assert not nearly(sampled("other", "num=5", "seed=1"), usual)
    assert not nearly(sampled("asked", "num=5", *toy.request), usual)


def test_the_last_preview_is_what_sample_makes_of_the_averages(toy, whole):
    user, _ = whole
    config = yaml.safe_load((user.run() / "config.yaml").read_text())
    count = config["trainer"]["num_previews"]
    user.does("sample", f"run={user.run()}", f"num={count}", f"seed={config['seed']}", "device=cpu", "out=again")
    assert same_bytes(user.place / "again" / "grid.png", user.run() / "previews" / f"step_{STEPS:08d}.png")


# --- interruptions, workers, processes


def test_stopped_at_a_step_and_continued_it_is_the_same_run(toy, whole, user):
    """Also where what was measured of the data before is gone: the checkpoint has it."""
    words = (*SMALL, *toy.stand_in, *toy.measured, *aligned(toy, "layersync"), *WHOLE)
    with told_to_stop(7):
        stopped = user("train", *words)
    assert (stopped.code, "Traceback" in stopped.err) == (143, False), stopped
    assert f"stopped after step 7 of {STEPS}; the same command continues" in stopped.out
    assert steps_of(user.run()) == [7] and not (user.run() / "summary.json").exists()
    shutil.rmtree(user.place / "runs" / "cache", ignore_errors=True)
    user.does("train", *words)
    same_run(user.run(), whole[0].run())
    numbers = [json.loads((each.run() / "summary.json").read_text()) for each in (user, whole[0])]
    for name in ("steps", *toy.numbers, *toy.of_real):
        assert numbers[0][name] == numbers[1][name]


def test_workers_and_previews_change_nothing(toy, filed, user):
    for name in ("files", "weights"):
        (user.place / name).symlink_to(filed.place / name)
    words = (*aligned(toy, "layersync"), *FOUR, "trainer.num_workers=1", "trainer.preview_every=3")
    user.does("train", *user.on_files(*words))
    assert same_weights(newest(user.run()), newest(filed.run()))
    assert same_bytes(user.run() / "metrics.jsonl", filed.run() / "metrics.jsonl")


def test_two_processes_make_the_run_of_one(toy, filed, user):
    """And say no more than one on their screens, where a warning of a library would stand."""
    for name in ("files", "weights"):
        (user.place / name).symlink_to(filed.place / name)
    words = user.on_files(*aligned(toy, "layersync"), *FOUR)
    outcomes = Launched(2, f"{toy.domain}.train", *words, cwd=user.place).wait()
    assert [outcome.code for outcome in outcomes] == [0, 0], outcomes
    assert outcomes[1].out == "" and "Warning" not in outcomes[0].err + outcomes[1].err, outcomes
    lines = [read_lines(each.run() / "metrics.jsonl") for each in (filed, user)]
    for one, two in zip(*lines, strict=True):
        assert two == pytest.approx(one, rel=1e-4), (one, two)


# --- files, caches, tokenizers


def test_samples_need_neither_the_files_nor_what_was_measured_of_them(toy, filed, user):
    shutil.copytree(filed.run(), user.run())
    shutil.copytree(filed.place / "weights", user.place / "weights")
    for out, words in (("whole", ["num=3"]), ("alone", ["num=3", "batch_size=1"])):
        user.does("sample", f"run={user.run()}", "device=cpu", f"out={out}", *words)
    made = [toy.media(user.place / out) for out in ("whole", "alone")]
    assert len(made[0]) == 3 and nearly(*made) and made[0].std() > 0


def test_a_run_on_cached_latents_is_the_run_on_the_files(toy, filed, encoder):
    """By the command that `cache` prints; with an encoder's features, of both mirrors where rows are mirrored."""
    method = (*aligned(toy, "external"), encoder, "trainer.steps=2")
    sources = [word for word in filed.on_files() if word.startswith(("data", "tokenizer", "conditioning", "device"))]
    words = (*sources, "dtype=float32", "num_workers=0", "rows_per_shard=3", "out=latents", encoder.partition(".")[2])
    told = printed(f"{toy.domain}.train", filed.does("cache", *words))
    usual = [word for word in filed.on_files(*method) if word not in sources]
    filed.does("train", *filed.on_files(*method, "name=asked"))
    filed.does("train", *changed(usual, told), "name=cached", "device=cpu")
    asked, cached = ([*map(dict.values, read_lines(filed.run(name) / "metrics.jsonl"))] for name in ("asked", "cached"))
    np.testing.assert_allclose([*map(list, cached)], [*map(list, asked)], rtol=1e-5)
    assert "are as they were written" in filed.does("cache", *words, "verify=true")


def test_a_tokenizer_is_trained_and_then_trains_a_run(toy, user):
    """By the command that `train_tokenizer` prints."""
    told = printed(f"{toy.domain}.train", user.does("train_tokenizer", *toy.codec, "device=cpu"))
    data = [word for word in toy.codec if word.startswith("data.")]
    usual = [word for word in user.on_stand_in("trainer.steps=1") if not word.startswith(("tokenizer", "data"))]
    user.does("train", *changed([*usual, *data], told), *toy.untrained, *aligned(toy, "layersync"))
    assert losses(user.run())[0] > 0


# --- measuring and looking inside


def test_evaluate_gives_the_numbers_of_the_training(toy, whole):
    user, _ = whole
    user.does("evaluate", f"run={user.run()}", "device=cpu")
    summary = json.loads((user.run() / "summary.json").read_text())
    found = {record.metric: record for record in read_records([user.run() / "evaluations"])}
    assert set(toy.numbers) <= found.keys() & summary.keys()
    for name in found.keys() & summary.keys():
        assert found[name].value == pytest.approx(summary[name], rel=1e-6), name
        assert found[name].num_samples == summary["num_samples"] and found[name].step == STEPS


def test_its_blocks_are_probed_and_compared_and_its_report_shows_samples(toy, whole):
    user, _ = whole
    run, small = f"run={user.run()}", ["device=cpu", "out=inside"]
    user.does("eval.probe", run, "t=[1.0]", "num_train=48", "num_heldout=12", "probe.iterations=5", *small)
    probe = json.loads((user.place / "inside" / "probe.json").read_text())
    assert (probe["domain"], probe["depth"]) == (toy.domain, 3)
    user.does("eval.similarity", run, "num=16", "shown=2", "t=[0.5]", "measures.neighbours=4", *small)
    assert (user.place / "inside" / "pca_t0.50.png").exists()
    told = user.does("eval.reconstruction", run, "num=32", *small)
    found = json.loads((user.place / "inside" / "reconstruction.json").read_text())["results"]
    assert toy.numbers[0] in told and set(toy.numbers) <= set(found["data"]) == set(found["reconstruction"])
    user.does("eval.report", f"runs=[{user.run()}]", "out=report")
    assert toy.sight in (user.place / "report" / "index.html").read_text()


# --- configs


@pytest.mark.parametrize("method", METHODS)
def test_an_alignment_method_steps_and_resumes(toy, method, user, request):
    words = user.on_stand_in(*aligned(toy, method), "trainer.steps=3", "trainer.keep_checkpoints=1")
    other = User(toy, user.place / "stopped")
    other.place.mkdir()
    if method == "external":
        words = (*words, request.getfixturevalue("encoder"), "trainer.batch_size=2")
    user.does("train", *words)
    with told_to_stop(2):
        assert other("train", *words).code == 143
    other.does("train", *words)
    same_run(other.run(), user.run())
    lines = read_lines(user.run() / "metrics.jsonl")
    assert all(math.isfinite(value) for line in lines for value in line.values())
    assert (lines[0]["loss"] == lines[0]["flow_loss"]) == (method == "none")


# --- bad input


def refused(user, words, parts):
    """What is wrong with how `train` refuses words, or ""; it may leave no more than the run's config."""
    wrong = one_line_error(user("train", *words), *parts)
    left = [path.name for path in user.place.rglob("*") if path.name in ("checkpoints", "previews", "summary.json")]
    left += [path.name for path in user.place.rglob("*.tmp")]
    return wrong or (f"left behind: {left}" if left else "")


def test_bad_input_is_one_line_and_leaves_nothing(toy, filed, user):
    for name in ("files", "weights"):
        shutil.copytree(filed.place / name, user.place / name)
    method = aligned(toy, "layersync")
    wrong = [refused(user, user.on_stand_in(*method, *bad), parts) for bad, parts in toy.bad]
    wrong += [refused(user, user.on_files(*method, *bad), parts) for bad, parts in toy.bad_files]
    late = user.on_stand_in(*method, "sampler.guidance_channels=999", "trainer.preview_every=0")  # read by no step
    wrong.append(refused(user, late, ["sampler.guidance_channels is 999", "channels"]))
    assert not any(wrong), [each for each in wrong if each]


def test_a_broken_file_is_one_line_that_names_it(toy, filed, user):
    (user.place / "weights").symlink_to(filed.place / "weights")
    wrong = []
    for damage in toy.damage:
        shutil.rmtree(user.place / "files", ignore_errors=True)
        shutil.copytree(filed.place / "files", user.place / "files")
        parts = damage(user.place / "files")
        wrong.append(refused(user, user.on_files(*aligned(toy, "layersync"), "trainer.batch_size=16"), parts))
    assert not any(wrong), [each for each in wrong if each]


def test_a_bad_value_is_refused_before_a_sweep_is_submitted(toy, user):
    bad = {"trainer.steps=0": "trainer.steps", "alignment.weight=-1": "alignment.weight is -1"}
    bad |= {"alignment.pairs=[]": "alignment.pairs is empty", "alignment.pairs=[[1,99]]": "99"}
    for words, parts in (toy.bad[0], *(((word,), (part,)) for word, part in bad.items())):
        overrides = {key: yaml.safe_load(value) for key, value in (word.split("=") for word in words)}
        file = user.place / "sweep.yaml"
        file.write_text(yaml.safe_dump({"name": "bad", "entry": f"{toy.domain}.train", "overrides": overrides}))
        assert launch(file, "--dry-run").is_error("run seed0: ", *parts)


# --- runs that the code made before it was moved


def test_a_run_made_before_the_move_continues(toy, user):
    """To the losses and the samples that the code of then went on to.

    On one machine they are equal to the byte; kernels for other processors round in another way, so that here losses
    may differ by 1e-5 of their size and media by 1/200 of theirs: sound by 7e-4 where this was measured, since
    Griffin-Lim makes more of a difference than it was given.
    """
    before = ROOT / "tests" / "data" / "run_before_the_move" / toy.domain
    if not before.is_dir():
        pytest.skip("the domain came after the move")
    shutil.copytree(before / "run", user.run("before"))
    config = yaml.safe_load((user.run("before") / "config.yaml").read_text())
    entry = importlib.import_module(f"{toy.domain}.train").ENTRY
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(user.place)
        entry.main(strict(entry.schema, {**config, "trainer": {**config["trainer"], "steps": 6}}))
    np.testing.assert_allclose(losses(user.run("before")), losses(before / "after"), rtol=1e-5)
    user.does("sample", f"run={user.run('before')}", "num=2", "device=cpu", "out=samples")
    media, then = (np.float64(toy.media(folder))[:2] for folder in (user.place / "samples", before / "after"))
    assert np.linalg.norm(media - then) < 0.005 * np.linalg.norm(then)
