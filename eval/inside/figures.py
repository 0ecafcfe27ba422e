"""Figures of what is inside a backbone, as PNG files that are whole or absent.

Letters: K blocks (numbered from 1), T times, n samples, N tokens.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from core.storage.atomic import write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 120
SEQUENTIAL, DIVERGING = "viridis", "coolwarm"
NARROWEST = 4.6  # inches, so that a title has room
MAX_NUMBERED = 12  # cells of a side up to which their values are written into them
Pairs = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Range:
    """The range of a heat map's colours: a label, and the values at both ends (None: those of the data)."""

    label: str
    low: float | None = None
    high: float | None = None
    colours: str = SEQUENTIAL


def blank(width: float, height: float) -> Figure:
    """An empty figure of that size in inches."""
    from matplotlib.figure import Figure  # half a second to import, and only for pictures

    return Figure(figsize=(width, height), layout="constrained")


def save(figure: Figure, path: Path) -> Path:
    """The figure as a PNG file."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=DPI)
    return write_atomic(path, content.getvalue())


def block_matrices(path: Path, title: str, matrices: Mapping[float, Tensor], scale: Range, pairs: Pairs = ()) -> Path:
    """One (K, K) heat map for each flow time, a common scale; the run's aligned pairs (weak, strong) are framed."""
    first = next(iter(matrices.values()))
    columns = len(matrices) if len(matrices) <= 3 else -(-len(matrices) // 2)
    rows = -(-len(matrices) // columns)
    side = 2.2 + 0.22 * len(first)
    figure = blank(side * columns + 1.2, side * rows + 0.6)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    low = scale.low if scale.low is not None else min(float(each.min()) for each in matrices.values())
    high = scale.high if scale.high is not None else max(float(each.max()) for each in matrices.values())
    for axis, (t, matrix) in zip(axes, matrices.items(), strict=False):
        image = axis.imshow(matrix.numpy(), vmin=low, vmax=high, cmap=scale.colours, origin="lower")
        _number_blocks(axis.xaxis, len(matrix), axis.set_xlabel)
        _number_blocks(axis.yaxis, len(matrix), axis.set_ylabel)
        axis.set_title(f"t = {t:g}", fontsize=10)
        if len(matrix) <= MAX_NUMBERED:
            _write_values(axis, matrix.numpy(), image)
        for weak, strong in pairs:
            axis.add_patch(_frame(strong - 1, weak - 1))
    for axis in axes[len(matrices) :]:
        axis.remove()
    figure.colorbar(image, ax=list(axes[: len(matrices)]), label=scale.label, shrink=0.8)
    figure.suptitle(title, fontsize=11)
    return save(figure, path)


def _frame(column: int, row: int) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor="red", linewidth=1.5)


def _number_blocks(axis: Any, depth: int, set_label: Any) -> None:
    step = 1 if depth <= 14 else 2 if depth <= 28 else 4
    places = np.arange(0, depth, step)
    axis.set_ticks(places, [str(place + 1) for place in places])
    set_label("block")


def blocks_by_time(
    path: Path, title: str, values: Mapping[float, Sequence[float]], scale: Range, **level: float
) -> Path:
    """A value of each block at each time, as a heat map (T, K) and as curves over the blocks.

    level  a horizontal line of the curves, by what it is called
    """
    matrix = np.array([list(each) for each in values.values()])
    depth = matrix.shape[1]
    width, height = 5.4 + 0.62 * min(depth, 2 * MAX_NUMBERED), max(3.4, 1.6 + 0.5 * len(matrix))
    figure = blank(width, height)
    left, right = figure.subplots(1, 2, width_ratios=[1.25, 1])
    image = left.imshow(matrix, aspect="auto", vmin=scale.low, vmax=scale.high, cmap=scale.colours, origin="lower")
    _number_blocks(left.xaxis, depth, left.set_xlabel)
    left.set_yticks(range(len(matrix)), [f"{t:g}" for t in values])
    left.set_ylabel("flow time t (0 noise, 1 data)")
    if depth <= MAX_NUMBERED:
        _write_values(left, matrix, image)
    figure.colorbar(image, ax=left, shrink=0.9)
    left.set_title(scale.label, fontsize=9)
    _curves(right, {f"t = {t:g}": each for t, each in values.items()}, level)
    right.set_ylabel(scale.label)
    figure.suptitle(title, fontsize=11)
    return save(figure, path)


def _write_values(axis: Any, matrix: np.ndarray, image: Any) -> None:
    for (row, column), value in np.ndenumerate(matrix):
        red, green, blue, _ = image.cmap(image.norm(value))
        dark = 0.3 * red + 0.6 * green + 0.1 * blue < 0.55
        axis.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=7, color="white" if dark else "black")


def _curves(
    axis: Any, lines: Mapping[str, Sequence[float]], level: Mapping[str, float], dashed: str | None = None
) -> None:
    from matplotlib import colormaps

    colours = colormaps["plasma"](np.linspace(0.05, 0.85, len(lines)))
    for colour, (name, values) in zip(colours, lines.items(), strict=True):
        style = "--" if name == dashed else "-"
        axis.plot(range(len(values)), values, style, marker="o", markersize=3.5, color=colour, label=name)
    for name, value in level.items():
        axis.axhline(value, color="grey", linestyle="--", linewidth=1, label=name)
    _number_blocks(axis.xaxis, max(len(values) for values in lines.values()), axis.set_xlabel)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0, frameon=False)


def block_curves(
    path: Path,
    title: str,
    lines: Mapping[str, Sequence[float]],
    label: str,
    dashed: str | None = None,
    pair: tuple[int, int] | None = None,
) -> Path:
    """Named curves over the blocks; `dashed` names one that may lie on another, `pair` a (weak, strong) to mark."""
    figure = blank(6.5, 3.6)
    axis = figure.subplots()
    _curves(axis, lines, {}, dashed)
    for block in pair or ():
        axis.axvline(block - 1, color="red", linewidth=1.5, zorder=0)
    axis.set_ylabel(label)
    figure.suptitle(title, fontsize=11)
    return save(figure, path)


def token_pictures(path: Path, title: str, inputs: Sequence[np.ndarray | None], colours: np.ndarray) -> Path:
    """A row for each picture that went in, a sample or one of its frames, where there is one, and then its tokens.

    inputs   (Y, X) or (Y, X, 3) in [0, 1], or None
    colours  (K, n, rows, columns, 3) in [0, 1]
    """
    depth, count = colours.shape[:2]
    shown = inputs[0] is not None
    cell = 0.95 if depth <= 14 else 0.7
    flat = colours.shape[2] == 1  # a strip, drawn as high as it is wide
    figure = blank(max(NARROWEST, cell * (depth + shown) + 0.3), cell * count + 0.75)
    axes = figure.subplots(count, depth + shown, squeeze=False)
    for row in range(count):
        if shown:
            axes[row, 0].imshow(inputs[row], cmap="gray", vmin=0, vmax=1)
        for block in range(depth):
            axes[row, block + shown].imshow(colours[block, row], aspect="auto" if flat else "equal")
    for axis in axes.ravel():
        axis.set_xticks([])
        axis.set_yticks([])
    names = ["input"] * shown + [f"block {block + 1}" for block in range(depth)]
    for axis, name in zip(axes[0], names, strict=True):
        axis.set_title(name, fontsize=8)
    figure.suptitle(title, fontsize=10)
    return save(figure, path)
