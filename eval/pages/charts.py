"""Line charts as SVG text: drawn by the page's own colours, readable in light and dark and without scripts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 480, 300
LEFT, RIGHT, TOP, BOTTOM = 72, 14, 12, 44
COLOURS = 8  # the page's style has so many, from c0 on
DASHES = ("", "7 4", "2 3", "9 3 2 3")


@dataclass(frozen=True)
class Line:
    """A named curve; `low` and `high` bound its band, None for no band; `place` decides its colour and dashes."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    place: int = 0


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers from `low` to `high`."""
    span = high - low
    if span <= 0:
        return [low]
    raw = span / count
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= raw * 0.75)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{place * step:.10g}") for place in range(first, last + 1)]


@dataclass(frozen=True)
class _Scale:
    """A linear map from values to places on the picture."""

    low: float
    high: float
    begin: float
    end: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.begin + share * (self.end - self.begin), 2)


def _range(values: Sequence[float], margin: float) -> tuple[float, float]:
    low, high = min(values), max(values)
    rest = margin * (high - low) or 0.05 * abs(high) or 1.0
    return (low - rest, high + rest) if margin or high == low else (low, high)


def line_chart(label: str, x_name: str, y_name: str, lines: Sequence[Line]) -> str:
    """The chart as one <svg> element; `label` says in words what it shows. The legend is `legend(lines)`.

    Raises ValueError for no line, or one without a point.
    """
    if not lines or not all(len(line.x) for line in lines):
        raise ValueError(f"the chart {label!r} has nothing to show")
    ends = [[*line.y, *(line.low or ()), *(line.high or ())] for line in lines]
    x = _Scale(*_range([each for line in lines for each in line.x], 0.0), LEFT, WIDTH - RIGHT)
    y = _Scale(*_range([each for values in ends for each in values], 0.05), HEIGHT - BOTTOM, TOP)
    parts = [*_grid(x, y), *_names(x_name, y_name)]
    parts += [_band(line, x, y) for line in lines if line.low is not None]
    parts += [_curve(line, x, y) for line in lines]
    body = "\n".join(parts)
    return f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">\n{body}\n</svg>'


def _grid(x: _Scale, y: _Scale) -> list[str]:
    parts = []
    for value in ticks(y.low, y.high):
        place = y(value)
        parts.append(f'<line class="grid" x1="{LEFT}" y1="{place}" x2="{WIDTH - RIGHT}" y2="{place}"/>')
        parts.append(f'<text x="{LEFT - 7}" y="{place + 4}" text-anchor="end">{value:g}</text>')
    for value in ticks(x.low, x.high):
        parts.append(f'<text x="{x(value)}" y="{HEIGHT - BOTTOM + 17}" text-anchor="middle">{value:g}</text>')
    bottom = HEIGHT - BOTTOM
    return [*parts, f'<line class="axis" x1="{LEFT}" y1="{bottom}" x2="{WIDTH - RIGHT}" y2="{bottom}"/>']


def _names(x_name: str, y_name: str) -> list[str]:
    middle = (TOP + HEIGHT - BOTTOM) / 2
    return [
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x_name)}</text>',
        f'<text transform="translate(13 {middle}) rotate(-90)" text-anchor="middle">{escape(y_name)}</text>',
    ]


def _points(line: Line, values: Sequence[float], x: _Scale, y: _Scale) -> list[str]:
    return [f"{x(a)},{y(b)}" for a, b in zip(line.x, values, strict=True)]


def _band(line: Line, x: _Scale, y: _Scale) -> str:
    around = [*_points(line, line.low, x, y), *reversed(_points(line, line.high, x, y))]
    return f'<polygon class="band c{line.place % COLOURS}" points="{" ".join(around)}"/>'


def _curve(line: Line, x: _Scale, y: _Scale) -> str:
    points = _points(line, line.y, x, y)
    curve = f'<polyline class="curve c{line.place % COLOURS}"{_dash(line.place)} points="{" ".join(points)}"/>'
    if len(points) > 20:
        return curve
    dots = [
        f'<circle class="dot c{line.place % COLOURS}" cx="{a}" cy="{b}" r="3"/>'
        for a, b in (p.split(",") for p in points)
    ]
    return "\n".join([curve, *dots])


def _dash(place: int) -> str:
    dash = DASHES[place % len(DASHES)]
    return f' stroke-dasharray="{dash}"' if dash else ""


def legend(lines: Sequence[Line]) -> str:
    """The names of the curves with their colours and dashes, as a list that wraps."""
    items = [f"<li>{_swatch(line.place)}{escape(line.name)}</li>" for line in lines]
    return f'<ul class="legend">{"".join(items)}</ul>'


def _swatch(place: int) -> str:
    curve = f'<polyline class="curve c{place % COLOURS}"{_dash(place)} points="0,5 28,5"/>'
    return f'<svg class="swatch" viewBox="0 0 28 10" aria-hidden="true">{curve}</svg>'
