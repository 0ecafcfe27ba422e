"""LayerSync in the training loops of Accelerate, of Hugging Face's Trainer, and of Lightning.

Two lines, whichever it is: LayerSync is built on the bare model, before the loop wraps it (DDP, FSDP, torch.compile),
and its term is added where the loop takes the loss.

Letters: B batch, C channels, H and W rows and columns.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator

import torch
from diffusers import DiTTransformer2DModel
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from layersync import AlignmentTerms, LayerSync, WeightSchedule

CLASSES, BATCH, RATE = 10, 4, 1e-3


def build(recompute: bool) -> tuple[DiTTransformer2DModel, LayerSync]:
    """A tiny random DiT, and LayerSync from its first block towards its third until step 1000."""
    torch.manual_seed(0)
    model = DiTTransformer2DModel(
        num_layers=4,
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=4,
        sample_size=8,
        num_embeds_ada_norm=CLASSES,
    )
    if recompute:
        model.enable_gradient_checkpointing()
    return model, LayerSync(model, pairs=[(1, 3)], weight=0.2, schedule=WeightSchedule("stop", end_step=1000))


class Latents(IterableDataset):
    """Latents (C, H, W), the noise that is mixed into them, and how much of it, s in [0, 1]: put yours here."""

    def __init__(self, count: int):
        self.count = count

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        random = torch.Generator().manual_seed(0)
        for _ in range(self.count):
            data, noise = torch.randn(2, 4, 8, 8, generator=random)
            yield {"data": data, "noise": noise, "s": torch.rand((), generator=random)}


def flow_loss(model: Callable[..., tuple[Tensor]], batch: dict[str, Tensor]) -> Tensor:
    """The error of the velocity, of images without a class."""
    data, noise, s = batch["data"], batch["noise"], batch["s"]
    x = torch.lerp(data, noise, s[:, None, None, None])
    unlabelled = torch.full((len(data),), CLASSES, device=data.device)
    return (model(x, 1000 * s, unlabelled, return_dict=False)[0] - (noise - data)).square().mean()


def tell(step: int, flow: Tensor, aligned: AlignmentTerms) -> float:
    """The whole loss of a step, after a line about it."""
    print(f"step {step}  flow {flow:.3f}  similarity of 1 and 3 {aligned.similarity['1->3']:.3f}")
    return (flow + aligned.loss).item()


def with_accelerate(steps: int, recompute: bool, backend: str | None) -> list[float]:
    """A loop of one's own; on several processes `accelerate launch` runs it as it is."""
    from accelerate import Accelerator

    accelerator = Accelerator(dynamo_backend=backend or "no")
    model, sync = build(recompute)
    model, optimizer, loader = accelerator.prepare(
        model, torch.optim.AdamW(model.parameters(), RATE), DataLoader(Latents(BATCH * steps), BATCH)
    )
    losses = []
    for step, batch in enumerate(loader):
        flow = flow_loss(model, batch)
        aligned = sync.terms(step)
        optimizer.zero_grad()
        accelerator.backward(flow + aligned.loss)
        optimizer.step()
        losses.append(tell(step, flow, aligned))
    return losses


def with_trainer(steps: int, recompute: bool, backend: str | None) -> list[float]:
    """Hugging Face's Trainer takes the loss in `compute_loss`, in training and in evaluation."""
    from transformers import Trainer, TrainingArguments

    model, sync = build(recompute)
    losses = []

    class FlowTrainer(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            flow = flow_loss(model, inputs)
            aligned = sync.terms(self.state.global_step)
            if model.training:
                losses.append(tell(self.state.global_step, flow, aligned))
            loss = flow + aligned.loss if model.training else flow
            return (loss, {}) if return_outputs else loss

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            max_steps=steps,
            per_device_train_batch_size=BATCH,
            lr_scheduler_type="constant",
            max_grad_norm=0,  # as the other loops here; a clipped norm is that of the sum of both losses
            torch_compile_backend=backend,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
        )
        optimizer = torch.optim.AdamW(model.parameters(), RATE)
        FlowTrainer(model, arguments, train_dataset=Latents(BATCH * steps), optimizers=(optimizer, None)).train()
    return losses


def with_lightning(steps: int, recompute: bool, backend: str | None) -> list[float]:
    """Lightning calls the module around the model: LayerSync is built on the model, which `training_step` calls."""
    try:
        import lightning
    except ImportError as error:
        raise SystemExit("this loop needs Lightning: pip install lightning") from error
    losses = []

    class Flow(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model, self.sync = build(recompute)
            if backend:
                self.model.compile(backend=backend)  # in place: the names of its weights stay

        def training_step(self, batch: dict[str, Tensor], number: int) -> Tensor:
            flow = flow_loss(self.model, batch)
            aligned = self.sync.terms(self.global_step)
            losses.append(tell(self.global_step, flow, aligned))
            return flow + aligned.loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), RATE)

    trainer = lightning.Trainer(max_steps=steps, logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.fit(Flow(), DataLoader(Latents(BATCH * steps), BATCH))
    return losses


LOOPS = {"accelerate": with_accelerate, "trainer": with_trainer, "lightning": with_lightning}


def main(name: str, steps: int = 20, recompute: bool = False, backend: str | None = None) -> list[float]:
    """The losses of all steps, the same in each loop."""
    return LOOPS[name](steps, recompute, backend)


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("name", choices=LOOPS)
    options.add_argument("--steps", type=int, default=20)
    options.add_argument("--checkpoint", action="store_true", help="recompute blocks in backward")
    options.add_argument("--compile", metavar="BACKEND", help="inductor, or aot_eager where there is no C++ compiler")
    given = options.parse_args()
    main(given.name, given.steps, given.checkpoint, given.compile)
