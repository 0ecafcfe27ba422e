"""A Gaussian diffusion is a path of noise levels: schedule, losses and samples of the published MDM, and properties."""

import pytest
import torch

from core.draws import SampleRandom, StepRandom
from core.flow.objective import FlowMatching, ObjectiveConfig
from core.flow.path import Interpolant, Linear, Table, TableConfig
from core.flow.sampler import Sampler, SamplerConfig
from core.flow.solvers import AncestralConfig, transitions
from core.schema import plain, strict
from image.train import ENTRY
from tests.core.flow.mdm_network import RecordedLayout, recorded_network
from tests.core.flow.numerics import close, one_thread  # noqa: F401, a fixture
from tests.golden_files import load_golden

pytestmark = pytest.mark.usefixtures("one_thread")

GOLDEN, _ = load_golden("mdm_diffusion")
NETWORK = RecordedLayout(recorded_network())
TABLES = [int(key.split(".")[0].removeprefix("cosine")) for key in GOLDEN if key.endswith(".alphas_cumprod")]
RESPACED = "respaced50_ddim10"


def ancestral(eta=1.0, **options):
    """The mapping of sampler.solver."""
    return AncestralConfig("ancestral", eta, **options)


def sampler(levels, num_steps, solver, prediction="data", **options):
    """A sampler along a table."""
    return Sampler(SamplerConfig(solver, num_steps, **options), Interpolant(Table("cosine", levels)), prediction)


# recorded numbers


def test_recorded_schedules():
    for levels in TABLES:
        path = Table("cosine", levels)
        close(
            path.coefficients(path.respaced(levels)).alpha.flip(0) ** 2, GOLDEN[f"cosine{levels}.alphas_cumprod"], 1e-12
        )
    for key in (key for key in GOLDEN if key.endswith(".betas")):
        num = len(GOLDEN[key])
        path = Table("cosine", 50 if RESPACED in key else num)
        kept = path.coefficients(path.respaced(num)).alpha.flip(0) ** 2
        close(1 - kept / torch.cat([kept.new_ones(1), kept[:-1]]), GOLDEN[key], 1e-12)
    table = Table("cosine", 50)
    assert torch.equal(table.network_time(table.respaced(10)).flip(0), GOLDEN[f"{RESPACED}.timesteps"])


def test_linear_betas_are_those_of_ddpm():
    """0.0001 to 0.02 of 1000 levels, scaled where there are fewer, so that the noisiest stays as noisy."""
    for steps in (1000, 250):
        path = Table("linear_betas", steps)
        kept = path.coefficients(path.respaced(steps).double()).alpha.flip(0) ** 2
        betas = 1 - kept / torch.cat([kept.new_ones(1), kept[:-1]])
        close(betas, torch.linspace(1e-4, 0.02, steps, dtype=torch.float64) * 1000 / steps, 1e-9)
        assert kept[-1] < 1e-4
    assert TableConfig("linear_betas", 1000).build().network_time(torch.tensor([0.0, 0.999])).tolist() == [999, 0]


def test_recorded_posterior():
    path = Table("cosine", len(GOLDEN["cosine50.posterior_variance"]))
    steps = transitions(path, path.respaced(path.steps), ancestral())[::-1]
    of_data, of_x, spread = torch.tensor([(s.of_data, s.of_x, s.spread) for s in steps], dtype=torch.float64).T
    close(of_data, GOLDEN["cosine50.posterior_mean_coef1"], 1e-12)
    close(of_x, GOLDEN["cosine50.posterior_mean_coef2"], 1e-12)
    close(spread**2, GOLDEN["cosine50.posterior_variance"], 1e-12)
    close(2 * spread[1:].log(), GOLDEN["cosine50.posterior_log_variance_clipped"][1:], 1e-12)


def test_recorded_losses():
    for levels in TABLES:
        objective = FlowMatching(ObjectiveConfig(TableConfig("cosine", levels), "data"))
        t = 1 - (GOLDEN[f"cosine{levels}.t"] + 1) / levels
        for hidden in (True, False):

            def network(x, steps, frames=GOLDEN["mask"] if hidden else None):
                return NETWORK(x, steps, frames)

            with torch.no_grad():
                result = objective(network, GOLDEN["x_start"], GOLDEN["noise"], t, GOLDEN["mask"])
            close(result.x_t, GOLDEN[f"cosine{levels}.x_t"])
            close(result.loss, GOLDEN[f"cosine{levels}.loss.mask_frames_{hidden}"])


