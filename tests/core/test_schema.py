"""From a config node to a dataclass: everything that does not fit is refused by key, value and allowed set."""

from dataclasses import dataclass, field
from typing import Literal

import pytest

from core.commands.entry import compose_config
from core.schema import changed_keys, choice, free_keys, plain, strict
from tests.rows import every_row


@dataclass(frozen=True)
class Optimizer:
    rate: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)

    def __post_init__(self):
        if self.rate <= 0:
            raise ValueError(f"optimizer.rate is {self.rate}; it must be above 0")


@dataclass(frozen=True)
class Small:
    width: int = 8


@dataclass(frozen=True)
class Large:
    width: int = 64
    heads: int = 4


@dataclass(frozen=True)
class Nothing:
    pass


NETWORKS = {"small": Small, "large": Large, "nothing": Nothing}


@dataclass(frozen=True)
class Run:
    steps: int
    name: str = "run"
    fast: bool = False
    ratio: float | None = None
    path: Literal["linear", "gvp"] = "linear"
    size: Literal[256, 512] = 256
    layer: int | str = 1
    pairs: list[tuple[int | str, int | str]] = field(default_factory=list)
    shape: tuple[int, ...] = ()
    tags: list[str] = field(default_factory=list)
    optimizer: Optimizer = field(default_factory=Optimizer)
    resumed: Optimizer | None = None
    network: Small | Large | Nothing = choice(NETWORKS, default_factory=Small)


def refused(node, *parts, schema=Run):
    """The message for `node`, which must name every one of `parts`."""
    with pytest.raises(ValueError) as caught:
        strict(schema, node)
    message = str(caught.value)
    assert all(str(part) in message for part in parts), message
    return message


# what fits


def test_defaults_and_given_values():
    node = {"rate": "1e-5", "betas": ["9e-1", 1]}
    run = strict(Run, {"steps": 3, "optimizer": node, "network": {"name": "large", "heads": 2}})
    assert run == Run(steps=3, optimizer=Optimizer(rate=1e-5, betas=(0.9, 1.0)), network=Large(heads=2))


@every_row(
    ("key", "value", "expected"),
    [
        ("ratio", 1, 1.0),
        ("ratio", "1e-4", 1e-4),
        ("ratio", "2.5E+3", 2500.0),
        ("ratio", None, None),
        ("steps", 1e3, 1000),
        ("steps", "1e3", 1000),  # as PyYAML reads it
        ("steps", "2.5E+3", 2500),
        ("layer", "1e3", "1e3"),
        ("layer", 8, 8),
        ("layer", "blocks.7", "blocks.7"),
        ("layer", "8", "8"),
        ("path", "gvp", "gvp"),
        ("size", 512, 512),
        ("pairs", [[2, 4], ["a", 6]], [(2, 4), ("a", 6)]),
        ("shape", [3, 4, 5], (3, 4, 5)),
        ("shape", [], ()),
        ("tags", ["a"], ["a"]),
        ("tags", ("a", "b"), ["a", "b"]),
        ("resumed", {"rate": "1e-3"}, Optimizer(rate=1e-3)),
        ("network", {"name": "nothing"}, Nothing()),
    ],
)
def test_values_that_fit(key, value, expected):
    got = getattr(strict(Run, {"steps": 1, key: value}), key)
    assert got == expected
    assert type(got) is type(expected)


# what does not


NAMES = "['large', 'nothing', 'small']"


