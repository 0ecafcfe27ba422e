"""LoRA inside of Wan's transformer: put in through peft, taken out, filled from a file, and how large it is.

Letters: r rank, I inputs, O outputs of a linear map.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from core.extras import extra
from core.processes.sharding import copy_whole_, whole
from video.wan.lora_keys import BLOCK, FORMATS, Adapter, Format, LoRA, read_lora

log = logging.getLogger(__name__)

Target = Literal["q", "k", "v", "o", "ffn.0", "ffn.2"]
ATTENTION = {**{name: f"to_{name}" for name in "qkv"}, "o": "to_out.0"}
FEED_FORWARD = {"ffn.0": "ffn.net.0.proj", "ffn.2": "ffn.net.2"}
NAME = "default"  # of the adapter, inside peft
DOWN, UP = f".lora_A.{NAME}.weight", f".lora_B.{NAME}.weight"


@dataclass(frozen=True)
class LoRAConfig:
    """Which maps of every block get low-rank changes alpha / rank * up @ down, and which files are written of them.

    rank     r
    alpha    the change's scale times r; as large as the rank, the scale is 1
    targets  q, k, v, o of self-attention and of attention to the text; ffn.0 and ffn.2, the feed-forward layers.
             Patches, embeddings of text and time, norms and the head are left as they are
    start    a LoRA file, of any format, to begin with; null: a change of zero
    formats  the files that a run writes; kohya's readers need all targets
    """

    rank: int = 32
    alpha: float = 32.0
    targets: list[Target] = field(default_factory=lambda: ["q", "k", "v", "o", "ffn.0", "ffn.2"])
    start: str | None = None
    formats: list[Format] = field(default_factory=lambda: list(FORMATS))

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha <= 0:
            raise ValueError(f"backbone.lora.rank is {self.rank} and alpha {self.alpha}; both must be above 0")
        if not self.targets or len(set(self.targets)) < len(self.targets):
            raise ValueError(
                f"backbone.lora.targets is {self.targets}; needed: one or more of "
                f"{', '.join([*ATTENTION, *FEED_FORWARD])}, each once"
            )

    @property
    def scale(self) -> float:
        """alpha / rank."""
        return self.alpha / self.rank

    def modules(self, num_blocks: int) -> list[str]:
        """The names of the adapted maps in diffusers' transformer."""
        inner = [
            f"{side}.{ATTENTION[name]}" for side in ("attn1", "attn2") for name in self.targets if name in ATTENTION
        ]
        inner += [FEED_FORWARD[name] for name in self.targets if name in FEED_FORWARD]
        return [f"blocks.{number}.{name}" for number in range(num_blocks) for name in inner]


def add_adapters(transformer: nn.Module, config: LoRAConfig) -> None:
    """Put adapters, float32 and of no change yet, into a frozen transformer; only they are trained."""
    peft = extra("peft", "video.finetune", "wan")
    options = {"r": config.rank, "lora_alpha": config.alpha, "target_modules": config.modules(len(transformer.blocks))}
    peft.inject_adapter_in_model(peft.LoraConfig(**options), transformer, adapter_name=NAME)
    for parameter in transformer.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def adapters_of(state: Mapping[str, Tensor], alpha: float) -> LoRA:
    """The adapters among the tensors of a state dict of a network that has them, whole, by diffusers' names."""
    found: LoRA = {}
    for name, value in state.items():
        if name.endswith(DOWN):
            module = name.removesuffix(DOWN)
            up = state[module + UP]
            found[module[module.index("blocks.") :]] = Adapter(whole(value.detach()), whole(up.detach()), alpha)
    return found


@torch.no_grad()
def fill(transformer: nn.Module, lora: Mapping[str, Adapter], config: LoRAConfig, source: str) -> None:
    """Give the adapters of a network what `lora` has, read from `source`; those that it has not stay without a change.

    Raises ValueError for a LoRA of another model, of another rank, or of maps that are no targets.
    """
    check_fits(lora, transformer, source)
    own = set(config.modules(len(transformer.blocks)))
    foreign = sorted(lora.keys() - own)
    if foreign:
        raise ValueError(
            f"backbone.lora.start: {source} adapts {len(foreign)} maps that are no backbone.lora.targets "
            f"{config.targets}, such as {foreign[0]}"
        )
    parameters = dict(transformer.named_parameters())
    for module, adapter in lora.items():
        if adapter.rank != config.rank:
            raise ValueError(
                f"backbone.lora.start: {source} has rank {adapter.rank} at {module}, backbone.lora.rank is "
                f"{config.rank}"
            )
        copy_whole_(parameters[module + DOWN], adapter.down.float() * (adapter.scale / config.scale))
        copy_whole_(parameters[module + UP], adapter.up.float())
    log.info("%s: %d of %d adapted maps begin with its LoRA", source, len(lora), len(own))


def check_fits(lora: Mapping[str, Adapter], transformer: nn.Module, source: str) -> None:
    """Raises ValueError, in one line, for a LoRA of another model than `transformer`."""
    modules, problems = dict(transformer.named_modules()), []
    for module, adapter in lora.items():
        weight = getattr(_base(modules.get(module)), "weight", None)
        wanted = (len(adapter.up), adapter.down.shape[1])
        if weight is None:
            problems.append(f"the model has no {module}")
        elif tuple(weight.shape) != wanted:
            problems.append(f"{module} is {tuple(weight.shape)} here and {wanted} there (outputs, inputs)")
    if problems:
        fitting = len(lora) - len(problems)
        raise ValueError(f"{source} is a LoRA for another model: {fitting} of {len(lora)} maps fit; {problems[0]}")


def _base(module: Any) -> Any:
    """The map itself, where peft has put an adapter around it."""
    return getattr(module, "base_layer", module)


def delta_norms(lora: Mapping[str, Adapter], num_blocks: int) -> dict[str, float]:
    """Frobenius norm of the change of all maps of each block, by the block's number from 1, with two digits or more."""
    squares = [0.0] * num_blocks
    for module, adapter in lora.items():
        squares[int(BLOCK.fullmatch(module)[1])] += adapter.delta_norm() ** 2
    digits = max(2, len(str(num_blocks)))
    return {f"{number:0{digits}d}": square**0.5 for number, square in enumerate(squares, start=1)}


def read_for(path: str, transformer: nn.Module, source: str) -> LoRA:
    """A LoRA file of any format for `transformer`, with how much of it found its place told; see `check_fits`."""
    lora, form = read_lora(path)
    check_fits(lora, transformer, source)
    log.info("%s: %d of %d maps matched (format %s)", source, len(lora), len(lora), form)
    return lora
