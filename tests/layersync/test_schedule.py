"""Weights over optimizer steps and over flow time."""

import pytest
import torch

from layersync import TIME_WEIGHTS, WeightSchedule
from tests.layersync.played import close, played, two_sides


@pytest.mark.parametrize("name", list(TIME_WEIGHTS))
def test_time_weights_integrate_to_one(name):
    t = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    weight = TIME_WEIGHTS[name](t)
    close(weight.mean(), torch.ones((), dtype=torch.float64))
    assert (weight >= 0).all()


def test_time_weights_favour_the_end_they_are_named_for():
    noise, middle, data = torch.tensor([0.0, 0.5, 1.0])  # t = 0 is noise
    assert TIME_WEIGHTS["towards_data"](data) == 2 == TIME_WEIGHTS["towards_noise"](noise)
    assert TIME_WEIGHTS["towards_data"](noise) == 0 == TIME_WEIGHTS["towards_noise"](data)
    assert TIME_WEIGHTS["middle"](middle) == 1.5
    assert TIME_WEIGHTS["middle"](noise) == 0 == TIME_WEIGHTS["middle"](data)


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        (WeightSchedule(), {0: 1, 10**6: 1}),
        (WeightSchedule("warmup", warmup_steps=4), {0: 0.25, 1: 0.5, 3: 1, 4: 1, 10**6: 1}),
        (WeightSchedule("cosine", end_step=8), {0: 1, 4: 0.5, 8: 0, 9: 0}),
        (WeightSchedule("cosine", warmup_steps=4, end_step=12), {0: 0.25, 3: 1, 4: 1, 8: 0.5, 12: 0, 99: 0}),
        (WeightSchedule("stop", end_step=3), {0: 1, 2: 1, 3: 0, 4: 0}),
        (WeightSchedule("stop", warmup_steps=2, end_step=5), {0: 0.5, 1: 1, 4: 1, 5: 0}),
    ],
)
def test_schedule_at_its_key_steps(schedule, factors):
    for step, factor in factors.items():
        assert schedule.factor(step) == pytest.approx(factor, abs=1e-12), step
    sides = two_sides(2, 3, 4)
    whole = played([(1, 2)], *sides)()
    for step, factor in factors.items():
        close(played([(1, 2)], *sides, schedule=schedule)(step), factor * whole)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"warmup_steps": -1}, "warmup_steps is -1"),
        ({"kind": "warmup"}, "'warmup' but schedule.warmup_steps is 0"),
        ({"warmup_steps": 5}, "warmup_steps is 5 but schedule.kind is 'constant'"),
        ({"kind": "cosine"}, "end_step is None; 'cosine' needs one"),
        ({"kind": "stop"}, "end_step is None; 'stop' needs one"),
        ({"kind": "stop", "end_step": 0}, "end_step is 0; 'stop' needs one after"),
        ({"kind": "cosine", "warmup_steps": 5, "end_step": 5}, "end_step is 5; 'cosine' needs one after"),
        ({"end_step": 5}, "end_step is 5 but schedule.kind 'constant' has no end"),
        ({"kind": "warmup", "warmup_steps": 2, "end_step": 5}, "kind 'warmup' has no end"),
        ({"kind": "warmup", "warmup_steps": "5"}, "warmup_steps is '5' of type str"),
        ({"kind": "warmup", "warmup_steps": 2.5}, "warmup_steps is 2.5 of type float"),
        ({"kind": "stop", "end_step": True}, "end_step is True of type bool"),
        ({"kind": "linear"}, "kind is 'linear'.*constant.*warmup.*cosine.*stop"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        WeightSchedule(**options)


def test_a_weight_that_moves_needs_the_step():
    for schedule in (WeightSchedule("warmup", warmup_steps=4), WeightSchedule("cosine", end_step=8)):
        sync = played([(1, 2)], *two_sides(2, 3, 4), schedule=schedule)
        with pytest.raises(ValueError, match=rf"schedule is '{schedule.kind}': pass the optimizer step, sync\(step\)"):
            sync()
        close(sync(step=0), schedule.factor(0) * played([(1, 2)], *two_sides(2, 3, 4))())  # the tokens are still there
