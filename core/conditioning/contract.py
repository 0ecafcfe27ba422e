"""What a kind of conditioning is made of: its config, its conditions, and the module that embeds them.

A config gives a data set its conditions and builds the conditioning, which drops and makes up conditions and knows the
module that turns them into vectors. The null condition of tags and texts is a row of zeros: no tag, no text.

Letters: B batch, n rows of a data set, D width of the backbone.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

import torch
from torch import nn

from core.contracts import Condition, where_rows
from core.data.captions import composed
from core.draws import Random

NUM_NEAR = 3  # similar names in an error


class EmbeddedConditioning(Protocol):
    """`core.contracts.Conditioning`, and the module that the backbone embeds the conditions with."""

    def embedder(self, width: int, null: bool) -> nn.Module:
        """Conditions (B, ...) -> (B, D = width); `null` keeps a vector for the unconditional pass."""
        ...


class ConditioningConfig(Protocol):
    """The options of one kind of conditioning, which its data set has to serve."""

    kind: ClassVar[str]
    lacking: ClassVar[str]
    drop: float

    def has(self, dataset: Any) -> bool:
        """Whether a data set of media has what these conditions are made of."""
        ...

    def assign(self, dataset: Any, device: torch.device) -> None:
        """Give a data set of media its `conditions` (n, ...), and the names of its classes or tags."""
        ...

    def build(self, names: Sequence[str], device: torch.device) -> Any:
        """The conditioning over classes or tags called `names`."""
        ...


def assign_conditions(
    dataset: Any, config: ConditioningConfig, kinds: Mapping[str, type], device: torch.device
) -> None:
    """Give a data set of media the conditions that `config` asks for; `kinds` are all that the domain has, by name.

    Raises ValueError, naming the config keys, for a data set without classes, tags or captions.
    """
    if not config.has(dataset):
        others = ", ".join(sorted(set(kinds) - {config.kind}))
        raise ValueError(
            f"conditioning is {config.kind!r} but the data has {config.lacking}; other kinds of conditioning: {others}"
        )
    config.assign(dataset, device)


def check_cached_conditions(cache: Any, config: ConditioningConfig) -> None:
    """Check that a latent cache has the conditions that `config` asks for; any cache can do without.

    Raises ValueError, naming what it was made with, for others.
    """
    if config.kind == "none":
        cache.conditions, cache.class_names, cache.labels = torch.zeros(len(cache), dtype=torch.int64), [], None
        return
    held = cache.conditions
    made_with = "text" if held.is_floating_point() else "tags" if held.ndim == 2 else "labels"
    if made_with == "labels" and not cache.class_names:
        made_with = "none"
    if made_with != config.kind:
        raise ValueError(
            f"conditioning is {config.kind!r}, but the cache {cache.root} was made with conditioning={made_with}; "
            f"allowed with it: {made_with} or none"
        )


def check_drop(drop: float) -> None:
    """Raises ValueError for a share outside [0, 1)."""
    if not 0 <= drop < 1:
        raise ValueError(f"conditioning.drop is {drop}; it must lie in [0, 1)")


def drop_rows(condition: Condition, null: Condition, share: float, random: Random) -> Condition:
    """Conditions (B, ...) of which a share is replaced by `null` (B, ...), by the stream "condition drop"."""
    if share == 0:
        return condition
    dropped = random.uniform("condition drop", (len(condition),)) < share
    return where_rows(dropped, null, condition)


def position_of(name: str, names: Sequence[str], key: str) -> int:
    """Where `name` stands among `names`; ValueError, naming the config `key` and similar names, where it does not.

    A name in another Unicode form is the same, where no two of the names differ in that alone.
    """
    if name not in names:
        same = [place for place, each in enumerate(names) if composed(each) == composed(name)]
        if len(same) == 1:
            return same[0]
        near = difflib.get_close_matches(name, names, NUM_NEAR) or list(names[:NUM_NEAR])
        raise ValueError(f"{key} has {name!r}, which the model does not know; of its {len(names)}: {', '.join(near)}")
    return list(names).index(name)
