"""Options beside the paper's objective: a contrast with the next sample, a limit of weights, times by size."""

import math
from dataclasses import replace

import pytest
import torch

from core.draws import StepRandom
from core.flow.objective import FlowMatching, NextSamples, ObjectiveConfig
from core.flow.path import PATHS
from image.backbone import SiTConfig
from image.train import ENTRY as TRAIN
from tests.core.flow.numerics import close
from tests.core.flow.test_objective import fixed, inputs
from tests.rows import every_row

# contrast


def following(data, noise, mask=None):
    """What the sample behind each is made of."""
    return NextSamples(data.roll(-1, 0), noise.roll(-1, 0), None if mask is None else mask.roll(-1, 0))


@every_row("path", list(PATHS))
def test_a_contrast_subtracts_the_error_against_the_next_samples_target(path):
    data, noise, output, t = inputs(4, 3, 2)
    plain, contrastive = (FlowMatching(ObjectiveConfig(path, contrastive_weight=weight)) for weight in (0.0, 0.05))
    usual = plain(fixed(output), data, noise, t).loss
    found = contrastive(fixed(output), data, noise, t, None, following(data, noise)).loss
    c = PATHS[path].coefficients(t)
    for row in range(4):
        after = (row + 1) % 4
        other = c.d_alpha[row] * data[after] + c.d_sigma[row] * noise[after]  # at the time of the sample itself
        close(found[row], usual[row] - 0.05 * (output[row] - other).square().mean(), 1e-10)
    close(contrastive(fixed(output), data, noise, t).loss, usual, 0)  # where no sample stands behind, as in measuring


def test_the_best_answer_to_a_contrast_lies_beyond_the_target():
    data, noise, _, t = inputs(4, 3, 2)
    objective, weight = FlowMatching(ObjectiveConfig(contrastive_weight=0.3)), 0.3
    own, other = data - noise, (data - noise).roll(-1, 0)
    best = ((own - weight * other) / (1 - weight)).requires_grad_()
    objective(fixed(best), data, noise, t, None, following(data, noise)).loss.sum().backward()
    close(best.grad, torch.zeros_like(best), 1e-12)


def test_padding_of_either_sample_has_no_part_in_a_contrast():
    data, noise, output, t = inputs(3, 4, 2)
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0], [0, 0, 0, 1]]).bool()[..., None]
    data, noise = (torch.where(mask, value, math.nan) for value in (data, noise))
    plain, contrastive = (FlowMatching(ObjectiveConfig(contrastive_weight=weight)) for weight in (0.0, 0.5))
    usual = plain(fixed(output), data, noise, t, mask).loss
    output.requires_grad_()
    found = contrastive(fixed(output), data, noise, t, mask, following(data, noise, mask)).loss
    first = (output[0, :2] - (data - noise)[1, :2]).square().mean()
    third = (output[2, 3:] - (data - noise)[0, 3:]).square().mean()  # nothing: the first has three tokens
    assert third.isnan()
    close(found, usual - 0.5 * torch.stack([first, first * 0, first * 0]), 1e-12)
    found.sum().backward()
    assert output.grad.isfinite().all() and (output.grad[~mask.expand_as(output)] == 0).all()


# the network says data, its error is one of velocities


def velocity(data, x, t, least=0.0):
    """What data say of the velocity at (x, t) of the linear path, by at least so much time that is left."""
    left = (1 - t).clamp(min=least).reshape(-1, 1, 1)
    return (data - x) / left


def test_data_with_the_weighting_velocity_are_compared_as_velocities():
    data, noise, output, t = inputs(6, 3, 2)
    t[:2] = torch.tensor([0.97, 0.999])
    said = ObjectiveConfig(prediction="data", weighting="velocity")
    for limit, least in ((None, 0.0), (400.0, 0.05)):
        result = FlowMatching(replace(said, weight_limit=limit))(fixed(output), data, noise, t)
        x = result.x_t
        found, wanted = velocity(output, x, t, least), velocity(data, x, t, least)
        if limit is None:
            close(wanted, data - noise, 1e-9)
        close(result.loss, (found - wanted).square().mean((1, 2)), 1e-8)


