"""The parts of a report's page: comparisons, results, training curves, media."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from core.storage.run_folder import RunDirectory
from core.train.tracking import BY_TIME, BY_TIME_EMA
from eval.inside.findings import FOLDER as INSIDE
from eval.methods.numbers import mean_over_seeds
from eval.methods.text import cost_rows, headline, made_text, speed_up_text, step_rows
from eval.pages import html
from eval.pages.charts import Line, legend, line_chart
from eval.pages.runs import Group
from eval.pages.tables import constant_metrics

Section = tuple[str, str]
Rows = Sequence[Sequence[str]]


def chart(label: str, y_name: str, lines: Sequence[Line], note: str = "") -> str:
    """A figure with a chart over optimizer steps and its legend."""
    words = f"{label} over optimizer steps: " + "; ".join(_in_words(line) for line in lines)
    return html.figure(line_chart(words, "optimizer step", y_name, lines) + legend(lines), label, note)


def _in_words(line: Line) -> str:
    return f"{line.name} from {line.y[0]:.4g} at step {line.x[0]:g} to {line.y[-1]:.4g} at step {line.x[-1]:g}"


def over_seeds(name: str, steps: Sequence[float], values: Any, place: int) -> Line:
    """The mean over the rows of values (seeds, steps) with its interval; `place` as in `Line`."""
    means = [mean_over_seeds(column) for column in values.T]
    if means[0].interval is None:
        return Line(name, steps, [mean.value for mean in means], place=place)
    ends = [[mean.interval.low for mean in means], [mean.interval.high for mean in means]]
    return Line(name, steps, [mean.value for mean in means], *ends, place)


def comparison_sections(comparisons: Sequence[tuple[Path, Mapping[str, Any]]]) -> list[Section]:
    """A section for each comparison: the speed-up in a sentence, the curves, the table over steps, what was changed."""
    return [
        (f"{file.parent.resolve().name}: {content['metric']}", _comparison(content)) for file, content in comparisons
    ]


def _comparison(content: Mapping[str, Any]) -> str:
    key = "".join(f'<p class="key">{escape(speed_up_text(content, m))}</p>' for m in content["methods"][1:])
    lines = []
    for place, method in enumerate(content["methods"]):
        means = content["mean"][method]
        bounded = means[0]["low"] is not None
        ends = [[each[end] for each in means] for end in ("low", "high")] if bounded else [None, None]
        lines.append(Line(method, content["steps"], [each["value"] for each in means], *ends, place))
    note = "Mean over seeds; the band is Student's 95 % interval." if lines[0].low else "One seed."
    picture = chart(f"{content['metric']} ({content['better']} is better)", content["metric"], lines, note)
    table, costs = html.table(step_rows(content), headline(content)), cost_rows(content)
    spent = html.table(costs, "What a step costs, and all steps until the value") if costs else ""
    return key + html.grid([picture, f"<div>{table}{spent}</div>"]) + html.notes(_comparison_notes(content))


def _comparison_notes(content: Mapping[str, Any]) -> list[str]:
    baseline = content["methods"][0]
    notes = [
        f"Runs of the same seed share the order of data, noise and times. Gain: mean of the seeds' differences from "
        f"{baseline} over {baseline}'s mean, positive is better.",
        f"Speed-up: all steps of {baseline} over the step at which the method's mean curve first has the final mean of "
        f"{baseline}, straight lines between evaluations; its interval resamples seeds and is coarse with few of them.",
        f"Samples: {html.in_words(content['protocol'])}, num_samples = {content['num_samples']}.",
    ]
    for method, changes in content["changes"].items():
        if changes:
            notes.append(f"{method} differs from {baseline} in: {html.in_words(changes)}.")
    return [*notes, f"Made by: {made_text(content['made'])}."] if content["made"] else notes


def results_section(rows: Rows, notes: Sequence[str], groups: Sequence[Group]) -> str:
    """The table of final values with its footnotes, and the curves of every metric."""
    constants = constant_metrics(groups)
    by_metric: dict[str, list[Line]] = {}
    for place, group in enumerate(groups):
        for metric, (steps, values) in group.evaluations().items():
            if metric not in constants and len(steps) > 1:
                by_metric.setdefault(metric, []).append(over_seeds(group.name, steps, values, place))
    banded = any(len(group.runs) > 1 for group in groups)
    note = "Bands are Student's 95 % intervals over seeds." if banded else ""
    figures = [chart(metric, metric, lines, note) for metric, lines in by_metric.items()]
    table = html.table(rows, "The newest evaluation of each run, or of the runs with different seeds")
    return table + html.notes(notes) + (html.grid(figures) if figures else "")


def record_section(rows: Rows, notes: Sequence[str], groups: Sequence[Group]) -> str:
    """The table of the evaluations' records with its footnotes."""
    return html.table(rows, "Records of evaluations") + html.notes(notes)


