"""A pair that is revised in training is the same in all processes, of which one alone has samples enough to measure."""

import torch

from core.alignment.adaptive import AdaptiveOptions
from core.alignment.layersync import LayerSyncConfig
from tests.core.processes.spread_runs import AskedOf, Case, build, fit, lines_of, same
from tests.core.processes.started import together

METHOD = LayerSyncConfig(pairs="adaptive", weight=0.5, adaptive=AdaptiveOptions(every=1, margin=0.0))
CHANGES = (("backbone.depth", 5), ("alignment", METHOD), ("trainer.steps", 4), ("optimizer.lr", 0.01))
VARIANTS = {
    "ddp": Case(changes=CHANGES),
    "fsdp2": Case("fsdp2", changes=CHANGES),
    "fsdp2 compiled again": Case("fsdp2", compile="blocks", checkpoint_blocks=True, changes=CHANGES),
}


def revised(world, case, folder) -> dict:
    """A run of its own and one that was stopped on the way: records, and what each process has of the scores."""
    whole = build(case, world, folder, "whole")
    assert fit(whole)
    parts = build(case, world, folder, "parts")
    assert not fit(parts, AskedOf(parts, 0, 2))
    parts = build(case, world, folder, "parts")
    assert fit(parts)
    lines = [lines_of(trainer) if world.is_main else [] for trainer in (whole, parts)]
    return {"lines": lines, "scores": [dict(each.alignment.heads.state_dict()) for each in (whole, parts)]}


def test_it_is_the_same_in_all_processes_and_goes_on_to_the_bit(tmp_path):
    calls = {name: (revised, case, tmp_path / name) for name, case in VARIANTS.items()}
    ranks = together(2, calls, tmp_path, timeout=300)
    for name in VARIANTS:
        scores = [each for rank in ranks for each in rank[name]["scores"]]
        assert all(same(scores[0], each) for each in scores[1:]), name
        assert float(scores[0]["pairs.last"][-1]) == 4, name  # of 7 rows on two processes, 4 and 3
        whole, parts = ranks[0][name]["lines"]
        assert whole == parts and len(whole) == 4, name
        assert torch.isfinite(scores[0]["pairs.before"]).all()
