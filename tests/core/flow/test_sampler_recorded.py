"""The published sampler: its recorded end points, through the pure solvers and through `Sampler`.

A key is ode.RULE or sde.FORM.LAST, then .GVP or .VP for the path, .cfg for guidance and .trajectory for all states. The
recorded `num_steps` counts points of the time grid.
"""

import re

import pytest
import torch

from core.flow.path import PATHS, Interpolant
from core.flow.sampler import Sampler, SamplerConfig, guide
from core.flow.solvers import SDE, TABLEAUX, dopri5, euler_maruyama, heun_maruyama, runge_kutta
from image.backbone import SiT
from tests.core.flow.numerics import Counted, close, one_thread  # noqa: F401, a fixture
from tests.golden_files import load_golden, with_prefix

pytestmark = pytest.mark.usefixtures("one_thread")

GOLDEN, CONFIG = load_golden("samplers")
GUIDED_CHANNELS = 3  # the published networks guide three of their channels

RULES = {"euler": "euler", "midpoint": "midpoint", "heun2": "heun", "heun3": "heun3", "rk4": "rk4"}
RULES |= {"dopri5": "dopri5", "dopri5_tight": "dopri5"}
TIGHT = {"atol": 1e-8, "rtol": 1e-7}
RUNS = [key for key in GOLDEN if key not in ("init", "noise", "y")]
every_run = pytest.mark.parametrize("key", RUNS)


def parts_of(key):
    """The kind (ode, sde, sde_heun), the rule or form, and the set of remaining parts of a key."""
    kind, what, *rest = re.sub(r"\.norm[\d.]+$", "", key).split(".")
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
        sde = SDE(Interpolant(PATHS[path_of(key)]), config.diffusion_form, config.diffusion_norm)
        solve = {"euler_maruyama": euler_maruyama, "heun_maruyama": heun_maruyama}[config.solver]
        draws = iter(GOLDEN["noise"][: facts["noise_draws"], : len(x)])
        x = solve(velocity, x, times, sde, lambda: next(draws), keep)
        assert next(draws, None) is None
        x = sde.last_step(config.last_step, velocity, x, times[-1].expand(len(x)), config.last_step_size)
    check_recorded(key, x, states)


@every_run
def test_recorded_runs_through_the_sampler(key, network):
    sampler = Sampler(config_of(key), Interpolant(PATHS[path_of(key)]), "velocity")
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
