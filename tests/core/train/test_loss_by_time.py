"""The loss by noise level: what is measured, that it moves nothing, and that it is the same wherever it is made."""

import dataclasses

import pytest
import torch

from core.draws import fold_seed
from core.flow.objective import FlowMatching, ObjectiveConfig
from core.flow.path import TableConfig
from core.latents.tokenizer import MediaError
from core.processes.world import World
from core.train.loss_by_time import LossByTime
from core.train.tracking import BY_TIME, BY_TIME_EMA, LossByTimeConfig
from tests.core.processes import spread_runs
from tests.core.processes.spread_runs import AskedOf, Case, build, fit, fitted
from tests.core.processes.started import together
from tests.rows import every_row

KEY = "tracking.loss_by_time"
MEASURED = Case(changes=((KEY, LossByTimeConfig(bins=4, every=2, samples=10)), ("trainer.steps", 5)))
NAMES = ["0-0.25", "0.25-0.5", "0.5-0.75", "0.75-1"]


def measuring(case, **changes):
    """The case with other values of the measurement."""
    (key, config), *rest = case.changes
    return dataclasses.replace(case, changes=((key, dataclasses.replace(config, **changes)), *rest))


def by_time(line, prefix=BY_TIME):
    return [value for name, value in line.items() if name.startswith(f"{prefix}/")]