class Recorded:
    """The recorded start and noise of each step."""

    def __init__(self):
        self.draws = iter(GOLDEN["sample.noise"])

    def normal(self, stream, shape):
        return GOLDEN["sample.init"] if stream == "start" else next(self.draws)


@pytest.mark.parametrize(
    ("key", "levels", "solver"),
    [
        ("ancestral.clip_False", 10, ancestral()),
        ("ancestral.clip_True", 10, ancestral(clip=True)),
        ("ancestral.fixed_large", 10, ancestral(variance="large")),
        ("ddim_eta0.schedule10", 10, ancestral(0.0)),
        (f"ddim_eta0.{RESPACED}", 50, ancestral(0.0)),
    ],
)
def test_recorded_samples(key, levels, solver):
    none = torch.zeros(len(GOLDEN["sample.init"]))
    num = len(GOLDEN["sample.noise"])
    random = Recorded()
    x = sampler(levels, num, solver)(
        lambda x, t, condition: NETWORK(x, t, GOLDEN["sample.mask"]),
        tuple(GOLDEN["sample.init"].shape),
        none,
        none,
        random,
    )
    close(x, GOLDEN[f"sample.{key}"], 1e-4)
    assert len(list(random.draws)) == (1 if solver.eta else num)  # the last step draws nothing, DDIM never does


# levels and times


@pytest.mark.parametrize("levels", [1, 2, 3, 50, 1000, 4096])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_times_are_the_levels_each_as_often_as_the_others(levels, dtype):
    path = Table("cosine", levels)
    middles = (torch.arange(levels, dtype=dtype) + 0.5) / levels
    t = path.times(middles, "data")
    numbers = path.network_time(t)
    assert numbers.dtype == torch.int64 and torch.equal(numbers, torch.arange(levels).flip(0))
    close(t.double(), path.respaced(levels), 1e-6)
    assert torch.equal(path.network_time(path.respaced(levels)), numbers)
    ends = path.times(torch.tensor([0.0, 1 - 2.0**-24, 1.0], dtype=dtype), "data")
    assert path.network_time(ends).tolist() == [levels - 1, 0, 0]
    assert path.training_interval("data") == pytest.approx((float(ends[0]), float(ends[1])), abs=1e-7)
    c = path.coefficients(torch.cat([t, t.new_ones(1)]))
    assert c.alpha.dtype == dtype and (c.alpha.diff() > 0).all() and (c.sigma.diff() < 0).all()
    close(c.alpha**2 + c.sigma**2, torch.ones_like(c.alpha), 1e-6)
    assert (c.alpha[-1], c.sigma[-1]) == (1, 0) and c.d_alpha.isnan().all()  # t = 1 is the data itself


def test_every_distribution_of_times_draws_levels():
    for keys in ({"time": "uniform"}, {"time": "logit_normal", "time_mean": 20.0}, {"time": "shifted"}):
        objective = FlowMatching(ObjectiveConfig(TableConfig("cosine", 7), "noise", **keys))
        t = objective.draw_time(StepRandom(0, 0), (40, 3))
        assert set(((1 - t) * 7 - 1).round(decimals=5).flatten().tolist()) <= set(range(7)), keys
        zeros = torch.zeros(40, 3, 2)
        given = objective(lambda x, steps: steps[..., None].expand_as(x), zeros, zeros, t).prediction
        assert torch.equal(given[..., 0], objective.path.network_time(t))


# samples


def answer(x, steps, condition):
    """A network whose answer depends on everything it is asked."""
    return torch.sin(x) + (steps / 20 + condition)[:, None] * x.cos()


def sample(indices, solver, network=answer, **options):
    """Samples of these indices, sample i under the condition i."""
    wanted = torch.tensor([float(index) for index in indices])
    shape, null = (len(indices), 3), torch.full_like(wanted, -1)
    return sampler(20, 6, solver, **options)(network, shape, wanted, null, SampleRandom(3, indices))


def test_samples_do_not_depend_on_the_batch_size():
    for solver in (ancestral(), ancestral(0.5), ancestral(variance="large", clip=True), ancestral(0.0)):
        for options in ({}, {"guidance_scale": 2.5}, {"prediction": "noise"}):
            whole = sample(range(7), solver, **options)
            split = torch.cat([sample([index], solver, **options) for index in range(7)])
            close(split, whole, 1e-4)


def test_guidance_mixes_the_predictions_for_times_in_its_interval():
    def mixed(x, steps, condition):
        conditional, unconditional = answer(x, steps, condition), answer(x, steps, torch.full_like(condition, -1))
        inside = (1 - (steps + 1) / 20 >= 0.45)[:, None]
        return torch.where(inside, unconditional + 2.5 * (conditional - unconditional), conditional)

    for solver in (ancestral(), ancestral(0.0)):
        guided = sample(range(4), solver, guidance_scale=2.5, guidance_interval=(0.45, 1.0))
        close(guided, sample(range(4), solver, mixed), 1e-4)


