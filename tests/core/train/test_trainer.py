"""One optimizer step seen from inside: what is drawn, what the network is given, what moves. On the digits' domain."""

import functools
import math
import re
import subprocess

import pytest
import torch

import core.train.notes
from core.contracts import Batch
from core.data.stream import fingerprint
from core.draws import StepRandom
from core.latents.tokenizer import MediaError
from core.processes.failures import NonFiniteError, SamplesError
from core.processes.world import pick_device
from core.schema import plain
from core.storage.checkpoint import read_checkpoint
from core.storage.provenance import ROOT, json_sha256
from core.train.config import TrainerConfig
from tests.core.train.small import BATCH, batch_of, make_trainer, opened


@pytest.fixture
def make(tmp_path):
    """A trainer of a tiny run."""
    return functools.partial(make_trainer, tmp_path)


# --- what a step draws and uses


def test_every_step_has_its_own_draws_for_the_global_batch_and_its_own_rate(make, monkeypatch):
    trainer = make("optimizer.warmup_steps=2", "seed=3")
    drawn, rates = [], []
    loss, step = trainer.loss, trainer.optimizer.step

    def seen_loss(batch, random, number):
        drawn.append((random.seed, random.step, random.global_rows, random.first_row, number, trainer.model.training))
        return loss(batch, random, number)

    trainer.loss = seen_loss
    monkeypatch.setattr(trainer.optimizer, "step", lambda lr, broken: rates.append(lr) or step(lr, broken))
    for number in range(4):
        trainer.model.eval()
        trainer.update(batch_of(trainer, number))
    assert drawn == [(3, number, BATCH, 0, number, True) for number in range(4)]
    assert rates == [trainer.config.optimizer.lr_at(number, 20) for number in range(4)]
    assert trainer.step == 4


def test_the_average_follows_each_step(make):
    trainer = make("ema.decays=[0.75]")
    name = "y_embedder.embedding_table.weight"
    opened(trainer)
    before = trainer.ema.state_dicts()["ema"][name].clone()
    trainer.update(batch_of(trainer))
    weights = trainer.model.state_dict()[name]
    torch.testing.assert_close(trainer.ema.state_dicts()["ema"][name], 0.75 * before + 0.25 * weights)


def test_the_network_gets_labels_of_which_a_share_is_null(make):
    trainer = make("conditioning.drop=0.5")
    given = []
    trainer.model.register_forward_pre_hook(lambda module, inputs: given.append(inputs))
    batch = batch_of(trainer)
    trainer.update(batch)
    x, t, condition, mask = given[0]
    random = StepRandom(0, 0, global_rows=BATCH)
    assert torch.equal(condition, trainer.domain.conditioning.drop(batch.condition, random))
    assert 0 < (condition == 10).sum() < BATCH
    noise = random.normal("noise", tuple(batch.media.shape))
    assert torch.equal(t, random.uniform("time", (BATCH,)))
    at = t[:, None, None, None]
    torch.testing.assert_close(x, at * batch.media + (1 - at) * noise)
    assert mask is None


def test_the_loss_is_flow_matching_plus_the_weighted_alignment(make):
    trainer = opened(make("alignment.weight=0.5"))
    losses = trainer.loss(batch_of(trainer), StepRandom(0, 0, global_rows=BATCH), 0)
    assert losses.flow.shape == (BATCH,)
    expected = losses.flow.mean() - 0.5 * losses.similarity["1->2"]
    torch.testing.assert_close(losses.total.detach(), expected)
    assert abs(losses.similarity["1->2"]) < 0.98


def test_a_time_for_each_token(make):
    trainer = make("objective.time_per=token")
    times = []
    trainer.model.register_forward_pre_hook(lambda module, inputs: times.append(inputs[1]))
    trainer.update(batch_of(trainer))
    assert times[0].shape == (BATCH, trainer.model.num_tokens)
    assert times[0].std(1).min() > 0.05


