"""The numbers of a run's config: whatever key it is, what no run can use is refused when the config is read."""

import copy
import importlib
import math

import pytest

from core.alignment.methods import ALIGNMENTS
from core.commands.entry import compose_config
from core.schema import plain, strict
from tests.rows import every_row

DOMAINS = ("image", "audio", "video", "motion")


@pytest.fixture(scope="module")
def configs():
    """The default config of each domain's run as nested dicts, and its schema."""
    entries = {domain: importlib.import_module(f"{domain}.train").ENTRY for domain in DOMAINS}
    return {domain: (compose_config(entry.config_module, "train"), entry.schema) for domain, entry in entries.items()}


def numbers(node, path=()):
    """Paths of all numbers in nested dicts and lists."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for name, value in items:
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield (*path, name)
        yield from numbers(value, (*path, name))


def with_value(node, path, value):
    """A copy of nested dicts with another value at `path`."""
    changed = copy.deepcopy(node)
    inner = changed
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    return changed


def message(schema, node):
    """What the config is refused with, "" where it is taken."""
    try:
        strict(schema, node)
    except ValueError as error:
        return str(error)
    return ""


@every_row("domain", DOMAINS)
def test_no_number_of_a_run_may_be_infinite_or_nan_or_a_word_or_a_flag(configs, domain):
    values, schema = configs[domain]
    values = plain(strict(schema, values))
    found = list(numbers(values))
    assert len(found) > 40
    for path in found:
        for value in (math.nan, math.inf, -math.inf, "nan", 10**40, "many", True, [1], {}):
            if "pairs" in path and isinstance(value, str):
                continue  # the name of a module
            said = message(schema, with_value(values, path, value))
            assert said, f"{path} takes {value!r}"
            name = next(each for each in reversed(path) if isinstance(each, str))
            assert name in said and "\n" not in said, f"{path} {value!r}: {said}"


MAY_BE_NEGATIVE = {"seed", "classifier_seed", "floor_db"}


@every_row("domain", DOMAINS)
def test_no_count_share_or_weight_of_a_run_may_be_negative(configs, domain):
    values, schema = configs[domain]
    values = plain(strict(schema, values))
    for path in numbers(values):
        name = next(each for each in reversed(path) if isinstance(each, str))
        said = message(schema, with_value(values, path, -1))
        assert bool(said) != (name in MAY_BE_NEGATIVE), f"{path}: {said}"
        assert name in MAY_BE_NEGATIVE or name in said


@every_row("domain", DOMAINS)
def test_counts_that_a_machine_would_only_hang_on_are_refused(configs, domain):
    values, schema = configs[domain]
    for path in (("trainer", "num_workers"), ("backbone", "depth")):
        assert f"{'.'.join(path)} is 1000000000; it must be " in message(schema, with_value(values, path, 10**9))


OF_PAIRS, OF_LAYERS = (
    ("layersync", "sra", "self_flow", "dual_timesteps"),
    ("dispersive", "sra2", "internal_guidance", "external"),
)
OTHERS = {"external": {"encoder": "dinov2:weights"}}  # keys that have no default
WITHOUT_PAIRS = ("dual_timesteps",)  # null: nothing is aligned


@every_row("name", sorted(set(ALIGNMENTS) - {"none", "several"}))
@every_row("weight", [-1, 0, math.nan, math.inf, True, None, [0.2], "heavy"])
def test_every_alignment_refuses_a_weight_that_is_none(configs, name, weight):
    values, schema = configs["image"]
    layers = {"pairs": [[1, 2]]} if name in OF_PAIRS else {"layer": 1}
    options = {"name": name, **layers, **OTHERS.get(name, {}), "weight": weight}
    said = message(schema, {**values, "alignment": options})
    assert "alignment.weight" in said


@every_row("name", OF_PAIRS)
@every_row("pairs", [[], [[1, 99]], [[0, 1]], [[-1, 2]], [[1, 2.5]], [[1]], [[1, 2, 3]], [1, 2], None, [[1, math.nan]]])
def test_every_alignment_of_pairs_refuses_blocks_that_are_not_there(configs, name, pairs):
    values, schema = configs["image"]
    said = message(schema, {**values, "alignment": {"name": name, "pairs": pairs}})
    assert ("alignment.pairs" in said) != (pairs is None and name in WITHOUT_PAIRS)


@every_row("name", OF_LAYERS)
@every_row("layer", [0, 99, -1, 1.5, None, [1], True])
def test_every_alignment_of_a_layer_refuses_a_block_that_is_not_there(configs, name, layer):
    values, schema = configs["image"]
    options = {"name": name, "layer": layer, **OTHERS.get(name, {})}
    assert "alignment.layer" in message(schema, {**values, "alignment": options})


def test_every_alignment_is_one_of_pairs_or_of_a_layer():
    assert {*OF_PAIRS, *OF_LAYERS, "none", "several"} == set(ALIGNMENTS)