@every_row(
    ("node", "parts"),
    [
        ({"stps": 7}, ("unknown config key 'stps'", "7", "steps, name", "optimizer", "network")),
        ({"optimizer": {"rat": 1}}, ("unknown config key 'optimizer.rat'", "allowed: ")),
        ({"network": {"name": "small", "heads": 2}}, ("unknown config key 'network.heads'", "allowed: ")),
        ({"resumed": {"rat": 1}}, ("unknown config key 'resumed.rat'", "allowed: ")),
        ({"tags": ["a", 2]}, ("'tags[1]'", "2", "str")),
        ({"shape": [1, 2, "x"]}, ("'shape[2]'", "'x'", "int")),
        ({"shape": [1, True]}, ("'shape[1]'", "True", "int")),
        ({"pairs": [[2, 4], [1, 2, 3]]}, ("'pairs[1]'", "[1, 2, 3]", "2 values")),
        ({"pairs": [[2, 4.5]]}, ("'pairs[0][1]'", "4.5", "int or str")),
        ({"pairs": [2, 4]}, ("'pairs[0]'", "2", "tuple")),
        ({"optimizer": {"betas": [0.9]}}, ("'optimizer.betas'", "[0.9]", "2 values")),
        ({"optimizer": {"betas": [0.9, "x"]}}, ("'optimizer.betas[1]'", "'x'", "a number")),
        ({"optimizer": {"rate": -1.0}}, ("optimizer.rate is -1.0; it must be above 0",)),
        ({"resumed": {"rate": -1.0}}, ("optimizer.rate is -1.0; it must be above 0",)),
        ({"network": {"name": "medium"}}, ("'network.name'", "'medium'", NAMES)),
        ({"network": {"name": None}}, ("'network.name'", "None", NAMES)),
        ({"network": {"name": ["small"]}}, ("'network.name'", "['small']", NAMES)),
        ({"network": {"width": 3}}, ("'network'", "'name'", NAMES)),
        ({"network": "small"}, ("'network'", "'name'", "'small'")),
        ({"network": None}, ("'network'", "'name'", "None")),
    ],
)
def test_a_key_or_value_that_does_not_fit_is_refused_by_its_place(node, parts):
    refused({"steps": 1, **node}, *parts)


def test_places_begin_where_the_caller_says():
    assert "needed: steps, name" in refused({}, "missing config key 'steps'")
    for node, message in (
        ({"steps": 1, "optimizer": {"rat": 1}}, r"'trainer\.optimizer\.rat'"),
        ({}, r"missing config key 'trainer\.steps'"),
        *((node, "'trainer' must be a mapping of steps, name") for node in (None, 3, "steps", ["steps"])),
    ):
        with pytest.raises(ValueError, match=message):
            strict(Run, node, "trainer")


