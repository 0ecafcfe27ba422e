"""What a layer hands over, as tokens (B, ..., D): which of its outputs, which axes count tokens, which tokens.

A block that returns one tensor (B, N, D) needs no word. Everything else is said, and refused until it is: a wrong guess
would align the text instead of the image, or compare the columns of a feature map, without anyone noticing.

Letters: B batch, N tokens, F frames, H and W rows and columns, C or D width.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

EXAMPLES = "(2, 3) for (B, C, H, W), (1, 2) for (B, F, N, D) or (B, H, W, C), 2 for (B, C, N), 0 for (N, B, D)"


@dataclass(frozen=True)
class LayerOutput:
    """How the tokens are found in what a layer returns.

    output     None: the tensor that it returns, or the only one with three axes or more in a tuple, list or dict; an
               index; a key or an attribute; or a function of all that it returned
    token_dim  the axis or axes that count tokens; of the two others the first is the batch, the second the width.
               None: tokens are (B, N, D)
    tokens     which tokens count, after that: a slice of N, or a function (B, ..., D) -> (B, ..., D)
    convolved  channels that 1-D convolutions of the layer make, and all widths that its parts make: see `layer_output`
    """

    output: int | str | Callable[[Any], Tensor] | None = None
    token_dim: int | tuple[int, ...] | None = None
    tokens: slice | Callable[[Tensor], Tensor] | None = None
    convolved: tuple[frozenset[int], frozenset[int]] = (frozenset(), frozenset())

    def __post_init__(self) -> None:
        if isinstance(self.output, bool) or not (self.output is None or _is_index(self.output)):
            raise ValueError(f"output is {self.output!r}; needed: an index, a key, or a function of a block's output")
        axes = self.token_dim if isinstance(self.token_dim, Sequence) else (self.token_dim,)
        if self.token_dim is not None and not (axes and all(type(axis) is int for axis in axes)):
            raise ValueError(f"token_dim is {self.token_dim!r}; needed: the axes that count tokens, {EXAMPLES}")
        if not (self.tokens is None or isinstance(self.tokens, slice) or callable(self.tokens)):
            raise ValueError(f"tokens is {self.tokens!r}; needed: a slice of the tokens, or a function of them")
        ends = (self.tokens.start, self.tokens.stop, self.tokens.step) if isinstance(self.tokens, slice) else ()
        whole = all(end is None or isinstance(end, numbers.Integral) for end in ends)
        if not whole or (ends and ends[2] is not None and ends[2] < 1):
            raise ValueError(f"tokens is {self.tokens!r}; needed: a slice of whole numbers with a step above 0")

    def pick(self, returned: Any) -> Any:
        """The tensor of what a block returned; where that is not clear a tuple of it alone, which `arrange` refuses.

        It runs inside the model's forward pass, compiled or not, and raises nothing there.
        """
        if self.output is None:
            if isinstance(returned, Tensor):
                return returned
            found = [value for value in _members(returned) if isinstance(value, Tensor) and value.ndim >= 3]
            return found[0] if len(found) == 1 else (returned,)
        if callable(self.output):
            return self.output(returned)
        found = None
        if isinstance(self.output, str):
            found = returned.get(self.output) if isinstance(returned, Mapping) else getattr(returned, self.output, None)
        elif isinstance(returned, (tuple, list)) and -len(returned) <= self.output < len(returned):
            found = returned[self.output]
        return found if isinstance(found, Tensor) else (returned,)

    def arrange(self, picked: Any, layer: str) -> Tensor:
        """The tokens (B, ..., D) of what `pick` gave. Raises TypeError or ValueError that shows what there was."""
        if not isinstance(picked, Tensor):
            raise self._refusal(picked, layer)
        if picked.is_nested or not picked.is_floating_point():
            kind = "a nested tensor" if picked.is_nested else f"{picked.dtype} values"
            told = " (nn.TransformerEncoder packs padding away in evaluation: enable_nested_tensor=False)"
            raise TypeError(
                f"layer '{layer}' returned {kind}; needed: a tensor of floating-point tokens"
                + (told if picked.is_nested else "")
            )
        tokens = self._chosen(self._batch_first(picked, layer), layer)
        if 0 in tokens.shape[1:]:
            raise ValueError(f"layer '{layer}': no token is left, of {describe(picked)} with tokens={self.tokens!r}")
        return tokens

    def _refusal(self, picked: Any, layer: str) -> Exception:
        returned = picked[0] if isinstance(picked, tuple) and len(picked) == 1 else picked
        told = f"layer '{layer}' returned {describe(returned)}"
        if callable(self.output):
            return TypeError(f"layer '{layer}': output= gave {describe(picked)}; needed: a tensor")
        if self.output is not None:
            return ValueError(f"{told}, in which output={self.output!r} is no tensor")
        if sum(isinstance(value, Tensor) and value.ndim >= 3 for value in _members(returned)) > 1:
            return ValueError(
                f"{told}: several of them may be tokens; say which: output=0 the first, 1 the second, "
                "or a function of what the block returns"
            )
        return TypeError(
            f"{told}; needed: a tensor or a tuple with one tensor of tokens; "
            "output= takes an index, a key, or a function of what the block returns"
        )

    def _batch_first(self, x: Tensor, layer: str) -> Tensor:
        """(B, ..., D), a view."""
        if self.token_dim is None:
            if x.ndim != 3:
                raise ValueError(
                    f"layer '{layer}' returned {describe(x)}; needed: tokens (B, N, D), or the axes that count "
                    f"tokens: token_dim={EXAMPLES}"
                )
            channels, widths = self.convolved
            if x.shape[1] in channels and x.shape[2] not in widths:
                raise _channels_first(f"layer '{layer}' returned {describe(x)} of 1-D convolutions")
            return x
        given = self.token_dim if isinstance(self.token_dim, Sequence) else (self.token_dim,)
        axes = [axis % x.ndim for axis in given if -x.ndim <= axis < x.ndim]
        others = [axis for axis in range(x.ndim) if axis not in axes]
        if len(set(axes)) < len(given) or len(others) != 2:
            raise ValueError(
                f"layer '{layer}' returned {describe(x)}; with token_dim={self.token_dim} it needs two more axes, "
                f"of the batch and of the width: {EXAMPLES}"
            )
        batch, width = others
        return x.permute(batch, *axes, width)

    def _chosen(self, x: Tensor, layer: str) -> Tensor:
        """The tokens that count, of x (B, ..., D)."""
        if self.tokens is None:
            return x
        if isinstance(self.tokens, slice):
            if x.ndim != 3:
                raise ValueError(
                    f"layer '{layer}' gave tokens {tuple(x.shape)}: tokens={self.tokens!r} is for one axis of "
                    "tokens; give a function (B, ..., D) -> (B, ..., D)"
                )
            return x[:, self.tokens]
        chosen = self.tokens(x)
        if not isinstance(chosen, Tensor) or chosen.ndim < 3 or chosen.shape[0] != x.shape[0]:
            raise ValueError(
                f"layer '{layer}': tokens= made {describe(chosen)} of tokens {tuple(x.shape)}; needed: (B, ..., D)"
            )
        return chosen


def layer_output(module: nn.Module, name: str, told: LayerOutput) -> LayerOutput:
    """What was told of a layer, and where nothing was, what its type says of its axes.

    nn.TransformerEncoderLayer and DecoderLayer say themselves that their tokens come first. Raises ValueError for a
    layer of 1-D convolutions without linear maps: three axes, of which the last is not the width. One that has both
    may be either: (B, D, N) with a linear map of its conditions, or (B, N, D) with a convolution inside. What it
    returns tells, in `arrange`.
    """
    if told.token_dim is not None:
        return told
    if isinstance(module, (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)):
        if not module.self_attn.batch_first:
            return LayerOutput(told.output, 0, told.tokens)
        return told
    parts = list(module.modules())
    channels = {part.out_channels for part in parts if isinstance(part, (nn.Conv1d, nn.ConvTranspose1d))}
    if channels and not any(isinstance(part, (nn.Linear, nn.MultiheadAttention)) for part in parts):
        raise _channels_first(f"layer '{name}' is made of 1-D convolutions")
    linear = {part.out_features for part in parts if isinstance(part, nn.Linear)}
    norms = {part.normalized_shape[-1] for part in parts if isinstance(part, (nn.LayerNorm, nn.RMSNorm))}
    return replace(told, convolved=(frozenset(channels), frozenset(channels | linear | norms)))


def _channels_first(told: str) -> ValueError:
    return ValueError(f"{told}, whose width is axis 1; say which axis counts tokens: token_dim={EXAMPLES}")


def may_come_sequence_first(module: nn.Module) -> bool:
    """Whether a layer of unknown layout attends or recurs with batch_first=False, torch's default: over (N, B, D)."""
    if isinstance(module, (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)):
        return False
    kinds = (nn.MultiheadAttention, nn.RNNBase)
    return any(isinstance(part, kinds) and not part.batch_first for part in module.modules())


def describe(value: Any) -> str:
    """What a block returned, for an error: types and shapes."""
    if isinstance(value, Tensor):
        return f"Tensor {tuple(value.shape)}" if not value.is_nested else "nested Tensor"
    if isinstance(value, (tuple, list)):
        return f"{type(value).__name__} of ({', '.join(describe(item) for item in value)})"
    if isinstance(value, Mapping):
        return f"{type(value).__name__} of ({', '.join(f'{key}: {describe(item)}' for key, item in value.items())})"
    return "None" if value is None else type(value).__name__


def _members(returned: Any) -> list[Any]:
    """The items of a tuple, list or dict; of anything else none."""
    if isinstance(returned, (tuple, list)):
        return list(returned)
    return list(returned.values()) if isinstance(returned, Mapping) else []


def _is_index(output: Any) -> bool:
    return isinstance(output, (int, str)) or callable(output)
