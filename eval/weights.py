"""`python -m eval.weights list | fetch NAME | add NAME FILE | verify | table`: the published weights in use here.

Code that needs weights calls `locate(name, weights_root(config.weights_dir))`, which never touches the network.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from eval.published.download import fetch
from eval.published.entry import WeightsEntry, WeightsFile
from eval.published.registry import REGISTRY, find_entry
from eval.published.store import (
    ABSENT,
    OK,
    VARIABLE,
    Recorded,
    add,
    locate,
    locate_file,
    place,
    report,
    state,
    target,
    verified,
    weights_root,
)

__all__ = ["find_entry", "locate", "locate_file", "verified", "weights_root"]

EXIT_DAMAGED, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 1, 2, 130  # as in core.commands.entry, whose import takes seconds
DESCRIPTION = f"""\
Published weights, by name: which are known, which are here, and how they come here. Only `fetch` uses the network.

  python -m eval.weights list               what there is, what is here, under which licence
  python -m eval.weights fetch NAME ...     download, go on after a break, verify
  python -m eval.weights add NAME FILE      verify a file or folder that you have, and copy it into place
  python -m eval.weights verify [NAME ...]  read every file that is here and compare its hash
  python -m eval.weights table              the registry as Markdown, for docs/weights.md

The folder is --weights-dir, else {VARIABLE}, else ~/.cache/layersync/weights. A hash that nobody published is
recorded at the first import and compared from then on."""


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    raw = argparse.RawDescriptionHelpFormatter
    settings = {"prog": "python -m eval.weights", "formatter_class": raw, "allow_abbrev": False}
    parser = argparse.ArgumentParser(description=DESCRIPTION, **settings)
    where = argparse.ArgumentParser(add_help=False)
    where.add_argument("--weights-dir", metavar="DIR", help=f"the folder of all weights; default: {VARIABLE}")
    actions = parser.add_subparsers(dest="action", required=True, metavar="list | fetch | add | verify | table")
    actions.add_parser("list", parents=[where], help="what there is and what is here")
    fetching = actions.add_parser("fetch", parents=[where], help="download by name")
    fetching.add_argument("names", nargs="+", metavar="NAME")
    adding = actions.add_parser("add", parents=[where], help="verify a copy and put it into place")
    adding.add_argument("name", metavar="NAME")
    adding.add_argument("source", metavar="FILE|DIR", type=Path)
    adding.add_argument("--link", action="store_true", help="a symbolic link instead of a copy")
    verifying = actions.add_parser("verify", parents=[where], help="compare hashes")
    verifying.add_argument("names", nargs="*", metavar="NAME")
    actions.add_parser("table", parents=[where], help="the registry as Markdown")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """The command; exits 2 with one line on bad input and what cannot be fetched, 1 when `verify` finds damage."""
    options = make_parser().parse_args(argv)
    try:
        run(options, weights_root(options.weights_dir))
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_BAD_INPUT)


def run(options: argparse.Namespace, root: Path) -> None:
    """Do what the options ask for."""
    if options.action == "list":
        print(listing(root))
    elif options.action == "table":
        print(markdown())
    elif options.action == "fetch":
        for entry in [find_entry(name) for name in options.names]:
            fetch(entry, root, show=print)
    elif options.action == "add":
        entry = find_entry(options.name)
        for file in add(entry, options.source.expanduser(), root, options.link):
            print(f"added    {place(entry, file, root)}")
    else:
        entries = [find_entry(name) for name in options.names] or REGISTRY
        sys.exit(EXIT_DAMAGED if verify(entries, root) else 0)


def verify(entries: Sequence[WeightsEntry], root: Path) -> bool:
    """Say of every file that is here what it is; whether any is damaged."""
    damaged, files = False, 0
    for entry in entries:
        for file, found, bad in report(entry, root):
            print(f"{entry.name}/{file.path}: {found}", flush=True)
            damaged, files = damaged or bad, files + 1
    if not files:
        print(f"none of the weights are in {root}")
    return damaged


def listing(root: Path) -> str:
    """A line for each entry: name, state, size, hash, licence, use, place."""
    recorded = Recorded.load(root)
    rows = [["name", "state", "size", "sha256", "licence", "used by", "place"]]
    for entry in REGISTRY:
        what = [entry.name, entry_state(entry, root, recorded), size(entry), hashes(entry, recorded)]
        rows.append([*what, entry.licence, entry.used_by, str(target(entry, root))])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join(lines)


def entry_state(entry: WeightsEntry, root: Path, recorded: Recorded) -> str:
    """present, absent, damaged size, or how many files of how many are there; contents are not read."""
    states = [state(entry, file, root, recorded) for file in entry.files]
    if any(found not in (OK, ABSENT) for found in states):
        return "damaged size"
    present = states.count(OK)
    return "present" if present == len(states) else f"{present} of {len(states)} files" if present else "absent"


def size(entry: WeightsEntry) -> str:
    """Bytes of all files, for people."""
    if entry.size is not None:
        return _bytes(entry.size)
    known = sum(file.size or 0 for file in entry.files)
    return f"over {_bytes(known)}" if known else "unknown"


def _bytes(count: int) -> str:
    unit = 0
    value = float(count)
    while value >= 1000 and unit < 3:
        value, unit = value / 1000, unit + 1
    return f"{value:.0f} B" if unit == 0 else f"{value:.1f} {('B', 'kB', 'MB', 'GB')[unit]}"


def hashes(entry: WeightsEntry, recorded: Recorded | None = None) -> str:
    """A word on what the files are compared with."""
    counts = Counter(_hash_of(entry, file, recorded) for file in entry.files)
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))


def _hash_of(entry: WeightsEntry, file: WeightsFile, recorded: Recorded | None) -> str:
    if file.known:
        return "published"
    if recorded is not None and recorded.sha256(entry, file) is not None:
        return "recorded"
    return "first digits" if file.sha256 is not None else "unknown: recorded at first import"


def markdown() -> str:
    """The registry as the tables of docs/weights.md: the entries, then the files."""
    lines = ["| name | what | size | SHA-256 | licence | used by | notes |", "|---|---|---|---|---|---|---|"]
    for entry in REGISTRY:
        cells = [f"[{entry.name}]({entry.origin})", entry.title, size(entry), hashes(entry), entry.licence]
        lines.append(f"| {' | '.join([*cells, entry.used_by, entry.notes])} |")
    lines += ["", "| place in the weights folder | origin | SHA-256 |", "|---|---|---|"]
    for entry in REGISTRY:
        for file in entry.files:
            how = " (by hand)" if file.by_hand else ""
            lines.append(f"| `{entry.name}/{file.path}` | <{file.url}>{how} | {_digits(file)} |")
    return "\n".join(lines)


def _digits(file: WeightsFile) -> str:
    if file.sha256 is None:
        return "unknown"
    return f"`{file.sha256}`" if file.known else f"`{file.sha256}`..."


if __name__ == "__main__":
    main()
