"""The folder that is prepared: its record, which keeps clips of other facts apart, and what all its clips give."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from core.schema import changed_keys
from core.storage.arrays import map_array, read_array
from core.storage.atomic import write_atomic
from core.storage.json_files import read_mapping
from motion.body.representations import REPRESENTATIONS
from motion.body.statistics import statistics
from motion.preparation.clips import Outcome, write_array
from motion.preparation.layout import Layout
from motion.preparation.splits import check_lists, write_splits
from motion.preparation.takes import Source
from motion.preparation.texts import Texts, write_texts

FORMAT = 1
DIGITS = 6  # of the bones in the record


@dataclass(frozen=True)
class Prepared:
    """What a folder holds in the end.

    rows             of each clip
    splits           clips of train, val and test
    without_caption  clips that have none, and are in no list
    """

    rows: dict[str, int]
    splits: dict[str, list[str]]
    without_caption: list[str]


class PreparedFolder:
    """The folder of one command, locked while it is open; what is done in it already stays.

    Raises ValueError for a folder whose clips were made by other facts, which holds something else, or which another
    process prepares.
    """

    def __init__(self, root: str, source: Source, mirrors: bool, texts: Path | None, splits: Path | None):
        self.layout, self.source, self.mirrors, self.splits = Layout(Path(root).expanduser()), source, mirrors, splits
        self.texts = Texts(texts) if texts else None
        if splits is not None:
            check_lists(splits)
        reference = source.reference()
        self.offsets = source.skeleton.offsets(reference)
        lengths = [round(float(length), DIGITS) for length in source.skeleton.bones(reference)]
        self.facts: dict[str, Any] = {
            **{"skeleton": source.skeleton.name, "mirror": mirrors, "bones": lengths},
            **source.facts(),
        }
        self.left_out: dict[str, str] = dict(source.left_out)

    def __enter__(self) -> PreparedFolder:
        self.layout.root.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self.layout.root, os.O_RDONLY)
        try:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise ValueError(f"out is {str(self.layout.root)!r}, which another process prepares") from None
            self._claim()
        except BaseException:
            os.close(self._lock)
            raise
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._lock)

    def note(self, outcomes: Iterable[Outcome]) -> None:
        """Remember clips that could not be made, and why."""
        self.left_out |= {outcome.name: outcome.reason for outcome in outcomes if outcome.reason}

    def finish(self) -> Prepared:
        """Write what is made of all clips: statistics, captions, splits, the record; ValueError where none was made."""
        clips = self.layout.clips()
        if not clips:
            reason = next(iter(self.left_out.values()), "the source has no clip")
            raise ValueError(f"no clip could be prepared; the first: {reason}")
        files = [self.layout.rows / f"{name}.npy" for name in clips]
        rows = {name: len(map_array(file)) for name, file in zip(clips, files, strict=True)}
        of_rows = (torch.from_numpy(read_array(file)) for file in files)
        found = statistics(of_rows, REPRESENTATIONS["full"], self.source.skeleton)
        write_array(self.layout.mean, found.mean)
        write_array(self.layout.std, found.std)
        without = write_texts(self.texts, self.layout, clips, self.source.spans) if self.texts else []
        with_captions = sorted(set(clips).difference(without))
        splits = write_splits(self.layout, with_captions, self.mirrors, self.splits)
        self._write({"clips": len(clips), "frames": sum(rows.values()), "left_out": self.left_out})
        return Prepared(rows, splits, without)

    def _claim(self) -> None:
        """Write the record, or check that the one that is there says the same; remove files that are half written."""
        root = self.layout.root
        if not self.layout.record.exists():
            strangers = sorted(each.name for each in root.iterdir() if not each.name.startswith("."))
            if strangers:
                raise ValueError(
                    f"out is {str(root)!r}, which is in use for something else ({strangers[0]!r}); name another folder"
                )
            self._write({})
        found = read_mapping(self.layout.record).get("facts")
        changed = changed_keys(found if isinstance(found, dict) else {}, self.facts)
        if changed:
            raise ValueError(
                f"out is {str(root)!r}, whose clips were prepared with another {', '.join(changed)}; the same values "
                "continue it, another out=... makes another"
            )
        for folder in (root, self.layout.rows, self.layout.joints, self.layout.texts):
            for left_over in folder.glob(".*.tmp"):
                with contextlib.suppress(FileNotFoundError):
                    left_over.unlink()

    def _write(self, more: dict[str, Any]) -> None:
        content = {"format": FORMAT, "facts": self.facts, **more}
        write_atomic(self.layout.record, json.dumps(content, indent=1, sort_keys=True) + "\n")
