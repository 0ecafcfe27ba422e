"""Where things are: the same names in every domain, rooms not crowded, and the tree that docs/design.md shows."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOMAINS = [name for name in ("image", "audio", "video", "motion") if (ROOT / name).is_dir()]
PACKAGES = ("core", "eval", *DOMAINS, "slurm", "benchmarks")
NAMES = {"data", "tokenizer", "conditioning", "backbone", "preview"}  # the run
NAMES |= {"metrics", "stand_in", "extractors", "media"}  # the measure
NAMES |= {"train", "sample", "cache", "evaluate", "train_tokenizer"}  # the commands
LEFT_OUT = {"extractors", "media", "train_tokenizer"}  # by the page's domain, whose data need none
MOST_FILES, MOST_LINES = 20, 400


def rooms() -> dict[str, list[str]]:
    """Every folder of ours with Python files -> their names, without __init__."""
    found = {}
    for package in PACKAGES:
        for init in sorted((ROOT / package).rglob("__init__.py")):
            names = sorted(path.stem for path in init.parent.glob("*.py") if path != init)
            if names:
                found[str(init.parent.relative_to(ROOT))] = names
    return found


def is_command(path: Path) -> bool:
    """Whether a module is run as `python -m`."""
    return re.search(r"^ENTRY = ", path.read_text(), re.M) is not None


def test_domains_have_the_same_file_names():
    """A domain's own things are in folders; beside the names that all have there are its own commands only."""
    found = rooms()
    for domain in DOMAINS:
        own = set(found[domain]) - NAMES
        assert set(found[domain]) >= NAMES, f"{domain} lacks {sorted(NAMES - set(found[domain]))}"
        assert all(is_command(ROOT / domain / f"{name}.py") for name in own), f"{domain} has {sorted(own)} of its own"
    page = (ROOT / "docs" / "add_a_domain.md").read_text()
    names = set(re.findall(r"^# \w+/(\w+)\.py$", page, re.M))
    assert names == NAMES - LEFT_OUT, names ^ (NAMES - LEFT_OUT)


def test_no_room_is_crowded_and_no_file_is_long():
    crowded = [f"{room} has {len(names)} files" for room, names in rooms().items() if len(names) > MOST_FILES]
    files = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    lengths = {path.relative_to(ROOT): len(path.read_text().splitlines()) for path in files}
    long = [f"{path} has {length} lines" for path, length in lengths.items() if length > MOST_LINES]
    assert not crowded + long, crowded + long


def drawn_tree() -> str:
    """The tree as docs/design.md shows it: a folder a line, its modules behind it."""
    lines = []
    for room, names in rooms().items():
        *above, name = room.split("/")
        head, line = f"{'  ' * len(above)}{name}/", " ".join(names)
        while line:  # wrapped, later lines below the first name
            cut = line if len(line) <= 95 else line[: line.rindex(" ", 0, 96)]
            lines.append(f"{head:<18} {cut}")
            head, line = "", line[len(cut) :].strip()
    return "\n".join(lines)


def read_tree(text: str) -> dict[str, list[str]]:
    """The folders and modules of a drawn tree; what stands behind # is for people."""
    found: dict[str, list[str]] = {}
    above: list[str] = []
    for line in text.splitlines():
        indent, folder, names = re.fullmatch(r"( *)(?:(\w+)/)?(.*?)(?:\s*#.*)?", line).groups()
        if folder:
            above = [*above[: len(indent) // 2], folder]
        found.setdefault("/".join(above), []).extend(names.split())
    return {room: sorted(names) for room, names in found.items() if names}


def test_the_page_shows_the_tree():
    blocks = re.findall(r"```text\n(core/.*?)```", (ROOT / "docs" / "design.md").read_text(), re.S)
    assert len(blocks) == 1, "docs/design.md needs one block ```text that begins with core/"
    shown, real = read_tree(blocks[0]), rooms()
    wrong = [room for room in shown.keys() | real.keys() if shown.get(room) != real.get(room)]
    assert not wrong, f"docs/design.md is wrong in {sorted(wrong)}; it is now:\n{drawn_tree()}"


def test_a_drawn_tree_is_read_as_it_was_meant():
    assert read_tree(drawn_tree()) == rooms()
    text = "core/     step   # a page\n  flow/   path sampler\n          solvers\n  nets/   sit\nimage/  data"
    rooms_of_text = {"core": ["step"], "core/flow": ["path", "sampler", "solvers"], "core/nets": ["sit"]}
    assert read_tree(text) == {**rooms_of_text, "image": ["data"]}