def test_masked_tokens_count_neither_in_the_loss_nor_in_the_alignment(make):
    trainer = opened(make())
    whole = batch_of(trainer)
    mask = torch.ones(BATCH, trainer.model.num_tokens, dtype=torch.bool)
    mask[:, -1] = False
    outcomes = []
    for filling in (0.0, 5.0):
        hidden = trainer.model.expand(mask, whole.media).expand_as(whole.media)
        batch = Batch(torch.where(hidden, whole.media, filling), whole.condition, whole.index, mask)
        outcomes.append(trainer.loss(batch, StepRandom(0, 0, global_rows=BATCH), 0))
    assert torch.equal(outcomes[0].flow, outcomes[1].flow)
    assert torch.equal(outcomes[0].total, outcomes[1].total)
    assert torch.equal(outcomes[0].similarity["1->2"], outcomes[1].similarity["1->2"])
    unmasked = trainer.loss(whole, StepRandom(0, 0, global_rows=BATCH), 0)
    assert not torch.equal(unmasked.flow, outcomes[0].flow)


def test_bf16_runs_the_network_and_keeps_losses_weights_and_average_in_single(make):
    single, half = opened(make()), opened(make("trainer.precision=bf16"))
    kinds = []
    half.model.blocks[0].mlp.register_forward_hook(lambda module, inputs, out: kinds.append(out.dtype))
    results = [trainer.update(batch_of(trainer)) for trainer in (single, half)]
    assert kinds == [torch.bfloat16]
    (losses, norm), (rough, rough_norm) = results
    assert rough.total.dtype == rough.flow.dtype == torch.float32
    assert {value.dtype for value in half.model.state_dict().values()} == {torch.float32}
    assert {value.dtype for value in half.ema.state_dicts()["ema"].values()} == {torch.float32}
    torch.testing.assert_close(rough.total, losses.total, atol=0.02, rtol=0)
    torch.testing.assert_close(rough_norm, norm, atol=0, rtol=0.1)
    assert not torch.equal(rough.flow, losses.flow)


def test_a_compiled_run_is_listened_to_and_equals_the_plain_one(make, monkeypatch):
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    plain, compiled = opened(make()), opened(make("trainer.compile=model"))
    for number in range(2):
        a, b = (trainer.update(batch_of(trainer, number))[0] for trainer in (plain, compiled))
        torch.testing.assert_close(a.total, b.total)
        torch.testing.assert_close(a.similarity, b.similarity)
    assert isinstance(compiled.loss.network, torch._dynamo.OptimizedModule)
    assert compiled.model.state_dict().keys() == plain.model.state_dict().keys()
    torch.testing.assert_close(compiled.model.state_dict(), plain.model.state_dict(), atol=1e-5, rtol=1e-4)


def test_sampling_leaves_training_as_it_was(make):
    plain, sampling = make(), make()
    for number in range(3):
        a = plain.update(batch_of(plain, number))[0]
        b = sampling.update(batch_of(sampling, number))[0]
        sampling.preview()
        assert torch.equal(a.total, b.total)
    assert sampling.model.training


# --- what is not finite


def test_samples_that_are_not_finite_are_told_and_end_no_training(make, caplog):
    """But a run is not complete with them."""
    trainer = make("trainer.preview_every=1", "trainer.steps=2")
    with torch.no_grad():
        trainer.ema.state_dicts()["ema"]["final_layer.linear.bias"].fill_(torch.nan)
    assert trainer.fit()
    assert trainer.step == 2 and not list(trainer.run.previews.glob("*"))
    assert "step 1: nothing is shown or measured: sample 0 (and" in caplog.text
    with pytest.raises(SamplesError, match=r"^sample 0 \(and .* has latents that are NaN or infinite \(precision=fp32"):
        trainer.finish()
    assert not trainer.run.summary_file.exists()


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_nothing_moves_when_a_loss_or_gradient_is_not_finite(make, where):
    trainer = opened(make())
    trainer.update(batch_of(trainer))
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    average = {name: value.clone() for name, value in trainer.ema.state_dicts()["ema"].items()}
    moments = {name: value.clone() for name, value in trainer.optimizer.state_dict().items()}
    batch = batch_of(trainer, 1)
    if where == "loss":
        batch.media[2] = torch.inf
    else:
        trainer.model.final_layer.linear.weight.register_hook(lambda gradient: gradient * torch.nan)
    trainer.update(batch)
    with pytest.raises(NonFiniteError, match=r"step 2: loss .*gradient norm .*Nothing was updated"):
        trainer.update(batch_of(trainer, 2))
    assert trainer.step == 1
    states = (trainer.model.state_dict(), trainer.ema.state_dicts()["ema"], trainer.optimizer.state_dict())
    for state, saved in zip(states, (before, average, moments), strict=True):
        assert all(torch.equal(value, saved[name]) for name, value in state.items())
    assert all(parameter.grad is None for parameter in trainer.model.parameters())


