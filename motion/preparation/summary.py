"""What a person is told when a folder is prepared."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

from motion.datasets.humanml3d import LEAST_FRAMES, LONGEST
from motion.preparation.folder import Prepared, PreparedFolder
from motion.preparation.layout import mirror_name

NAMES_SHOWN, REASONS_SHOWN = 3, 8


def summary(folder: PreparedFolder, prepared: Prepared, notes: Mapping[str, int], shown: str) -> list[str]:
    """Lines: what was written, and what was left out and why."""
    rows, fps = prepared.rows, folder.source.skeleton.fps
    minutes = sum(rows.values()) / fps / 60
    mirrors = sum(mirror_name(name) in rows for name in rows)
    lines = [f"written           {shown}: {len(rows)} clips ({mirrors} of them mirrors), {minutes:,.1f} minutes"]
    lines += [f"splits            {', '.join(f'{name} {len(clips)}' for name, clips in prepared.splits.items())}"]
    if folder.texts is None:
        lines += ["captions          none, which training needs; texts=... names a folder of <clip>.txt, one a line"]
    elif prepared.without_caption:
        count, first = len(prepared.without_caption), prepared.without_caption[0]
        lines += [f"captions          {count} clips have none, such as {first}: they are in no list"]
    common = sorted(notes.items(), key=lambda item: -item[1])
    lines += [f"note              {count} takes: {note}" for note, count in common[:REASONS_SHOWN]]
    if len(common) > REASONS_SHOWN:
        rest = sum(count for _, count in common[REASONS_SHOWN:])
        lines += [f"note              {rest} takes: {len(common) - REASONS_SHOWN} other notes of this kind"]
    lines += _lengths(rows, LEAST_FRAMES[folder.source.skeleton.name], own=folder.facts["source"] == "joints")
    lines += left_out(folder.left_out)
    return lines + _commands(folder, shown)


def _commands(folder: PreparedFolder, shown: str) -> list[str]:
    """What comes next."""
    published, name = folder.facts["source"] == "amass", folder.source.skeleton.name
    skeleton = ("", "") if name == "t2m" else (f" skeleton={name}", f" data.skeleton={name}")
    against = "" if published else " against=none"
    lines = [f"verify            python -m motion.verify root={shown}{skeleton[0]}{against}"]
    config = "experiment=humanml3d_flow" if published else "data=humanml3d evaluation=none"
    train = f"train             python -m motion.train {config} data.root={shown}{skeleton[1]}"
    return [*lines, train] if folder.texts else lines


def _lengths(rows: Mapping[str, int], shortest: int, own: bool) -> list[str]:
    groups = {
        f"fewer than {shortest} frames": sorted(name for name, count in rows.items() if count < shortest),
        f"{LONGEST} frames or more": sorted(name for name, count in rows.items() if count >= LONGEST),
    }
    told = [f"{len(names)} have {what} ({_some(names)})" for what, names in groups.items() if names]
    cure = "; source.seconds=9.8 cuts takes into clips" if own and list(groups.values())[1] else ""
    return [f"lengths           {', '.join(told)}: training as published leaves them out{cure}"] if told else []


def left_out(reasons: Mapping[str, str]) -> list[str]:
    """A line for each kind of reason that clips were left out for: their names, and the reason of the first."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in sorted(reasons):
        groups[re.sub(r"^.*\.np[yz]|\d+", "", reasons[name])].append(name)
    order = sorted(groups.values(), key=lambda names: (-len(names), names))
    lines = [f"left out          {len(names)} clips ({_some(names)}): {reasons[names[0]]}" for names in order]
    if len(lines) > REASONS_SHOWN:
        rest = sum(len(names) for names in order[REASONS_SHOWN:])
        more = f"left out          {rest} clips for {len(lines) - REASONS_SHOWN} other reasons: prepare.json"
        lines = [*lines[:REASONS_SHOWN], more]
    return lines


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more
