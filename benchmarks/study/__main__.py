"""`python -m benchmarks.study image|audio|video|motion minutes=...` makes a study, `... page` the page of all."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from benchmarks.measure import shown
from benchmarks.study.command import make_studies
from benchmarks.study.page import PageConfig, write_page
from benchmarks.study.plan import StudyConfig
from core.commands.entry import Entry
from core.commands.overrides import override
from eval.methods.plan import split_words


def main(config: StudyConfig) -> None:
    """Train a network with every method of the study in matched runs, seed by seed, and record what was found.

    The first word is the domain: python -m benchmarks.study image minutes=40. The networks and the methods stand in
    benchmarks/study/networks. Keys that are none of those below go to the runs. When the time is over, or on a signal,
    the runs under way save their state; the same command continues. python -m benchmarks.study page writes
    docs/results.md from the records.
    """
    make_studies(config, sys.argv[1:])


def arguments(words: Sequence[str]) -> list[str]:
    """The command line as hydra reads it; ValueError for a second word without `=`."""
    ours, runs = split_words(words, StudyConfig)
    return [*ours, *([override("overrides", runs)] if runs else [])]


ENTRY = Entry(main, "benchmarks.study.conf", "study", StudyConfig, rewrite=arguments)


def make_page(config: PageConfig) -> None:
    """Write docs/results.md, and the pictures of its curves, from the records of the studies."""
    print(f"page       {shown(write_page(config).absolute())}")


PAGE = Entry(make_page, "benchmarks.study.conf", "page", PageConfig)

if __name__ == "__main__":
    if sys.argv[1:2] == ["page"]:
        PAGE.run(sys.argv[2:])
    else:
        ENTRY.run()
