"""Policies as tests: who imports whom, what may print, how long a function may be, that documents tell the truth.

Each check names the offending line.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib.util
import re
import shlex
import sys
import types
import typing
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("layersync", "core", "eval", "image", "audio", "video", "motion", "slurm", "benchmarks", "examples")
DOMAINS = {"image", "audio", "video", "motion"}
MAY_IMPORT = {
    "layersync": set(),
    "core": {"layersync"},
    "eval": {"layersync", "core"},
    **{domain: {"layersync", "core", "eval"} for domain in DOMAINS},
    "slurm": {"core"},
    "examples": {"layersync"},
    "benchmarks": set(PACKAGES),
}
# What core needs at import time, by file; everything else is imported where it is used.
CORE_NEEDS = {"torch", "numpy", "einops", "safetensors", "tqdm"}
CORE_EXCEPTIONS = {
    "core/commands/entry.py": {"hydra", "omegaconf", "yaml"},
    "core/commands/overrides.py": {"hydra", "omegaconf"},
    "core/storage/run_folder.py": {"yaml"},
    "core/storage/yaml_files.py": {"yaml"},
    "core/commands/sample.py": {"yaml"},
}
ENTRIES = {
    "train.py",
    "sample.py",
    "cache.py",
    "evaluate.py",
    "train_tokenizer.py",
    "finetune.py",
    "convert_lora.py",
    "launch.py",
    "reconstruct_ema.py",
    "reconstruction.py",
    "weights.py",
    "probe.py",
    "similarity.py",
    "choose_pair.py",
    "compare.py",
    "report.py",
    "show.py",
    "prepare.py",
    "verify.py",
}
MAX_FUNCTION_LINES = 100
STANDARD_LIBRARY = set(sys.stdlib_module_names)


def sources(*packages: str) -> list[Path]:
    """Python files of our packages."""
    return [path for name in packages or PACKAGES for path in sorted((ROOT / name).rglob("*.py"))]


def label(path: Path, node: ast.AST) -> str:
    """file:line of a node."""
    return f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}"


def imports(tree: ast.AST) -> list[tuple[ast.AST, str]]:
    """Every absolutely imported module with its node."""
    found: list[tuple[ast.AST, str]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.append((node, node.module))
    return found


@functools.cache
def parse(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def test_import_direction():
    """layersync <- core <- eval <- domains (never each other) <- benchmarks; slurm knows core only."""
    offences = []
    for path in sources():
        package = path.relative_to(ROOT).parts[0]
        for node, module in imports(parse(path)):
            target = module.split(".")[0]
            if target in PACKAGES and target != package and target not in MAY_IMPORT[package]:
                offences.append(f"{label(path, node)} imports {module}")
    assert not offences, offences


def test_layersync_needs_torch_alone():
    """Wherever it stands in a file: a user's own code installs nothing for it."""
    imported = [(path, node, name) for path in sources("layersync") for node, name in imports(parse(path))]
    allowed = {"torch", "layersync"} | STANDARD_LIBRARY
    offences = [
        f"{label(path, node)} imports {name}" for path, node, name in imported if name.split(".")[0] not in allowed
    ]
    assert imported and not offences, offences


def test_packages_of_commands_answer_signals_before_they_import_anything_else():
    """A signal in the seconds in which PyTorch is imported has its exit code only then."""
    heads = {name: parse(ROOT / name / "__init__.py").body for name in (*DOMAINS, "eval") if (ROOT / name).is_dir()}
    wanted = ["from core.processes.starting import answer_signals", "answer_signals()"]
    offences = [name for name, body in heads.items() if [ast.unparse(node) for node in body[1:3]] != wanted]
    assert len(heads) >= 3 and not offences, offences


def test_core_imports_little():
    """Importing core needs torch, numpy, einops, safetensors and tqdm; hydra and YAML in the files named above."""
    offences = []
    for path in sources("core"):
        name = str(path.relative_to(ROOT))
        allowed = CORE_NEEDS | CORE_EXCEPTIONS.get(name, set()) | STANDARD_LIBRARY | {"core", "layersync"}
        top_level = [node for node in parse(path).body if isinstance(node, ast.Import | ast.ImportFrom)]
        for node, module in imports(ast.Module(top_level, [])):
            if module.split(".")[0] not in allowed:
                offences.append(f"{label(path, node)} imports {module}")
    assert not offences, offences


def test_no_bare_eval_import_no_wildcard_no_relative_import():
    """`import eval` would hide the builtin; wildcards hide where a name comes from."""
    offences = []
    for path in [*sources(), *sorted((ROOT / "tests").rglob("*.py"))]:
        for node in ast.walk(parse(path)):
            bare = isinstance(node, ast.Import) and any(a.name == "eval" or a.asname == "eval" for a in node.names)
            wild = isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names)
            relative = isinstance(node, ast.ImportFrom) and node.level > 0
            if bare or wild or relative:
                offences.append(label(path, node))
    assert not offences, offences


