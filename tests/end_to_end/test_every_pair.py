"""Choosing the pair in every domain: revised in training and stopped on the way, then measured."""

import json

import pytest

from core.storage.lines import read_lines
from tests.end_to_end.commands import same_run, told_to_stop
from tests.end_to_end.toys.contract import User
from tests.end_to_end.toys.every import TOYS
from tests.end_to_end.zygote import SPARED

WORDS = ("alignment=layersync", "alignment.pairs=adaptive", "alignment.adaptive={every: 1, margin: 0}")
WORDS += ("backbone.depth=5", "trainer.steps=4", "optimizer.lr=0.01", "trainer.keep_checkpoints=1")


@pytest.fixture(autouse=True)
def no_peak(monkeypatch):
    """Without half a second of matrix products for a column of speed.jsonl."""
    name = "core.train.trainer.matmul_peak"
    monkeypatch.setattr(name, SPARED[name])


@pytest.mark.parametrize("domain", TOYS)
def test_the_pair_is_revised_and_measured(domain, tmp_path):
    toy = TOYS[domain]
    users = [User(toy, tmp_path / name) for name in ("whole", "stopped")]
    words = users[0].on_stand_in(*WORDS)
    for user in users:
        user.place.mkdir()
    assert "alignment  revised every 1 steps; the first is the rule's" in users[0].does("train", *words)
    with told_to_stop(2):
        assert users[1]("train", *words).code == 143
    users[1].does("train", *words)
    same_run(users[1].run(), users[0].run())
    pairs = [(line["pair/weak"], line["pair/strong"]) for line in read_lines(users[0].run() / "metrics.jsonl")]
    assert pairs[0] == (2, 3) and len(pairs) == 4

    small = ["num=12", "neighbours=3", "t=[0.5]", "num_train=40", "num_heldout=12", "probe.iterations=3", "out=inside"]
    told = users[0].does("eval.choose_pair", f"run={users[0].run()}", "device=cpu", *small)
    assert "rule       2 -> 3" in told and "note       the run was aligned" in told
    found = json.loads((users[0].place / "inside" / "choose_pair.json").read_text())
    assert (found["domain"], found["depth"]) == (domain, 5)
    assert {"agreement", "cknna", "rank"} <= set(found["results"]["criteria"])
