"""What a training step asks of an alignment method, what a method may need, and the baseline: none.

A method is a config and what the config builds. The config says, before anything is built, which layers it listens to
and what it `Needs`; what it builds has trained `heads` or none, and makes its `terms` of one training `Forward`.

Letters: B batch, N tokens.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

from torch import Tensor, nn

from core.contracts import Batch, Condition, FeatureEncoder
from core.draws import Random, numpy_rng
from core.flow.objective import FlowMatching
from core.flow.path import Interpolant
from layersync import pairs as choosing
from layersync import sync
from layersync.blocks import Layer
from layersync.hooks import LayerHooks
from layersync.outputs import LayerOutput
from layersync.pairs import PairChoice
from layersync.sync import AlignmentTerms

if TYPE_CHECKING:
    from core.alignment.teacher import Teacher


@dataclass(frozen=True)
class Forward:
    """One training forward and all that it was made of; B rows of this process and micro-batch.

    step         the optimizer step, from 0
    batch        media, conditions before the drop, rows of the data set, mask (B, N)
    latents      (B, *latent) clean, and noise of the same shape
    t            flow times (B,) or (B, N), and x_t (B, *latent) there
    condition    (B, ...) after the drop, as the network saw it
    prediction   (B, *latent) what the network returned
    random       the step's streams: what is drawn again under the same name is the same
    objective    what the flow loss is made by; `interpolant` is its path, laid out over latents
    kept         (B, K) the tokens, ascending, that the routed blocks saw; None: every block saw all (`trainer.routing`)
    """

    step: int
    batch: Batch
    latents: Tensor
    noise: Tensor
    t: Tensor
    x_t: Tensor
    condition: Condition
    prediction: Tensor
    random: Random
    objective: FlowMatching
    kept: Tensor | None = None

    @property
    def interpolant(self) -> Interpolant:
        """The path, laid out over latents."""
        return self.objective.interpolant


@dataclass(frozen=True)
class Needs:
    """What a method asks of the run, read from its config before anything is built; what cannot be given is refused.

    teacher       layers that are captured in a second forward, by the average "ema" of the backbone
    token_times   two noise levels over the tokens of one sample, and no third
    token_groups  tokens that attend to those of their own group alone
    couples_rows  the loss of a sample depends on the others of the global batch, so the batch cannot be split
    all_tokens    of all tokens of a sample; False: it copes with layers that saw those that `Forward.kept` says
    any_block     it may listen to every block, beside those that its config names
    features      encoders of clean media by their names, kind:folder or kind; `build` takes what makes them
    second_output  a second output layer; it offers a second prediction in sampling, and its heads are averaged
    """

    teacher: tuple[Layer, ...] = ()
    token_times: bool = False
    token_groups: bool = False
    couples_rows: bool = False
    all_tokens: bool = True
    any_block: bool = False
    second_output: bool = False
    features: tuple[str, ...] = ()


class Alignment:
    """What the training step asks of a method. No `nn.Module`: it would hold the parameters of the model.

    hooks  what listens to the backbone, if anything does
    heads  modules that are trained beside the backbone and saved as a checkpoint group of their own; empty: no group
    """

    def __init__(self, hooks: LayerHooks | None = None, heads: Mapping[str, nn.Module] | None = None):
        self.hooks, self.heads = hooks, nn.ModuleDict(heads or {})

    def times(
        self, objective: FlowMatching, random: Random, rows: tuple[int, ...], mask: Tensor | None = None
    ) -> Tensor:
        """Flow times of shape `rows`, (B,) or (B, N); mask (B, N), true where a token is real."""
        return objective.draw_time(random, rows)

    def attention(self, random: Random, rows: tuple[int, ...], mask: Tensor | None) -> Tensor | None:
        """What the network is told of the tokens of `rows`: the batch's `mask` (B, N), or None for all.

        A method that `needs` token_groups gives integers (B, N), the group of each token, and 0 for padding.
        """
        return mask

    def terms(self, forward: Forward, teacher: Teacher | None) -> AlignmentTerms:
        """The loss of the forward pass that just ran; `teacher` is there if the config `Needs` one."""
        raise NotImplementedError

    def looks(self, step: int) -> bool:
        """Whether the terms of `step` change what is saved of the method: the step before must be known as sound."""
        return False

    def second_output(self) -> Callable[[Callable[[], Tensor], Tensor], tuple[Tensor, Tensor]] | None:
        """For a method that `needs` it: (pass of the backbone, its x) -> its prediction and a second one, as x."""
        return None

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Let the model run without being listened to, for sampling and validation."""
        with contextlib.nullcontext() if self.hooks is None else self.hooks.paused():
            yield

    def remove(self) -> None:
        """Take the hooks off the model."""
        if self.hooks is not None:
            self.hooks.remove()

    def compile(self, **options: str) -> None:
        """Run the term's own arithmetic through torch.compile, with its options, from now on."""

    def extra_flops(self, forward: int, num_tokens: int) -> int:
        """FLOPs of one sample's training step that come on top of a backbone whose forward pass has `forward`.

        Matrix products of heads and second passes; what is element by element does not count.
        """
        return 0


