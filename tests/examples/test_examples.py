"""The examples run as they are, on tiny random weights; recomputing and compiling leave their losses as they are."""

import runpy
import sys
import types
from pathlib import Path

import pytest
import torch

from tests.layersync.test_diffusers import options_of_the_page
from tests.rows import every_row

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.py"))
FAMILIES = ("dit", "sd3", "flux", "wan", "stable_audio")
STEPS = 2
BOTH = {"recompute": True, "backend": "eager"}


def example(name):
    """The names of an example."""
    if name != "transformer_encoder":
        pytest.importorskip("diffusers")
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))


def losses(name, *which, **options):
    """What the example's `main` returns, by a fresh start of what torch.compile and Accelerate keep in a process."""
    torch.compiler.reset()
    if "accelerate" in sys.modules:
        sys.modules["accelerate"].state.AcceleratorState._reset_state(True)
    return example(name)["main"](*which, steps=STEPS, **options)


def assert_same_losses(capsys, name, *which, **both):
    """As it is, and recomputed and compiled: equal losses, of which each step tells."""
    plain = losses(name, *which)
    assert len(plain) == STEPS and plain[0] != plain[1]
    assert capsys.readouterr().out.count("similarity") == STEPS
    for options in ({"recompute": True}, both):
        assert losses(name, *which, **options) == pytest.approx(plain, abs=1e-5), options


@pytest.mark.slow
def test_an_encoder_checkpointed_and_compiled_learns_what_it_learns_eagerly(capsys):
    assert_same_losses(capsys, "transformer_encoder", recompute=True, backend="aot_eager")


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_transformer_checkpointed_and_compiled_learns_what_it_learns_eagerly(family, capsys):
    assert_same_losses(capsys, "diffusers_models", family, **BOTH)


def test_the_example_tells_of_each_transformer_what_the_page_does():
    families, page = example("diffusers_models")["FAMILIES"], options_of_the_page()
    assert set(families) == set(FAMILIES)
    assert {name: family.told for name, family in families.items()} == {
        name: page[family.model] for name, family in families.items()
    }


@every_row("family", FAMILIES)
def test_adapters_are_trained_and_saved_and_the_base_is_not(family, tmp_path):
    pytest.importorskip("peft")
    from safetensors.torch import load_file

    folder = tmp_path / family
    assert len(set(losses("diffusers_models", family, adapters=str(folder)))) == STEPS
    saved = load_file(folder / "pytorch_lora_weights.safetensors")
    blocks = {name.split(".")[1] for name in saved if "blocks." in name}
    assert all("lora_A" in name or "lora_B" in name for name in saved) and {"0", "1", "2"} <= blocks
    assert any("lora_B" in name and value.any() for name, value in saved.items())  # zero before the first step


class Module(torch.nn.Module):
    """What the example asks of Lightning's module."""

    global_step = 0


class Loop:
    """What it asks of Lightning's trainer: each batch through `training_step`, then the optimizer."""

    def __init__(self, max_steps, **options):
        assert set(options) == {"logger", "enable_checkpointing", "enable_progress_bar"}
        self.max_steps = max_steps

    def fit(self, module, loader):
        optimizer = module.configure_optimizers()
        for module.global_step, batch in enumerate(loader):
            optimizer.zero_grad()
            module.training_step(batch, module.global_step).backward()
            optimizer.step()
        assert module.global_step + 1 == self.max_steps


def lightning_or_stand_in(monkeypatch):
    try:
        import lightning  # noqa: F401
    except ImportError:
        monkeypatch.setitem(sys.modules, "lightning", types.SimpleNamespace(LightningModule=Module, Trainer=Loop))


def test_every_training_loop_learns_the_same(monkeypatch):
    pytest.importorskip("accelerate")
    pytest.importorskip("transformers")
    lightning_or_stand_in(monkeypatch)
    by_hand = losses("training_loops", "accelerate")
    assert len(by_hand) == STEPS
    for name in ("trainer", "lightning"):
        assert losses("training_loops", name) == pytest.approx(by_hand, abs=1e-5), name


@pytest.mark.slow
@pytest.mark.parametrize("name", ["trainer", "lightning"])  # the former compiles by Accelerate
def test_a_training_loop_that_compiles_and_recomputes_learns_the_same(name, monkeypatch):
    pytest.importorskip("accelerate")
    lightning_or_stand_in(monkeypatch)
    plain = losses("training_loops", name)
    assert losses("training_loops", name, **BOTH) == pytest.approx(plain, abs=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0  # it was compiled


def test_a_loop_that_is_not_installed_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "lightning", None)
    with pytest.raises(SystemExit, match="needs Lightning: pip install lightning"):
        losses("training_loops", "lightning")


def test_the_page_lists_every_example():
    page = (EXAMPLES / "README.md").read_text()
    assert [name for name in NAMES if f"({name}.py)" not in page] == []
