"""Does a device compute what the CPU computes: one training step with LayerSync, and a few steps of the sampler.

The reference is the CPU in fp32, eager. Weights, data and random numbers are drawn on the CPU and moved, so that both
see the same. Nothing is timed. Letters: B batch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.models import Preset, Work, build_backbone, build_batch, compiled
from benchmarks.sampling import CountedNetwork
from core.alignment.contract import NoAlignmentConfig
from core.alignment.layersync import LayerSyncConfig
from core.conditioning.labels import LabelConditioning, LabelConfig
from core.draws import SampleRandom, StepRandom
from core.flow.objective import FlowMatching, ObjectiveConfig
from core.flow.path import Interpolant, Linear
from core.flow.sampler import Sampler, SamplerConfig
from core.latents.pixels import Pixels
from core.processes.spread import Compile
from core.step import TrainingLoss
from core.train.optimizer import OptimizerConfig
from image.backbone import SiT, SiTConfig

CPU = torch.device("cpu")
# Flow loss: relative; similarity: absolute, it lies in [-1, 1]; gradients, samples: |a - b| / |b| of all of them.
TOLERANCES = {
    "fp32": {"flow loss": 1e-5, "similarity": 1e-5, "weak gradients": 2e-4, "other gradients": 2e-4, "samples": 2e-4},
    "bf16": {"flow loss": 2e-3, "similarity": 2e-3, "weak gradients": 2e-2, "other gradients": 2e-2, "samples": 1e-2},
    "fp16": {"flow loss": 1e-3, "similarity": 1e-3, "weak gradients": 5e-3, "other gradients": 5e-3, "samples": 5e-3},
}
SCALE = {"fp16": 2.0**10}  # of the loss; the gradients of the others are not scaled
WEAK, STRONG = 2, 4
GATES = 0.5  # deviation of the gates' weights and biases: every block counts
PRESET = Preset(
    backbone=SiTConfig(patch_size=2, depth=4, hidden_size=128, num_heads=2),
    latent_shape=(4, 16, 16),
    num_classes=10,
    alignment=LayerSyncConfig(pairs=[(WEAK, STRONG)], weight=1.0),  # so that its gradients are as large as the flow's
    optimizer=OptimizerConfig(),
)


@dataclass(frozen=True)
class CheckWork(Work):
    """The small model of the checks, whatever `size` says."""

    size: str = "checks"
    batch: int = 8
    precision: str = "fp32"
    seed: int = 0

    @property
    def preset(self) -> Preset:
        """The model of the checks."""
        return PRESET


@dataclass(frozen=True)
class Case:
    """One way to take the step; backend: another compiler than PyTorch's own."""

    precision: str = "fp32"
    mode: Compile = "none"
    checkpointed: bool = False
    backend: str = "inductor"

    @property
    def name(self) -> str:
        """As it stands in the record."""
        how = {"none": "eager", "model": "compiled", "blocks": "blocks compiled"}[self.mode]
        return f"{self.precision} {how}" + (", checkpointed" if self.checkpointed else "")


EAGER = [Case(precision, checkpointed=again) for precision in TOLERANCES for again in (False, True)]
COMPILED = [
    Case("bf16", "blocks"),
    Case("bf16", "model"),
    Case("bf16", "blocks", checkpointed=True),
    Case("bf16", "model", checkpointed=True),
    Case("fp32", "blocks"),
    Case("fp32", "model"),
    Case("fp16", "blocks"),
]


@dataclass(frozen=True)
class Outcome:
    """What one step came to, on the CPU: flow loss (B,), gradients of the blocks up to the weak one and of the rest."""

    similarity: float
    flow: Tensor
    weak_gradients: Tensor
    other_gradients: Tensor


class DrawnOnCpu:
    """The random numbers of a step on the CPU, moved to a device: those of a GPU's own generator are others."""

    def __init__(self, random: StepRandom, device: torch.device):
        self.random, self.device = random, device

    def normal(self, stream: str, shape: tuple[int, ...]) -> Tensor:
        """Standard normal numbers (B, ...)."""
        return self.random.normal(stream, shape).to(self.device)

    def uniform(self, stream: str, shape: tuple[int, ...]) -> Tensor:
        """Uniform numbers (B, ...) in [0, 1)."""
        return self.random.uniform(stream, shape).to(self.device)


@contextlib.contextmanager
def exact_products() -> Iterator[None]:
    """No tf32 inside the block: by default a GPU's convolutions, those of the patches, run in it."""
    matmul, convolution = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, convolution.allow_tf32
    matmul.allow_tf32 = convolution.allow_tf32 = False
    try:
        yield
    finally:
        matmul.allow_tf32, convolution.allow_tf32 = before


def build_model(device: torch.device) -> SiT:
    """The network of the checks with open gates, the same on every device."""
    model = build_backbone(PRESET, 0, CPU)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "adaLN_modulation" in name:
            torch.nn.init.normal_(parameter, std=GATES, generator=generator)
    return model.to(device).train()


