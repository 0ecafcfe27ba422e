"""LayerSync in transformers of diffusers: DiT, SD3, Flux, Wan and Stable Audio, all weights or LoRA adapters of peft.

What differs from one to the next is a row of FAMILIES; the training below is one for all.

Letters: B batch, C channels, F latent frames, H and W rows and columns, N tokens, L tokens of a text.
"""

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.models.embeddings import get_1d_rotary_pos_embed
from torch import Tensor

from layersync import LayerSync

Batch = tuple[Tensor, dict[str, Any], Tensor | None]  # data, what the model is told beside, which tokens are aligned
ADAPTED = ["to_q", "to_k", "to_v", "to_out.0", "net.0.proj", "net.2"]  # attention and feed-forward, in each of them
SMALL = {"num_layers": 3, "num_attention_heads": 2}


def dit(c: Any, draw: Callable[..., Tensor]) -> Batch:
    """Latents (B, C, H, W) and their classes (B,)."""
    labels = torch.arange(4) % c.num_embeds_ada_norm
    return draw(4, c.in_channels, c.sample_size, c.sample_size), {"class_labels": labels}, None


def sd3(c: Any, draw: Callable[..., Tensor]) -> Batch:
    """Latents (B, C, H, W), texts (B, L, their width) and pooled texts (B, their width)."""
    texts = {"encoder_hidden_states": draw(4, 7, c.joint_attention_dim)}
    texts["pooled_projections"] = draw(4, c.pooled_projection_dim)
    return draw(4, c.in_channels, c.sample_size, c.sample_size), texts, None


def flux(c: Any, draw: Callable[..., Tensor]) -> Batch:
    """Packed latents (B, N, 4 C) of 4 x 4 patches, places of patches and words, texts as in SD3."""
    rows = torch.arange(4.0)
    places = torch.stack(torch.meshgrid(torch.zeros(1), rows, rows, indexing="ij"), -1).reshape(16, 3)
    told = {"img_ids": places, "txt_ids": torch.zeros(7, 3), "guidance": torch.ones(4) if c.guidance_embeds else None}
    told |= {"encoder_hidden_states": draw(4, 7, c.joint_attention_dim)}
    return draw(4, 16, c.in_channels), told | {"pooled_projections": draw(4, c.pooled_projection_dim)}, None


def wan(c: Any, draw: Callable[..., Tensor]) -> Batch:
    """Latents (B, C, F, H, W) of 4 F - 3 frames, and texts (B, L, their width)."""
    return draw(2, c.in_channels, 3, 8, 8), {"encoder_hidden_states": draw(2, 7, c.text_dim)}, None


def stable_audio(c: Any, draw: Callable[..., Tensor]) -> Batch:
    """Latents (B, C, N) that end in silence, texts and lengths, and which of the latents sound (B, N)."""
    real = torch.arange(16) < torch.tensor([[16], [12], [9], [5]])
    told = {"encoder_hidden_states": draw(4, 7, c.cross_attention_input_dim)}
    told["global_hidden_states"] = draw(4, 1, c.global_states_input_dim)
    told["rotary_embedding"] = get_1d_rotary_pos_embed(  # of a token more: the prefix
        c.attention_head_dim // 2, 16 + 1, use_real=True, repeat_interleave_real=False
    )
    return draw(4, c.in_channels, 16) * real[:, None], told, real


def flow(data: Tensor, noise: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """What the model sees at noise level s, and the velocity that it should return; s = 1 is noise, as in diffusers."""
    return torch.lerp(data, noise, s), noise - data


def cosine(data: Tensor, noise: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """The same of v-prediction on the cosine schedule, as Stable Audio was trained."""
    cos, sin = (math.pi / 2 * s).cos(), (math.pi / 2 * s).sin()
    return cos * data + sin * noise, cos * noise - sin * data


@dataclass(frozen=True)
class Family:
    """A class of diffusers, a tiny configuration, its batches, what LayerSync is told of its blocks, its objective.

    `highest` is the timestep of pure noise. DiT is trained by flow, from the start, as SiT is; its published weights
    predict noise.
    """

    model: str
    tiny: dict[str, Any]
    batch: Callable[[Any, Callable[..., Tensor]], Batch]
    told: dict[str, Any] = field(default_factory=dict)
    highest: int = 1000
    noised: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]] = flow


