"""What a folder in the format of HumanML3D holds: its motions and captions, and the clips that they give."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from core.data.files import existing_folder
from core.data.index import in_threads, index_media, leave_out
from motion.body.representations import REPRESENTATIONS
from motion.body.skeleton import SKELETONS
from motion.datasets.clips import Clip, ClipRules
from motion.datasets.files import MOTION, SUFFIX, MotionFacts
from motion.datasets.splits import PUBLISHED_NAN
from motion.datasets.texts import Description, read_descriptions

log = logging.getLogger(__name__)

VECTORS, TEXTS = "new_joint_vecs", "texts"


@dataclass(frozen=True)
class Motions:
    """The motions of a folder that are used.

    names       of them, and what is known of their files: `facts`
    clips       that they give, in the order of the names
    left_out    how many motions, and parts of motions, are not used, by the reason
    """

    names: list[str]
    facts: list[MotionFacts]
    clips: list[Clip]
    left_out: dict[str, int]


def collect(
    root: Path, names: Sequence[str], skeleton: str, rules: ClipRules, max_broken: int, cache_dir: str | None
) -> Motions:
    """The motions `names` of a folder; none is read but for those that the index in `cache_dir` does not know.

    Motions that hold NaN as the published ones do are left out. Raises ValueError for more than `max_broken` files that
    are missing or broken otherwise, motions or texts, and for texts or motions of which none is there.
    """
    size = REPRESENTATIONS["full"].size(SKELETONS[skeleton])

    def check(facts: MotionFacts) -> None:
        if facts.numbers != size:
            raise ValueError(f"{facts.numbers} numbers a frame; data.skeleton {skeleton!r} has {size}")

    folder = existing_folder(str(root / VECTORS))
    texts_folder = existing_folder(str(root / TEXTS))
    index = index_media(folder, [name + SUFFIX for name in names], MOTION, cache_dir, max_broken, check)
    facts = {name: index.facts[name + SUFFIX] for name in names if name + SUFFIX in index.facts}
    nan = {name for name, known in facts.items() if not known.finite}
    expected = nan & PUBLISHED_NAN[skeleton]
    broken = {name: f"motion file {folder / name}{SUFFIX} holds NaN or infinite numbers" for name in nan - expected}
    descriptions, unreadable = read_texts(texts_folder, [name for name in facts if name not in nan])
    leave_out(broken | unreadable, max_broken, "motions and texts")
    if expected:
        log.warning("left out: %s, which hold NaN as published", ", ".join(sorted(expected)))
    used = list(descriptions)
    clips = [
        clip
        for file, name in enumerate(used)
        for clip in rules.clips(name, file, facts[name].frames, descriptions[name])
    ]
    counts = {"broken": len(index.broken) + len(broken) + len(unreadable), "NaN as published": len(expected)}
    left_out = {reason: count for reason, count in (counts | dict(sorted(rules.left_out.items()))).items() if count}
    if not clips:
        why = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        raise ValueError(f"data.root is {str(root)!r}: no clip of the {len(names)} motions is left ({why})")
    return Motions(used, [facts[name] for name in used], clips, left_out)


def read_texts(folder: Path, names: Sequence[str]) -> tuple[dict[str, list[Description]], dict[str, str]]:
    """The captions of each motion by its name, and what is wrong with the text files of the others."""
    found: dict[str, list[Description]] = {}
    broken: dict[str, str] = {}
    for name, result in in_threads(lambda name: _read_text(folder / f"{name}.txt"), names):
        (broken if isinstance(result, str) else found)[name] = result
    return found, broken


def _read_text(file: Path) -> list[Description] | str:
    try:
        return read_descriptions(file)
    except ValueError as error:
        return str(error)
