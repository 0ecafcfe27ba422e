"""The rule for a pair keeps what the paper says of any depth, and is its pair where it names one."""

import pytest

from layersync.pairs import PUBLISHED, allowed_pairs, last_strong, least_distance, rank_pairs, rule_pair


def test_the_rule_keeps_the_papers_words_at_every_depth():
    for depth in range(4, 41):
        (weak, strong), reasons = rule_pair(depth).pair, rule_pair(depth).reasons
        assert 2 <= weak < strong <= 0.8 * depth and weak <= depth / 2, depth
        assert strong - weak >= max(1, round(depth * 8 / 28)), depth
        assert (weak, strong) in allowed_pairs(depth), depth
        assert f"{weak} -> {strong}" in reasons[0] and len(reasons) >= 4, depth


def test_the_rule_grows_with_the_depth_where_nothing_is_published():
    pairs = [rule_pair(depth).pair for depth in range(4, 41) if depth not in PUBLISHED]
    for side in zip(*pairs, strict=True):
        assert list(side) == sorted(side)


def test_the_rule_is_the_published_pair_and_says_where_that_is_no_scaled_one():
    assert rule_pair(28).pair == (8, 16) and "28 blocks (SiT-XL/2)" in rule_pair(28).reasons[0]
    assert rule_pair(24).pair == (8, 18)
    assert "scaled, would be 7 -> 14" in rule_pair(24).reasons[1]
    assert not any("would be" in reason for reason in rule_pair(28).reasons)
    assert (rule_pair(12).pair, rule_pair(8).pair) == ((4, 7), (2, 5))  # as alignment=layersync_depth12, and the digits
    assert "names no pair of 12 blocks" in rule_pair(12).reasons[0]


def test_the_pairs_that_the_paper_found_worse_are_not_allowed():
    allowed = allowed_pairs(28)
    assert {(8, 16), (6, 18)} <= set(allowed)
    assert not {(6, 9), (15, 23)} & set(allowed)
    assert (8, 18) in allowed_pairs(24)
    assert (least_distance(28), last_strong(28)) == (8, 22)


def test_too_shallow_a_model_is_refused_in_words():
    for depth in (1, 3):
        with pytest.raises(ValueError, match=f"pairs is 'auto', but the model has {depth} blocks; needed: 4 at least"):
            rule_pair(depth)


def test_the_best_pair_gains_most_of_those_that_are_allowed():
    scores = [0.0, 0.5, 0.1, 0.2, 0.7, 0.9, 0.4, 2.0]  # block 8 is in the last fifth
    ranked = rank_pairs(scores)
    assert ranked[0] == ((1, 6), 0.9)
    assert [pair for pair, _ in ranked] == [(1, 6), (3, 6), (4, 6), (2, 6)]
    assert rank_pairs(scores, 2) == ranked[:2] and rank_pairs([1.0] * 8) == []
    gains = {pair: scores[pair[1] - 1] - scores[pair[0] - 1] for pair in allowed_pairs(8)}
    assert max(gains.values()) == ranked[0][1]
