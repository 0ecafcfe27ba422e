"""Guidance and `Sampler`: what a user asks for is what is solved, whoever makes the sample and in whatever batch."""

from itertools import pairwise

import pytest
import torch

from core.draws import SampleRandom
from core.flow.path import Interpolant, Linear
from core.flow.sampler import SDE_SOLVERS, Sampler, SamplerConfig, guide
from core.flow.solvers import TABLEAUX
from tests.core.flow.numerics import Counted, close, one_thread  # noqa: F401, a fixture

pytestmark = pytest.mark.usefixtures("one_thread")

# guidance


def labelled(x, t, condition):
    """A network whose answer depends on everything it is asked."""
    t = t.view(-1, *[1] * (x.ndim - 1))
    return torch.sin(x) + t * condition.view(t.shape) + condition.view(t.shape) * x


def guided_inputs(batch=4):
    """x (B, 3, 2), conditions and null conditions (B), float64."""
    x = torch.randn(batch, 3, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return x, torch.arange(1, batch + 1, dtype=torch.float64), torch.full((batch,), -1.0, dtype=torch.float64)


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 4.0])
def test_guidance_extrapolates_from_the_unconditional_answer(scale):
    x, wanted, null = guided_inputs()
    t = torch.linspace(0, 1, 4, dtype=torch.float64)
    network = Counted(labelled)
    conditional, unconditional = labelled(x, t, wanted), labelled(x, t, null)
    close(guide(network, wanted, null, scale)(x, t), unconditional + scale * (conditional - unconditional), 1e-12)
    assert network.rows == ([4] if scale == 1 else [8])  # one evaluation, doubled only where guidance is on


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_guidance_of_the_first_channels(channels):
    x, wanted, null = guided_inputs()
    t = torch.linspace(0, 1, 4, dtype=torch.float64)
    guided = guide(labelled, wanted, null, 3.0, channels=channels)(x, t)
    everywhere = guide(labelled, wanted, null, 3.0)(x, t)
    assert torch.equal(guided[:, :channels], everywhere[:, :channels])
    assert torch.equal(guided[:, channels:], labelled(x, t, wanted)[:, channels:])


@pytest.mark.parametrize("channels", [None, 2])
def test_guidance_interval_holds_row_by_row(channels):
    x, wanted, null = guided_inputs(6)
    t = torch.tensor([0.0, 0.25, 0.5, 0.75, 0.75 + 1e-9, 1.0], dtype=torch.float64)
    network = Counted(labelled)
    guided = guide(network, wanted, null, 3.0, interval=(0.25, 0.75), channels=channels)(x, t)
    everywhere, plain = guide(labelled, wanted, null, 3.0, channels=channels)(x, t), labelled(x, t, wanted)
    assert torch.equal(guided[1:4], everywhere[1:4])  # both ends belong to the interval
    assert torch.equal(guided[[0, 4, 5]], plain[[0, 4, 5]])
    assert network.rows == [12]


def test_guidance_costs_nothing_outside_its_interval():
    x, wanted, null = guided_inputs()
    network = Counted(labelled)
    guided = guide(network, wanted, null, 3.0, interval=(0.25, 0.75))
    for value in (0.1, 0.5, 0.9):
        guided(x, torch.full((4,), value, dtype=torch.float64))
    assert network.rows == [4, 8, 4]


# the sampler

SHAPE = (2, 3)
SETTINGS = {
    "heun": {"solver": "heun", "num_steps": 6},
    "dopri5": {"solver": "dopri5"},
    "euler_maruyama": {"solver": "euler_maruyama", "num_steps": 6},
    "heun_maruyama": {"solver": "heun_maruyama", "num_steps": 6},
    "guided": {"solver": "heun", "num_steps": 6, "guidance_scale": 2.5, "guidance_channels": 1},
    "guided dopri5": {"solver": "dopri5", "guidance_scale": 2.5, "guidance_interval": (0.3, 0.8)},
}
every_setting = pytest.mark.parametrize("setting", list(SETTINGS))


def sample(setting, indices, seed=3, prediction="velocity"):
    """Samples of these indices, sample i under the condition i."""
    sampler = Sampler(SamplerConfig(**SETTINGS[setting]), Interpolant(Linear()), prediction)
    wanted = torch.tensor([float(index) for index in indices])
    shape = (len(indices), *SHAPE)
    return sampler(labelled, shape, wanted, torch.full_like(wanted, -1), SampleRandom(seed, indices))


