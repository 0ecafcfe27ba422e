"""A test over the rows of a table that fails once, and tells every row that failed."""

import functools
import inspect
from collections.abc import Callable, Iterable

import pytest


def every_row(names: str | tuple[str, ...], rows: Iterable) -> Callable:
    """As `pytest.mark.parametrize`, for rows that run through the same code: one test, whose fixtures they share."""
    rows = list(rows)
    if isinstance(names, str):
        names, rows = (names,), [(row,) for row in rows]
    assert rows and all(len(row) == len(names) for row in rows), f"each row needs {', '.join(names)}"

    def over_rows(test: Callable) -> Callable:
        @functools.wraps(test)
        def every(**fixtures):
            failures = []
            for row in rows:
                try:
                    test(**dict(zip(names, row, strict=True)), **fixtures)
                except (Exception, pytest.fail.Exception) as error:  # noqa: BLE001, all are told below
                    failures.append((row, error))
            if failures:
                told = "\n".join(f"{row!r:.300}: {type(error).__name__}: {error!s:.2000}" for row, error in failures)
                raise AssertionError(f"{len(failures)} of {len(rows)} rows failed\n{told}") from failures[0][1]

        parameters = inspect.signature(test).parameters
        every.__signature__ = inspect.Signature([each for name, each in parameters.items() if name not in names])
        return every

    return over_rows
