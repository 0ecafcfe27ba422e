"""Clips dealt out to train, val and test."""

import itertools

from motion.preparation.splits import deal
from tests.rows import every_row


@every_row(("count", "expected"), [(1, (1, 0, 0)), (3, (1, 1, 1)), (200, (160, 10, 30))])
def test_clips_are_dealt_out_80_to_5_to_15(count, expected):
    clips = [f"{number:06d}" for number in range(count)]
    dealt = deal(clips, mirrors=False)
    assert tuple(len(dealt[name]) for name in ("train", "val", "test")) == expected
    assert sorted(itertools.chain(*dealt.values())) == clips


def test_a_mirror_is_with_its_clip_and_most_stay_where_they_are_when_clips_come():
    own = [f"{number:06d}" for number in range(100)]
    clips = [*own, *(f"M{name}" for name in own)]
    dealt, more = deal(clips, mirrors=True), deal([*clips, "other", "Mother"], mirrors=True)
    for names in dealt.values():
        assert {f"M{name.removeprefix('M')}" for name in names} <= set(names)
    moved = [name for split, names in dealt.items() for name in names if name not in more[split]]
    assert len(moved) <= 4
