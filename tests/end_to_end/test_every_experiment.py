"""Every experiment file of every domain: it steps at toy size, and a typo in it would be refused."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from core.commands.entry import compose_config, config_groups
from core.schema import changed_keys, plain, strict
from core.storage.lines import read_lines
from tests.end_to_end.toys.contract import SMALL, User
from tests.end_to_end.toys.every import ROOT, TOYS

EXPERIMENTS = [
    (domain, path.stem) for domain in TOYS for path in sorted((ROOT / domain / "conf" / "experiment").glob("*.yaml"))
]
PAIRS = [(domain, name) for domain, name in EXPERIMENTS if (domain, f"{name}_layersync") in EXPERIMENTS]
TINY = ("trainer.steps=1", "trainer.batch_size=2", "trainer.num_workers=0", "trainer.compile=none")
TINY += ("trainer.precision=fp32", "evaluation=none", "device=cpu")


@pytest.fixture(scope="module")
def users(tmp_path_factory):
    """A user of each domain, with files and a tokenizer."""
    found = {domain: User(toy, tmp_path_factory.mktemp(domain)) for domain, toy in TOYS.items()}
    for user in found.values():
        user.toy.files(user.place / "files")
        user.toy.weights(user.place / "weights")
    return found


def compose(domain, name):
    """An experiment as plain values; what it leaves to its user is "???"."""
    return compose_config(f"{domain}.conf", "train", [f"experiment={name}"], complete=False)


def small(toy, name):
    """Words of an experiment with tiny data, tokenizer, width and batch; depth, pairs and other choices are its own."""
    values = compose(toy.domain, name)
    keys = {f"{node}.{key}" for node, inner in values.items() if isinstance(inner, dict) for key in inner}
    own = ("backbone.depth", "backbone.patch_size")
    texts = ("conditioning.encoder=minilm", "conditioning.path=null")
    usual = (*SMALL, *toy.on_files(Path("files"), Path("weights")), "data.tsv=files/split.tsv", *toy.stand_in, *texts)
    words = [word for word in usual if word.partition("=")[0] in keys.difference(own)]
    entry = importlib.import_module(f"{toy.domain}.train").ENTRY
    published = [f"experiment={name}", *(word for word in words if not word.startswith("backbone"))]
    depth, _, _ = entry.config(published).backbone.dimensions
    sizes = [word for word in ("backbone.size=null",) if word.partition("=")[0] in keys]
    return [f"experiment={name}", *words, *TINY, *sizes, f"backbone.depth={depth}"]


@pytest.mark.parametrize(("domain", "name"), EXPERIMENTS)
def test_an_experiment_steps_at_toy_size_under_its_own_name(domain, name, users, spared):
    user = users[domain]
    user.does("train", *small(user.toy, name))
    (line,) = read_lines(user.run(name) / "metrics.jsonl")
    assert line["flow_loss"] > 0 and line["gradient_norm"] > 0
    assert any((user.run(name) / "previews").iterdir())


@pytest.mark.parametrize(("domain", "name"), PAIRS)
def test_baseline_and_layersync_differ_in_nothing_but_the_alignment(domain, name):
    pair = [compose(domain, each) for each in (name, f"{name}_layersync")]
    assert {key.partition(".")[0] for key in changed_keys(*pair)} == {"name", "alignment"}
    assert pair[0]["alignment"] == {"name": "none"}


@pytest.mark.parametrize("domain", TOYS)
def test_a_typo_in_any_node_is_refused_with_its_key(domain):
    """As one in an experiment file would be, which hydra lets pass."""
    entry, missed = importlib.import_module(f"{domain}.train").ENTRY, []
    values = plain(entry.config([]))
    for node in [None, *(key for key, value in values.items() if isinstance(value, dict))]:
        spoilt = {**values, "tpyo": 1} if node is None else {**values, node: {**values[node], "tpyo": 1}}
        key = "tpyo" if node is None else f"{node}.tpyo"
        try:
            strict(entry.schema, spoilt)
            missed.append(key)
        except ValueError as error:
            missed += [] if f"unknown config key '{key}' (value 1); allowed: " in str(error) else [str(error)]
    assert not missed, missed


@pytest.mark.parametrize("domain", TOYS)
def test_the_default_experiment_leaves_no_key_to_another_choice(domain):
    """A user who takes another backbone is not refused for a key that they never gave."""
    entry, groups = importlib.import_module(f"{domain}.train").ENTRY, config_groups(f"{domain}.conf")
    asked = {"backbone", "data", "tokenizer", "conditioning"} & set(groups)
    assert {"backbone", "data", "tokenizer"} <= asked
    parts = [(group, name) for group in sorted(asked) for name in groups[group]]
    for group, name in parts:
        values = compose_config(f"{domain}.conf", "train", [f"{group}={name}"], complete=False)
        try:
            strict(entry.schema, values)
        except ValueError as error:
            assert "unknown config key" not in str(error), f"{group}={name}: {error}"