def listen(model: nn.Module, layers: Sequence[Layer], blocks: str | None = None, in_a_row: bool = True) -> LayerHooks:
    """Hooks on a backbone whose tokens are (B, N, D), in one row where its blocks hand over more axes (`token_dim`).

    in_a_row: False leaves those axes as they are.

    Tokens in front of those of the latents (`prefix_tokens`) are left out.
    """
    axes = getattr(model, "token_dim", None)
    tokens = behind_prefix(model) if axes is None else (_in_a_row if in_a_row else None)
    return LayerHooks(model, layers, blocks, LayerOutput(token_dim=axes, tokens=tokens))


def behind_prefix(model: nn.Module) -> slice | None:
    """Which of the tokens (B, prefix + N, D) of a backbone's blocks stand for latents; None: all."""
    count = getattr(model, "prefix_tokens", 0)
    return slice(count, None) if count else None


def _in_a_row(tokens: Tensor) -> Tensor:
    """(B, ..., D) as (B, N, D)."""
    return tokens.flatten(1, -2)


class AlignmentConfig(Protocol):
    """The options of a method. `layers_key` is the config key that names its layers."""

    layers_key: ClassVar[str]

    @property
    def layers(self) -> list[Layer]:
        """All layers that it listens to, for `check_layers`."""
        ...

    @property
    def needs(self) -> Needs:
        """What it asks of the run."""
        ...

    def build(self, model: nn.Module) -> Alignment:
        """The method installed on the bare `model`, a `core.contracts.Backbone`; see `build_alignment`."""
        ...


class NoAlignment(Alignment):
    """The baseline: nothing is added."""

    def terms(self, forward: Forward, teacher: Teacher | None) -> AlignmentTerms:
        """A loss of zero and nothing to log."""
        return AlignmentTerms(forward.t.new_zeros(()))


@dataclass(frozen=True)
class NoAlignmentConfig:
    """The baseline has no options."""

    layers_key: ClassVar[str] = "alignment"
    layers = ()
    needs = Needs()

    def build(self, model: nn.Module) -> NoAlignment:
        """The baseline's alignment: none."""
        return NoAlignment()


def build_alignment(
    config: AlignmentConfig, model: nn.Module, encoders: Callable[[str], FeatureEncoder] | None = None
) -> Alignment:
    """The method installed on the bare `model`; `encoders` is the domain's, for a config that `needs` features."""
    return config.build(model, encoders) if config.needs.features else config.build(model)


def settle(config: AlignmentConfig, num_blocks: int, seed: int) -> AlignmentConfig:
    """The config with what it leaves to chance or to a rule chosen, by its `settled` if it has that.

    A function of the arguments, so that a run that goes on has the same. Raises ValueError for too few blocks.
    """
    return config.settled(num_blocks, seed) if hasattr(config, "settled") else config


def reasons(config: AlignmentConfig, num_blocks: int, seed: int) -> list[str]:
    """Why `settle` chooses what it does, by its `reasons` if the config has that; sentences for a person."""
    return config.reasons(num_blocks, seed) if hasattr(config, "reasons") else []


def rule_pair(num_blocks: int) -> PairChoice:
    """The pair that `alignment.pairs=auto` stands for; ValueError for too few blocks."""
    with config_keys():
        return choosing.rule_pair(num_blocks)


def draw_pair(num_blocks: int, seed: int) -> tuple[int, int]:
    """A pair (weak, strong) of blocks from 1, weak < strong, all equally likely; a function of the arguments."""
    weak, strong = numpy_rng(seed, "random pair", num_blocks).choice(num_blocks, size=2, replace=False)
    return int(min(weak, strong)) + 1, int(max(weak, strong)) + 1


def check_weight(weight: float) -> None:
    """Raises ValueError for a weight that is not a finite number above 0."""
    with config_keys():
        sync.check_weight(weight, "alignment=none is the baseline")


def check_pairs(pairs: Sequence[tuple[Layer, Layer]]) -> None:
    """Raises ValueError for no pair, what is no pair, and block numbers of which the weak does not come first."""
    with config_keys():
        sync.check_pairs(pairs)


@contextlib.contextmanager
def config_keys() -> Iterator[None]:
    """Errors that begin with the name of an option begin with its config key instead."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"alignment.{error}") from error


def check_layers(config: AlignmentConfig, num_blocks: int) -> None:
    """Raises ValueError for a block number outside 1..num_blocks, and for too few blocks to choose a pair of.

    Names are looked up when the model is there.
    """
    for layer in config.layers:
        if isinstance(layer, int) and not 1 <= layer <= num_blocks:
            raise ValueError(
                f"{config.layers_key} names block {layer}, which does not exist: the backbone has blocks 1 to "
                f"{num_blocks} (numbered from 1)"
            )
    settle(config, num_blocks, seed=0)  # refuses what a backbone is too shallow for
