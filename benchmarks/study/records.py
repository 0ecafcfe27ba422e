"""The records of the studies as the page reads them: the newest of each network, and what they say of a method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.study.networks import Network, known_networks
from benchmarks.study.record import MEASURED, NOT_RUN
from core.storage.json_files import read_mapping
from eval.methods.numbers import relative_gain
from eval.methods.result import as_numbers

Numbers = Mapping[str, float | None]
GAIN, LOSS, OPEN, ALONE = "gain", "loss", "open", "alone"


@dataclass(frozen=True)
class Found:
    """What is known of a network: the content of its newest record, None where there is none, and the file's name."""

    network: Network
    content: Mapping[str, Any] | None = None
    file: str = ""

    @property
    def methods(self) -> Mapping[str, Mapping[str, Any]]:
        """Every method of the record, with its state, and the network's others, which it left out."""
        network = self.network
        rest = {name: {"keys": network.method(name), "state": NOT_RUN, "reason": ""} for name in network.methods}
        return {**rest, **self.content["results"]["methods"]}

    @property
    def baseline(self) -> str:
        """The name of the method that the others are compared with."""
        return next(iter(self.methods))

    @property
    def has_numbers(self) -> bool:
        """Whether any run of the baseline is complete."""
        return self.content is not None and self.methods[self.baseline]["state"] == MEASURED

    @property
    def measured(self) -> list[str]:
        """The methods with numbers, the baseline left out."""
        return [name for name, each in self.methods.items() if each["state"] == MEASURED and name != self.baseline]

    @property
    def own_similarity(self) -> dict[str, list[float]]:
        """Of the trained baseline, by the pairs of the methods."""
        pairs = (self.content["results"].get("baseline_similarity") or {"pairs": {}})["pairs"]
        return {pair: [value] for pair, value in pairs.items()}

    def comparison(self, name: str) -> Mapping[str, Any]:
        """The comparison of a method that has numbers."""
        return self.methods[name]["comparison"]

    def gains(self, name: str) -> list[Numbers | None]:
        """The gain of a method over the baseline at each evaluation."""
        return self.comparison(name)["gain"][name]

    def gain_over(self, name: str, other: str) -> Numbers | None:
        """The gain at the end of one method over another, of the seeds that both have; None where none is known."""
        if not {name, other} <= {*self.measured, self.baseline}:
            return None
        curves = {each: self.curves(each) for each in (name, other)}
        seeds = [seed for seed in curves[name] if seed in curves[other]]
        mine, theirs = (np.array([curves[each][seed][-1] for seed in seeds]) for each in (name, other))
        gain = relative_gain(theirs, mine, self.comparison(name)["better"]) if seeds else None
        return None if gain is None else as_numbers(gain)

    def curves(self, name: str) -> dict[int, list[float]]:
        """What a method that has numbers reached at each evaluation, by seed."""
        return dict(zip(self.methods[name]["seeds"], self.comparison(name)["values"][name], strict=True))


def verdict(gain: Numbers | None) -> str:
    """What an interval shows: a gain, a loss, neither (open), or nothing, of one seed alone."""
    if gain is None or gain["low"] is None:
        return ALONE
    return GAIN if gain["low"] > 0 else LOSS if gain["high"] < 0 else OPEN


def read_studies(folder: Path, networks: Sequence[Network] | None = None) -> list[Found]:
    """Every known network with its newest record in `folder`; ValueError for a file that is no such record."""
    found = []
    for network in known_networks() if networks is None else networks:
        contents = []
        for file in sorted(folder.glob(f"*-study-{network.name}-*.json")):
            content = read_mapping(file)
            if content.get("benchmark") != "study" or not isinstance(content.get("results"), dict):
                raise ValueError(f"{file} is no record of a study, or is damaged")
            if content["settings"]["network"] == network.name:  # and not one whose name begins alike
                contents.append((content["date"], file.name, content))
        newest = max(contents, key=lambda each: each[:2], default=None)
        found.append(Found(network) if newest is None else Found(network, newest[2], newest[1]))
    return found
