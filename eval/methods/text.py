"""A comparison in words and as a picture."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from core.storage.atomic import write_atomic

Content = Mapping[str, Any]
# Of the picture: colours before they are repeated with dashes, methods that the legend has room for beside the curves,
# and how many times the smallest value the largest is on a logarithmic scale.
COLOURS, LEGEND_INSIDE, LOGARITHMIC = 10, 5, 5


def number(value: float) -> str:
    """Four significant digits."""
    return f"{value:.4g}"


def percent(value: float, sign: bool = True) -> str:
    """A share as a percentage with one decimal."""
    rounded = round(100 * value, 1) + 0.0  # no "-0.0"
    return f"{rounded:+.1f}" if sign and rounded else f"{rounded:.1f}"


def mean_text(each: Mapping[str, float | None]) -> str:
    """Mean ± half of its interval."""
    text = number(each["value"])
    return text if each["low"] is None else f"{text} ± {number(each['high'] - each['value'])}"


def gain_text(each: Mapping[str, float | None] | None) -> str:
    """A gain in percent with its interval."""
    if each is None:
        return "-"
    text = f"{percent(each['value'])} %"
    return text if each["low"] is None else f"{text} [{percent(each['low'])}, {percent(each['high'])}]"


def factor_text(found: Mapping[str, Any]) -> str:
    """The speed-up factor with its interval."""
    if found["factor"] is None:
        text = "not reached"
    else:
        text = f"{'at least ' if found['at_least'] else ''}{found['factor']:.2f}x"
    if found["low"] is None or (found["factor"] is None and not found["high"]):
        return text
    low, high = (f"{each:.2f}x" if each else "not reached" for each in (found["low"], found["high"]))
    return f"{text} [{low}, {high}]"


def speed_up_text(content: Content, method: str) -> str:
    """One sentence on the speed-up of a method."""
    found, baseline = content["speed_up"][method], content["methods"][0]
    target = f"{baseline}'s final {number(found['target'])}"
    total = found["baseline_steps"]
    if found["method_steps"] is None:
        text = f"{method} does not reach {target} within {total} steps: no speed-up factor"
    else:
        text = f"{method} reaches {target} at step {found['method_steps']:.0f} of {total}: {factor_text(found)}"
    if found["wall_factor"] is not None:
        text += f", {found['wall_factor']:.2f}x by training seconds"
    if found["reached_share"] is not None and 0 < found["reached_share"] < 1:
        text += f" (reached in {percent(found['reached_share'], sign=False)} % of resampled seeds)"
    if found["baseline_first"] < total:
        text += f"; {baseline} itself first had that value at step {found['baseline_first']:.0f}"
        if found["factor"] is not None:
            text += f", counted from there {found['baseline_first'] / found['method_steps']:.2f}x"
    return text


def headline(content: Content) -> str:
    """One line on what was compared and how it was counted."""
    seeds, samples = content["seeds"], content["num_samples"]
    text = f"{content['metric']} ({content['better']} is better), {content['domain']}, "
    text += f"{len(seeds)} seed{'s' * (len(seeds) > 1)} ({', '.join(map(str, seeds))})"
    text += f", {samples} samples" if samples else ""
    return text + (", mean ± half of Student's 95 % interval over seeds" if len(seeds) > 1 else ", no interval")


def step_rows(content: Content) -> list[list[str]]:
    """Head and rows of the table over steps: each method's mean, the gain of each over the baseline."""
    methods = content["methods"]
    rows = [["step", *methods, *(f"gain of {method}" for method in methods[1:])]]
    for place, step in enumerate(content["steps"]):
        means = [mean_text(content["mean"][method][place]) for method in methods]
        gains = [gain_text(content["gain"][method][place]) for method in methods[1:]]
        rows.append([str(step), *means, *gains])
    return rows


def cost_rows(content: Content) -> list[list[str]]:
    """Head and rows of the table of costs: of a step, and until the value `target`; empty where none were recorded."""
    costs = content.get("costs")
    if not costs:
        return []
    whose = "stated" if content["stated"] else f"{content['methods'][0]}'s end"
    reached = f"EP@{number(content['target'])} ({whose})"
    rows = [["cost", "parameters", "FLOPs/step", "s/step", f"{reached}: steps", "epochs", "s", "FLOPs"]]
    for method in content["methods"]:
        cost = costs[method]
        steps = "not reached" if cost["steps"] is None else f"{'at most ' * cost['at_most']}{cost['steps']:.0f}"
        parameters = "-" if cost["parameters"] is None else f"{cost['parameters']:,.0f}"
        each = [
            _or_dash(cost.get(name)) for name in ("flops_per_step", "seconds_per_step", "epochs", "seconds", "flops")
        ]
        rows.append([method, parameters, *each[:2], steps, *each[2:]])
    return rows


def _or_dash(value: float | None) -> str:
    return "-" if value is None else number(value)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells in columns for a terminal."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def made_text(made: Content) -> str:
    """Code, PyTorch, device and processes of a run's session in words."""
    code = made.get("code") or {}
    commit = f"commit {code['commit'][:7]}{' with changes' if code.get('dirty') else ''}" if code.get("commit") else ""
    texts = [f"layersync {code.get('version')}", commit, f"PyTorch {made.get('torch')}", f"on {made.get('device')}"]
    processes = made.get("processes", 1)
    return ", ".join(text for text in [*texts, f"{processes} process{'es' * (processes > 1)}"] if text)


def report(content: Content) -> str:
    """The text that the command prints."""
    lines = [headline(content), "", aligned(step_rows(content)), ""]
    costs = cost_rows(content)
    lines += [aligned(costs), ""] if costs else []
    lines += [speed_up_text(content, method) for method in content["methods"][1:]]
    return "\n".join(lines)


def draw_comparison(path: Path, content: Content) -> Path:
    """The mean curves with their intervals as a PNG file; a logarithmic scale where they span much."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4), dpi=130, layout="constrained")
    axis, steps = figure.subplots(), content["steps"]
    for number, method in enumerate(content["methods"]):
        means = content["mean"][method]
        values, style = [each["value"] for each in means], "-" if number < COLOURS else "--"
        (line,) = axis.plot(steps, values, style, marker="o", markersize=3.5, label=method)
        if means[0]["low"] is not None:
            low, high = ([each[end] for each in means] for end in ("low", "high"))
            axis.fill_between(steps, low, high, color=line.get_color(), alpha=0.18, linewidth=0)
    everything = [each["value"] for method in content["methods"] for each in content["mean"][method]]
    if min(everything) > 0 and max(everything) > LOGARITHMIC * min(everything):
        axis.set_yscale("log")
    final = content["mean"][content["methods"][0]][-1]["value"]
    axis.axhline(final, color="grey", linestyle=":", linewidth=1)
    axis.set(xlabel="optimizer step", ylabel=f"{content['metric']} ({content['better']} is better)")
    axis.set_title(f"{len(content['seeds'])} seeds, bands are 95 % intervals; dotted: {content['methods'][0]}'s end")
    axis.title.set_fontsize(10)
    axis.grid(alpha=0.3)
    if len(content["methods"]) > LEGEND_INSIDE:
        axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    else:
        axis.legend()
    image = io.BytesIO()
    figure.savefig(image, format="png")
    return write_atomic(path, image.getvalue())
