"""Where the image, video or sound tokens are in the blocks of diffusers' transformers, as the documents have it."""

import re
from pathlib import Path

import pytest
import torch

from layersync import LayerSync

PAGE = Path(__file__).resolve().parents[2] / "docs" / "in_your_model.md"
B, L, TEXT = 2, 5, 16
SMALL = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2}


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


STEPS, TEXTS = torch.tensor([100.0, 500.0]), noise(B, L, TEXT)
IMAGE, VIDEO = noise(B, 4, 8, 8), noise(B, 4, 2, 8, 8)
JOINT = {"joint_attention_dim": TEXT, "out_channels": 4}
# class: (options, inputs, number of tokens that are no text)
TINY = {
    "DiTTransformer2DModel": (
        {**SMALL, "in_channels": 4, "sample_size": 8, "num_embeds_ada_norm": 10},
        {"hidden_states": IMAGE, "class_labels": torch.tensor([3, 5])},
        16,
    ),
    "SD3Transformer2DModel": (
        {
            **SMALL,
            **JOINT,
            "sample_size": 8,
            "in_channels": 4,
            "caption_projection_dim": 16,
            "pooled_projection_dim": 16,
        }
        | {"pos_embed_max_size": 8},
        {"hidden_states": IMAGE, "pooled_projections": noise(B, 16)},
        16,
    ),
    "FluxTransformer2DModel": (
        {**SMALL, "in_channels": 4, "num_single_layers": 3, "joint_attention_dim": TEXT, "pooled_projection_dim": 16}
        | {"attention_head_dim": 16, "axes_dims_rope": (4, 6, 6)},
        {"hidden_states": noise(B, 16, 4), "pooled_projections": noise(B, 16)}
        | {"img_ids": torch.zeros(16, 3), "txt_ids": torch.zeros(L, 3)},
        16,
    ),
    "QwenImageTransformer2DModel": (
        {**SMALL, **JOINT, "in_channels": 16, "attention_head_dim": 16, "axes_dims_rope": (4, 6, 6)},
        {"hidden_states": noise(B, 16, 16), "encoder_hidden_states_mask": torch.ones(B, L).bool()}
        | {"img_shapes": [[(1, 4, 4)]] * B},
        16,
    ),
    "HunyuanVideoTransformer3DModel": (
        {**SMALL, "in_channels": 4, "out_channels": 4, "attention_head_dim": 10, "num_single_layers": 3}
        | {"num_refiner_layers": 1, "guidance_embeds": False, "text_embed_dim": TEXT, "pooled_projection_dim": 8}
        | {"rope_axes_dim": (2, 4, 4)},
        {"hidden_states": VIDEO, "encoder_attention_mask": torch.ones(B, L), "pooled_projections": noise(B, 8)},
        32,
    ),
    "CogVideoXTransformer3DModel": (
        {**SMALL, "in_channels": 4, "out_channels": 4, "attention_head_dim": 16, "time_embed_dim": 4}
        | {"text_embed_dim": TEXT, "sample_width": 8, "sample_height": 8, "sample_frames": 5, "max_text_seq_length": L},
        {"hidden_states": VIDEO.transpose(1, 2)},
        32,
    ),
    "MochiTransformer3DModel": (
        {**SMALL, "pooled_projection_dim": 16, "in_channels": 4, "text_embed_dim": TEXT, "time_embed_dim": 4}
        | {"max_sequence_length": L},
        {"hidden_states": VIDEO, "encoder_attention_mask": torch.ones(B, L).bool()},
        32,
    ),
    "WanTransformer3DModel": (
        {**SMALL, "in_channels": 4, "out_channels": 4, "attention_head_dim": 12, "text_dim": TEXT, "freq_dim": 16}
        | {"ffn_dim": 32, "rope_max_seq_len": 32},
        {"hidden_states": VIDEO},
        32,
    ),
    "LTXVideoTransformer3DModel": (
        {**SMALL, "in_channels": 4, "out_channels": 4, "cross_attention_dim": 16, "caption_channels": TEXT},
        {"hidden_states": noise(B, 32, 4), "encoder_attention_mask": torch.ones(B, L).bool()}
        | {"num_frames": 2, "height": 4, "width": 4},
        32,
    ),
    "PixArtTransformer2DModel": (
        {**SMALL, "out_channels": 8, "cross_attention_dim": 16, "sample_size": 8, "caption_channels": TEXT}
        | {"use_additional_conditions": False},
        {"hidden_states": IMAGE},
        16,
    ),
    "StableAudioDiTModel": (
        {**SMALL, "sample_size": 16, "in_channels": 4, "out_channels": 4, "num_key_value_attention_heads": 1}
        | {"cross_attention_dim": 16, "time_proj_dim": 8, "global_states_input_dim": 16}
        | {"cross_attention_input_dim": TEXT},
        {"hidden_states": noise(B, 4, 16), "global_hidden_states": noise(B, 1, 16)},
        16,
    ),
    "Lumina2Transformer2DModel": (
        {"sample_size": 8, "in_channels": 4, "hidden_size": 24, "num_layers": 2, "num_refiner_layers": 1}
        | {"num_attention_heads": 3, "num_kv_heads": 1, "axes_dim_rope": (4, 2, 2), "axes_lens": (32, 32, 32)}
        | {"cap_feat_dim": TEXT},
        {"hidden_states": IMAGE, "encoder_attention_mask": torch.ones(B, L).bool()},
        16,
    ),
}


def options_of_the_page():
    """Class -> the options of LayerSync that the table of the page has for it."""
    rows = re.findall(r"^\| `(\w+Model)` \|[^|]*\| (.*?) \|$", PAGE.read_text(), re.M)
    return {name: eval(f"dict({code.strip('`')})" if code != "none" else "{}") for name, code in rows}


def test_the_table_and_the_tests_know_the_same_models():
    assert set(options_of_the_page()) == set(TINY)


@pytest.mark.parametrize("name", TINY)
def test_the_tokens_that_are_no_text_are_taken(name):
    diffusers = pytest.importorskip("diffusers")
    arguments, inputs, count = TINY[name]
    torch.manual_seed(0)
    model = getattr(diffusers, name)(**arguments)
    sync = LayerSync(model, [(1, 2)], **options_of_the_page()[name])
    inputs = inputs if "class_labels" in inputs else {"encoder_hidden_states": TEXTS, **inputs}
    model(timestep=STEPS, **inputs)
    shapes = [tokens.shape[:2] for tokens in sync.hooks.take().values()]
    assert shapes == [(B, count), (B, count)]
    model(timestep=STEPS, **inputs)
    sync().backward()


def test_the_last_block_of_sd3_returns_no_text():
    diffusers = pytest.importorskip("diffusers")
    arguments, inputs, count = TINY["SD3Transformer2DModel"]
    model = diffusers.SD3Transformer2DModel(**arguments)
    sync = LayerSync(model, [(1, 2)], output=1)
    with torch.no_grad():
        model.eval()(timestep=STEPS, encoder_hidden_states=TEXTS, **inputs)
    assert sync.hooks.tokens["transformer_blocks.1"][0].shape[1] == count