def test_print_only_in_entries():
    """Everything else logs, returns, or writes through tracking."""
    offences = []
    for path in sources():
        package, *inner = path.relative_to(ROOT).parts
        if inner[0] in ENTRIES or package in ("benchmarks", "examples"):
            continue
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "print":
                offences.append(label(path, node))
    assert not offences, offences


def test_no_long_function():
    """A function of 100 lines has two subjects."""
    offences = []
    for path in [*sources(), *sorted((ROOT / "tests").rglob("*.py"))]:
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = node.end_lineno - node.lineno + 1
                if length > MAX_FUNCTION_LINES:
                    offences.append(f"{label(path, node)} {node.name}: {length} lines")
    assert not offences, offences


def test_no_domain_is_named_in_core():
    """Core does not ask which domain it serves: no domain's name stands in its code as a string."""
    offences = []
    for path in sources("core"):
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.Constant) and node.value in DOMAINS:
                offences.append(label(path, node))
    assert not offences, offences


def test_torch_load_is_always_safe():
    """Every torch.load says weights_only=True."""
    offences = []
    for path in sources():
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                safe = any(k.arg == "weights_only" and getattr(k.value, "value", 0) is True for k in node.keywords)
                if not safe:
                    offences.append(label(path, node))
    assert not offences, offences


def test_files_of_others_are_opened_where_they_are_checked():
    """Arrays by core.storage.arrays, pickles by core.storage.weights, and no from_pretrained that may run code."""
    readers = {"torch.load": {"core/storage/weights.py"}, "pickle.load": set(), "pickle.loads": set()}
    readers |= {"np.load": {"benchmarks/motion_reading.py"}}  # the naive reader that ours is held against
    readers |= {"torch.jit.load": {"video/encoders/i3d.py"}}  # a program: of the registry, the published one alone
    offences = []
    for path in sources():
        for node in ast.walk(parse(path)):
            if not isinstance(node, ast.Call):
                continue
            name, given = ast.unparse(node.func), {keyword.arg for keyword in node.keywords}
            unpacked = {ast.unparse(keyword.value) for keyword in node.keywords if keyword.arg is None}
            safe = "use_safetensors" in given or unpacked & {"LOCAL", "reading"}
            foreign = str(path.relative_to(ROOT)) not in readers.get(name, {str(path.relative_to(ROOT))})
            if foreign or (name.endswith(".from_pretrained") and not safe):
                offences.append(label(path, node))
    assert not offences, offences


def test_vae_scale_is_nowhere_a_literal():
    """The tokenizer's own config holds its scale; a copied 0.18215 outlives a change of VAE."""
    offences = [str(path) for path in sources() if "0.18215" in path.read_text()]
    assert not offences, offences


# Configs


@functools.cache
def entries() -> list[tuple[str, type]]:
    """(module, schema) of every `python -m` entry of core, eval or a domain: the modules with an ENTRY."""
    found = []
    for path in sources("core", "eval", *DOMAINS):
        names = [
            getattr(target, "id", "")
            for node in parse(path).body
            if isinstance(node, ast.Assign)
            for target in node.targets
        ]
        if "ENTRY" in names:
            module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
            found.append((module.__name__, module.ENTRY.schema))
    assert found
    return found


def schema_fields(schema: type, seen: set[type]) -> None:
    """Collect every dataclass that a config can contain."""
    if schema in seen or not dataclasses.is_dataclass(schema):
        return
    seen.add(schema)
    hints = typing.get_type_hints(schema)
    for field in dataclasses.fields(schema):
        for option in field.metadata.get("choices", {}).values():
            schema_fields(option, seen)
        hint = hints[field.name]
        members = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        for member in members:
            if isinstance(member, type):
                schema_fields(member, seen)


def test_every_config_key_is_read():
    """A key that no code reads is a promise without an owner."""
    schemas: set[type] = set()
    for _, schema in entries():
        schema_fields(schema, schemas)
    assert len(schemas) > 10
    read = set()
    for path in sources():
        tree = parse(path)
        checks = {  # a check of a value is no use of it
            id(inner)
            for function in ast.walk(tree)
            if isinstance(function, ast.FunctionDef) and function.name == "__post_init__"
            for inner in ast.walk(function)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load) and id(node) not in checks:
                read.add(node.attr)
    unread = [f"{s.__name__}.{f.name}" for s in schemas for f in dataclasses.fields(s) if f.name not in read]
    assert not unread, unread


