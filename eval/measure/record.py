"""What an evaluation leaves behind: one JSON file of records, and tables that refuse to mix what cannot be compared.

    record = Record(metric="fid", value=2.1, num_samples=50_000, protocol={...}, features={...}, reference={...}, ...)
    write_records(run / "evaluations", [record])           one file for one evaluation, named by its content
    records = read_records([run_a, run_b])                  files, folders of files, or folders of runs
    differences(a, b)                                       {} for records whose values may stand beside each other
    table(records)                                          Markdown; ValueError when protocols differ
    table(records, allow_differences=True, format="latex")  with a column for each key that differs

Knows no modality: what stands in `protocol`, `features` and `reference` is the domain's affair.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from core.schema import changed_keys, plain, strict
from core.storage.atomic import write_atomic
from core.storage.json_files import read_json
from core.storage.provenance import code_version, json_sha256
from eval.statistics.estimate import Estimate, Interval

SCHEMA_VERSION = 1
FOLDER = "evaluations"  # of a run
# What must be equal for two values to be comparable. Where, when and by which code they were measured is written down,
# and so is which run, but that is what one compares.
COMPARED = ("metric", "num_samples", "parameters", "protocol", "features", "reference")
FREE = ("protocol.seed",)  # another draw by the same protocol
UNKNOWN = "unknown"  # how a value begins in the protocol of samples whose making nobody wrote down
REAL = "real_"  # before the last part of the name of what real media score
Format = Literal["markdown", "latex", "csv"]


def real_name(name: str) -> str:
    """The name of a metric of real media: moves/fid -> moves/real_fid."""
    *before, last = name.split("/")
    return "/".join([*before, f"{REAL}{last}"])


@dataclass(frozen=True, kw_only=True)
class Record:
    """One number of an evaluation and all that decides it.

    metric         its name; value and interval as in `eval.statistics.estimate.Estimate`
    num_samples    generated samples behind it
    parameters     of the metric: neighbours, splits, subsets
    protocol       how the samples were made: solver, steps, tolerances, guidance, weights, precision, labels, seed, ...
    features       of which network: name, weights' SHA-256, preprocessing
    reference      what they were compared with: name, kind, SHA-256, num_samples
    config_sha256  of the run's config; null without a run
    code           `core.storage.provenance.code_version()`
    hardware       `hardware(device, processes)`
    created        ISO 8601, UTC; the same for all records of one evaluation
    step           optimizer steps of the weights; null where unknown
    run            what the samples are of: a run's folder, or the samples' file
    """

    metric: str
    value: float
    num_samples: int
    protocol: dict
    features: dict
    reference: dict
    code: dict
    hardware: dict
    created: str
    interval: Interval | None = None
    parameters: dict = field(default_factory=dict)
    config_sha256: str | None = None
    step: int | None = None
    run: str | None = None

    def __post_init__(self) -> None:
        if not self.metric:
            raise ValueError("metric is ''; a record names what it measures")
        ends = () if self.interval is None else (self.interval.low, self.interval.high)
        if not all(math.isfinite(number) for number in (self.value, *ends)):
            raise ValueError(f"{self.metric} is {self.value} with interval {ends}; records hold finite numbers")
        if self.num_samples < 1:
            raise ValueError(f"{self.metric}: num_samples is {self.num_samples}; it must be at least 1")


@dataclass(frozen=True)
class Provenance:
    """What all records of one evaluation share; the fields are those of `Record`."""

    protocol: dict
    hardware: dict
    created: str
    config_sha256: str | None = None
    step: int | None = None
    run: str | None = None

    def record(self, metric: str, estimate: Estimate, features: dict, reference: dict) -> Record:
        """The record of one measured number."""
        return Record(
            metric=metric,
            value=float(estimate.value),
            num_samples=int(estimate.num_samples),
            interval=estimate.interval,
            parameters=dict(estimate.parameters),
            features=features,
            reference=reference,
            code=code_version(),
            **vars(self),
        )


def hardware(device: torch.device, processes: int = 1) -> dict[str, Any]:
    """The processor, the GPU if one was used, how many processes, and PyTorch's version; never the machine's name."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    versions = {"torch": torch.__version__, "cuda": torch.version.cuda if device.type == "cuda" else None}
    return {"device": device.type, "name": name, "cores": os.cpu_count(), "processes": processes, **versions}


def _processor() -> str:
    facts = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.*)$", facts.read_text(), re.M) if facts.is_file() else None
    return found[1] if found else platform.processor() or platform.machine()


def write_records(folder: Path | str, records: Sequence[Record]) -> Path:
    """Write the records of one evaluation as one JSON file, whole or not at all; its path.

    The name holds the SHA-256 of the content, so that no evaluation overwrites another. Raises ValueError for no record
    and for values that JSON cannot hold, OSError where it cannot be written.
    """
    if not records:
        raise ValueError("an evaluation without a record has nothing to write")
    content = {"schema_version": SCHEMA_VERSION, "records": [plain(record) for record in records]}
    try:
        text = json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the records cannot be written as JSON: {error}") from error
    stamp = "".join(letter for letter in records[0].created if letter.isdigit())[:14]
    return write_atomic(Path(folder) / f"evaluation_{stamp}_{json_sha256(content)[:12]}.json", text + "\n")


def read_records(paths: Sequence[Path | str]) -> list[Record]:
    """The records in files, in folders of such files, and in the folders of runs, in the order given.

    Raises ValueError naming the file for one that is missing, damaged or of another schema, and for a folder with none.
    """
    return [record for path in paths for file in _files(Path(path)) for record in _read(file)]


