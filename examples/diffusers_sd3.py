"""LayerSync in Stable Diffusion 3 of diffusers: the image stream of an early block learns from that of a later one.

A block returns (text, image), and the last one (None, image): output=1 is the image.

Letters: B batch, C channels, H and W rows and columns, L tokens of a text, E features of one, P of a whole text.
"""

import argparse
from collections.abc import Iterator

import torch
from diffusers import SD3Transformer2DModel
from torch import Tensor

from layersync import LayerSync


def load(path: str | None) -> SD3Transformer2DModel:
    """The transformer of a folder, as `stable-diffusion-3-medium/transformer`; without one a tiny random one."""
    if path:
        return SD3Transformer2DModel.from_pretrained(path, use_safetensors=True)
    torch.manual_seed(0)
    return SD3Transformer2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        num_layers=6,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        caption_projection_dim=32,
        pooled_projection_dim=16,
        pos_embed_max_size=8,
    )


def batches(model: SD3Transformer2DModel, steps: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Latents (B, C, H, W), embedded texts (B, L, E) and their pooled form (B, P): put yours here."""
    random, c = torch.Generator().manual_seed(0), model.config
    for _ in range(steps):
        text = torch.randn(4, 7, c.joint_attention_dim, generator=random)
        latents = text.mean((1, 2))[:, None, None, None] + torch.randn(4, c.in_channels, 1, 1, generator=random)
        yield latents.expand(-1, -1, c.sample_size, c.sample_size), text, text[:, 0, : c.pooled_projection_dim]


def main(path: str | None = None, steps: int = 20, recompute: bool = False, backend: str | None = None) -> list[float]:
    """The losses of all steps."""
    model = load(path).train()
    if recompute:
        model.enable_gradient_checkpointing()
    depth = len(model.transformer_blocks)  # the paper's 8 -> 16 of 28 blocks, scaled; 0.2 is its weight
    sync = LayerSync(model, pairs=[(round(depth * 0.3), round(depth * 0.6))], weight=0.2, output=1)
    call = torch.compile(model, backend=backend) if backend else model
    optimizer, losses = torch.optim.AdamW(model.parameters(), 1e-3), []
    torch.manual_seed(1)
    for step, (latents, text, pooled) in enumerate(batches(model, steps)):
        noise, sigma = torch.randn_like(latents), torch.rand(len(latents))  # diffusers: sigma = 1 is noise
        x = torch.lerp(latents, noise, sigma[:, None, None, None])
        velocity = call(x, text, pooled, timestep=1000 * sigma, return_dict=False)[0]
        flow_loss = (velocity - (noise - latents)).square().mean()
        aligned = sync.terms(step)  # with time_weight= it takes t = 1 - sigma: flow time is 1 at the data
        loss = flow_loss + aligned.loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        (similarity,) = aligned.similarity.values()
        print(f"step {step}  flow {flow_loss:.3f}  similarity {similarity:.3f}")
    return losses


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("path", nargs="?", help="folder of a transformer, with config.json and safetensors")
    options.add_argument("--steps", type=int, default=20)
    options.add_argument("--checkpoint", action="store_true", help="recompute blocks in backward")
    options.add_argument("--compile", metavar="BACKEND", help="inductor, or aot_eager where there is no C++ compiler")
    given = options.parse_args()
    main(given.path, given.steps, given.checkpoint, given.compile)
