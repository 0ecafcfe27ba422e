"""LayerSync in a plain torch.nn.TransformerEncoder that learns to denoise sequences of different lengths.

Letters: B batch, N tokens, C channels, D width.
"""

import argparse
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from layersync import LayerSync, WeightSchedule


class Denoiser(nn.Module):
    """(B, N, C) and flow times (B,) -> velocity (B, N, C); the encoder takes the sequence first, torch's default."""

    def __init__(self, channels: int = 4, width: int = 32, depth: int = 6):
        super().__init__()
        self.embed, self.time, self.head = nn.Linear(channels, width), nn.Linear(1, width), nn.Linear(width, channels)
        layer = nn.TransformerEncoderLayer(width, nhead=4, dim_feedforward=4 * width, dropout=0.0)
        self.encoder = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.recompute = False

    def forward(self, x: Tensor, t: Tensor, padding: Tensor) -> Tensor:
        """padding (B, N) is true where a token is none."""
        tokens = (self.embed(x) + self.time(t[:, None])[:, None]).transpose(0, 1)
        for block in self.encoder.layers:
            if self.recompute:
                tokens = checkpoint(block, tokens, None, padding, use_reentrant=False)
            else:
                tokens = block(tokens, None, padding)
        return self.head(tokens.transpose(0, 1))


def batches(steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Sine waves (B, N, C) of 8 to 16 tokens, and which of their tokens are real (B, N)."""
    random = torch.Generator().manual_seed(0)
    for _ in range(steps):
        phase = 6.28 * torch.rand(16, 1, 4, generator=random)
        length = torch.randint(8, 17, (16, 1), generator=random)
        yield torch.sin(phase + torch.arange(16).reshape(1, -1, 1) / 2), torch.arange(16) < length


def main(steps: int = 20, recompute: bool = False, backend: str | None = None) -> list[float]:
    """The losses of all steps."""
    torch.manual_seed(0)
    model = Denoiser()
    model.recompute = recompute
    # Before torch.compile. The encoder says itself that its tokens are (N, B, D); masks and times have the batch first.
    warmup = WeightSchedule("warmup", warmup_steps=5)
    sync = LayerSync(model, pairs=[(2, 5)], weight=0.2, schedule=warmup)
    call = torch.compile(model, backend=backend) if backend else model
    optimizer, losses = torch.optim.AdamW(model.parameters(), 1e-3), []
    for step, (data, real) in enumerate(batches(steps)):
        noise, t = torch.randn_like(data), torch.rand(len(data))  # t = 0 is noise, t = 1 is data
        x = t[:, None, None] * data + (1 - t)[:, None, None] * noise
        velocity = call(x, t, ~real)
        flow_loss = (velocity - (data - noise)).square().mean(-1)[real].mean()
        aligned = sync.terms(step, mask=real)
        loss = flow_loss + aligned.loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        print(f"step {step}  flow {flow_loss:.3f}  similarity of 2 and 5 {aligned.similarity['2->5']:.3f}")
    return losses


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--steps", type=int, default=20)
    options.add_argument("--checkpoint", action="store_true", help="recompute blocks in backward")
    options.add_argument("--compile", metavar="BACKEND", help="inductor, or aot_eager where there is no C++ compiler")
    given = options.parse_args()
    main(given.steps, given.checkpoint, given.compile)
