"""`python -m eval.report <runs>`: tables in Markdown, LaTeX and CSV, and one HTML page that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from core.commands.entry import Entry
from core.commands.overrides import override
from core.storage.atomic import write_atomic
from core.storage.provenance import code_version
from core.storage.run_folder import RunDirectory
from eval.measure.record import table as records_table
from eval.pages.html import page
from eval.pages.page import comparison_sections, media_sections, record_section, results_section, training_section
from eval.pages.runs import Material, gather
from eval.pages.tables import (
    comparison_rows,
    constant_metrics,
    curves_csv,
    footnotes,
    group_records,
    latex,
    markdown,
    record_rows,
)


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """The runs to report; the keys are explained in eval/conf/report.yaml."""

    runs: list[str]
    out: str
    title: str
    allow_differences: bool
    points: int

    def __post_init__(self) -> None:
        if not self.runs:
            raise ValueError("runs is []; needed: folders of runs, of comparisons or of records, one at least")
        if self.points < 2:
            raise ValueError(f"points is {self.points}; it must be at least 2")


@dataclass(frozen=True)
class Tables:
    """A named table with its footnotes, and its CSV text where that holds more digits."""

    name: str
    rows: list[list[str]]
    notes: list[str]
    csv: str


def make_tables(material: Material, allow_differences: bool) -> list[Tables]:
    """Results of the runs, each comparison, and records of evaluations; ValueError where protocols are mixed."""
    tables = []
    for name, records, constants in (
        ("Results of the runs", group_records(material.groups), constant_metrics(material.groups)),
        ("Evaluations", material.records, {}),
    ):
        if records:
            rows = record_rows(records, allow_differences)
            text = records_table(records, allow_differences, "csv")
            tables.append(Tables(name, rows, footnotes(records, constants), text))
    for file, content in material.comparisons:
        name = f"Comparison {file.parent.resolve().name} by {content['metric']}"
        tables.append(Tables(name, comparison_rows(content), [], ""))
    return tables


def write_tables(out: Path, tables: Sequence[Tables], material: Material) -> list[Path]:
    """table.md, table.tex, table.csv, and curves.csv where runs were measured."""
    parts = [
        f"## {t.name}\n\n{markdown(t.rows)}" + "".join(f"\n{i}. {n}" for i, n in _numbered(t.notes)) for t in tables
    ]
    files = {
        "table.md": "\n\n".join(part.rstrip("\n") for part in parts) + "\n",
        "table.tex": "\n".join(latex(each.rows, each.name, each.notes) for each in tables),
        "table.csv": "\n".join(each.csv for each in tables if each.csv),
    }
    if any(group.evaluations() for group in material.groups):
        files["curves.csv"] = curves_csv(material.groups)
    return [write_atomic(out / name, text) for name, text in files.items()]


def _numbered(notes: Sequence[str]) -> list[tuple[int, str]]:
    return list(enumerate(notes, start=1))


def make_page(config: ReportConfig, material: Material, tables: Sequence[Tables]) -> str:
    """The HTML page."""
    by_name = {each.name: each for each in tables}
    sections = []
    for name, section in (("Results of the runs", results_section), ("Evaluations", record_section)):
        if name in by_name:
            sections.append((name, section(by_name[name].rows, by_name[name].notes, material.groups)))
    sections[:0] = comparison_sections(material.comparisons)
    sections += training_section(material.groups, config.points)
    sections += media_sections(material.groups)
    code = code_version()
    commit = f", commit {code['commit'][:7]}{' with changes' if code['dirty'] else ''}" if code["commit"] else ""
    runs = sum(len(group.runs) for group in material.groups)
    return page(config.title, f"{runs} runs, {len(material.records)} records. Made by eval.report{commit}.", sections)


def main(config: ReportConfig) -> None:
    """Write tables (Markdown, LaTeX, CSV) and one HTML page of runs, comparisons and records.

    The words before the keys are what to report: python -m eval.report runs/compare/digits out=report. The page holds
    curves with intervals, tables with the protocol as footnotes, sample media and figures of blocks, and needs no other
    file. Values of different protocols are refused unless allow_differences=true.
    """
    material = gather(config.runs)
    tables = make_tables(material, config.allow_differences)
    out = Path(config.out)
    files = write_tables(out, tables, material)
    files = [write_atomic(out / "index.html", make_page(config, material, tables)), *files]
    for each in tables:
        print(f"{each.name}\n\n{markdown(each.rows)}")
    print("written    " + ", ".join(RunDirectory(file).shown() for file in files))


def arguments(words: Sequence[str]) -> list[str]:
    """The command line as hydra reads it: words without `=` are what to report.

    Raises ValueError where both such words and runs=... stand.
    """
    paths = [word for word in words if "=" not in word and not word.startswith("-")]
    rest = [word for word in words if word not in paths]
    if paths and any(word.startswith("runs=") for word in rest):
        raise ValueError(f"runs is given twice: {', '.join(paths)}, and runs=...")
    return [*([override("runs", paths)] if paths else []), *rest]


ENTRY = Entry(main, "eval.conf", "report", ReportConfig, rewrite=arguments)

if __name__ == "__main__":
    ENTRY.run()
