"""Controls: a gradient of matched norm, a larger rate up to a block, a random pair; a term that ends."""

import functools

import pytest
import torch

from core.alignment.contract import draw_pair
from core.draws import StepRandom
from core.storage.lines import read_lines
from core.train.optimizer import Optimizer, OptimizerConfig, ScaledRate
from eval.inside.model import open_run
from tests.core.alignment.parts import tiny
from tests.core.train.small import batch_of, make_trainer, opened


@pytest.fixture
def make(tmp_path, monkeypatch):
    """A trainer of a tiny run, without half a second of matrix products for a column of speed.jsonl."""
    monkeypatch.setattr("core.train.trainer.matmul_peak", lambda *told: 1e12)
    return functools.partial(make_trainer, tmp_path)


def taken(trainer):
    """The backbone's gradients in the step that `trainer` makes, as one vector, those of heads, and the losses."""
    seen, norm = [], trainer.optimizer.gradient_norm

    def look():
        seen.append(
            {name: each.grad.clone() for name, each in trainer.optimizer.named.items() if each.grad is not None}
        )
        return norm()

    trainer.optimizer.gradient_norm = look
    losses, _ = trainer.update(batch_of(trainer, trainer.step))
    own = [each.flatten() for name, each in seen[0].items() if not name.startswith("alignment.")]
    heads = {name: each for name, each in seen[0].items() if name.startswith("alignment.")}
    return torch.cat(own), heads, losses


SRA = ("alignment=sra", "alignment.pairs=[[1,2]]", "alignment.weight=5.0", "optimizer.clip_norm=null")


def test_a_matched_gradient_is_the_baselines_with_the_norm_of_the_total(make):
    total, heads, aligned = taken(opened(make(*SRA)))
    flow, _, baseline = taken(opened(make("alignment=none")))
    for more in ((), ("trainer.accumulate=3",)):
        matched, own_heads, losses = taken(opened(make(*SRA, "optimizer.gradient=matched", *more)))
        torch.testing.assert_close(matched.norm(), total.norm())
        torch.testing.assert_close(matched / matched.norm(), flow / flow.norm(), atol=1e-6, rtol=1e-4)
        torch.testing.assert_close(losses.values["matched_factor"], total.norm() / flow.norm())
        torch.testing.assert_close(losses.total, baseline.flow.mean())
        torch.testing.assert_close(losses.similarity["1->2"], aligned.similarity["1->2"])
        for name, gradient in heads.items():
            torch.testing.assert_close(own_heads[name], gradient, atol=1e-6, rtol=1e-4)
    assert abs(total.norm() / flow.norm() - 1) > 0.01 and heads


def test_a_matched_step_counts_both_passes_and_is_clipped_afterwards(make):
    counts = [make(*words).flops for words in (("alignment=none",), SRA, (*SRA, "optimizer.gradient=matched"))]
    assert counts[2] == counts[0] + counts[1]
    trainer = opened(make(*SRA, "optimizer.gradient=matched", "optimizer.clip_norm=1.0e-3"))
    kept = []
    step = trainer.optimizer.step
    named = trainer.optimizer.named
    trainer.optimizer.step = lambda lr, broken: (
        kept.extend(each.grad.norm() for each in named.values()) or step(lr, broken)
    )
    _, norm = trainer.update(batch_of(trainer))
    assert norm > 1e-3
    torch.testing.assert_close(torch.linalg.vector_norm(torch.stack(kept)).item(), 1e-3, atol=1e-8, rtol=1e-3)


def test_a_matched_step_that_overflows_is_dropped_and_a_lower_scale_gives_the_same_factor(make):
    words = (*SRA, "optimizer.gradient=matched")
    exact, half = opened(make(*words)), opened(make(*words, "trainer.precision=fp16"))
    losses, norm = half.update(batch_of(half))
    assert half.skipped == 1 and norm != norm and not losses.values["matched_factor"].isfinite()
    half.scaler.update(1024.0)
    half.step = 0
    found, wanted = (trainer.update(batch_of(trainer))[0].values["matched_factor"] for trainer in (half, exact))
    assert half.skipped == 1
    torch.testing.assert_close(found, wanted, atol=0, rtol=0.01)