@every_setting
@pytest.mark.parametrize("batch", [1, 3, 7])
def test_samples_do_not_depend_on_the_batch_size(setting, batch):
    whole = sample(setting, range(7))
    split = torch.cat([sample(setting, range(7)[start : start + batch]) for start in range(0, 7, batch)])
    close(split, whole, 1e-5)
    assert len({tuple(row.flatten().tolist()) for row in whole}) == 7
    assert not torch.allclose(sample(setting, range(7), seed=4), whole, atol=1e-2)


@every_setting
def test_samples_do_not_depend_on_which_process_makes_them(setting):
    whole = sample(setting, range(7))
    for rank in range(3):
        close(sample(setting, range(7)[rank::3]), whole[rank::3], 1e-5)
    close(sample(setting, [5, 0, 6]), whole[[5, 0, 6]], 1e-5)


@pytest.mark.parametrize("prediction", ["noise", "score", "data"])
@pytest.mark.parametrize("solver", ["heun", "euler_maruyama"])
def test_guidance_means_the_same_in_every_prediction(prediction, solver):
    interpolant, ends = Interpolant(Linear()), []
    x, wanted, null = guided_inputs()

    class Fixed:
        def normal(self, stream, shape):
            return x

    def converted(point, t, condition):
        return getattr(interpolant.estimates(labelled(point, t, condition), point, t, "velocity"), prediction)

    for kind, network in (("velocity", labelled), (prediction, converted)):
        config = SamplerConfig(solver, 8, margin=0.01, guidance_scale=2.0, guidance_interval=(0.2, 0.7))
        sampler = Sampler(config, interpolant, kind)
        sampler.interval = (0.01, 0.95)
        ends.append(sampler(network, tuple(x.shape), wanted, null, Fixed()))
    close(*ends, 1e-9)


@pytest.mark.parametrize(
    ("settings", "evaluations"),
    [
        ({"solver": "euler", "num_steps": 5}, 5),
        ({"solver": "heun", "num_steps": 5}, 10),
        ({"solver": "rk4", "num_steps": 5}, 20),
        ({"solver": "euler_maruyama", "num_steps": 5}, 5),
        ({"solver": "euler_maruyama", "num_steps": 5, "last_step": "none"}, 5),
        ({"solver": "heun_maruyama", "num_steps": 5}, 9),
        ({"solver": "heun_maruyama", "num_steps": 5, "last_step": "none"}, 10),
    ],
)
def test_num_steps_counts_the_last_step(settings, evaluations):
    network, labels = Counted(labelled), torch.zeros(2)
    sampler = Sampler(SamplerConfig(**settings), Interpolant(Linear()), "velocity")
    end = sampler(network, (2, *SHAPE), labels, labels, SampleRandom(0, [0, 1]))
    assert network.rows == [2] * evaluations and end.isfinite().all()


@pytest.mark.parametrize(
    ("guidance", "rows"),
    [
        ({"guidance_scale": 1.0}, [2, 2, 2, 2]),
        ({"guidance_scale": 3.0}, [4, 4, 4, 4]),
        ({"guidance_scale": 3.0, "guidance_interval": (0.2, 0.5)}, [2, 4, 4, 2]),
    ],
)
def test_guidance_is_paid_for_only_where_it_is_asked_for(guidance, rows):
    network, labels = Counted(labelled), torch.zeros(2)
    sampler = Sampler(SamplerConfig("euler", 4, **guidance), Interpolant(Linear()), "velocity")  # t = 0, 1/4, 1/2, 3/4
    sampler(network, (2, *SHAPE), labels, labels, SampleRandom(0, [0, 1]))
    assert network.rows == rows


@pytest.mark.parametrize("solver", ["heun", "dopri5", "euler_maruyama"])
def test_sampling_makes_no_graph_and_keeps_the_precision(solver):
    weight = torch.ones((), requires_grad=True, dtype=torch.float64)
    x, wanted, null = guided_inputs()

    class Fixed:
        def normal(self, stream, shape):
            return x

    def network(point, t, condition):
        assert point.dtype == t.dtype == torch.float64 and t.shape == (4,)
        return weight * point

    config = SamplerConfig(solver, 4)
    end = Sampler(config, Interpolant(Linear()), "velocity")(network, tuple(x.shape), wanted, null, Fixed())
    assert not end.requires_grad and end.dtype == torch.float64


