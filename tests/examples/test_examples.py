"""The examples run as they are, on tiny random weights; recomputing and compiling leave their losses as they are."""

import runpy
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.py"))
STEPS = 2


def losses(name, **options):
    """What the example's `main` returns, by a fresh start of everything that torch.compile keeps."""
    torch.compiler.reset()
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"](steps=STEPS, **options)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_an_example_checkpointed_and_compiled_learns_what_it_learns_eagerly(name, capsys):
    plain = losses(name)
    assert len(plain) == STEPS and plain[0] != plain[1]
    assert capsys.readouterr().out.count("similarity") == STEPS
    for options in ({"recompute": True}, {"recompute": True, "backend": "aot_eager"}):
        assert losses(name, **options) == pytest.approx(plain, abs=1e-5), options


def test_the_adapters_of_wan_are_saved_and_the_base_is_not(tmp_path):
    from safetensors.torch import load_file

    losses("wan_lora", save=str(tmp_path))
    (file,) = tmp_path.glob("*.safetensors")
    names = list(load_file(file))
    assert names and all("lora_A" in name or "lora_B" in name for name in names)


def test_the_page_lists_every_example():
    page = (EXAMPLES / "README.md").read_text()
    assert [name for name in NAMES if f"({name}.py)" not in page] == []
