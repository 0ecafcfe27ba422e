"""The pure solvers on equations whose solution is known, and the independence of the rows of a batch."""

import math

import pytest
import torch

from core.flow.path import PATHS, Interpolant
from core.flow.solvers import (
    DORMAND_PRINCE,
    DORMAND_PRINCE_ERROR,
    SDE,
    TABLEAUX,
    dopri5,
    euler_maruyama,
    heun_maruyama,
    runge_kutta,
)
from tests.core.flow.numerics import Counted, close, one_thread  # noqa: F401, a fixture

pytestmark = pytest.mark.usefixtures("one_thread")

ORDERS = {"euler": 1, "midpoint": 2, "heun": 2, "heun3": 3, "rk4": 4}


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


@pytest.mark.parametrize(
    ("rule", "value"),
    [("euler", 0), ("midpoint", 1 / 16), ("heun", 1 / 2), ("heun3", 4 / 27), ("rk4", 11 / 54)],  # exact: 1 / 5
)
def test_a_rule_is_the_one_that_it_is_named_after(rule, value):
    """One step of x' = t^4 tells rules of the same order apart; rk4 is the 3/8 rule."""
    times = torch.tensor([0.0, 1.0], dtype=torch.float64)
    end = runge_kutta(lambda x, t: (t**4)[:, None].expand_as(x), torch.zeros(1, 1, dtype=times.dtype), times, rule)
    assert end.item() == pytest.approx(value, abs=1e-14)


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

    sde = SDE(Interpolant(PATHS["gvp"]), "constant", 0.0)
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
    assert (end - math.exp(1.5)).abs().max() < 6 * rtol
    assert len(velocity.rows) < 20 * rtol**-0.2 + 20


@pytest.mark.parametrize("rtol", [1e-4, 1e-5, 1e-6])
def test_dopri5_goes_back_where_its_step_was_too_long(rtol):
    """A bump in the middle of a flat stretch, over which steps have grown."""
    start = torch.ones(1, 1, dtype=torch.float64)
    velocity = Counted(lambda x, t: torch.exp(-(((t - 0.5) / 0.1) ** 2))[:, None].expand_as(x))
    end = dopri5(velocity, start, (0.0, 1.0), atol=rtol, rtol=rtol)
    assert abs(end.item() - 1 - 0.1 * math.sqrt(math.pi) * math.erf(5)) < 10 * rtol


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