def others(line):
    return {name: value for name, value in line.items() if not name.startswith(BY_TIME)}


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    return build(MEASURED, World(), tmp_path_factory.mktemp("one"))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of one process that was measured."""
    return fitted(World(), MEASURED, tmp_path_factory.mktemp("whole"))


# --- what is measured


def test_a_bin_is_the_mean_loss_of_all_rows_at_stratified_times(trainer):
    """From the definition, one row and one time after the other."""
    measurement, found = trainer.by_time, {}
    assert list(measurement.measure("x")) == [f"x/{name}" for name in NAMES]
    digits, objective = measurement.source, trainer.loss.objective
    batches = list(measurement.batches)
    assert [batch.index.tolist() for batch in batches] == [[*range(7)], [7, 8, 9]]  # as many at once as in training
    latents = torch.cat([batch.media for batch in batches])
    rows = [next(i for i, image in enumerate(digits.images) if torch.equal(image, row)) for row in latents]
    assert len(set(rows)) == 10 and rows != sorted(rows)
    for number, name in enumerate(NAMES):
        times = measurement.times[number]
        assert torch.equal(torch.floor(times * 40).long(), 10 * number + torch.arange(10))  # a tenth of the bin each
        losses = []
        for i, t in enumerate(times):
            seed = fold_seed(fold_seed(0, "loss by time"), "sample", i, "noise")
            noise = torch.randn(latents[i].shape, generator=torch.Generator().manual_seed(seed))
            x_t, label = t * latents[i] + (1 - t) * noise, digits.labels[rows[i]]
            with torch.no_grad():
                velocity = trainer.model(x_t[None], t[None], label[None], None)[0]
            losses.append(float(((velocity - (latents[i] - noise)) ** 2).mean()))
        found[f"x/{name}"] = sum(losses) / len(losses)
    assert trainer.by_time.measure("x") == pytest.approx(found, rel=1e-5)
    assert objective.config.time == "uniform" and max(found.values()) > 1.05 * min(found.values())


def test_rows_are_held_out_where_some_are_and_own_rows_else(trainer):
    heldout = trainer.by_time.source
    train = {tuple(image.flatten().tolist()) for image in trainer.domain.dataset.images}
    assert len(heldout) == 359 and heldout.name(3) == "digit 3 of heldout"
    assert not train & {tuple(image.flatten().tolist()) for image in heldout.images}
    alone = LossByTime(trainer.config, heldout, trainer.loss, World())
    assert alone.source is heldout, "the split heldout holds nothing out"
    config = spread_runs.changed(trainer.config, KEY, LossByTimeConfig(samples=1000))
    assert LossByTime(config, heldout, trainer.loss, World()).rows == 359


def test_times_are_those_that_path_and_prediction_allow(trainer):
    """A table has levels; a score has no target at the data."""
    table, levels = TableConfig("cosine", 8), torch.arange(8) / 8
    for config in (ObjectiveConfig(prediction="score"), ObjectiveConfig(table, prediction="noise")):
        loss = dataclasses.replace(trainer.loss, objective=FlowMatching(config, trainer.model.expand))
        measurement = LossByTime(trainer.config, trainer.domain.dataset, loss, World())
        assert len(measurement.measure("x")) == 4
        if config.path == table:
            assert torch.equal(measurement.times.unique(), levels)
        else:
            assert torch.allclose(measurement.times, trainer.by_time.times, atol=0.05) and measurement.times.max() < 1


def test_masked_tokens_do_not_count(trainer):
    measurement = LossByTime(trainer.config, trainer.domain.dataset, trainer.loss, World())
    mask = torch.ones(7, trainer.model.num_tokens, dtype=torch.bool)
    mask[:, -1] = False
    found = []
    for filling in (0.0, 5.0):
        whole = trainer.by_time.batches[0]
        hidden = trainer.model.expand(mask, whole.media).expand_as(whole.media)
        latents = torch.where(hidden, whole.media, filling)
        found.append(measurement._losses(dataclasses.replace(whole, media=latents, mask=mask)))
    assert torch.equal(*found)
    assert not torch.equal(found[0], measurement._losses(trainer.by_time.batches[0]))


def test_media_that_the_tokenizer_does_not_take_are_named(trainer):
    class Picky:
        def encode(self, media, random):
            raise MediaError("its pixels are in [0, 1]", 2)

    picky = dataclasses.replace(trainer.loss, tokenizer=Picky())
    measurement = LossByTime(trainer.config, trainer.domain.dataset, picky, World())
    with pytest.raises(ValueError, match=r"^tracking\.loss_by_time: digit (\d+) of heldout \(row \1\): its pixels are"):
        measurement.measure("x")


def test_a_number_that_is_not_finite_is_left_out(trainer, monkeypatch):
    losses = trainer.by_time._losses

    def spoilt(batch):
        found = losses(batch)
        found[1, 0] = torch.inf
        return found

    monkeypatch.setattr(trainer.by_time, "_losses", spoilt)
    assert list(trainer.by_time.measure("x")) == [f"x/{name}" for name in NAMES if name != "0.25-0.5"]


# --- when, and what it leaves alone


def test_it_is_recorded_every_so_many_steps_and_at_the_last(run):
    assert [line["step"] for line in run["lines"] if by_time(line)] == [2, 4, 5]
    for line in run["lines"]:
        if by_time(line):
            assert len(by_time(line)) == len(by_time(line, BY_TIME_EMA)) == 4
            assert by_time(line) != by_time(line, BY_TIME_EMA)
    assert by_time(run["lines"][1]) != by_time(run["lines"][3])


def test_a_step_that_is_measured_is_logged(tmp_path):
    case = dataclasses.replace(MEASURED, changes=(*MEASURED.changes, ("trainer.log_every", 3)))
    lines = fitted(World(), case, tmp_path)["lines"]
    assert [line["step"] for line in lines] == [2, 3, 4, 5]


def test_the_run_is_that_without_it(run, tmp_path):
    without = fitted(World(), dataclasses.replace(MEASURED, changes=MEASURED.changes[1:]), tmp_path)
    assert [others(line) for line in run["lines"]] == without["lines"]
    assert spread_runs.same(run["weights"], without["weights"])


def test_the_alignment_does_not_listen_and_each_measurement_has_its_weights(tmp_path, monkeypatch):
    trainer, seen = build(MEASURED, World(), tmp_path), []

    def measure(prefix):
        weights = trainer.model.final_layer.linear.weight
        averaged = torch.equal(weights, trainer.ema.state_dicts()["ema"]["final_layer.linear.weight"])
        seen.append((prefix, averaged, trainer.alignment.hooks.collecting))
        return {}

    monkeypatch.setattr(trainer.by_time, "measure", measure)
    assert fit(trainer)
    assert seen == [(BY_TIME, False, False), (BY_TIME_EMA, True, False)] * 3


def test_a_run_that_was_stopped_has_the_same_records(run, tmp_path):
    for step in (1, 3):
        trainer = build(MEASURED, World(), tmp_path)
        assert not fit(trainer, AskedOf(trainer, 0, step)) and trainer.step == step + 1
    assert fit(trainer := build(MEASURED, World(), tmp_path))
    assert spread_runs.lines_of(trainer) == run["lines"]


def test_processes_parts_and_compiled_blocks_change_nothing(run, tmp_path):
    one_row = dataclasses.replace(measuring(MEASURED, samples=1), strategy="fsdp2")  # none for one of two processes
    cases = {
        "shared": MEASURED,
        "sharded": dataclasses.replace(MEASURED, strategy="fsdp2", compile="blocks", checkpoint_blocks=True),
        "one row": one_row,
    }
    calls = {name: (fitted, case, tmp_path / name) for name, case in cases.items()}
    found = together(2, calls, tmp_path)[0]
    found["parts"] = fitted(World(), dataclasses.replace(MEASURED, accumulate=3), tmp_path / "parts")
    single = fitted(World(), one_row, tmp_path / "single")
    for name, made in found.items():
        for ours, line in zip(made["lines"], (single if name == "one row" else run)["lines"], strict=True):
            assert ours == pytest.approx(line, rel=2e-5, abs=1e-6), name


# --- bad input


@every_row(
    ("changes", "parts"),
    [
        ({"bins": 0}, r"bins is 0; it must be at least 1, and 50 at most"),
        ({"bins": 51}, r"bins is 51; it must be at least 1, and 50 at most"),
        ({"every": 0}, r"every is 0; it must be at least 1$"),
        ({"samples": -1}, r"samples is -1; it must be at least 1$"),
    ],
)
def test_a_measurement_of_nothing_is_refused(changes, parts):
    with pytest.raises(ValueError, match=rf"^tracking\.loss_by_time\.{parts}"):
        LossByTimeConfig(**changes)