FAMILIES = {
    "dit": Family(
        "DiTTransformer2DModel",
        {**SMALL, "attention_head_dim": 8, "in_channels": 4, "sample_size": 8, "num_embeds_ada_norm": 10},
        dit,
    ),
    "sd3": Family(  # blocks return (text, image), the last (None, image)
        "SD3Transformer2DModel",
        {**SMALL, "attention_head_dim": 8, "in_channels": 4, "out_channels": 4, "sample_size": 8}
        | {
            "joint_attention_dim": 16,
            "caption_projection_dim": 16,
            "pooled_projection_dim": 16,
            "pos_embed_max_size": 8,
        },
        sd3,
        {"output": 1},
    ),
    "flux": Family(  # (text, image) in two lists, of which numbers count one
        "FluxTransformer2DModel",
        {**SMALL, "num_single_layers": 2, "attention_head_dim": 16, "axes_dims_rope": (4, 6, 6), "in_channels": 16}
        | {"joint_attention_dim": 16, "pooled_projection_dim": 16},
        flux,
        {"blocks": "transformer_blocks", "output": 1},
        highest=1,
    ),
    "wan": Family(
        "WanTransformer3DModel",
        {**SMALL, "attention_head_dim": 12, "in_channels": 4, "out_channels": 4, "text_dim": 16, "freq_dim": 16}
        | {"ffn_dim": 32, "rope_max_seq_len": 32},
        wan,
    ),
    "stable_audio": Family(  # a token of the conditions comes before the sound
        "StableAudioDiTModel",
        {**SMALL, "attention_head_dim": 8, "in_channels": 4, "out_channels": 4, "sample_size": 16}
        | {"num_key_value_attention_heads": 1, "cross_attention_dim": 16, "cross_attention_input_dim": 16}
        | {"time_proj_dim": 8, "global_states_input_dim": 16},
        stable_audio,
        {"tokens": slice(1, None)},
        highest=1,
        noised=cosine,
    ),
}


def load(family: Family, path: str | None, adapt: bool) -> torch.nn.Module:
    """The transformer of a folder, without one a tiny random one; with `adapt` frozen, and adapters of rank 8 in it."""
    kind = getattr(diffusers, family.model)
    torch.manual_seed(0)
    model = kind.from_pretrained(path, use_safetensors=True) if path else kind(**family.tiny)
    if adapt:
        from peft import LoraConfig, inject_adapter_in_model

        inject_adapter_in_model(LoraConfig(r=8, lora_alpha=8, target_modules=ADAPTED), model)
    return model.to(torch.get_default_device()).train()


def save_adapters(model: torch.nn.Module, folder: str) -> None:
    """As safetensors, which diffusers and peft read."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    Path(folder).mkdir(parents=True, exist_ok=True)
    found = {name: value.contiguous() for name, value in get_peft_model_state_dict(model).items()}
    save_file(found, Path(folder) / "pytorch_lora_weights.safetensors")
    print(f"{len(found)} matrices of adapters in {folder}")


def main(
    name: str,
    path: str | None = None,
    steps: int = 20,
    recompute: bool = False,
    backend: str | None = None,
    adapters: str | None = None,
) -> list[float]:
    """The losses of all steps; with `adapters` only those are trained, and saved into that folder."""
    family = FAMILIES[name]
    model = load(family, path, adapt=adapters is not None)
    if recompute:
        model.enable_gradient_checkpointing()
    depth = model.config.num_layers  # pair and weights are the paper's: 8 -> 16 of 28 blocks, scaled; 0.002 for LoRA
    pair, weight = (round(0.3 * depth), round(0.6 * depth)), 0.002 if adapters else 0.2
    sync = LayerSync(model, pairs=[pair], weight=weight, **family.told)  # after the adapters, before torch.compile
    call = torch.compile(model, backend=backend) if backend else model
    optimizer, losses = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-4), []
    draw = partial(torch.randn, generator=torch.Generator(torch.get_default_device()).manual_seed(0))
    torch.manual_seed(1)
    for step in range(steps):
        data, told, real = family.batch(model.config, draw)  # put your own here
        noise, s = torch.randn_like(data), torch.rand(len(data))
        x, target = family.noised(data, noise, s.reshape(-1, *[1] * (data.ndim - 1)))
        out = call(hidden_states=x, timestep=family.highest * s, return_dict=False, **told)[0]
        flow_loss = (out[:, : target.shape[1]] - target).square().mean()  # DiT returns a variance too
        aligned = sync.terms(step, mask=real)  # with time_weight= it takes t=1 - s: flow time is 1 at the data
        loss = flow_loss + aligned.loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        (similarity,) = aligned.similarity.values()
        print(f"step {step}  flow {flow_loss:.3f}  similarity of {pair[0]} and {pair[1]} {similarity:.3f}")
    if adapters:
        save_adapters(model, adapters)
    return losses


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("name", choices=FAMILIES)
    options.add_argument("path", nargs="?", help="folder of a transformer, with config.json and safetensors")
    options.add_argument("--steps", type=int, default=20)
    options.add_argument("--checkpoint", action="store_true", help="recompute blocks in backward")
    options.add_argument("--compile", metavar="BACKEND", help="inductor, or aot_eager where there is no C++ compiler")
    options.add_argument("--lora", metavar="FOLDER", help="train adapters of rank 8 alone, and put them there")
    given = options.parse_args()
    torch.set_default_device("cuda" if torch.cuda.is_available() else "cpu")
    main(given.name, given.path, given.steps, given.checkpoint, given.compile, given.lora)
