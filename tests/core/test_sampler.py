"""Solvers and guidance: recorded end points of the published sampler, known solutions, independence of the batch."""

import math
from itertools import pairwise

import pytest
import torch

from core.draws import SampleRandom
from core.interpolant import Interpolant
from core.sampler import (
    DORMAND_PRINCE,
    DORMAND_PRINCE_ERROR,
    SDE,
    SDE_SOLVERS,
    TABLEAUX,
    Sampler,
    SamplerConfig,
    dopri5,
    euler_maruyama,
    guide,
    heun_maruyama,
    runge_kutta,
)
from image.backbone import SiT
from tests.golden_files import load_golden, with_prefix

GOLDEN, CONFIG = load_golden("samplers")
GUIDED_CHANNELS = 3  # the published networks guide three of their channels
ORDERS = {"euler": 1, "midpoint": 2, "heun": 2, "heun3": 3, "rk4": 4}


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny tensors: a second thread only waits for the first."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def close(actual, expected, tolerance=1e-5):
    """Equal to `tolerance`, absolute for small and relative for large values."""
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=tolerance)


class Counted:
    """A callable that remembers the batch size of each call."""

    def __init__(self, function):
        self.function, self.rows = function, []

    def __call__(self, x, *rest):
        self.rows.append(len(x))
        assert all(len(each) == len(x) for each in rest)
        return self.function(x, *rest)


# the published sampler. A key is ode.RULE or sde.FORM.LAST, then .GVP or .VP for the path, .cfg for guidance and
# .trajectory for all states. `num_steps` counts points of the time grid.

RULES = {"euler": "euler", "midpoint": "midpoint", "heun2": "heun", "heun3": "heun3", "rk4": "rk4"}
RULES |= {"dopri5": "dopri5", "dopri5_tight": "dopri5"}
TIGHT = {"atol": 1e-8, "rtol": 1e-7}
RUNS = [key for key in GOLDEN if key not in ("init", "noise", "y")]
every_run = pytest.mark.parametrize("key", RUNS)


def parts_of(key):
    """The kind (ode, sde, sde_heun), the rule or form, and the set of remaining parts of a key."""
    kind, what, *rest = key.removesuffix(".norm0.5").split(".")
    assert kind in ("ode", "sde", "sde_heun") and (what in RULES) == (kind == "ode")
    assert set(rest) <= {"Mean", "Euler", "Tweedie", "None", "GVP", "VP", "cfg", "trajectory"}
    return kind, what, set(rest)


def recorded(key):
    """What the recording says about a run, and its time interval."""
    runs, key = CONFIG["runs"], key.removesuffix(".trajectory")
    facts = runs.get(key) if isinstance(runs.get(key), dict) else {}
    return facts, tuple(facts.get("interval") or runs.get(f"{key}.interval") or (0.0, 1.0))


def path_of(key):
    _, _, rest = parts_of(key)
    return "gvp" if "GVP" in rest else "vp" if "VP" in rest else "linear"


def config_of(key):
    """The sampler settings that should repeat a recorded run."""
    kind, what, rest = parts_of(key)
    facts, interval = recorded(key)
    options = {"guidance_scale": CONFIG["cfg_scale"], "guidance_channels": GUIDED_CHANNELS} if "cfg" in rest else {}
    if kind == "ode":
        tolerances = TIGHT if what == "dopri5_tight" else {"atol": CONFIG["atol"], "rtol": CONFIG["rtol"]}
        margin = round(1 - interval[1], 9)
        return SamplerConfig(RULES[what], CONFIG["num_steps"] - 1, margin=margin, **tolerances, **options)
    last = (facts["last_step"] or "none").lower()
    return SamplerConfig(
        solver="euler_maruyama" if kind == "sde" else "heun_maruyama",
        num_steps=CONFIG["num_steps"] - (last == "none"),
        margin=CONFIG["sbdm_sample_eps"] if what == "SBDM" else None,
        diffusion_form=facts["diffusion_form"].lower(),
        diffusion_norm=facts.get("diffusion_norm", 1.0),
        last_step=last,
        last_step_size=facts["last_step_size"],
        **options,
    )


def tolerance_of(key):
    """An adaptive solver ends within its own tolerance of the recorded one."""
    return 2e-2 if "dopri5" in key.split(".") else 1e-3 if "dopri5_tight" in key else 1e-4


@pytest.fixture(scope="module")
def network():
    """The network of the recording."""
    options = {key: value for key, value in CONFIG["model"].items() if not key.endswith("encoder_depth")}
    model = SiT(**options).eval()
    model.load_state_dict(with_prefix(load_golden("sit")[0], "state."))
    return model


def labels():
    """The wanted and the null labels of the recorded samples."""
    return GOLDEN["y"], torch.full_like(GOLDEN["y"], CONFIG["model"]["num_classes"])


