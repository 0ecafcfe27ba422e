"""The networks and methods of the studies, as they stand in networks/*.yaml."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from core.commands.overrides import override
from core.schema import strict
from core.storage.yaml_files import read_yaml

FOLDER = Path(__file__).parent / "networks"
METHODS = "methods"
MEASURED = "measured"  # of alignment.pairs: what eval.choose_pair finds in the short baseline run
PAIRS = "alignment.pairs"
LEFT_OUT: dict[str, Any] = {"changes": {}, "tokenizer": {}, "varies": None}  # of a file that does not say


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network of a study: whose experiment it is trained by, for how long, and the methods that it is trained with.

    name       of its file; the domain's, then its own
    overrides  keys of every run;  changes: method -> keys that are another's than in networks/methods.yaml
    every      steps between two evaluations;  pilot_steps: of the short baseline run that chooses the measured pair
    tokenizer  keys of the domain's `train_tokenizer`, which makes the tokenizer of all runs before them; {}: none
    varies     the network whose file has all that this one's leaves out, its `overrides` key by key; None: none
    """

    name: str
    domain: str
    title: str
    experiment: str
    steps: int
    every: int
    pilot_steps: int
    seeds: int
    methods: list[str]
    overrides: dict
    changes: dict = field(default_factory=dict)
    tokenizer: dict = field(default_factory=dict)
    varies: str | None = None

    @property
    def is_there(self) -> bool:
        """Whether the domain has the experiment."""
        folder = resources.files(f"{self.domain}.conf") / "experiment"
        return (folder / f"{self.experiment}.yaml").is_file()

    def method(self, name: str) -> dict[str, Any]:
        """The keys of a method for this network; ValueError for one that is not known."""
        known = known_methods()
        if name not in known:
            raise ValueError(f"methods holds {name!r}; allowed: {', '.join(known)}")
        return {**known[name], **self.changes.get(name, {})}

    def words(self, name: str, pair: Sequence[int] | None = None) -> list[str]:
        """A method as words of a command line; `pair` stands where the method has the measured one."""
        keys = self.method(name)
        if keys.get(PAIRS) == MEASURED:
            if pair is None:
                raise ValueError(f"methods holds {name!r}, whose pair is not measured yet")
            keys[PAIRS] = [list(pair)]
        return [override(key, value) for key, value in keys.items()]


@functools.cache
def known_methods() -> Mapping[str, dict[str, Any]]:
    """Every method's keys, by its name."""
    return read_yaml(FOLDER / f"{METHODS}.yaml")


def known_networks() -> list[Network]:
    """Every network of every domain, in the order of their names."""
    files = sorted(file for file in FOLDER.glob("*.yaml") if file.stem != METHODS)
    return [strict(Network, {**LEFT_OUT, "name": file.stem, **_content(file)}) for file in files]


def _content(file: Path) -> dict[str, Any]:
    """What a network's file says, and below it the file of the network that it varies."""
    own = read_yaml(file)
    if own.get("varies") is None:
        return own
    base = _content(file.with_stem(own["varies"]))
    return {**base, **own, "overrides": {**base["overrides"], **own.get("overrides", {})}}


def find_networks(domain: str, names: Sequence[str] | None) -> list[Network]:
    """The networks of a domain, or those of them with these names; ValueError for what is not there."""
    known = {
        network.name.removeprefix(f"{domain}-"): network for network in known_networks() if network.domain == domain
    }
    if not known:
        domains = ", ".join(dict.fromkeys(network.domain for network in known_networks()))
        raise ValueError(f"domain is {domain!r}; allowed: {domains}, or the word page")
    missing = [name for name in names or () if name not in known]
    if missing:
        raise ValueError(f"networks holds {', '.join(missing)}; allowed of {domain}: {', '.join(known)}")
    return [known[name] for name in names or known]
