"""Tables of papers by name: which numbers of which samples, so that another's row is made by the same protocol."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class PaperTable:
    """What a paper's table was made of.

    metrics  by their whole names
    num      samples
    seconds  of a clip
    steps    of the sampler, without guidance
    """

    name: str
    metrics: tuple[str, ...]
    num: int
    seconds: float
    steps: int

    def check(self, given: Mapping[str, Any], sampler: Mapping[str, Any]) -> None:
        """Raises ValueError for keys that the table decides and that a config gives another value."""
        decided = {"metrics": None, "features": None, "protocol": "one_window", "num": self.num}
        other = [key for key, value in decided.items() if given[key] not in (None, value)]
        other += [f"sampler.{key}" for key, value in self.sampler.items() if sampler.get(key) not in (None, value)]
        if other:
            raise ValueError(f"table is {self.name!r}, which decides {', '.join(other)}; allowed there: null")

    def check_seconds(self, seconds: float, what: str) -> None:
        """Raises ValueError for clips of another length; a latent's frame less is what a tokenizer cuts."""
        if abs(seconds - self.seconds) > 0.005 * self.seconds:
            raise ValueError(
                f"table is {self.name!r}, whose clips last {self.seconds:g} s; {what} last {seconds:.4g} s"
            )

    @property
    def sampler(self) -> dict[str, Any]:
        """The keys of the sampler."""
        return {"num_steps": self.steps, "guidance_scale": 1.0}


SELF_FLOW = PaperTable(  # arXiv 2603.06507
    name="self_flow",
    metrics=("ms_clap/fad", "clap_music/fad", "clap_audio/fad"),
    num=20_000,
    seconds=10.0,
    steps=50,
)
TABLES = {table.name: table for table in (SELF_FLOW,)}
