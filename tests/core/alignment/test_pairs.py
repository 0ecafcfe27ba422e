"""Pairs that are not named: by the rule, and revised in training."""

import copy
import functools

import pytest
import torch

from core.alignment.adaptive import AdaptiveOptions, AdaptivePair, cka_of, kernel
from core.alignment.contract import check_layers, reasons, settle
from core.alignment.layersync import LayerSyncConfig
from core.alignment.several import SeveralConfig
from core.alignment.sra import SRAConfig
from core.contracts import Batch
from core.draws import StepRandom
from core.step import TrainingLoss
from core.storage.checkpoint import read_checkpoint
from core.storage.lines import read_lines
from eval.inside.model import open_run
from eval.inside.representations import cka
from image.train import ENTRY as TRAIN
from tests.core.alignment.parts import loss_parts, tiny
from tests.core.train.small import make_trainer
from tests.rows import every_row


@pytest.fixture
def make(tmp_path, monkeypatch):
    """A trainer of a tiny run of five blocks, without half a second of matrix products."""
    monkeypatch.setattr("core.train.trainer.matmul_peak", lambda *told: 1e12)
    words = ("backbone.depth=5", "trainer.log_every=1", "trainer.preview_every=0", "trainer.checkpoint_every=3")
    return functools.partial(make_trainer, tmp_path, *words)


# --- auto


def test_auto_is_the_rules_pair_for_the_depth():
    auto = LayerSyncConfig(pairs="auto", weight=0.5)
    for depth, pair in ((28, (8, 16)), (24, (8, 18)), (8, (2, 5))):
        assert settle(auto, depth, seed=3) == LayerSyncConfig(pairs=[pair], weight=0.5)
        assert f"{pair[0]} -> {pair[1]}" in reasons(auto, depth, 3)[0]
    both = SeveralConfig({"layersync": LayerSyncConfig(pairs="auto"), "sra": SRAConfig(pairs="auto")})
    chosen = settle(both, 28, 0).of
    assert chosen["layersync"].pairs == [(8, 16)] and chosen["sra"].pairs == [(8, 20)]
    assert reasons(both, 28, 0)[-1] == "sra: 8 -> 20 is the authors' pair of 28 blocks"
    assert settle(SRAConfig(pairs="auto"), 12, 0).pairs == [(3, 8)]
    assert settle(SRAConfig(pairs="auto"), 24, 0).pairs == [(6, 18)]
    assert settle(SRAConfig(pairs="auto"), 16, 0).needs.teacher == (12,)
    assert reasons(LayerSyncConfig(pairs=[(1, 2)]), 8, 0) == [] == reasons(SRAConfig(pairs=[(1, 2)]), 8, 0)
    assert "drawn from seed 3" in reasons(LayerSyncConfig(pairs="random"), 8, 3)[0]


def test_a_run_with_auto_has_the_pair_in_its_notes_and_refuses_another_choice(make, monkeypatch):
    make("alignment.pairs=auto", "trainer.steps=3").fit()
    again = make("alignment.pairs=auto", "trainer.steps=4", "optimizer.schedule=constant")
    assert again._notes()["alignment"]["pairs"] == [[2, 3]]
    assert "similarity/2->3" in read_lines(again.run.path / "metrics.jsonl")[0]
    assert open_run(again.run.path, device="cpu").alignment.pairs == [(2, 3)]
    monkeypatch.setattr(
        "core.alignment.layersync.rule_pair", lambda depth: type("Choice", (), {"pair": (1, 4), "reasons": []})
    )
    with pytest.raises(ValueError, match=r"alignment.pairs=\[\[2, 3\]\], chosen then; now it is \[\[1, 4\]\]"):
        make("alignment.pairs=auto", "trainer.steps=4", "optimizer.schedule=constant").restore()


