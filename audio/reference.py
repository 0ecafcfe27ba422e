"""What clips are compared with: the notes, other clips in a folder, or statistics that were measured before.

Letters: C channels, L samples in time.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from audio.collection import SHORTEST_SECONDS, UNIT, NotesSounds, open_sounds
from audio.notes import NotesDataset
from eval.collection import Media
from eval.npz import npz_keys
from eval.reference import FACTS, MediaReference, Reference, Size, StatisticsReference

KEY = "real"
NOTES = {"notes": "train", "notes_heldout": "heldout"}  # real=NAME -> the split


def size_of(clips: Media) -> Size:
    """Samples and sample rate of the first clip."""
    first = clips.rows(0, 1)[0]
    return first.samples.shape[-1], first.sample_rate


def check_size(size: Size, reference: Reference) -> None:
    """Raises ValueError for clips too short to be measured; lengths and rates of the two need not agree."""
    for found, what in ((size, "samples"), (reference.size, f"clips of {reference.name}")):
        if found is not None and found[0] < SHORTEST_SECONDS * found[1]:
            raise ValueError(f"the {what} last {found[0] / found[1]:.3g} s; needed: {SHORTEST_SECONDS} s at least")


def open_reference(value: str, window: float | None, notes: Callable[[str], NotesDataset]) -> Reference:
    """What the config key `real` names; ValueError for what is none, and for a damaged file.

    window  seconds of a longer file that are looked at; null: all of it
    notes   split -> the notes, where these are what is named
    """
    if value in NOTES and not Path(value).exists():
        return of_clips(NotesSounds(f"synthesised notes, {NOTES[value]}", notes(NOTES[value])))
    path = Path(value).expanduser()
    if path.is_file() and path.suffix == ".npz":
        if FACTS not in npz_keys(path):
            raise ValueError(
                f"{KEY} is {value!r}, which does not say which features it was measured in; allowed: what "
                "save_reference wrote, or the clips themselves"
            )
        return StatisticsReference(path, UNIT, KEY)
    try:
        return of_clips(open_sounds(path, KEY, window))
    except ValueError as error:
        if path.exists():
            raise
        raise ValueError(f"{error}, statistics (.npz), or {', '.join(NOTES)}") from None


def of_clips(clips: Media) -> MediaReference:
    """Clips to compare with."""
    return MediaReference(clips, size_of(clips))