class Replay:
    """The recorded start and draws."""

    def __init__(self):
        self.draws = iter(GOLDEN["noise"][:, : len(GOLDEN["init"])])

    def normal(self, stream, shape):
        noise = GOLDEN["init"] if stream == "start" else next(self.draws)
        assert noise.shape == shape and stream in ("start", "sde")
        return noise


def check_recorded(key, end, states):
    """Compare an end, or all states, with the recording; of a guided run only the first half means anything."""
    if not key.endswith(".trajectory"):
        return close(end, GOLDEN[key][: len(end)], tolerance_of(key))
    first = [GOLDEN["init"]] if key.startswith("ode") else []
    last = [] if key.startswith("ode") else [end]
    return close(torch.stack([*first, *states, *last]), GOLDEN[key], tolerance_of(key))


def test_the_recording_has_no_run_that_is_not_compared():
    for key in RUNS:
        config_of(key)
    named = {key.removesuffix(".interval") for key in CONFIG["runs"]}
    assert named <= set(RUNS)


@every_run
@torch.no_grad()
def test_recorded_runs_through_the_pure_solvers(key, network):
    config, (facts, (t0, t1)), states = config_of(key), recorded(key), []
    wanted, null = labels()
    velocity = guide(network, wanted, null, config.guidance_scale, channels=config.guidance_channels)
    x, times = GOLDEN["init"], torch.linspace(t0, t1, CONFIG["num_steps"])

    def keep(step, state):
        assert step == len(states) + 1
        states.append(state)

    if config.solver == "dopri5":
        x = dopri5(velocity, x, (t0, t1), atol=config.atol, rtol=config.rtol)
    elif config.solver in TABLEAUX:
        x = runge_kutta(velocity, x, times, config.solver, keep)
    else:
        sde = SDE(Interpolant(path_of(key)), config.diffusion_form, config.diffusion_norm)
        solve = {"euler_maruyama": euler_maruyama, "heun_maruyama": heun_maruyama}[config.solver]
        draws = iter(GOLDEN["noise"][: facts["noise_draws"], : len(x)])
        x = solve(velocity, x, times, sde, lambda: next(draws), keep)
        assert next(draws, None) is None
        x = sde.last_step(config.last_step, velocity, x, times[-1].expand(len(x)), config.last_step_size)
    check_recorded(key, x, states)


@every_run
def test_recorded_runs_through_the_sampler(key, network):
    sampler = Sampler(config_of(key), Interpolant(path_of(key)), "velocity")
    assert sampler.interval == pytest.approx(recorded(key)[1], abs=1e-9)
    counted, states = Counted(network), []
    end = sampler(counted, tuple(GOLDEN["init"].shape), *labels(), Replay(), lambda step, x: states.append(x))
    check_recorded(key, end, states)
    evaluations = CONFIG["runs"].get(key)
    if isinstance(evaluations, int):
        assert len(counted.rows) == evaluations or "dopri5" in key
        assert len(counted.rows) <= 1.5 * evaluations


@pytest.mark.parametrize("name", ["sit", "sit_velocity_only"])
@torch.no_grad()
def test_recorded_guided_output(name):
    tensors, config = load_golden(name)
    options = config.get("model", config)
    names = ("input_size", "patch_size", "in_channels", "hidden_size", "depth", "num_heads", "mlp_ratio")
    names += ("num_classes", "class_dropout_prob", "learn_sigma")
    model = SiT(**{key: options[key] for key in names}).eval()
    model.load_state_dict(with_prefix(tensors, "state."))
    half = len(tensors["cfg.x"]) // 2
    wanted, null = tensors["cfg.y"][:half], tensors["cfg.y"][half:]
    guided = guide(model, wanted, null, tensors["cfg.scale"].item(), channels=GUIDED_CHANNELS)
    close(guided(tensors["cfg.x"][:half], tensors["cfg.t"][:half]), tensors["cfg.out"][:half], 1e-4)


# fixed steps: known solutions


def grown(steps, rule):
    """The error at t = 1 of x' = (1 + t) x, x(0) = 1, whose end is exp(1.5)."""
    times = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    start = torch.ones(2, 3, dtype=torch.float64)
    end = runge_kutta(lambda x, t: (1 + t)[:, None] * x, start, times, rule)
    return (end - math.exp(1.5)).abs().max().item()


@pytest.mark.parametrize("rule", list(TABLEAUX))
def test_a_rule_converges_with_its_order(rule):
    assert math.log2(grown(20, rule) / grown(40, rule)) == pytest.approx(ORDERS[rule], abs=0.15)
    assert grown(40, rule) < 10 * 40.0 ** -ORDERS[rule]


