"""LayerSync in a LoRA fine-tuning of Wan 2.1 with diffusers and peft, at the paper's pair and weight.

The base is frozen: the term trains the adapters of the blocks up to the weak one.

Letters: B batch, C channels, F latent frames, H and W rows and columns, L tokens of a text, E features of one.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from diffusers import WanTransformer3DModel
from peft import LoraConfig
from torch import Tensor

from layersync import LayerSync

PAIR, WEIGHT = (9, 17), 0.002  # the paper's, of 30 blocks, counted from 1
TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2"]


def load(path: str | None) -> WanTransformer3DModel:
    """The transformer of a folder, as `Wan2.1-T2V-1.3B-Diffusers/transformer`; without one a tiny random one."""
    if path:
        return WanTransformer3DModel.from_pretrained(path, use_safetensors=True)
    torch.manual_seed(0)
    return WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=16,
        freq_dim=16,
        ffn_dim=32,
        num_layers=18,
        rope_max_seq_len=32,
    )


def batches(model: WanTransformer3DModel, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Normalised latents (B, C, F, H, W) of 4 F - 3 frames, and embedded texts (B, L, E): put yours here."""
    random, c = torch.Generator().manual_seed(0), model.config
    for _ in range(steps):
        text = torch.randn(2, 7, c.text_dim, generator=random)
        movement = torch.linspace(-1, 1, 3).reshape(1, 1, -1, 1, 1) * text.mean((1, 2)).reshape(-1, 1, 1, 1, 1)
        yield movement + torch.randn(2, c.in_channels, 3, 8, 8, generator=random), text


def main(
    path: str | None = None,
    steps: int = 20,
    recompute: bool = False,
    backend: str | None = None,
    save: str | None = None,
) -> list[float]:
    """The losses of all steps; the adapters are saved as safetensors into the folder `save`."""
    model = load(path).train().requires_grad_(False)
    torch.manual_seed(1)
    model.add_adapter(LoraConfig(r=8, lora_alpha=8, target_modules=TARGETS))
    if recompute:
        model.enable_gradient_checkpointing()
    sync = LayerSync(model, pairs=[PAIR], weight=WEIGHT)  # after the adapters, before a compilation
    if backend:
        model.compile_repeated_blocks(backend=backend)  # one compilation for all blocks, instead of one of all of them
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer, losses = torch.optim.AdamW(trained, 1e-4), []
    for step, (latents, text) in enumerate(batches(model, steps)):
        noise, sigma = torch.randn_like(latents), torch.rand(len(latents))
        sigma = 3 * sigma / (1 + 2 * sigma)  # shifted towards noise
        x = torch.lerp(latents, noise, sigma.reshape(-1, 1, 1, 1, 1))
        velocity = model(x, 1000 * sigma, text, return_dict=False)[0]
        flow_loss = (velocity - (noise - latents)).square().mean()
        aligned = sync.terms(step)
        loss = flow_loss + aligned.loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        print(f"step {step}  flow {flow_loss:.3f}  similarity {aligned.similarity[f'{PAIR[0]}->{PAIR[1]}']:.3f}")
    if save:
        model.save_lora_adapter(save, safe_serialization=True)
        print(f"adapters of {len(trained)} matrices: {Path(save)}")
    return losses


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("path", nargs="?", help="folder of a transformer, with config.json and safetensors")
    options.add_argument("--steps", type=int, default=20)
    options.add_argument("--checkpoint", action="store_true", help="recompute blocks in backward")
    options.add_argument("--compile", metavar="BACKEND", help="inductor, or aot_eager where there is no C++ compiler")
    options.add_argument("--save", metavar="FOLDER", help="where to put the adapters")
    given = options.parse_args()
    main(given.path, given.steps, given.checkpoint, given.compile, given.save)
