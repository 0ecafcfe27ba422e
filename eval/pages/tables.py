"""Tables of a report: results of runs as records, so that what cannot be compared is not put into one table."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from core.schema import changed_keys
from eval.measure.record import UNKNOWN, Provenance, Record, table
from eval.methods.matched import value_at
from eval.methods.numbers import mean_over_seeds
from eval.methods.result import made_by, protocol_of, samples_of
from eval.methods.text import factor_text, gain_text, made_text, mean_text
from eval.pages.html import in_words
from eval.pages.runs import Group

Rows = list[list[str]]


def group_records(groups: Sequence[Group]) -> list[Record]:
    """The newest evaluation of each group, one record for each metric that is not the same everywhere."""
    measured = [(group, group.evaluations()) for group in groups]
    constants = constant_metrics(groups)
    records = []
    for group, evaluations in measured:
        run = group.runs[0]
        config, samples = run.config(), samples_of(run)
        protocol = protocol_of(config) | ({} if samples else {"num_samples": f"{UNKNOWN}: not recorded"})
        for metric, (steps, values) in evaluations.items():
            if metric in constants:
                continue
            facts = Provenance(protocol=protocol, hardware=made_by(run), created="", step=steps[-1], run=_name(group))
            estimate = mean_over_seeds(values[:, -1])
            record = facts.record(
                metric, estimate, {"network": "the run's own evaluator"}, {"data": config.get("data")}
            )
            records.append(_counted(record, samples or 1))
    return records


def _counted(record: Record, samples: int) -> Record:
    """The record with the number of samples behind it; an estimate over seeds counts the seeds."""
    return Record(**{**vars(record), "num_samples": samples})


def _name(group: Group) -> str:
    return group.name if len(group.runs) == 1 else f"{group.name}, {len(group.runs)} seeds"


def constant_metrics(groups: Sequence[Group]) -> dict[str, float]:
    """Metrics with the same value in every run and step, such as the floor of a distance, if any could differ."""
    columns: dict[str, list[float]] = {}
    for group in groups:
        for metric, (_, values) in group.evaluations().items():
            columns.setdefault(metric, []).extend(np.ravel(values).tolist())
    return {name: each[0] for name, each in columns.items() if len(each) > 1 and len(set(each)) == 1}


def cells(markdown: str) -> Rows:
    """Head and rows of a Markdown table."""
    lines = [line for line in markdown.splitlines() if line.startswith("|") and not re.fullmatch(r"[|\-]+", line)]
    split = [re.split(r"(?<!\\)\|", line.strip()[1:-1]) for line in lines]
    return [[cell.strip().replace("\\|", "|") for cell in row] for row in split]


def record_rows(records: Sequence[Record], allow_differences: bool) -> Rows:
    """Head and rows of a table of records; ValueError where protocols differ and that is not allowed."""
    try:
        return cells(table(records, allow_differences, "markdown"))
    except ValueError as error:
        raise ValueError(f"{error} (allow_differences=true sets them side by side, with footnotes)") from error


def footnotes(records: Sequence[Record], constants: Mapping[str, float]) -> list[str]:
    """Sentences on how the numbers were made; where protocols differ, each with its runs."""
    by_protocol: dict[str, list[Record]] = {}
    for record in records:
        kept = {"protocol": record.protocol, "reference": record.reference, "num_samples": record.num_samples}
        by_protocol.setdefault(json.dumps(kept, sort_keys=True), []).append(record)
    notes = []
    for text, same in by_protocol.items():
        runs = ", ".join(dict.fromkeys(record.run or "records" for record in same))
        metrics = ", ".join(dict.fromkeys(record.metric for record in same))
        notes.append(f"{runs if len(by_protocol) > 1 else 'All rows'} ({metrics}): {in_words(json.loads(text))}")
    if len(by_protocol) > 1:
        notes.insert(0, f"These rows were not made by one protocol: {_differing(list(by_protocol))}.")
    notes += [f"Intervals: {kind}." for kind in dict.fromkeys(r.interval.kind for r in records if r.interval)]
    if constants:
        notes.append("The same in every run: " + ", ".join(f"{name} {value:.4g}" for name, value in constants.items()))
    return notes + [f"Made by: {each}." for each in dict.fromkeys(_made(record) for record in records)]


def _made(record: Record) -> str:
    hardware = record.hardware
    return made_text(hardware) if "code" in hardware else in_words({"commit": record.code.get("commit"), **hardware})


def _differing(texts: Sequence[str]) -> str:
    first, *others = map(json.loads, texts)
    keys = sorted({key for other in others for key in changed_keys(first, other)})
    every = [first, *others]
    return "; ".join(f"{key} is {' or '.join(dict.fromkeys(str(value_at(e, key)) for e in every))}" for key in keys)


def comparison_rows(content: Mapping[str, Any]) -> Rows:
    """Head and rows: each method's end, its gain over the baseline, its speed-up."""
    baseline, *others = content["methods"]
    seeds = len(content["seeds"])
    rows = [["method", f"{content['metric']} ({seeds} seeds)", "gain", "speed-up"]]
    rows.append([baseline, mean_text(content["mean"][baseline][-1]), "", ""])
    for method in others:
        gain = gain_text(content["gain"][method][-1])
        rows.append([method, mean_text(content["mean"][method][-1]), gain, factor_text(content["speed_up"][method])])
    return rows


def markdown(rows: Rows) -> str:
    """Rows as a Markdown table."""
    rows = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]]) + "\n"


SPECIAL = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$"}
SPECIAL |= {sign: f"\\{sign}" for sign in "&%$#_{}"}


def escape_latex(text: str) -> str:
    """Plain text as LaTeX shows it."""
    return "".join(SPECIAL.get(sign, sign) for sign in text)


def latex(rows: Rows, caption: str, notes: Sequence[str]) -> str:
    """Rows as a LaTeX table with its notes below it; needs no package."""
    lines = [" & ".join(map(escape_latex, row)) + r" \\" for row in rows]
    below = [rf"{{\footnotesize {escape_latex(note)}\par}}" for note in notes]
    head = [r"\begin{table}", r"\centering", rf"\caption{{{escape_latex(caption)}}}"]
    body = [rf"\begin{{tabular}}{{{'l' * len(rows[0])}}}", r"\hline", lines[0], r"\hline", *lines[1:], r"\hline"]
    return "\n".join([*head, *body, r"\end{tabular}", r"\par\smallskip", *below, r"\end{table}"]) + "\n"


def curves_csv(groups: Sequence[Group]) -> str:
    """Every evaluation as a line: group, metric, step, seeds, mean, low, high (empty where there is no interval)."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["group", "metric", "step", "seeds", "mean", "low", "high"])
    for group in groups:
        for metric, (steps, values) in group.evaluations().items():
            for step, column in zip(steps, values.T, strict=True):
                mean = mean_over_seeds(column)
                ends = ["", ""] if mean.interval is None else [repr(mean.interval.low), repr(mean.interval.high)]
                writer.writerow([group.name, metric, step, len(column), repr(mean.value), *ends])
    return out.getvalue()