@every_row("path", list(PATHS))
@every_row("prediction", ["data", "noise", "score"])
@every_row("weighting", ["velocity", "likelihood"])
def test_a_weight_above_the_limit_is_the_limit(path, prediction, weighting):
    data, noise, output, t = inputs(8, 3, 2)
    config = ObjectiveConfig(path, prediction, weighting)
    plain, free = (
        FlowMatching(each)(fixed(output), data, noise, t).loss for each in (replace(config, weighting="none"), config)
    )
    weight = free / plain
    limit = weight.median().item()
    found = FlowMatching(replace(config, weight_limit=limit))(fixed(output), data, noise, t).loss
    close(found, plain * weight.clamp(max=limit), 1e-9)
    assert (found < free * 0.999).any() and torch.isclose(found, free).any()


# times


def test_an_automatic_shift_is_the_root_of_the_size_over_4096():
    config = ObjectiveConfig(time="shifted", time_shift="auto")
    for shape, patch, shift in (((4, 32, 32), 2, 1.0), ((16, 32, 32), 4, 2.0), ((1, 32, 32), 2, 0.5)):
        backbone = SiTConfig(patch_size=patch, depth=1, hidden_size=16, num_heads=2).build(shape, num_classes=2)
        objective = config.build(backbone)
        assert objective.config == replace(config, time_shift=shift)
        wanted = FlowMatching(replace(config, time_shift=shift)).draw_time(StepRandom(0, 0), (64,))
        assert torch.equal(objective.draw_time(StepRandom(0, 0), (64,)), wanted)
    with pytest.raises(ValueError, match=r"objective\.time_shift is 'auto': needs the latents' size"):
        FlowMatching(config)


# refusals


@every_row(
    ("setting", "message"),
    [
        ({"contrastive_weight": -0.1}, r"objective\.contrastive_weight is -0\.1; it must lie in \[0, 1\)"),
        ({"contrastive_weight": 1.0}, r"objective\.contrastive_weight is 1\.0"),
        ({"contrastive_weight": 0.05, "prediction": "data"}, r"contrastive_weight is 0\.05 .*'data'; .*: velocity"),
        ({"weight_limit": 0.0, "prediction": "data", "weighting": "velocity"}, r"objective\.weight_limit is 0\.0"),
        ({"weight_limit": 9.0}, r"weight_limit is 9\.0, but .*'velocity' .*'none' have no weight; allowed there: null"),
        ({"weight_limit": 9.0, "prediction": "data"}, r"weight_limit is 9\.0, but errors of prediction 'data'"),
        ({"time_shift": "auto"}, r"time_shift is 'auto', but objective\.time is 'uniform'; allowed with it: 1\.0"),
        ({"time_shift": 3.0}, r"time_shift is 3\.0, but objective\.time is 'uniform'; allowed with it: 1\.0"),
        ({"time_shift": 3.0, "time": "logit_normal"}, r"time_shift is 3\.0, but objective\.time is 'logit_normal'"),
        ({"time_mean": 1.0}, r"time_mean is 1\.0, but objective\.time is 'uniform'; allowed with it: 0\.0"),
        ({"time_std": 2.0, "time": "shifted"}, r"time_std is 2\.0, but objective\.time is 'shifted'; .*: 1\.0"),
        ({"margin": 0.1}, r"objective\.margin is 0\.1, but a velocity on objective\.path linear has no singular end"),
        ({"difference_weight": 1.0, "prediction": "data", "weighting": "velocity"}, r"difference_weight is 1\.0"),
    ],
)
def test_refusals_name_the_key_the_value_and_what_is_allowed(setting, message):
    with pytest.raises(ValueError, match=message):
        ObjectiveConfig(**setting)


def test_a_run_with_a_weighting_that_its_loss_does_not_read_is_refused():
    with pytest.raises(
        ValueError, match=r"objective\.weighting is 'likelihood', but .*'velocity' is its own weighting"
    ):
        TRAIN.config(["objective.weighting=likelihood"])


def test_a_contrast_takes_no_batch_that_is_split_or_of_one():
    words = ["objective.contrastive_weight=0.05"]
    assert TRAIN.config(words).objective.contrastive_weight == 0.05
    for more in ("trainer.accumulate=2", "trainer.batch_size=1"):
        with pytest.raises(ValueError, match=f"{more.replace('=', ' is ')}, but objective.contrastive_weight is 0.05"):
            TRAIN.config([*words, more])