@every_row(
    ("words", "message"),
    [
        (["alignment.pairs=auto", "backbone.depth=3"], "alignment.pairs is 'auto', but the model has 3 blocks; needed"),
        (["alignment.pairs=adaptive", "backbone.depth=3"], "alignment.pairs is 'adaptive', but the model has 3 blocks"),
        (["alignment.pairs=adaptive", "alignment.teacher=ema"], "alignment.pairs is 'adaptive', but alignment.teacher"),
        (["alignment.pairs=adaptive", "alignment.adaptive.every=0"], "alignment.adaptive.every is 0"),
        (["alignment.pairs=auto", "alignment.adaptive.memory=1"], "alignment.adaptive.memory is 1.0"),
        (["alignment.pairs=auto", "alignment.adaptive.margin=-1"], "alignment.adaptive.margin is -1.0"),
        (
            ["alignment=sra", "alignment.pairs=auto", "backbone.depth=2"],
            "alignment.pairs is 'auto', but the model has 2",
        ),
        (
            ["alignment=several", "alignment.of={layersync: {pairs: auto}}", "backbone.depth=3"],
            "alignment.of.layersync.pairs is 'auto', but the model has 3 blocks",
        ),
    ],
)
def test_what_does_not_fit_is_refused_where_the_config_is_read(words, message):
    with pytest.raises(ValueError, match=message):
        TRAIN.config(words if words[0].startswith("alignment=") else ["alignment=layersync", *words])


# --- adaptive


class Patches:
    """A backbone whose patches are its latents."""

    def patches(self, latents):
        return latents


class Measured:
    """A forward of n samples of six patches of four numbers."""

    def __init__(self, step, latents, mask=None):
        self.step, self.latents = step, latents
        self.batch = Batch(latents, torch.zeros(len(latents)), torch.arange(len(latents)), mask)


def tokens_of(latents, shares, seed=0):
    """Tokens by block: the share of each that is the latents, the rest noise."""
    generator = torch.Generator().manual_seed(seed)
    noise = [torch.randn(latents.shape, generator=generator) for _ in shares]
    return {str(i): s * latents + (1 - s) * each for i, (s, each) in enumerate(zip(shares, noise, strict=True))}


def adaptive(**options):
    """The choice among five blocks of which four are scored."""
    return AdaptivePair(Patches(), ["0", "1", "2", "3"], 5, AdaptiveOptions(**options))


LATENTS = torch.randn(16, 6, 4, generator=torch.Generator().manual_seed(5))
RISING, ODD = (0.1, 0.1, 0.9, 0.4), (0.9, 0.05, 0.1, 0.9)


def test_a_block_is_scored_by_the_cka_that_eval_computes():
    tokens = torch.randn(16, 6, 4)
    rows = [torch.nn.functional.normalize(x.flatten(1).double(), dim=1) for x in (tokens, LATENTS)]
    own = float(cka_of(kernel(tokens, None), kernel(LATENTS, None)))
    assert own == pytest.approx(cka(*rows), abs=1e-9)
    mask = (torch.arange(6) < 4).expand(16, 6)
    spoilt = torch.where(mask[..., None], tokens, torch.nan)
    torch.testing.assert_close(kernel(spoilt, mask), kernel(tokens[:, :4], None))
    assert cka_of(torch.zeros(4, 4), torch.ones(4, 4)) == 0


def test_it_switches_to_the_pair_that_scores_best_and_only_after_the_step():
    chooser = adaptive(every=2)
    pairs = [chooser.of(Measured(step, LATENTS), tokens_of(LATENTS, ODD, step)) for step in range(4)]
    assert pairs == [(2, 3), (2, 4), (2, 4), (2, 4)]


def test_it_stays_where_no_pair_is_better_by_the_margin():
    for options, shares in (({"margin": 5.0}, ODD), ({}, (0.5, 0.5, 0.5, 0.5)), ({"every": 100}, ODD)):
        chooser = adaptive(**{"every": 1, **options})
        forward, tokens = Measured(1, LATENTS), tokens_of(LATENTS, shares)
        if shares[0] == 0.5:
            tokens = dict.fromkeys(tokens, tokens["0"])
        for step in (1, 2, 3):
            forward.step = step
            assert chooser.of(forward, tokens) == (2, 3)


