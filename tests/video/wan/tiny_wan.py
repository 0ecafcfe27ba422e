"""A random Wan of a few thousand weights in the real layout: transformer, VAE, UMT5 and its tokenizer, scheduler."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

WORDS = ["a", "red", "blue", "square", "ball", "moves", "left", "right", "slowly", "over", "sand"]
TEXT_WIDTH, LATENTS = 16, 4
TRANSFORMER = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "in_channels": LATENTS,
    "out_channels": LATENTS,
    "text_dim": TEXT_WIDTH,
    "freq_dim": 16,
    "ffn_dim": 32,
    "num_layers": 3,
    "rope_max_seq_len": 32,
}
VAE = {
    "base_dim": 4,
    "z_dim": LATENTS,
    "dim_mult": [1, 1, 2, 2],
    "num_res_blocks": 1,
    "latents_mean": [0.1, -0.2, 0.3, -0.4],
    "latents_std": [0.5, 1.0, 1.5, 2.0],
}


def seeded(make: Any, seed: int) -> nn.Module:
    """What `make` returns, whose weights are all random and a function of the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = make()
        with torch.no_grad():
            for value in network.parameters():
                value.add_(0.05 * torch.randn_like(value))
    return network.eval()


def tiny_transformer(seed: int = 0, **config: Any) -> nn.Module:
    """A WanTransformer3DModel of 3 blocks of width 24."""
    from diffusers import WanTransformer3DModel

    return seeded(lambda: WanTransformer3DModel(**{**TRANSFORMER, **config}), seed)


def tiny_vae(seed: int = 1) -> nn.Module:
    """An AutoencoderKLWan of Wan 2.1's layout."""
    from diffusers import AutoencoderKLWan

    return seeded(lambda: AutoencoderKLWan(**VAE), seed)


def tiny_text_encoder(seed: int = 2) -> nn.Module:
    """A UMT5 of one layer."""
    from transformers import UMT5Config, UMT5EncoderModel

    sizes = {"vocab_size": 40, "d_model": TEXT_WIDTH, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2}
    return seeded(lambda: UMT5EncoderModel(UMT5Config(**sizes)), seed)


def save_tokenizer(folder: Path) -> Path:
    """A unigram tokenizer of a few words, which ends a text as T5's does."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    scores = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -3.0), *(("▁" + word, -1.0) for word in WORDS)]
    own = Tokenizer(models.Unigram(scores, unk_id=2))
    own.pre_tokenizer = pre_tokenizers.Metaspace()
    own.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    marks = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=own, **marks).save_pretrained(folder)
    return folder


def save_wan(root: Path, *, boundary: float | None = None, **config: Any) -> Path:
    """The directory of a tiny Wan; with a boundary, of Wan 2.2, whose second expert has weights of its own."""
    from diffusers import UniPCMultistepScheduler

    index = {
        "_class_name": "WanPipeline",
        "_diffusers_version": "0.36.0",
        "boundary_ratio": boundary,
        "scheduler": ["diffusers", "UniPCMultistepScheduler"],
        "text_encoder": ["transformers", "UMT5EncoderModel"],
        "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
        "transformer": ["diffusers", "WanTransformer3DModel"],
        "transformer_2": ["diffusers", "WanTransformer3DModel"] if boundary else [None, None],
        "vae": ["diffusers", "AutoencoderKLWan"],
    }
    tiny_transformer(**config).save_pretrained(root / "transformer")
    if boundary:
        tiny_transformer(seed=9, **config).save_pretrained(root / "transformer_2")
    tiny_vae().save_pretrained(root / "vae")
    tiny_text_encoder().save_pretrained(root / "text_encoder")
    save_tokenizer(root / "tokenizer")
    options = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
    UniPCMultistepScheduler(**options, num_train_timesteps=1000).save_pretrained(root / "scheduler")
    (root / "model_index.json").write_text(json.dumps(index, indent=1))
    return root
