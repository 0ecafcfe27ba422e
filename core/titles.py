"""What samples are called where a person looks at them, and which of many are shown. B batch."""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import Tensor

LONGEST_SLUG = 32
NO_CLASS = "no class"  # of the null label, which lies behind the last class


def class_titles(condition: object, class_names: Sequence[str]) -> list[str] | None:
    """The classes' names for labels (B,); None for conditions that are no labels, and where classes have no names."""
    if not isinstance(condition, Tensor) or condition.ndim != 1 or condition.is_floating_point() or not class_names:
        return None
    names = [*class_names, NO_CLASS]
    return [names[min(label, len(class_names))] for label in condition.tolist()]


def numbered(count: int) -> list[str]:
    """Titles of samples that have nothing else."""
    return [f"sample {number}" for number in range(count)]


def one_of_each_first(titles: Sequence[str], most: int) -> list[int]:
    """At most `most` rows: as many whole rounds of every title as fit, at least one, sorted by round, then by row."""
    seen: dict[str, int] = {}
    rounds = []
    for row, title in enumerate(titles):
        rounds.append((seen.get(title, 0), row))
        seen[title] = seen.get(title, 0) + 1
    whole = max(1, most // max(1, len(seen)))
    return [row for turn, row in sorted(rounds) if turn < whole][:most]


def slug(title: str) -> str:
    """A title as a part of a file's name: small letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:LONGEST_SLUG] or "sample"
