"""The rooms: the tree in the documents is the real one, folders and files stay small, domains have the same files."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SHOWN = ("layersync", "core", "eval", "image", "audio", "video", "motion", "slurm", "benchmarks")
DOMAINS = ("image", "audio", "video", "motion")
RUN = {"data", "tokenizer", "conditioning", "backbone", "preview", "encoder"}
MEASURE = {"metrics", "stand_in", "extractors", "media"}
COMMANDS = {"train", "sample", "cache", "evaluate", "train_tokenizer"}
SMALL = {"encoder", "extractors", "media", "train_tokenizer"}  # of which a domain as small as that of the page has none
MAX_FILES, MAX_LINES = 20, 400


def real_tree() -> dict[str, set[str]]:
    """Folder -> its modules, for every folder of ours with Python files; YAML folders are left out."""
    folders = [folder for name in SHOWN for folder in (ROOT / name, *(ROOT / name).rglob("*")) if folder.is_dir()]
    found = {str(folder.relative_to(ROOT)): {path.stem for path in folder.glob("*.py")} for folder in folders}
    return {name: files - {"__init__"} for name, files in found.items() if files - {"__init__"}}


def shown_tree() -> dict[str, set[str]]:
    """The same from the fenced block of docs/design.md: `folder/  file  file`, its own folders indented."""
    (block,) = re.findall(r"```text\n(.*?)```", (ROOT / "docs" / "design.md").read_text(), re.S)
    found: dict[str, set[str]] = {}
    parent = name = ""
    for line in block.splitlines():
        words = line.split()
        if words[0].endswith("/"):
            name, words = words[0].removesuffix("/"), words[1:]
            parent, name = (parent, f"{parent}/{name}") if line.startswith(" ") else (name, name)
        found.setdefault(name, set()).update(words)
    return found


def test_the_tree_of_the_documents_is_the_real_one():
    assert shown_tree() == real_tree()


def test_every_folder_says_in_its_first_line_what_belongs_there():
    silent = []
    for name in real_tree():
        head = ROOT / name / "__init__.py"
        if not head.is_file() or not ast.get_docstring(ast.parse(head.read_text())):
            silent.append(name)
    assert not silent, silent


def test_no_folder_and_no_file_is_too_large():
    crowded = [name for name, files in real_tree().items() if len(files) > MAX_FILES]
    long = [path for name in SHOWN for path in (ROOT / name).rglob("*.py") if path.read_text().count("\n") > MAX_LINES]
    assert not crowded and not long, (crowded, long)


def test_domains_have_files_of_the_same_names():
    tree, page = real_tree(), (ROOT / "docs" / "add_a_domain.md").read_text()
    for domain in DOMAINS:
        if domain in tree:
            missing, own = (RUN | MEASURE | COMMANDS) - tree[domain], tree[domain] - (RUN | MEASURE | COMMANDS)
            assert not missing, (domain, missing)
            strays = [name for name in own if "\nENTRY = " not in (ROOT / domain / f"{name}.py").read_text()]
            assert not strays, f"{domain}: {strays} are no commands; what is a domain's own is in its folders"
    made = set(re.findall(r"^# signals/(\w+)\.py$", page, re.M)) - {"__init__"}
    assert made == (RUN | MEASURE | COMMANDS) - SMALL