def test_the_adaptive_rule_has_order_five(monkeypatch):
    monkeypatch.setitem(TABLEAUX, "dopri5", DORMAND_PRINCE)
    assert math.log2(grown(10, "dopri5") / grown(20, "dopri5")) == pytest.approx(5, abs=0.2)


@pytest.mark.parametrize("tableau", [*TABLEAUX.values(), DORMAND_PRINCE], ids=[*TABLEAUX, "dopri5"])
def test_tableaux_are_consistent(tableau):
    assert sum(tableau.weights) == pytest.approx(1, abs=1e-14)
    assert [sum(row) for row in tableau.rows] == pytest.approx(list(tableau.nodes), abs=1e-14)
    assert [len(row) for row in tableau.rows] == list(range(len(tableau.weights)))


def test_the_adaptive_rule_reuses_its_last_stage_and_has_a_fourth_order_error():
    assert DORMAND_PRINCE.rows[-1] == DORMAND_PRINCE.weights[:-1]
    fourth = [b - e for b, e in zip(DORMAND_PRINCE.weights, DORMAND_PRINCE_ERROR, strict=True)]
    for power in range(4):  # the embedded weights integrate t^0 ... t^3 exactly, and t^4 not
        moment = sum(b * c**power for b, c in zip(fourth, DORMAND_PRINCE.nodes, strict=True))
        assert moment == pytest.approx(1 / (power + 1), abs=1e-14)
    moment = sum(b * c**4 for b, c in zip(fourth, DORMAND_PRINCE.nodes, strict=True))
    assert abs(moment - 1 / 5) > 1e-4


@pytest.mark.parametrize("rule", list(TABLEAUX))
def test_fixed_steps_follow_any_time_grid_and_report_each_state(rule):
    """A constant velocity is integrated exactly by every rule, step by step."""
    times = torch.tensor([0.1, 0.15, 0.6, 0.7, 1.0], dtype=torch.float64)
    start, slope = (
        torch.arange(24, dtype=torch.float64).view(2, 3, 2, 2),
        torch.tensor([1.0, -2.0], dtype=torch.float64),
    )
    seen = []
    velocity = Counted(lambda x, t: slope[:, None, None, None].expand_as(x))
    end = runge_kutta(velocity, start, times, rule, lambda step, x: seen.append((step, x)))
    assert [step for step, _ in seen] == [1, 2, 3, 4] and torch.equal(seen[-1][1], end)
    for (_, state), t in zip(seen, times[1:], strict=True):
        close(state, start + slope[:, None, None, None] * (t - 0.1), 1e-12)
    assert velocity.rows == [2] * len(TABLEAUX[rule].nodes) * 4


@pytest.mark.parametrize(("solver", "rule"), [(euler_maruyama, "euler"), (heun_maruyama, "heun")])
def test_an_sde_without_diffusion_is_the_ode(solver, rule):
    times, x = torch.linspace(0.1, 0.9, 8), torch.randn(3, 4, generator=torch.Generator().manual_seed(0))

    def velocity(x, t):
        return torch.sin(x) + t[:, None]

    sde = SDE(Interpolant("gvp"), "constant", 0.0)
    close(solver(velocity, x, times, sde, lambda: torch.ones(3, 4)), runge_kutta(velocity, x, times, rule), 1e-6)


# dopri5


def oscillators(speeds):
    """A nonlinear velocity with a stiffness (B) of its own for each row: x -> cos t at rate `speeds`."""
    speeds = torch.as_tensor(speeds)

    def velocity(x, t):
        return -speeds.to(x.dtype)[:, None] * (x - torch.cos(3 * t)[:, None]) + 0.1 * torch.sin(5 * x)

    return velocity


SPEEDS = [1.0, 300.0, 5.0, 0.1, 1500.0]


def starts(dtype):
    return torch.randn(len(SPEEDS), 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-14)])
def test_dopri5_makes_a_row_as_if_it_were_alone(dtype, tolerance):
    x, together = starts(dtype), Counted(oscillators(SPEEDS))
    ends, evaluations = dopri5(together, x, (0.0, 1.0)), []
    for row, speed in enumerate(SPEEDS):
        alone = Counted(oscillators([speed]))
        close(dopri5(alone, x[row : row + 1], (0.0, 1.0)), ends[row : row + 1], tolerance)
        evaluations.append(len(alone.rows))
    assert len(together.rows) == max(evaluations) > 5 * min(evaluations)  # its steps are its own


def test_dopri5_agrees_with_torchdiffeq():
    torchdiffeq = pytest.importorskip("torchdiffeq", reason="the extra `ode` is not installed")
    x, velocity = starts(torch.float64), oscillators(SPEEDS)
    settings = {"atol": 1e-11, "rtol": 1e-10}
    ours = dopri5(velocity, x, (0.1, 0.9), max_steps=5000, **settings)
    grid = torch.tensor([0.1, 0.9], dtype=torch.float64)
    theirs = torchdiffeq.odeint(lambda t, x: velocity(x, t.expand(len(x))), x, grid, method="dopri5", **settings)[-1]
    close(ours, theirs, 1e-8)