@every_row(
    ("key", "value", "needed"),
    [
        ("steps", "3", "int; without quotes: 3"),
        ("name", "a\0b", "UTF-8"),
        ("name", "\udcff", "UTF-8"),
        ("steps", 2.5, "int"),
        ("steps", None, "int"),
        ("steps", True, "int"),
        ("steps", [3], "int"),
        ("steps", float("inf"), "int"),
        ("name", 3, "str"),
        ("name", None, "str"),
        ("fast", 1, "bool"),
        ("fast", "true", "bool"),
        ("ratio", True, "float or null"),
        ("ratio", "fast", "float or null"),
        ("layer", 1.5, "int or str"),
        ("layer", False, "int or str"),
        ("layer", None, "int or str"),
        ("path", "vp", "['linear', 'gvp']"),
        ("path", None, "['linear', 'gvp']"),
        ("path", ["linear"], "['linear', 'gvp']"),
        ("size", 128, "[256, 512]"),
        ("size", "256", "[256, 512]"),
        ("shape", 3, "tuple[int, ...]"),
        ("shape", "34", "tuple[int, ...]"),
        ("tags", "a", "list[str]"),
        ("tags", {"a": 1}, "list[str]"),
        ("optimizer", None, "rate, betas"),
        ("optimizer", 0.1, "rate, betas"),
        ("optimizer", [1], "rate, betas"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused(key, value, needed):
    refused({"steps": 1, key: value}, f"'{key}'", repr(value), needed)


@dataclass(frozen=True)
class Numbers:
    rate: float = 1.0
    steps: int = 1
    clip: float | None = None
    pair: tuple[float, float] = (0.0, 1.0)
    shape: list[int] = field(default_factory=list)
    more: dict = field(default_factory=dict)
    cases: list[dict] = field(default_factory=list)
    any: float | str = 0.0


NAN, INF = float("nan"), float("inf")


@every_row(
    ("node", "key", "shown"),
    [
        *(({"rate": value}, "rate", "nan") for value in (NAN, "nan", "NaN", ".nan"[1:])),
        *(({"rate": value}, "rate", "inf") for value in (INF, "inf", "Infinity", "1e999", 10**400)),
        ({"rate": -INF}, "rate", "-inf"),
        ({"rate": 1e39}, "rate", "1e+39"),
        ({"rate": 1e-320}, "rate", "1e-320"),
        ({"clip": NAN}, "clip", "nan"),
        ({"clip": "inf"}, "clip", "inf"),
        ({"any": NAN}, "any", "nan"),
        ({"pair": [0, NAN]}, "pair[1]", "nan"),
        ({"shape": [1, 2**63]}, "shape[1]", str(2**63)),
        ({"steps": 10**5000}, "steps", "an integer of 16610 bits"),
        ({"steps": 1e30}, "steps", str(int(1e30))),
        ({"steps": -(2**64)}, "steps", str(-(2**64))),
        ({"more": {"a": {"b": [1, INF]}}}, "more.a.b[1]", "inf"),
        ({"more": {"a": 10**30}}, "more.a", str(10**30)),
        ({"cases": [{}, {"a": NAN}]}, "cases[1].a", "nan"),
    ],
)
def test_a_number_that_no_computation_can_use_is_refused_wherever_it_stands(node, key, shown):
    message = refused(node, f"config key '{key}' is {shown}", schema=Numbers)
    assert "needed: a finite number" in message or "needed: a whole number" in message or "needed: 0, or" in message
    assert len(message) < 400


def test_numbers_at_the_edge_fit():
    node = {
        "rate": 3.4e38,
        "steps": 2**63 - 1,
        "clip": 2.0**-149,
        "pair": [-0.0, -3.4e38],
        "more": {"a": [2e-45, "nan"]},
    }
    assert plain(strict(Numbers, node)) == {**plain(Numbers()), **node}


def test_where_text_is_needed_a_number_is_told_to_take_quotes():
    for key, value in (("name", 2024), ("name", True), ("tags", [1.5])):
        assert f'quotes make a number or a word text: "{value if key == "name" else 1.5}"' in refused(
            {"steps": 1, key: value}, key
        )
    assert "quotes" not in refused({"steps": 1, "layer": 1.5}, "layer")


def test_a_long_value_is_cut_in_an_error():
    assert len(refused({"steps": ["x" * 50] * 10_000}, "'steps'", "...")) < 400


@dataclass(frozen=True)
class Level:
    level: Literal[0, 1, 2] = 0


@every_row("value", [True, False, 1.0])
def test_true_is_not_the_one_of_a_literal(value):
    refused({"level": value}, "'level'", repr(value), "[0, 1, 2]", schema=Level)
    assert strict(Level, {"level": 1}) == Level(1)


# there and back


RUN = Run(
    steps=5,
    ratio=0.25,
    layer="blocks.3",
    pairs=[(2, 4), ("a", 6)],
    shape=(3, 4),
    tags=["x"],
    optimizer=Optimizer(rate=3e-4, betas=(0.5, 0.9)),
    resumed=Optimizer(),
    network=Large(heads=8),
)


def test_plain_is_read_back_as_the_same_config():
    for run in (Run(steps=1), RUN, Run(steps=2, network=Nothing())):
        assert strict(Run, plain(run)) == run


def test_plain_holds_only_plain_values_and_the_name_of_a_choice():
    node = plain(RUN)
    assert node["network"] == {"name": "large", "width": 64, "heads": 8}
    assert node["pairs"] == [[2, 4], ["a", 6]]
    assert node["optimizer"] == {"rate": 3e-4, "betas": [0.5, 0.9]}
    assert plain({"a": (1, RUN.optimizer)}) == {"a": [1, node["optimizer"]]}


def test_changed_keys_are_dotted_and_sorted():
    old = {"steps": 1, "optimizer": {"rate": 1.0, "betas": [0.9, 0.99]}, "gone": {"a": 1}, "kept": {"b": [1, {"c": 2}]}}
    new = {"steps": 2, "optimizer": {"rate": 1.0, "betas": [0.9, 0.9]}, "came": None, "kept": {"b": [1, {"c": 2}]}}
    assert changed_keys(old, new) == ["came", "gone", "optimizer.betas", "steps"]
    assert changed_keys(old, old) == []


def test_changed_keys_of_another_choice():
    old, new = plain(RUN), plain(Run(**{**RUN.__dict__, "network": Small()}))
    assert changed_keys(old, new) == ["network.heads", "network.name", "network.width"]


def test_keys_that_may_change_are_those_whose_fields_say_so():
    """The keys of a run's schema that do not say what it computes, those of every choice among them."""
    from image.train import ImageConfig

    keys = set(free_keys(ImageConfig))
    assert {"device", "name", "data.root", "tokenizer.path", "ema.device", "sampler", "trainer.num_workers"} <= keys
    assert not keys & {
        "seed",
        "trainer.steps",
        "trainer.batch_size",
        "optimizer.lr",
        "data.size",
        "tokenizer.posterior",
    }
    constant, cosine = (
        strict(ImageConfig, compose_config("image.conf", "train", [f"optimizer.schedule={name}"]))
        for name in ("constant", "cosine")
    )
    assert "trainer.steps" in constant.free_keys() and "trainer.steps" not in cosine.free_keys()