def test_without_eta_only_the_start_is_drawn():
    class Start(SampleRandom):
        def normal(self, stream, shape):
            assert stream == "start"
            return super().normal(stream, shape)

    none, states = torch.zeros(2), []
    ends = [
        sampler(20, 6, ancestral(0.0))(answer, (2, 3), none, none, Start(3, [0, 1]), keep)
        for keep in (None, lambda step, x: states.append((step, x)))
    ]
    assert torch.equal(*ends) and [step for step, _ in states] == [1, 2, 3, 4, 5, 6] and states[-1][1] is ends[1]


# configs

DIFFUSION = ["objective.path={name:cosine,steps:50}", "objective.prediction=data", "sampler=ddim"]


def test_a_command_line_describes_a_diffusion():
    for words in (DIFFUSION, [*DIFFUSION, "sampler=ddpm", "sampler.solver.variance=large", "sampler.num_steps=50"]):
        config = ENTRY.config(words)
        assert config.objective.path == TableConfig("cosine", 50) and config.sampler.num_steps <= 50
        assert strict(type(config), plain(config)) == config
    assert ENTRY.config(DIFFUSION).sampler.solver == ancestral(0.0)
    assert ENTRY.config([*DIFFUSION, "sampler=heun", "objective.path=linear"]) == ENTRY.config(
        ["objective.prediction=data"]
    )


def test_what_cannot_be_is_refused_when_the_config_is_read():
    """With the key, the value and what is allowed."""
    faults = []
    for words, *parts in [
        (["objective.path=cosine"], "objective.path", "'cosine'", "linear", "name, steps (cosine or linear_betas)"),
        (["objective.path={name:sine,steps:50}"], "objective.path.name", "'sine'", "cosine"),
        ([*DIFFUSION, "objective.path.steps=0"], "objective.path.steps is 0", "at least 1"),
        (
            [*DIFFUSION, "objective.prediction=velocity"],
            "objective.prediction is 'velocity'",
            "['noise', 'data']",
            "cosine",
        ),
        ([*DIFFUSION, "objective.prediction=score"], "objective.prediction is 'score'", "['noise', 'data']", "cosine"),
        ([*DIFFUSION, "objective.weighting=velocity"], "objective.weighting is 'velocity'", "none", "cosine"),
        ([*DIFFUSION, "objective.margin=0.1"], "objective.margin is 0.1", "null", "cosine"),
        ([*DIFFUSION, "sampler=heun"], "sampler.solver is 'heun'", "name: ancestral", "cosine"),
        ([*DIFFUSION, "sampler=euler_maruyama"], "sampler.solver is 'euler_maruyama'", "name: ancestral", "cosine"),
        (["sampler=ddpm"], "sampler.solver is 'ancestral'", "heun", "dopri5", "linear"),
        ([*DIFFUSION, "sampler.num_steps=51"], "sampler.num_steps is 51", "1 to", "50"),
        ([*DIFFUSION, "sampler.solver.eta=1.5"], "sampler.solver.eta is 1.5", "[0, 1]"),
        ([*DIFFUSION, "sampler.solver.variance=large"], "sampler.solver.variance is 'large'", "small"),
    ]:
        try:
            ENTRY.config(words)
            faults.append(f"{words} passes")
        except ValueError as error:
            faults += [f"{words}: no {part} in {error}" for part in parts if part not in str(error)]
    assert not faults, faults


def test_what_cannot_be_is_refused_by_the_classes():
    x, t = torch.zeros(2, 3), torch.zeros(2)
    for make, message in [
        (lambda: sampler(20, 21, ancestral()), "num_steps is 21"),
        (lambda: sampler(20, 6, "heun"), "solver is 'heun'"),
        (lambda: sampler(20, 6, ancestral(), "velocity"), "prediction is 'velocity'"),
        (lambda: Sampler(SamplerConfig(ancestral()), Interpolant(Linear()), "data"), "solver is 'ancestral'"),
        (lambda: transitions(Linear(), t, ancestral()), "path is 'linear'"),
        (lambda: Interpolant(Table("cosine", 20)).estimates(x, x, t, "score"), "prediction is 'score'"),
        (lambda: Table("cosine", 20).times(t, "velocity"), "prediction is 'velocity'"),
    ]:
        with pytest.raises(ValueError, match=message):
            make()