@pytest.mark.parametrize("rtol", [1e-3, 1e-5, 1e-7, 1e-9])
def test_dopri5_error_follows_the_tolerance(rtol):
    start = torch.ones(2, 3, dtype=torch.float64)
    velocity = Counted(lambda x, t: (1 + t)[:, None] * x)
    end = dopri5(velocity, start, (0.0, 1.0), atol=rtol, rtol=rtol)
    assert (end - math.exp(1.5)).abs().max() < 20 * rtol
    assert len(velocity.rows) < 20 * rtol**-0.2 + 20


def test_dopri5_stops_at_the_end_itself():
    asked = []

    def velocity(x, t):
        asked.append(t.max().item())
        return torch.ones_like(x)

    end = dopri5(velocity, torch.zeros(1, 1, dtype=torch.float64), (0.3, 0.7))
    close(end, torch.full_like(end, 0.4), 1e-12)
    assert max(asked) <= 0.7


def test_dopri5_gives_up_after_max_steps():
    x, velocity = starts(torch.float64), oscillators(SPEEDS)
    with pytest.raises(ArithmeticError, match=r"did not arrive within 20 steps.*sampler\.atol"):
        dopri5(velocity, x, (0.0, 1.0), max_steps=20)
    dopri5(velocity, x, (0.0, 1.0), max_steps=1000)


def test_dopri5_tries_a_smaller_step_where_the_velocity_is_not_a_number():
    """The trial steps of a stiff decay leave the domain of the square root; the solution x = (1 - 25 t)^2 does not."""
    rates = torch.tensor([25.0, 1.0], dtype=torch.float64)
    velocity = Counted(lambda x, t: -2 * rates[:, None] * torch.sqrt(x))
    end = dopri5(velocity, torch.ones(2, 1, dtype=torch.float64), (0.0, 0.0399), rtol=1e-2, atol=1e-2)
    close(end, (1 - 0.0399 * rates[:, None]) ** 2, 1e-2)


@pytest.mark.parametrize("broken_from", [0.0, 0.5])
def test_dopri5_does_not_wait_for_a_broken_network(broken_from):
    def broken(x, t):
        return torch.where(t[:, None] >= broken_from, math.nan, x)

    velocity = Counted(broken)
    with pytest.raises(ArithmeticError, match="no step that is small enough"):
        dopri5(velocity, starts(torch.float32), (0.0, 1.0))
    assert len(velocity.rows) < 1000


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
    sampler = Sampler(SamplerConfig(**SETTINGS[setting]), Interpolant("linear"), prediction)
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
    interpolant, ends = Interpolant("linear"), []
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
    sampler = Sampler(SamplerConfig(**settings), Interpolant("linear"), "velocity")
    end = sampler(network, (2, *SHAPE), labels, labels, SampleRandom(0, [0, 1]))
    assert network.rows == [2] * evaluations and end.isfinite().all()


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
    end = Sampler(config, Interpolant("linear"), "velocity")(network, tuple(x.shape), wanted, null, Fixed())
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
    assert Sampler(SamplerConfig(**settings), Interpolant("linear"), prediction).interval == pytest.approx(interval)


def test_times_rise_from_noise_to_data():
    asked, labels = [], torch.zeros(1)

    def network(x, t, condition):
        asked.append(t.item())
        return x

    sampler = Sampler(SamplerConfig("euler", 4), Interpolant("linear"), "velocity")
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
        Sampler(config, Interpolant("linear"), "velocity")


def test_more_guided_channels_than_the_latents_have_are_refused():
    labels = torch.zeros(1)
    sampler = Sampler(SamplerConfig(guidance_channels=4), Interpolant("linear"), "velocity")
    with pytest.raises(ValueError, match=r"sampler\.guidance_channels is 4, the latents have 3 channels"):
        sampler(labelled, (1, 3, 2), labels, labels, SampleRandom(0, [0]))


@pytest.mark.parametrize("solver", [*TABLEAUX, "dopri5", *SDE_SOLVERS])
def test_the_smallest_settings_are_accepted(solver):
    config = SamplerConfig(solver, 1 + (solver in SDE_SOLVERS), margin=0.0, guidance_scale=0.0, guidance_channels=1)
    labels = torch.zeros(1)
    sampler = Sampler(config, Interpolant("linear"), "velocity")
    assert sampler(labelled, (1, 3, 2), labels, labels, SampleRandom(0, [0])).isfinite().all()