def test_the_scores_are_means_that_forget_and_micro_batches_count_by_their_samples():
    one, parts = adaptive(every=1, memory=0.5), adaptive(every=1, memory=0.5)
    for step, shares in enumerate((ODD, RISING)):
        tokens = tokens_of(LATENTS, shares, step)
        one.of(Measured(step, LATENTS), tokens)
        for piece in (slice(0, 10), slice(10, 16)):
            parts.of(Measured(step, LATENTS[piece]), {name: each[piece] for name, each in tokens.items()})
    first, second = (
        [float(cka_of(kernel(x, None), kernel(LATENTS, None))) for x in tokens_of(LATENTS, shares, step).values()]
        for step, shares in enumerate((ODD, RISING))
    )
    wanted = [(0.5 * a + b) / 1.5 for a, b in zip(first, second, strict=True)]
    assert one.scores.until(2) == pytest.approx(wanted)
    assert one.scores.until(1) == pytest.approx(first)  # as if step 1 was not made yet
    whole = [10, 6]
    pieces = [
        sum(
            n * float(cka_of(kernel(x[p], None), kernel(LATENTS[p], None)))
            for n, p in zip(whole, (slice(0, 10), slice(10, 16)), strict=True)
        )
        / 16
        for x in tokens_of(LATENTS, ODD, 0).values()
    ]
    assert parts.scores.until(1) == pytest.approx(pieces)


def test_a_step_that_is_made_again_counts_once():
    whole, broken = adaptive(every=1), adaptive(every=1)
    for chooser in (whole, broken):
        chooser.of(Measured(0, LATENTS), tokens_of(LATENTS, RISING))
    broken.of(Measured(1, LATENTS), dict.fromkeys(map(str, range(4)), torch.full_like(LATENTS, torch.nan)))
    again = adaptive(every=1)
    again.scores.load_state_dict(copy.deepcopy(broken.scores.state_dict()))
    tokens = tokens_of(LATENTS, ODD, 1)
    pairs = [chooser.of(Measured(step, LATENTS), tokens) for step in (1, 2) for chooser in (whole, again)]
    assert pairs[0] == pairs[1] and pairs[2] == pairs[3]
    for name, value in whole.scores.state_dict().items():
        assert torch.equal(value, again.scores.state_dict()[name]), name


def test_micro_batches_of_too_few_samples_are_refused():
    with pytest.raises(
        ValueError, match=r"alignment.pairs is 'adaptive', which compares.*it has 3; needed: 4 at least"
    ):
        adaptive().of(Measured(0, LATENTS[:3]), tokens_of(LATENTS[:3], ODD))


def test_the_loss_is_that_of_the_present_pair_alone():
    model = tiny(depth=5)
    batch = Batch(LATENTS[:8].reshape(4, 2, 6, 4), torch.tensor([0, 1, 2, 0]), torch.arange(4))
    found = []
    for config in (LayerSyncConfig(pairs="adaptive"), LayerSyncConfig(pairs=[(2, 3)])):
        check_layers(config, 5)
        method = config.build(model)
        found.append(TrainingLoss(*loss_parts(model), method)(batch, StepRandom(0, 0), 0))
        method.remove()
    assert torch.equal(found[0].total, found[1].total) and found[0].similarity == found[1].similarity
    assert {name: float(value) for name, value in found[0].values.items()} == {"pair/weak": 2, "pair/strong": 3}


def test_a_run_that_switches_its_pair_goes_on_to_the_bit(make):
    words = ("alignment.pairs=adaptive", "alignment.adaptive={every: 2, margin: 0.0}", "alignment.weight=0.5")
    words += ("optimizer.schedule=constant", "optimizer.warmup_steps=0", "optimizer.lr=0.01")
    whole = make(*words, "trainer.steps=7", "name=whole")
    whole.fit()
    for steps in (3, 4, 7):  # after a step that is measured, and after one that is not
        parts = make(*words, f"trainer.steps={steps}", "name=parts")
        parts.fit()
    for a, b in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        assert torch.equal(a, b)
    lines = [read_lines(trainer.run.path / "metrics.jsonl") for trainer in (whole, parts)]
    assert lines[0] == lines[1]
    assert len({(line["pair/weak"], line["pair/strong"]) for line in lines[0]}) > 1
    groups = [
        read_checkpoint(max(trainer.run.checkpoints.glob("step_*"))).groups["alignment"] for trainer in (whole, parts)
    ]
    assert groups[0].keys() == {f"pairs.{name}" for name in ("before", "last", "at", "pair")}
    assert all(torch.equal(value, groups[1][name]) for name, value in groups[0].items())
