"""The rows that a probe is fitted on, and those it is measured on. n rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args, get_type_hints

import numpy as np
from torch import Tensor

from core.draws import fold_seed, numpy_rng
from core.schema import plain, strict
from eval.inside.model import TrainedModel, domain_module, labels_of

HELDOUT_PART = 5  # one row in so many is held out where the data set has no split for it


@dataclass(frozen=True)
class Part:
    """Rows of a data set that belong to one side, in a shuffled order; `inside` reads them."""

    model: TrainedModel
    rows: list[int]

    def first(self, num: int | None) -> Part:
        """The first `num` rows of that order, or all."""
        return self if num is None else Part(self.model, self.rows[:num])

    def labels(self) -> Tensor:
        """Labels (n,) int64; ValueError for a data set without classes."""
        return labels_of(self.model.domain.dataset, self.rows)


@dataclass(frozen=True)
class Split:
    """Both sides of a probe, and how they were made.

    kind  given: by the config key heldout; named: the data's own splits "train" and "heldout"; hashed: a fifth of the
          rows of one data set, chosen by hashes, of which the backbone may have seen all
    """

    train: Part
    heldout: Part
    kind: Literal["given", "named", "hashed"]


def split_rows(model: TrainedModel, heldout: Mapping[str, Any] | None, seed: int) -> Split:
    """The rows of both sides; `heldout` are keys of the run's data node that name the other side, or None.

    Raises ValueError for keys that the node does not have, and for a side without rows.
    """
    if heldout is not None:
        return _checked(Split(_whole(model, seed), _whole(reopened(model, heldout), seed), "given"))
    if has_named_splits(model):
        sides = [_whole(reopened(model, {"split": name}), seed) for name in ("train", "heldout")]
        return _checked(Split(*sides, "named"))
    order = _shuffled(len(model.domain.dataset), seed)
    held = {row: fold_seed("probe heldout", row) % HELDOUT_PART == 0 for row in order}
    sides = [Part(model, [row for row in order if held[row] == side]) for side in (False, True)]
    return _checked(Split(*sides, "hashed"))


def has_named_splits(model: TrainedModel) -> bool:
    """Whether the run's data set has the splits "train" and "heldout", by the schema of its config."""
    if model.config is None:
        return False
    hint = get_type_hints(type(model.config.data)).get("split")
    return {"train", "heldout"} <= set(get_args(hint))


def reopened(model: TrainedModel, changes: Mapping[str, Any]) -> TrainedModel:
    """The same backbone on another data set: that of the run's config with keys of its data changed."""
    values = plain(model.config)
    unknown = sorted(set(changes) - set(values["data"]))
    if unknown:
        allowed = ", ".join(sorted(values["data"]))
        raise ValueError(f"heldout.{unknown[0]} is no key of the run's data; allowed: {allowed}")
    values["data"].update(changes)
    module = domain_module(model.domain.name)
    config = strict(module.ENTRY.schema, values)
    other = module.build_domain(config, model.device, evaluate=False)
    return replace(model, domain=replace(model.domain, dataset=other.dataset, tokenizer=other.tokenizer))


def _whole(model: TrainedModel, seed: int) -> Part:
    return Part(model, _shuffled(len(model.domain.dataset), seed))


def _shuffled(total: int, seed: int) -> list[int]:
    return numpy_rng(seed, "inside rows").permutation(np.arange(total)).tolist()


def _checked(split: Split) -> Split:
    for name in ("train", "heldout"):
        if not getattr(split, name).rows:
            raise ValueError(f"the {name} side of the probe has no rows; heldout={{...}} names another data set")
    return split
