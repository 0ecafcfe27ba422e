"""Nothing in a step is waited for: what the host reads, when, and what it says."""

import functools
import json
from collections import Counter

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from core.processes.failures import NonFiniteError
from core.train.readback import Readback
from tests.core.train.small import batch_of, make_trainer, opened

# On a GPU the host waits in each of these: for a value, for a number of elements, for numbers that are copied there.
WAITS = {"aten::item", "aten::_local_scalar_dense", "aten::is_nonzero", "aten::nonzero", "aten::lift_fresh"}


@pytest.fixture
def make(tmp_path, monkeypatch):
    """A trainer of a tiny run, without half a second of matrix products for a column of speed.jsonl."""
    monkeypatch.setattr("core.train.trainer.matmul_peak", lambda *told: 1e12)
    return functools.partial(make_trainer, tmp_path)


def waits(function):
    """How often each of the calls that wait is made; AdamW's kernel for CPUs reads its counts of steps, that for GPUs
    does not."""
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as seen:
        function()
    found = [each for each in seen.events() if each.name in WAITS]
    return Counter(each.name for each in found if "aten::_fused_adamw_" not in parents(each))


def parents(event):
    """Names of the calls that a call was made in."""
    names = set()
    while event.cpu_parent is not None:
        event = event.cpu_parent
        names.add(event.name)
    return names


SRA = ("alignment=sra", "alignment.pairs=[[1,2]]")


def test_no_number_is_waited_for_in_a_step(make):
    matched = ("optimizer.gradient=matched", "optimizer.clip_norm=1.0", "ema.widths=[0.1]", "trainer.log_every=1")
    routed = ("trainer.routing={share:0.5,first:2,last:2}", "backbone.depth=3")
    both, other = make(*SRA, *matched), make("alignment=self_flow", "alignment.pairs=[[1,3]]", *routed)
    for trainer in (both, other):
        trainer.update(batch_of(trainer))
    batch = batch_of(both, 1)
    assert waits(lambda: [trainer.update(batch) for trainer in (both, other)]) == {}
    assert waits(lambda: float(both.update(batch)[1]))["aten::item"] == 1, "this is counted"


def test_numbers_are_read_as_they_were_when_they_were_asked_for():
    value = torch.tensor(0.1)
    numbers = Readback({"a": value, "b": torch.tensor(3, dtype=torch.int64)})
    value.add_(1)
    assert numbers.read() == {"a": torch.tensor(0.1).item(), "b": 3.0}


def test_a_step_is_recorded_while_the_next_one_runs_and_the_last_at_the_end(make):
    trainer, seen = make("trainer.steps=4", "trainer.log_every=1", "trainer.checkpoint_every=3"), []
    passes = trainer._passes
    file = trainer.run.path / "metrics.jsonl"

    def watched(batch):
        trainer.records.tracker.sync()
        seen.append(len(file.read_text().splitlines()))
        return passes(batch)

    trainer._passes = watched
    assert trainer.fit()
    assert seen == [0, 0, 1, 3], "the third step is known as sound before its checkpoint"
    assert [json.loads(line)["step"] for line in file.read_text().splitlines()] == [1, 2, 3, 4]


def spoilt(trainer, bad):
    """A trainer whose passes of step `bad`, from 1, are told of an infinite sample."""
    passes = trainer._passes

    def spoiling(batch, *told):
        if trainer.step == bad - 1:
            batch.media[2] = torch.inf
        return passes(batch, *told)

    trainer._passes = spoiling
    return trainer


def test_a_broken_step_leaves_the_run_as_it_was_before_it(make):
    good, bad = opened(make("name=good")), spoilt(opened(make("name=bad")), bad=3)
    for step in range(2):
        good.update(batch_of(good, step))
    for step in range(3):
        bad.update(batch_of(bad, step))
    with pytest.raises(NonFiniteError, match=r"^step 3: loss"):
        bad.update(batch_of(bad, 3))
    assert bad.step == 2 and bad.whole and bad.pending is None
    for a, b in zip(good.saved.parts, bad.saved.parts, strict=True):
        for group, state in a.state_dicts().items():
            assert all(torch.equal(value, b.state_dicts()[group][key]) for key, value in state.items())


def test_what_was_wrong_with_a_step_comes_before_an_error_of_the_next(make):
    trainer = spoilt(opened(make("trainer.steps=9")), bad=3)
    loss = trainer.loss

    def failing(batch, random, step):
        if step == 3:
            raise ValueError("the fourth batch is broken")
        return loss(batch, random, step)

    trainer.loss = failing
    with pytest.raises(NonFiniteError, match=r"^step 3: loss"):
        trainer.fit()
    assert trainer.step == 2 and trainer.saved.store.latest().name == "step_00000002"


def test_scores_that_are_kept_are_measured_on_sound_steps_alone(make):
    trainer = spoilt(opened(make("alignment.pairs=adaptive", "alignment.adaptive.every=2", "backbone.depth=4")), bad=2)
    trainer.update(batch_of(trainer, 0))
    trainer.update(batch_of(trainer, 1))
    before = {name: value.clone() for name, value in trainer.alignment.heads.state_dict().items()}
    with pytest.raises(NonFiniteError):
        trainer.update(batch_of(trainer, 2))
    after = trainer.alignment.heads.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