def test_the_first_blocks_and_what_stands_before_them_have_their_own_rate():
    model = tiny(depth=3)
    optimizer = Optimizer(model, OptimizerConfig(lr_scale=ScaledRate(blocks=2, factor=3.0)), torch.nn.Linear(2, 2))
    before = {name: each.detach().clone() for name, each in optimizer.named.items()}
    for each in optimizer.named.values():
        each.grad = torch.ones_like(each)
    optimizer.step(1e-2)
    rates = {name: (before[name] - each.detach()).abs().mean().item() / 1e-2 for name, each in optimizer.named.items()}
    early = {name for name, rate in rates.items() if rate == pytest.approx(3, rel=1e-2)}
    assert early == {name for name in rates if name.startswith(("x_emb", "t_emb", "y_emb", "blocks.0.", "blocks.1."))}
    assert all(rates[name] == pytest.approx(1, rel=1e-2) for name in rates.keys() - early)
    assert optimizer.state_dict().keys() == {f"{k}.{n}" for k in ("exp_avg", "exp_avg_sq", "step") for n in rates}


def test_one_rate_and_the_norm_over_groups_are_as_they_were():
    models = [tiny(), tiny()]
    configs = [OptimizerConfig(), OptimizerConfig(lr_scale=ScaledRate(1, 1.0))]
    one, two = map(Optimizer, models, configs)
    for optimizer in (one, two):
        for number, each in enumerate(optimizer.named.values()):
            each.grad = torch.full_like(each, 0.1 * number)
    torch.testing.assert_close(one.gradient_norm(), two.gradient_norm())
    for optimizer in (one, two):
        optimizer.step(1e-2)
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(a, b)
    assert len(one.adamw.param_groups) == 1


@pytest.mark.parametrize("pair", [{"blocks": 0, "factor": 2.0}, {"blocks": 2, "factor": 0.0}])
def test_a_rate_that_is_none_is_refused(pair):
    with pytest.raises(ValueError, match=r"optimizer.lr_scale\.(blocks|factor) is 0"):
        ScaledRate(**pair)


def test_a_random_pair_is_that_of_the_seed_in_records_and_notes(make):
    trainer = make("alignment.pairs=random", "backbone.depth=6", "seed=3", "trainer.steps=1", "trainer.log_every=1")
    weak, strong = draw_pair(6, 3)
    losses = trainer.loss(batch_of(trainer), StepRandom(3, 0), 0)
    assert list(losses.similarity) == [f"{weak}->{strong}"]
    trainer.fit()
    assert trainer._notes()["alignment"]["pairs"] == [[weak, strong]]
    assert trainer.config.alignment.pairs == "random"
    assert open_run(trainer.run.path, device="cpu").alignment.pairs == [(weak, strong)]


def test_a_term_that_ends_does_so_at_its_step_and_a_run_goes_on_across_it(make):
    words = ("alignment.schedule={kind: stop, end_step: 2}", "alignment.teacher=ema", "alignment.noise_gap=0.2")
    words += (
        "optimizer.schedule=constant",
        "optimizer.warmup_steps=0",
        "trainer.log_every=1",
        "trainer.preview_every=0",
    )
    whole = make(*words, "trainer.steps=4", "name=whole")
    whole.fit()
    for steps in (2, 4):
        parts = make(*words, f"trainer.steps={steps}", "name=parts")
        parts.fit()
    for a, b in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        assert torch.equal(a, b)
    lines = [read_lines(trainer.run.path / "metrics.jsonl") for trainer in (whole, parts)]
    assert lines[0] == lines[1]
    assert [line["loss"] == line["flow_loss"] for line in lines[0]] == [False, False, True, True]
