"""Checks of options that configs of the small core share: each error names the key, the value and what is allowed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, fields
from typing import Any, get_args


def check_choice(key: str, value: str, allowed: Any) -> None:
    """Refuse a value of the config `key` that the Literal `allowed` does not have."""
    if value not in get_args(allowed):
        raise ValueError(f"{key} is {value!r}; allowed: {list(get_args(allowed))}")


def check_used(config: Any, node: str, names: Sequence[str], told: str | None) -> None:
    """Raises ValueError for an option of a dataclass that another one leaves unread, where it has not its default.

    node  config key before the names; told: what leaves them unread, in words; None: they are read
    """
    for each in fields(config) if told is not None else ():
        value = getattr(config, each.name)
        default = each.default if each.default_factory is MISSING else each.default_factory()
        if each.name in names and value != default:
            raise ValueError(f"{node}.{each.name} is {value!r}, but {told}; allowed with it: {default!r}")