def test_media_that_the_tokenizer_refuses_are_named(make):
    trainer = make("trainer.accumulate=2")

    def refuse(batch, random, number):
        raise MediaError("it is too bright", row=1)

    trainer.loss = refuse
    batch = batch_of(trainer)
    index = int(batch.index[1])
    name = trainer.domain.dataset.name(index)
    with pytest.raises(ValueError, match=re.escape(f"step 1: {name} (row {index}): it is too bright")):
        trainer.update(batch)


# --- micro-batches and half precision


@pytest.mark.parametrize("batch", [BATCH, 9])
def test_micro_batches_change_nothing_but_rounding(make, batch):
    """Three of them, which need not be equally large."""
    results = []
    for accumulate in (1, 3):
        trainer = opened(make(f"trainer.accumulate={accumulate}", f"trainer.batch_size={batch}", "optimizer.lr=1e-9"))
        named, gradients = trainer.optimizer.named, {}
        trainer.optimizer.gradient_norm = lambda named=named, kept=gradients, norm=trainer.optimizer.gradient_norm: (
            kept.update({name: each.grad.clone() for name, each in named.items()}) or norm()
        )
        losses, norm = trainer.update(batch_of(trainer, size=batch))
        results.append((losses, norm, gradients))
    (whole, whole_norm, whole_gradients), (parts, parts_norm, parts_gradients) = results
    torch.testing.assert_close(parts.total, whole.total, rtol=1e-6, atol=0)
    torch.testing.assert_close(parts.flow, whole.flow, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(parts.similarity, whole.similarity, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(parts_norm, whole_norm, rtol=1e-5, atol=0)
    for name, gradient in whole_gradients.items():
        assert (parts_gradients[name] - gradient).norm() <= 1e-5 * gradient.norm(), name


def states(trainer):
    """Copies of all that a checkpoint holds of a trainer."""
    groups = {
        "model": trainer.model.state_dict(),
        **trainer.ema.state_dicts(),
        "optimizer": trainer.optimizer.state_dict(),
    }
    return {name: {key: value.clone() for key, value in state.items()} for name, state in groups.items()}


def same(a, b):
    """Two of these are equal, bit by bit."""
    return a.keys() == b.keys() and all(
        a[name].keys() == b[name].keys() and all(torch.equal(a[name][key], b[name][key]) for key in a[name])
        for name in a
    )


def overflow_once(trainer):
    """The gradient of the next step has infinite numbers in it."""
    weight = trainer.model.final_layer.linear.weight
    handle = weight.register_hook(lambda gradient: handle.remove() or gradient * torch.inf)


def half(make):
    """A trainer in half precision at a loss scale that suits it, 1024, which grows after three good steps."""
    trainer = opened(make("trainer.precision=fp16"))
    trainer.scaler.load_state_dict({**trainer.scaler.state_dict(), "scale": 1024.0, "growth_interval": 3})
    return trainer


def test_a_gradient_that_overflows_in_half_precision_is_dropped(make):
    trainer = half(make)
    trainer.update(batch_of(trainer))
    before, scale = states(trainer), trainer.scaler.get_scale()
    overflow_once(trainer)
    losses, norm = trainer.update(batch_of(trainer, 1))
    assert losses.total.isfinite()
    assert not math.isfinite(norm)
    assert same(states(trainer), before)
    assert (trainer.step, trainer.skipped, trainer.scaler.get_scale()) == (2, 1, scale / 2)
    _, norm = trainer.update(batch_of(trainer, 2))
    assert math.isfinite(norm)
    assert not same(states(trainer), before)


def test_a_gradient_that_overflows_at_every_scale_is_an_error(make):
    trainer = opened(make("trainer.precision=fp16"))
    trainer.model.final_layer.linear.weight.register_hook(lambda gradient: gradient * torch.inf)
    with pytest.raises(NonFiniteError, match="Nothing was updated"):
        for number in range(40):
            trainer.update(batch_of(trainer, number))
    assert trainer.step == trainer.skipped == 26  # from 2^16 to 2^-10


def test_loss_scale_and_dropped_steps_survive_a_resume(make):
    first = half(make)
    first.update(batch_of(first))
    overflow_once(first)
    first.update(batch_of(first, 1))
    first.update(batch_of(first, 2))
    first.save()
    second = opened(make("trainer.precision=fp16"))
    second.restore()
    assert (second.step, second.skipped, second.scaler.get_scale()) == (3, 1, 512.0)
    for trainer in (first, second):
        for number in range(3, 5):
            trainer.update(batch_of(trainer, number))
    assert same(states(first), states(second))
    assert first.scaler.state_dict() == second.scaler.state_dict()
    assert second.scaler.get_scale() == 1024.0, "it grows with the third good step after the overflow"


# --- checkpoints


def test_a_manifest_tells_what_made_it(make):
    trainer = make("trainer.num_workers=3")
    trainer.update(batch_of(trainer))
    trainer.save()
    notes = read_checkpoint(trainer.saved.store.latest()).notes
    assert notes["config"] == plain(trainer.config)
    assert notes["config_sha256"] == json_sha256(dict(reversed(plain(trainer.config).items())))
    assert notes["config_sha256"] != json_sha256(plain(make("trainer.num_workers=2").config))
    assert notes["tokenizer"] == trainer.domain.tokenizer.constants()
    assert notes["data"] == fingerprint(trainer.domain.dataset)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    assert notes["code"]["commit"] == (commit or None)
    assert notes["code"].keys() == {"version", "commit", "dirty"}
    assert (notes["torch"], notes["processes"], notes["domain"]) == (torch.__version__, 1, "image")


def test_another_code_and_another_torch_are_told(make, caplog, monkeypatch):
    first = make()
    first.update(batch_of(first))
    first.save()
    monkeypatch.setattr(core.train.notes, "code_version", lambda: {"version": "9", "commit": None, "dirty": None})
    monkeypatch.setattr(torch, "__version__", "2.99.0")
    make().restore()
    assert "this is {'version': '9'" in caplog.text
    assert "was made with torch " in caplog.text


def test_a_step_is_saved_once_and_step_zero_never(make, monkeypatch):
    trainer = make()
    trainer.save()
    assert trainer.saved.store.latest() is None
    trainer.update(batch_of(trainer))
    trainer.save()
    monkeypatch.setattr(trainer.saved.store, "save", lambda *args: pytest.fail("saved again"))
    trainer.save()


def test_a_resumed_trainer_is_the_trainer_that_saved(make):
    first = make()
    for number in range(3):
        first.update(batch_of(first, number))
    first.seconds = 12.5
    first.save()
    second = opened(make())
    second.restore()
    assert (second.step, second.seconds) == (3, 12.5)
    saved = read_checkpoint(second.saved.store.latest())
    states = {
        "model": second.model.state_dict(),
        **second.ema.state_dicts(),
        "optimizer": second.optimizer.state_dict(),
    }
    assert saved.groups.keys() == states.keys()
    for group, state in states.items():
        assert saved.groups[group].keys() == state.keys()
        assert all(torch.equal(saved.groups[group][name], value) for name, value in state.items())


def test_without_a_checkpoint_a_trainer_starts_at_zero(make):
    trainer = make()
    trainer.restore()
    assert trainer.step == 0


# --- options


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 0}, "trainer.steps is 0; it must be at least 1"),
        ({"batch_size": -4}, "trainer.batch_size is -4"),
        ({"log_every": 0}, "trainer.log_every is 0"),
        ({"keep_checkpoints": 0}, "trainer.keep_checkpoints is 0"),
        ({"preview_every": -1}, "trainer.preview_every is -1; it must not be negative"),
        ({"num_workers": -1}, "trainer.num_workers is -1"),
    ],
)
def test_configs_refuse_values(values, message):
    with pytest.raises(ValueError, match=message):
        TrainerConfig(**{"steps": 1, "batch_size": 1, **values})


def test_devices_are_picked_by_name(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == pick_device("cpu") == torch.device("cpu")
    with pytest.raises(ValueError, match="device is 'cuda:0', but PyTorch sees no CUDA device"):
        pick_device("cuda:0")
    with pytest.raises(ValueError, match="device is 'gpu'; allowed: auto, cpu, cuda"):
        pick_device("gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("auto").type == "cuda"