def take_step(case: Case, device: torch.device, *, aligned: bool = True) -> Outcome:
    """Loss and gradients of one training step."""
    torch.compiler.reset()
    model, work = build_model(device), CheckWork()
    model.checkpoint_blocks = case.checkpointed
    alignment = (PRESET.alignment if aligned else NoAlignmentConfig()).build(model)  # before compile
    if case.mode != "none":
        alignment.compile(backend=case.backend)
    loss = TrainingLoss(
        tokenizer=Pixels(),
        conditioning=LabelConditioning(LabelConfig(), PRESET.num_classes),
        backbone=model,
        objective=FlowMatching(ObjectiveConfig(), model.expand),
        alignment=alignment,
        network=compiled(model, case.mode, case.backend),
        precision=case.precision,
    )
    losses = loss(build_batch(work, device), DrawnOnCpu(StepRandom(0, 0), device), 0)
    scale = SCALE.get(case.precision, 1.0)
    (scale * losses.total).backward()
    later = (*(f"blocks.{i}." for i in range(WEAK, len(model.blocks))), "final_layer.")
    named = {name: each.grad.float().cpu().flatten() / scale for name, each in model.named_parameters()}
    weak = torch.cat([grad for name, grad in named.items() if not name.startswith(later)])
    other = torch.cat([grad for name, grad in named.items() if name.startswith(later)])
    (similarity,) = losses.similarity.values() if aligned else (torch.zeros(()),)
    return Outcome(float(similarity), losses.flow.float().cpu(), weak, other)


@torch.no_grad()
def take_samples(case: Case, device: torch.device) -> Tensor:
    """Latents (B, C, Y, X) on the CPU: eight steps of Heun's rule with guidance."""
    torch.compiler.reset()
    model, batch = build_model(device).eval(), CheckWork().batch
    conditioning = LabelConditioning(LabelConfig(), PRESET.num_classes)
    labels = conditioning.requests(batch, 0).to(device)
    sampler = Sampler(SamplerConfig(num_steps=8, guidance_scale=1.5), Interpolant(Linear()), "velocity")
    network = CountedNetwork(compiled(model, case.mode, case.backend), case.precision)
    random = SampleRandom(0, range(batch), device)
    shape = (batch, *PRESET.latent_shape)
    return sampler(network, shape, labels, conditioning.null(labels), random).cpu()


def relative(a: Tensor, b: Tensor) -> float:
    """|a - b| / |b|, in float64."""
    a, b = a.double(), b.double()
    return float((a - b).norm() / b.norm())


def compare(found: Outcome, wanted: Outcome) -> dict[str, float]:
    """Errors of one outcome, with the keys of `TOLERANCES`."""
    return {
        "flow loss": relative(found.flow.mean(), wanted.flow.mean()),
        "similarity": abs(found.similarity - wanted.similarity),
        "weak gradients": relative(found.weak_gradients, wanted.weak_gradients),
        "other gradients": relative(found.other_gradients, wanted.other_gradients),
    }


def verdict(name: str, errors: Mapping[str, float], allowed: Mapping[str, float]) -> dict[str, Any]:
    """A check for the record; it passes when no error is above its tolerance, and NaN does not pass."""
    allowed = {key: allowed[key] for key in errors}
    passed = all(error <= allowed[key] for key, error in errors.items())
    return {"name": name, "passed": passed, "errors": dict(errors), "allowed": allowed}


def attempt(name: str, check: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The verdict of `check`; one that raises has not passed, and the others still run."""
    try:
        return check()
    except Exception as error:  # noqa: BLE001, recorded as a check that failed
        return {"name": name, "passed": False, "error": f"{type(error).__name__}: {error}"[:1000]}


def check_steps(cases: Iterable[Case], device: torch.device, backend: str = "inductor") -> Iterator[dict[str, Any]]:
    """A verdict for each case: its step on `device` against the CPU's in fp32, eager."""
    wanted = take_step(Case(), CPU)
    for case in (replace(each, backend=backend) for each in cases):
        allowed = TOLERANCES[case.precision]

        def check(case: Case = case, allowed: Mapping[str, float] = allowed) -> dict[str, Any]:
            return verdict(case.name, compare(take_step(case, device), wanted), allowed)

        yield attempt(case.name, check)


def check_layersync(device: torch.device) -> Iterator[dict[str, Any]]:
    """LayerSync moves the weak side's gradients, and leaves the flow loss as it is to the last bit."""
    for precision, allowed in TOLERANCES.items():

        def check(precision: str = precision, visible: float = 5 * allowed["weak gradients"]) -> dict[str, Any]:
            on, off = (take_step(Case(precision), device, aligned=aligned) for aligned in (True, False))
            same, share = torch.equal(on.flow, off.flow), relative(on.weak_gradients, off.weak_gradients)
            name = f"{precision}: LayerSync changes the weak gradients, not the flow loss"
            return {"name": name, "passed": same and share > visible, "flow_equal": same, "share_of_gradients": share}

        yield attempt(f"{precision}: LayerSync on and off", check)


def check_samples(device: torch.device) -> Iterator[dict[str, Any]]:
    """Heun's rule with guidance on `device` against the CPU in fp32."""
    wanted = take_samples(Case(), CPU)
    for precision, allowed in TOLERANCES.items():
        name = f"{precision} samples, Heun"

        def check(name: str = name, precision: str = precision, allowed: Any = allowed) -> dict[str, Any]:
            return verdict(name, {"samples": relative(take_samples(Case(precision), device), wanted)}, allowed)

        yield attempt(name, check)