def differences(a: Record, b: Record) -> dict[str, tuple[Any, Any]]:
    """What keeps two values from being compared: dotted keys with both values; {} when nothing does.

    Compared are `COMPARED` without `FREE`; hardware, code, date, run and step are not. A key that one of them lacks has
    None there. What is `UNKNOWN` equals nothing, not even what is unknown too.
    """
    one, other = _compared(a), _compared(b)
    keys = [key for key in changed_keys(one, other) if key not in FREE]
    unknown = [f"protocol.{key}" for key, value in one["protocol"].items() if str(value).startswith(UNKNOWN)]
    return {key: (_at(one, key), _at(other, key)) for key in dict.fromkeys([*keys, *unknown])}


def table(records: Sequence[Record], allow_differences: bool = False, format: Format = "markdown") -> str:  # noqa: A002
    """Runs below each other, metrics beside each other.

    Each metric's records must be comparable. Otherwise: ValueError with the keys that differ and their values, or, with
    allow_differences, a column for each of these keys. CSV has whole numbers, the others 4 digits and the interval.
    """
    if not records:
        raise ValueError("no records to tabulate")
    if format not in ("markdown", "latex", "csv"):
        raise ValueError(f"format is {format!r}; allowed: markdown, latex, csv")
    differing = _differing(records)
    if differing and not allow_differences:
        raise ValueError(f"records of different protocols do not belong in one table: {_details(differing)}")
    metrics = list(dict.fromkeys(record.metric for record in records))
    keys = sorted({key for _, key in differing})
    lines = [["run", "step", *keys, *metrics]]
    for row in _rows(records):
        any_record = next(iter(row.values()))
        step = "" if any_record.step is None else str(any_record.step)
        varied = [_joined(row, key, differing) for key in keys]
        values = [_value(row[name], format) if name in row else "" for name in metrics]
        lines.append([any_record.run or "", step, *varied, *values])
    return {"markdown": _markdown, "latex": _latex, "csv": _csv}[format](lines)


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    folder = path / FOLDER if (path / FOLDER).is_dir() else path
    found = sorted(folder.glob("evaluation_*.json"))
    if not found:
        raise ValueError(f"{path} holds no record of an evaluation (evaluation_*.json)")
    return found


def _read(file: Path) -> list[Record]:
    try:
        content = read_json(file)
        version, nodes = content["schema_version"], content["records"]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{file} is no record of an evaluation, or is damaged: {error!r}") from error
    if version != SCHEMA_VERSION:
        raise ValueError(f"{file} has record schema {version}; this version reads {SCHEMA_VERSION}")
    try:
        return [strict(Record, node) for node in nodes]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file} is damaged: {error}") from error


def _compared(record: Record) -> dict[str, Any]:
    node = json.loads(json.dumps(plain(record)))  # a tuple is the list that a file gives back
    return {name: node[name] for name in COMPARED}


def _at(node: Any, key: str) -> Any:
    """The value at a dotted key; names may hold dots themselves."""
    if not isinstance(node, Mapping):
        return None
    if key in node:
        return node[key]
    for name in node:
        if key.startswith(f"{name}."):
            return _at(node[name], key.removeprefix(f"{name}."))
    return None


Differing = dict[tuple[str, str], list[Any]]  # (metric, key) -> the values met, in their order


def _differing(records: Sequence[Record]) -> Differing:
    """Where records of the same metric differ."""
    found: Differing = {}
    first: dict[str, Record] = {}
    for record in records:
        one = first.setdefault(record.metric, record)
        if one is record:
            continue
        for key, (before, now) in differences(one, record).items():
            values = found.setdefault((record.metric, key), [before])
            values += [now] * (now not in values)
    return found


def _details(differing: Differing) -> str:
    texts = [f"{metric}: {key} is {' or '.join(map(_shown, values))}" for (metric, key), values in differing.items()]
    return "; ".join(texts)


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _rows(records: Sequence[Record]) -> list[dict[str, Record]]:
    """Records of one run, step and protocol beside each other by metric; a metric measured again begins a row."""
    rows: dict[str, list[dict[str, Record]]] = {}
    for record in records:
        same = rows.setdefault(json_sha256([record.run, record.step, record.protocol]), [])
        place = next((row for row in same if record.metric not in row), None)
        if place is None:
            same.append(place := {})
        place[record.metric] = record
    return [row for same in rows.values() for row in same]


def _joined(row: Mapping[str, Record], key: str, differing: Differing) -> str:
    """What the records of a row have at `key`, those of metrics for which it differs."""
    values = [_shown(_at(_compared(record), key)) for name, record in row.items() if (name, key) in differing]
    return ", ".join(dict.fromkeys(values))


def _value(record: Record, form: Format) -> str:
    if form == "csv":
        return repr(record.value)
    text = f"{record.value:.4g}"
    return text if record.interval is None else f"{text} [{record.interval.low:.4g}, {record.interval.high:.4g}]"


def _markdown(lines: list[list[str]]) -> str:
    lines = [[_on_one_line(cell).replace("|", "\\|") for cell in line] for line in lines]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines]
    rows = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([rows[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *rows[1:]]) + "\n"


def _latex(lines: list[list[str]]) -> str:
    special = {"\\": r"\textbackslash{}", **{sign: f"\\{sign}" for sign in "&%$#_{}"}}
    rows = [
        " & ".join("".join(special.get(sign, sign) for sign in _on_one_line(cell)) for cell in line) + r" \\"
        for line in lines
    ]
    head = [f"\\begin{{tabular}}{{{'l' * len(lines[0])}}}", r"\hline", rows[0], r"\hline"]
    return "\n".join([*head, *rows[1:], r"\hline", r"\end{tabular}"]) + "\n"


def _on_one_line(cell: str) -> str:
    return " ".join(cell.splitlines())  # a file's name may hold line ends


def _csv(lines: list[list[str]]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(lines)
    return out.getvalue()
