"""LoRA inside of Wan's transformer: put in, taken out, begun from a file, measured, refused where it does not fit."""

import pytest
import torch

from tests.rows import every_row
from tests.video.wan.tiny_wan import tiny_transformer
from video.wan.lora import LoRAConfig, adapters_of, add_adapters, check_fits, delta_norms, fill, read_for
from video.wan.lora_keys import FORMATS, Adapter, write_lora

INPUTS = (
    torch.randn(1, 4, 2, 4, 4, generator=torch.Generator().manual_seed(0)),
    torch.tensor([300.0]),
    torch.randn(1, 5, 16, generator=torch.Generator().manual_seed(1)),
)


def adapted(config, seed=0):
    """A tiny Wan with adapters whose matrices are all random."""
    model = tiny_transformer().requires_grad_(False)
    add_adapters(model, config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in model.parameters():
            if value.requires_grad:
                value.copy_(0.1 * torch.randn(value.shape, generator=generator))
    return model


@torch.no_grad()
def output(model):
    """What the network makes of fixed inputs."""
    return model(*INPUTS, return_dict=False)[0]


def test_targets_name_the_maps_of_both_attentions_and_nothing_else():
    """Norms, embeddings and the head have no adapter; nothing but adapters is trained."""
    for targets, count in ((["q", "v"], 4), (["q", "k", "v", "o", "ffn.0", "ffn.2"], 10), (["ffn.2"], 1)):
        model = adapted(LoRAConfig(rank=2, targets=targets))
        lora = adapters_of(model.state_dict(), 2.0)
        assert len(lora) == 3 * count and sorted(lora) == sorted(LoRAConfig(targets=targets).modules(3))
        trained = [name for name, value in model.named_parameters() if value.requires_grad]
        assert len(trained) == 2 * len(lora) and all("lora_" in name for name in trained)


def test_new_adapters_change_nothing():
    model = tiny_transformer().requires_grad_(False)
    before = output(model)
    add_adapters(model, LoRAConfig(rank=2))
    assert torch.equal(output(model), before)


@every_row("form", FORMATS)
def test_a_run_may_begin_with_a_file_of_any_format_and_another_alpha(form, tmp_path):
    """The network is the one that was written, although the new adapters have another scale."""
    trained = LoRAConfig(rank=2, alpha=6.0)
    model = adapted(trained)
    file = write_lora(tmp_path / "lora.safetensors", adapters_of(model.state_dict(), trained.alpha), form)
    fresh, config = tiny_transformer().requires_grad_(False), LoRAConfig(rank=2, alpha=1.0)
    add_adapters(fresh, config)
    fill(fresh, read_for(str(file), fresh, str(file)), config, str(file))
    torch.testing.assert_close(output(fresh), output(model), atol=1e-5, rtol=1e-5)


def test_the_change_of_each_block_is_told():
    config = LoRAConfig(rank=2, alpha=4.0, targets=["q", "ffn.0"])
    lora = adapters_of(adapted(config).state_dict(), config.alpha)
    norms = delta_norms(lora, 3)
    assert list(norms) == ["01", "02", "03"]
    squares = sum(
        float(lora[f"blocks.1.{name}"].delta().square().sum())
        for name in ("attn1.to_q", "attn2.to_q", "ffn.net.0.proj")
    )
    assert norms["02"] == pytest.approx(squares**0.5, rel=1e-5)


def test_a_lora_of_another_model_is_one_error():
    """A wider one, a deeper one; how much of it fits is told."""
    lora = adapters_of(adapted(LoRAConfig(rank=2)).state_dict(), 2.0)
    with pytest.raises(
        ValueError, match=r"file is a LoRA for another model: 0 of 30 maps fit; blocks.0.attn1.to_q is \(48, 48\)"
    ):
        check_fits(lora, tiny_transformer(num_attention_heads=4, ffn_dim=64), "file")
    with pytest.raises(ValueError, match="20 of 30 maps fit; the model has no blocks"):
        check_fits(lora, tiny_transformer(num_layers=2), "file")
    check_fits(lora, adapted(LoRAConfig(rank=3)), "file")


@every_row(
    ("config", "words"),
    [
        (LoRAConfig(rank=3), "has rank 2 at blocks.0.attn1.to_q, backbone.lora.rank is 3"),
        (LoRAConfig(rank=2, targets=["q"]), "adapts 24 maps that are no backbone.lora.targets ['q'], such as"),
    ],
)
def test_a_file_that_does_not_fit_the_run_is_refused(config, words):
    lora = adapters_of(adapted(LoRAConfig(rank=2)).state_dict(), 2.0)
    model = tiny_transformer().requires_grad_(False)
    add_adapters(model, config)
    with pytest.raises(ValueError) as caught:
        fill(model, lora, config, "file")
    assert words in str(caught.value)


def test_bad_options_are_refused():
    for options, words in (
        ({"rank": 0}, "rank is 0"),
        ({"targets": []}, "targets is"),
        ({"targets": ["q", "q"]}, "once"),
    ):
        with pytest.raises(ValueError, match=words):
            LoRAConfig(**options)
    assert Adapter(torch.ones(2, 3), torch.ones(4, 2), 4.0).scale == 2