@pytest.mark.parametrize(
    ("settings", "prediction", "interval"),
    [
        ({"solver": "heun"}, "velocity", (0, 1)),
        ({"solver": "heun"}, "data", (1e-3, 1 - 1e-3)),
        ({"solver": "heun", "margin": 0.02}, "noise", (0.02, 0.98)),
        ({"solver": "euler_maruyama", "last_step_size": 0.1}, "velocity", (0, 0.9)),
        ({"solver": "euler_maruyama", "last_step": "none"}, "velocity", (0, 1)),
        ({"solver": "heun_maruyama", "last_step": "none"}, "velocity", (0, 1 - 1e-3)),
        ({"solver": "heun_maruyama", "diffusion_form": "sbdm"}, "velocity", (1e-3, 0.96)),
    ],
)
def test_interval_of_a_sampler(settings, prediction, interval):
    assert Sampler(SamplerConfig(**settings), Interpolant(Linear()), prediction).interval == pytest.approx(interval)


def test_times_rise_from_noise_to_data():
    asked, labels = [], torch.zeros(1)

    def network(x, t, condition):
        asked.append(t.item())
        return x

    sampler = Sampler(SamplerConfig("euler", 4), Interpolant(Linear()), "velocity")
    sampler(network, (1, *SHAPE), labels, labels, SampleRandom(0, [0]))
    assert asked == pytest.approx([0, 0.25, 0.5, 0.75]) and all(a < b for a, b in pairwise(asked))


# refusals


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"solver": "ddim"}, r"sampler\.solver is 'ddim'.*heun.*dopri5"),
        ({"last_step": "Mean"}, r"sampler\.last_step is 'Mean'.*tweedie"),
        ({"diffusion_form": "SBDM"}, r"sampler\.diffusion_form is 'SBDM'.*sbdm"),
        ({"num_steps": 0}, r"sampler\.num_steps is 0.*at least 1"),
        ({"num_steps": 1, "solver": "euler_maruyama"}, r"sampler\.num_steps is 1.*2 for an SDE"),
        ({"atol": 0.0}, r"sampler\.atol and rtol are 0\.0 and 0\.001"),
        ({"rtol": -1e-3}, r"sampler\.atol and rtol are 1e-06 and -0\.001"),
        ({"margin": -0.01}, r"sampler\.margin is -0\.01.*\[0, 0\.5\)"),
        ({"margin": 0.5}, r"sampler\.margin is 0\.5"),
        ({"diffusion_norm": -1.0}, r"sampler\.diffusion_norm is -1\.0.*negative"),
        ({"last_step_size": 0.0}, r"sampler\.last_step_size is 0\.0.*\(0, 1\)"),
        ({"last_step_size": 1.0}, r"sampler\.last_step_size is 1\.0"),
        ({"guidance_interval": (0.5, 0.5)}, r"sampler\.guidance_interval is \[0\.5, 0\.5\]"),
        ({"guidance_interval": (-0.1, 0.5)}, r"sampler\.guidance_interval is \[-0\.1, 0\.5\]"),
        ({"guidance_interval": (0.5, 1.1)}, r"sampler\.guidance_interval is \[0\.5, 1\.1\]"),
        ({"guidance_scale": -0.5}, r"sampler\.guidance_scale is -0\.5"),
        ({"guidance_channels": 0}, r"sampler\.guidance_channels is 0.*at least 1"),
    ],
)
def test_refusals_name_the_key_the_value_and_the_allowed_set(settings, message):
    with pytest.raises(ValueError, match=message):
        SamplerConfig(**settings)


def test_settings_that_leave_no_time_are_refused():
    config = SamplerConfig("euler_maruyama", diffusion_form="sbdm", margin=0.4, last_step_size=0.7)
    with pytest.raises(ValueError, match=r"sampler\.margin.*0\.4.*sampler\.last_step_size.*0\.7"):
        Sampler(config, Interpolant(Linear()), "velocity")


def test_more_guided_channels_than_the_latents_have_are_refused():
    labels = torch.zeros(1)
    sampler = Sampler(SamplerConfig(guidance_channels=4), Interpolant(Linear()), "velocity")
    with pytest.raises(ValueError, match=r"sampler\.guidance_channels is 4, the latents have 3 channels"):
        sampler(labelled, (1, 3, 2), labels, labels, SampleRandom(0, [0]))


@pytest.mark.parametrize("solver", [*TABLEAUX, "dopri5", *SDE_SOLVERS])
def test_the_smallest_settings_are_accepted(solver):
    config = SamplerConfig(solver, 1 + (solver in SDE_SOLVERS), margin=0.0, guidance_scale=0.0, guidance_channels=1)
    labels = torch.zeros(1)
    sampler = Sampler(config, Interpolant(Linear()), "velocity")
    assert sampler(labelled, (1, 3, 2), labels, labels, SampleRandom(0, [0])).isfinite().all()
