"""Names of folders that are made of what a user asks for."""

import os
import string

import pytest

from core.commands.sample import LONGEST_NAME, in_a_name


def test_short_words_stay_as_they_are():
    assert in_a_name([3]) == "3" and in_a_name([1, 2]) == "1-2"
    assert in_a_name(["piano", "genre---rock"]) == "piano-genre---rock"
    assert in_a_name(["a/b\0c ..", "é"]) == "a-b-c----é"


@pytest.mark.parametrize("words", [range(121), ["x" * 1000], ["𝒳" * 60], ["字" * 60], ["\udcff" * 99], ["a b " * 40]])
def test_long_ones_are_cut_and_differ_by_what_was_cut(tmp_path, words):
    name = in_a_name(words)
    folder = tmp_path / f".ema_decay0.9999_prompts_{name}_0.5s_seed{2**63}.01234567.tmp"  # as it is while it is written
    folder.mkdir()
    assert os.listdir(tmp_path) == [folder.name]
    assert len(name) <= LONGEST_NAME and name[-8:].strip(string.hexdigits) == "" and name[-9] == "-"
    assert in_a_name([*words, 1])[-8:] != name[-8:]
