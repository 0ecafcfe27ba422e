"""The small core is fenced, and no module imports itself by way of others."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("layersync", "core", "eval", "image", "audio", "video", "motion", "slurm", "benchmarks")
# The method: what of core a reader needs to understand it, and what a user's own code loads.
FENCED = ("layersync", "core", "core.contracts", "core.draws", "core.step", "core.precision")
FENCED_ROOMS = ("core.flow", "core.alignment", "core.nets", "layersync")


def modules() -> dict[str, Path]:
    """Every module of ours by its name."""
    files = [path for name in PACKAGES for path in (ROOT / name).rglob("*.py")]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in files}


def imported(path: Path, known: dict[str, Path]) -> Iterator[str]:
    """Our modules that a file imports when it is loaded: not inside functions, not for types only."""
    waiting: list[ast.stmt] = list(ast.parse(path.read_text()).body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield from (name for name in (inner if inner in known else node.module,) if name in known)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.unparse(node.test):
            waiting += [*node.body, *node.orelse]
        elif isinstance(node, ast.Try):
            waiting += node.body


def test_the_method_imports_nothing_of_core_but_itself():
    known, offences = modules(), []
    for name, path in known.items():
        if name in FENCED or name.startswith(tuple(f"{room}." for room in FENCED_ROOMS)):
            outside = [
                other
                for other in imported(path, known)
                if other not in (*FENCED, *FENCED_ROOMS) and not other.startswith(tuple(f"{r}." for r in FENCED_ROOMS))
            ]
            offences += [f"{name} imports {other}" for other in outside]
    assert not offences, offences


def test_no_imports_run_in_a_circle():
    known = modules()
    edges = {name: sorted(set(imported(path, known)) - {name}) for name, path in known.items()}
    done: set[str] = set()

    def visit(name: str, above: list[str]) -> None:
        assert name not in above, " -> ".join([*above[above.index(name) :], name])
        if name not in done:
            for other in edges[name]:
                visit(other, [*above, name])
            done.add(name)

    for name in known:
        visit(name, [])