def training_section(groups: Sequence[Group], points: int) -> list[Section]:
    """Loss and similarity of pairs over the training steps."""
    by_name: dict[str, list[Line]] = {}
    for place, group in enumerate(groups):
        for name, (steps, values) in group.training(points).items():
            by_name.setdefault(name, []).append(over_seeds(group.name, steps, values, place))
    note = "Each point is the mean of neighbouring steps; bands are 95 % intervals over seeds."
    figures = [chart(name, name.partition("/")[0].replace("_", " "), lines, note) for name, lines in by_name.items()]
    figures += _by_time(groups)
    return [("Training", html.grid(figures))] if figures else []


def _by_time(groups: Sequence[Group]) -> list[str]:
    """Charts of the loss by noise level: of one group a line for each bin of t, of several a chart for each bin."""
    note = "The same rows, noise and times at every step; t = 0 is noise, t = 1 data."
    figures = []
    for prefix, weights in ((BY_TIME, "weights"), (BY_TIME_EMA, "averaged weights")):
        measured = {place: group.by_time(prefix) for place, group in enumerate(groups)}
        measured = {place: bins for place, bins in measured.items() if bins}
        if len(measured) == 1:
            ((place, bins),) = measured.items()
            lines = [over_seeds(f"t {name}", *series, number) for number, (name, series) in enumerate(bins.items())]
            said = f"{groups[place].name}. {note}"
            figures.append(chart(f"loss by noise level, {weights}", "flow loss", lines, said))
        elif prefix == BY_TIME_EMA:  # those that samples are made with
            for name in dict.fromkeys(name for bins in measured.values() for name in bins):
                found = [(place, bins[name]) for place, bins in measured.items() if name in bins]
                lines = [over_seeds(groups[place].name, *series, place) for place, series in found]
                figures.append(chart(f"loss at t {name}, {weights}", "flow loss", lines, note))
    return figures


def media_sections(groups: Sequence[Group]) -> list[Section]:
    """The last preview of every run, and what eval.similarity and eval.probe drew of its blocks."""
    samples, inside = [], []
    for group in groups:
        for run in group.runs:
            name = group.name if len(group.runs) == 1 else f"{group.name} ({run.path.name})"
            samples += [_figure(file, name, "samples") for file in last_previews(run)]
            files = sorted((run.path / INSIDE).glob("*.png"))
            inside += [_figure(file, name, file.stem.replace("_", " ")) for file in files]
    sections = [("Samples", html.grid(samples))] if samples else []
    return sections + ([("Inside the backbone", html.grid(inside))] if inside else [])


def last_previews(run: RunDirectory) -> list[Path]:
    """The media of the newest preview that can be shown: pictures, sounds, clips."""
    files = [file for file in sorted(run.previews.glob("step_*")) if file.suffix.lower() in html.MEDIA]
    newest = max((file.name[:13] for file in files), default="")
    return [file for file in files if file.name.startswith(newest)]


def _figure(file: Path, name: str, what: str) -> str:
    step = f"step {int(file.name[5:13])}" if file.name.startswith("step_") else ""
    shown = html.media(file, f"{what} of {name} {step}".strip())
    return html.figure(shown, name, f"{what} {step}".strip(), wide=html.is_wide(file))
