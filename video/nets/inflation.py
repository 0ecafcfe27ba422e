"""Weights of an image SiT spread over the frames of a video network, so that a still clip is what the image model sees.

At first the network's output for a clip whose frames are one image, noise included, is for each the image model's:

    patches          the image's kernel over each frame of a patch, divided by their number; the last layer's rows for
                     each of them
    code of frames   zero, and trained
    SiT              attention over frames that are alike is attention within one
    Latte            the image's blocks are the space blocks; the time blocks are fresh, their gates shut
    labels           the image's table where it has as many classes; else every class begins as the mean of the table's

Letters: P patch, F frames of a patch, C channels, D width.
"""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import Tensor

from core.nets.sit import SiT
from core.storage.checkpoint import State
from core.storage.weights import check_finite_weights, load_into, load_weights
from video.nets.latte import Latte

log = logging.getLogger(__name__)
KERNEL, LABELS = "x_embedder.proj.weight", "y_embedder.embedding_table.weight"
LAST = ("final_layer.linear.weight", "final_layer.linear.bias")
PLACES, FRAMES = "pos_embed", "temp_embed"


def inflate_from(backbone: SiT, source: str) -> None:
    """Give a new video network the weights of an image model, averaged ones where the file or checkpoint has them.

    Raises ValueError, naming the config key, for weights that are not there or do not fit.
    """
    try:
        inflate(backbone, load_weights(Path(source).expanduser(), prefer=None), source)
    except ValueError as error:
        raise ValueError(f"backbone.inflate_from: {error}") from error


def inflate(backbone: SiT, image: State, source: str) -> None:
    """Give a new video network the weights `image`, which were read from `source`.

    Raises ValueError that tells another architecture by its differences, before anything is changed.
    """
    if FRAMES in image:
        raise ValueError(f"{source} is of a video network, it has a code of frames; needed: weights of an image SiT")
    own, state = backbone.state_dict(), dict(image)
    for name in {KERNEL, *LAST} & state.keys():
        state[name] = _over_frames(name, state[name], backbone.patch[0], own[name])
    if isinstance(backbone, Latte):
        state = _in_space_blocks(state, own, source)
    state[FRAMES] = torch.zeros_like(own[FRAMES])
    state, conditions = _conditions(state, own)
    state, positions = _positions(state, own)
    load_into(backbone, state, source)
    check_finite_weights(backbone, source)
    for difference in (*conditions, *positions):
        log.warning("%s: %s", source, difference)


def _over_frames(name: str, value: Tensor, frames: int, own: Tensor) -> Tensor:
    """A kernel (D, C, P, P), or the last layer's rows (P P C, ...), for patches of so many frames."""
    if name in LAST:
        return value.repeat(frames, *[1] * (value.ndim - 1))
    return value[:, :, None].repeat(1, 1, frames, 1, 1) / frames if own.ndim == value.ndim + 1 else value


def _in_space_blocks(state: State, own: State, source: str) -> State:
    """Block i of the image model as block 2 i, and the fresh blocks between them."""
    found, needed = _depth(state), _depth(own)
    if 2 * found != needed:
        raise ValueError(
            f"{source} has {found} blocks, which are the space blocks of a latte of depth {2 * found}; backbone.depth "
            f"is {needed}"
        )
    moved = {_of_block(name, 2 * _number(name)): value for name, value in state.items()}
    return {name: value for name, value in own.items() if _number(name) % 2 == 1} | moved


def _conditions(state: State, own: State) -> tuple[State, list[str]]:
    """The embedder of conditions of the image model where it fits, else the network's own; and what is to be told."""
    theirs, ours = ({name: x for name, x in each.items() if name.startswith("y_embedder.")} for each in (state, own))
    if {name: x.shape for name, x in theirs.items()} == {name: x.shape for name, x in ours.items()}:
        return state, []
    rest = {name: value for name, value in state.items() if name not in theirs}
    table, needed = theirs.get(LABELS), ours.get(LABELS)
    if table is None or needed is None or table.shape[1:] != needed.shape[1:]:
        return rest | ours, ["its conditions are others than the network's, whose embedder begins anew"]
    told = f"it has {len(table)} labels, the network {len(needed)}: each begins as their mean"
    return rest | {LABELS: table.mean(0).expand_as(needed)}, [told]


def _positions(state: State, own: State) -> tuple[State, list[str]]:
    """The image model's table of positions where it has as many, else the network's own; and what is to be told."""
    theirs, needed = state.get(PLACES), own[PLACES]
    if theirs is None or theirs.shape == needed.shape or theirs.shape[-1] != needed.shape[-1]:
        return state, []
    told = f"it has {theirs.shape[-2]} tokens, a frame of the network {needed.shape[-2]}: their positions are made anew"
    return {**state, PLACES: needed}, [told]


def _depth(state: State) -> int:
    return 1 + max((_number(name) for name in state), default=-1)


def _number(name: str) -> int:
    """The number of the block that a weight belongs to; -2, which is even, for others."""
    first, _, rest = name.partition(".")
    number = rest.partition(".")[0]
    return int(number) if first == "blocks" and number.isdigit() else -2


def _of_block(name: str, number: int) -> str:
    """The same weight of the block that is `number`; a weight of no block keeps its name."""
    return name if _number(name) < 0 else f"blocks.{number}.{name.split('.', 2)[2]}"