def test_every_yaml_key_says_what_the_schema_says():
    """Each entry's default config converts, and holds every key of its schema: nothing is hidden in a default."""
    from core.commands.entry import compose_config

    for module, schema in entries():
        name = module.split(".")[-1]
        run = ["run=some-run"]
        required = {"sample": run, "probe": run, "similarity": run, "reconstruct_ema": [*run, "width=0.1"]}
        required |= {
            "choose_pair": run,
            "reconstruction": run,
            "compare": ["domain=image"],
            "report": ["runs=[some-run]"],
        }
        required |= {"finetune": ["model=some-folder", "data.root=some-folder"]}
        required |= {"convert_lora": ["source=some-file", "format=kohya"], "verify": ["root=some-folder"]}
        required |= {"prepare": ["out=some-folder", "source.root=some-folder", "source.body_models=some-folder"]}
        values = compose_config(module.split(".")[0] + ".conf", name, required.get(name, []))
        missing = {field.name for field in dataclasses.fields(schema)} - set(values)
        assert not missing, f"{module}: {missing} stand in the schema and not in its YAML"


def test_every_experiment_has_its_notebook_header():
    """An experiment file says its command, hardware and expected number; the command names the file itself."""
    files = [path for domain in DOMAINS for path in sorted((ROOT / domain / "conf" / "experiment").glob("*.yaml"))]
    assert files
    for path in files:
        header = [line for line in path.read_text().splitlines() if line.startswith("#")]
        text = "\n".join(header)
        for word in ("command", "hardware", "expected"):
            assert re.search(rf"^# {word}\s+\S", text, re.M), f"{path.name} does not say its {word}"
        command = re.search(r"^# command\s+(.*)$", text, re.M).group(1)
        default = f"python -m {path.parts[-4]}.train"
        assert f"experiment={path.stem}" in command or command == default, f"{path.name}: {command}"


# Documents


def documents() -> list[Path]:
    """Every Markdown file of the repository."""
    found = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "tests").rglob("*.md")]
    return sorted([*found, *(path for name in PACKAGES for path in (ROOT / name).rglob("*.md"))])


def commands(path: Path) -> list[str]:
    """The command lines in the fenced shell blocks of a document, continued lines joined."""
    blocks = re.findall(r"```(?:bash|sh|shell)\n(.*?)```", path.read_text(), re.S)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [re.split(r"\s#", line)[0].strip() for line in lines if line.strip() and not line.strip().startswith("#")]


@pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_documented_commands_exist(path: Path):
    """Modules exist, make targets exist, config overrides compose and convert, sweeps load."""
    for command in commands(path):
        words = [word for word in shlex.split(command) if not re.fullmatch(r"[A-Z_]+=\S*", word)]
        if words[:1] == ["make"]:
            targets = re.findall(r"^([\w.-]+):", (ROOT / "Makefile").read_text(), re.M)
            assert set(words[1:]) <= set(targets), command
        elif words[:2] == ["python", "-m"]:
            check_module_command(words[2], words[3:], command)
        elif words[:2] == ["python", "slurm/launch.py"]:
            check_sweep_command(words[2:], command)
        elif words[:1] == ["python"] and words[1].endswith(".py"):
            assert (ROOT / words[1]).is_file(), command
        elif words[:1] == ["torchrun"]:
            module = words.index("-m") + 1
            check_module_command(words[module], words[module + 1 :], command)


def check_sweep_command(arguments: list[str], command: str) -> None:
    """A `python slurm/launch.py` line: its options are accepted, and the sweep is a file of ours that loads."""
    from slurm.launch import parse
    from slurm.sweep import load_sweep

    try:
        sweep = parse(arguments).sweep
    except SystemExit:
        pytest.fail(f"its options are refused: {command}")
    assert load_sweep(ROOT / sweep).runs(), command


def check_module_command(module: str, arguments: list[str], command: str) -> None:
    """A `python -m` line: the module is importable and its overrides are accepted by its schema."""
    if module in ("pytest", "pip", "venv", "torch.distributed.run"):
        return
    assert importlib.util.find_spec(module) is not None, command
    if module in dict(entries()):
        importlib.import_module(module).ENTRY.config([word for word in arguments if not word.startswith("-")])


@pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_document_links_resolve(path: Path):
    """A relative link or picture leads to a file of the repository."""
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text()):
        if not re.match(r"[a-z]+:", target):
            assert (path.parent / target).exists(), f"{path.relative_to(ROOT)} links to {target}"


def test_repository_names_no_machine():
    """No path of a machine in what is published."""
    pattern = re.compile(r"/(?:home|root|work|Users)/\w")
    kept = [path for path in (ROOT / "tests" / "data").rglob("*") if path.suffix in (".json", ".jsonl", ".yaml")]
    files = [path for path in [*sources(), *documents(), *kept, *ROOT.glob("*.toml")] if path != Path(__file__)]
    offences = [str(path.relative_to(ROOT)) for path in files if pattern.search(path.read_text())]
    assert not offences, offences
