"""LoRA files in three key formats: recorded files, readers of diffusers, and what is refused."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.golden_files import FOLDER, load_golden, with_prefix
from tests.rows import every_row
from video.wan.lora_keys import FORMATS, METADATA, ORIGINAL, lora_of, lora_tensors, read_lora, write_lora

RECORDED = ("diffusers", "original", "original_ab", "kohya")


@pytest.fixture(scope="module")
def golden():
    """Tensors, sizes, and the table of keys."""
    tensors, config = load_golden("lora_keys")
    return tensors, config, json.loads((FOLDER / "lora_keys.json").read_text())


@pytest.fixture(scope="module")
def lora(golden):
    """The recorded LoRA, as kohya's format has it: matrices as they are, and alpha."""
    return lora_of(with_prefix(golden[0], "lora.kohya."), {}, "golden")[0]


@every_row("form", RECORDED)
def test_every_recorded_format_is_read_as_the_same_change(form, golden, lora):
    read, found = lora_of(with_prefix(golden[0], f"lora.{form}."), {}, form)
    assert found == form.removesuffix("_ab") and read.keys() == lora.keys()
    for module, adapter in read.items():
        torch.testing.assert_close(adapter.delta(), lora[module].delta(), msg=module)


@every_row("form", FORMATS)
def test_keys_are_those_of_the_recorded_table(form, golden, lora):
    tensors, metadata = lora_tensors(lora, form)
    table = golden[2]["modules"]
    assert sorted(tensors) == sorted(key for keys in table.values() for key in keys[form])
    if form == "diffusers":
        assert json.loads(metadata[METADATA]) == golden[2]["diffusers_metadata"]
    else:
        recorded = with_prefix(golden[0], f"lora.{form}.")
        assert all(torch.equal(tensors[key], value) for key, value in recorded.items())


def tiny_wan(golden):
    """The recorded base network."""
    from diffusers import WanTransformer3DModel

    tensors, config, _ = golden
    model = WanTransformer3DModel.from_config(config["model"])
    model.load_state_dict(with_prefix(tensors, "state."))
    return model.eval()


@every_row("form", FORMATS)
def test_diffusers_pipeline_takes_what_is_written(form, golden, lora, tmp_path):
    """Through `load_lora_weights` the network gives the recorded numbers; what is read again is what was written."""
    from diffusers import WanPipeline

    model = tiny_wan(golden)
    pipeline = WanPipeline(None, None, None, None, transformer=model)
    file = write_lora(tmp_path / f"{form}.safetensors", lora, form)
    pipeline.load_lora_weights(tmp_path, weight_name=file.name)
    tensors = golden[0]
    with torch.no_grad():
        inputs = (tensors["hidden_states"], tensors["timestep"], tensors["encoder_hidden_states"])
        out = model(*inputs, return_dict=False)[0]
    torch.testing.assert_close(out, tensors["out.merged"], atol=2e-5, rtol=2e-5)
    again, found = read_lora(file)
    assert found == form
    for module, adapter in lora.items():
        assert torch.equal(again[module].up, adapter.up) and again[module].alpha == adapter.alpha, module


def test_adapters_of_several_alphas_keep_their_change_in_every_format(lora, tmp_path):
    """diffusers' file has one alpha: the scale goes into the matrices."""
    mixed = {
        module: dataclasses.replace(adapter, alpha=adapter.alpha * (1 + i % 3))
        for i, (module, adapter) in enumerate(lora.items())
    }
    for form in FORMATS:
        again, _ = read_lora(write_lora(tmp_path / "mixed.safetensors", mixed, form))
        for module, adapter in mixed.items():
            torch.testing.assert_close(again[module].delta(), adapter.delta())


def test_delta_norm_is_the_norm_of_the_change(lora):
    for adapter in lora.values():
        assert adapter.delta_norm() == pytest.approx(float(adapter.delta().norm()), rel=1e-5)


def test_kohya_is_refused_unless_every_module_is_adapted(lora):
    """Its readers fail with a KeyError; q and v alone are an ordinary LoRA in the other formats."""
    some = {module: adapter for module, adapter in lora.items() if module.endswith(("to_q", "to_v"))}
    for form in ("diffusers", "original"):
        assert len(lora_of(*lora_tensors(some, form), form)[0]) == len(some)
    with pytest.raises(ValueError, match=r"format kohya: its readers need all 10 modules of every block.*12 are not"):
        lora_tensors(some, "kohya")
    late = {module: adapter for module, adapter in lora.items() if module.startswith("blocks.1.")}
    with pytest.raises(ValueError, match="10 are not adapted, such as blocks"):
        lora_tensors(late, "kohya")


def change(tensors, **changes):
    """Tensors of which some are replaced, added, or (None) left out."""
    return {key: value for key, value in {**tensors, **changes}.items() if value is not None}


def test_what_is_no_lora_of_wan_is_refused_with_its_name(golden, tmp_path):
    own = with_prefix(golden[0], "lora.original.")
    key = "diffusion_model.blocks.0.self_attn.q.lora_up.weight"
    rows = {
        "no LoRA of Wan in a known format: it has lora_te": {"lora_te_a.lora_down.weight": torch.ones(2, 2)},
        "has not both matrices of blocks.0.attn1.to_q": change(own, **{key: None}),
        "which do not fit": change(own, **{key: torch.ones(3, 7)}),
        "holds NaN or infinity": change(own, **{key: torch.full_like(own[key], torch.nan)}),
        "no low-rank matrix": change(own, **{"diffusion_model.blocks.0.norm3.diff": torch.ones(2)}),
    }
    for words, tensors in rows.items():
        save_file(tensors, tmp_path / "bad.safetensors")
        with pytest.raises(ValueError, match=words) as caught:
            read_lora(tmp_path / "bad.safetensors")
        assert "bad.safetensors" in str(caught.value)
    (tmp_path / "bad.safetensors").write_bytes(b"nothing of use")
    with pytest.raises(ValueError, match="is damaged, or no safetensors"):
        read_lora(tmp_path / "bad.safetensors")
    with pytest.raises(ValueError, match="there is no LoRA file"):
        read_lora(tmp_path / "none.safetensors")


def test_a_file_of_diffusers_without_metadata_has_lost_its_alpha(golden, lora):
    """Its alpha is the rank then, as diffusers reads it; with metadata it is what was trained."""
    unscaled, metadata = lora_tensors(lora, "diffusers")
    first = next(iter(lora))
    assert lora_of(unscaled, {}, "file")[0][first].scale == 1
    assert (
        lora_of(unscaled, metadata, "file")[0][first].scale
        == lora[first].scale
        == golden[2]["alpha"] / golden[2]["rank"]
    )


def test_a_written_file_is_plain_safetensors_with_its_notes(lora, tmp_path):
    file = write_lora(tmp_path / "lora.safetensors", lora, "kohya", {"targets": "q, k"})
    assert len(load_file(file)) == 3 * len(lora) and len(ORIGINAL) * 2 == len(lora)
