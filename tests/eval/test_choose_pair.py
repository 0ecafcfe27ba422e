"""The pair that is recommended is that of a network whose best block is known, and a tiny run is told what to do."""

import json
import shlex

import pytest
import torch
from PIL import Image

import image.train
from core.commands.entry import compose_config
from core.schema import strict
from eval.choose_pair import ENTRY, ChooseConfig, recommend, report
from eval.compare import ENTRY as COMPARE
from eval.compare import plan_runs
from eval.inside.model import ForwardOptions
from eval.inside.quality import agreement, agreement_parts, block_scores, effective_rank, label_free, quality
from layersync.tokens import token_cosine
from tests.eval.inside.toy_model import TOKENS, WIDTH, Backbone, Framed, Function, opened
from tests.eval.test_probe import TINY, normal

BEST = 6
ROWS = 48


def config_of(**changes):
    """The command's own config, small."""
    values = compose_config("eval.conf", "choose_pair", ["run=toy"])
    return strict(ChooseConfig, {**values, "num": 32, "batch_size": 16, "t": [0.5], "neighbours": 5, **changes})


def known(kind=Backbone, masks=None, spoilt=False):
    """Eight blocks: the first loses all signs, block 6 recalls those that went in, the last two forget them.

    Samples are signs of the channels, the same in every token, so that what differs among tokens is noise.
    """
    signs = torch.where(normal(ROWS, 1, WIDTH, seed=3) > 0, 1.0, -1.0)
    media = 4 * signs.expand(ROWS, TOKENS, WIDTH).clone()
    if spoilt:
        media[:, 4:] = torch.nan
    kept = []

    def recalled(x):
        return kept.pop().sign()

    def same(x):
        return x

    def forgotten(x):
        return torch.ones_like(x) + 0.01 * x

    blocks = [Function(each) for each in (torch.abs, same, same, same, same, recalled, forgotten, same)]
    blocks[0].register_forward_pre_hook(lambda module, inputs: kept.append(inputs[0]))
    return opened(kind(blocks), media, (signs[:, 0, 0] > 0).long(), masks=masks)


def test_the_block_that_recalls_the_sample_is_the_strong_one():
    results = recommend(known(), config_of())
    assert list(results["scaled"]) == ["agreement", "cknna", "rank", "probe"]
    assert max(range(8), key=results["quality"].__getitem__) == BEST - 1
    assert results["pairs"][0]["strong"] == BEST and results["pairs"][0]["weak"] <= 4
    assert all(pair["strong"] == BEST and pair["score"] > 0 for pair in results["pairs"])
    assert "agreement" in results["pairs"][0]["reasons"][0]
    text = report(results, "toy")
    words = f"alignment.pairs=[[{results['pairs'][0]['weak']},{BEST}]]"
    assert f"use        alignment=layersync {words}" in text and f"+cases.measured.{words}" in text
    assert results["rule"]["weak"] == 2 and results["rule"]["strong"] == 5


@pytest.mark.parametrize("criterion", ["agreement", "cknna", "probe"])
def test_each_criterion_finds_it_alone(criterion):
    results = recommend(known(), config_of(criteria=[criterion]))
    assert results["pairs"][0]["strong"] == BEST and list(results["scaled"]) == [criterion]


def test_data_without_classes_are_not_probed():
    model = known()
    del model.domain.dataset.labels
    model.domain.dataset.item = lambda index, rng: {"media": model.domain.dataset.media[index], "condition": 0}
    results = recommend(model, config_of())
    assert "probe" not in results["criteria"] and results["pairs"][0]["strong"] == BEST
    assert results["notes"][0] == "the data have no classes: no probe"
    with pytest.raises(ValueError, match=r"criteria is \['probe'\], but the run's data set has no class labels"):
        recommend(model, config_of(criteria=["probe"]))


def test_padding_and_frames_change_nothing():
    masks = (torch.arange(TOKENS) < 4).expand(ROWS, TOKENS)
    rows, reading = list(range(20)), ForwardOptions(batch_size=8)
    found = [
        label_free(model, rows, [0.3, 0.8], reading, 5)
        for model in (known(masks=masks), known(masks=masks, spoilt=True), known(Framed, masks=masks))
    ]
    for other in found[1:]:
        for name, by_time in found[0].items():
            for t, values in by_time.items():
                assert torch.isfinite(values).all()
                torch.testing.assert_close(other[name][t], values, atol=1e-5, rtol=1e-4)


def test_the_criteria_are_their_formulas():
    a, b = normal(5, TOKENS, WIDTH), normal(5, TOKENS, WIDTH, seed=1)
    same, other = agreement_parts(a, b, None)
    torch.testing.assert_close(same, token_cosine(a, b).mean(1).sum())
    torch.testing.assert_close(other, sum(token_cosine(a[i], b[(i + 1) % 5]).mean() for i in range(5)))
    assert agreement(torch.tensor([1.0, 0.5, 1.0]), torch.tensor([0.2, 0.5, 1.0])).tolist() == [1.0, 0.0, 0.0]
    full = torch.cat([torch.eye(4), -torch.eye(4)])
    assert effective_rank(full) == pytest.approx(1.0) and effective_rank(torch.ones(8, 4)) == 0
    assert effective_rank(full * torch.tensor([1.0, 1.0, 0, 0])) == pytest.approx(0.5)


def test_what_tells_no_block_from_another_does_not_count():
    scaled, flat = block_scores({"a": {0.5: torch.tensor([1.0, 1.001])}, "b": {0.1: torch.tensor([3.0, 1.0])}})
    assert flat == ["a"] and scaled["b"] == [1.0, 0.0] and quality(scaled, flat) == [1.0, 0.0]
    assert quality({"a": [0.0, 0.0]}, ["a"]) == [0.0, 0.0]


def test_no_pair_is_recommended_where_none_gains():
    model = opened(Backbone([Function(lambda x: x) for _ in range(6)]))
    results = recommend(model, config_of(criteria=["agreement", "rank"]))
    assert results["pairs"] == [] and len(results["notes"]) == 2
    assert "no pair gains" in report(results, "toy")
    with pytest.raises(ValueError, match="a pair is to be chosen, but the model has 3 blocks"):
        recommend(opened(Backbone([Function(lambda x: x) for _ in range(3)])), config_of())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"criteria": []}, "criteria is "),
        ({"num": 5}, "num is 5; it must be at least 6"),
        ({"batch_size": 1}, "batch_size is 1; it must be at least 2"),
        ({"pairs": 0}, "pairs is 0"),
        ({"t": [2]}, "t is "),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        config_of(**changes)


def test_the_command_on_a_tiny_run(tmp_path, capsys):
    words = [word for word in TINY if not word.startswith(("backbone.depth", "alignment"))]
    words += ["backbone.depth=5", "alignment=none", "optimizer.lr=0.05", "optimizer.warmup_steps=0"]
    image.train.ENTRY.run([*words, f"runs_dir={tmp_path}"])
    run = tmp_path / "image" / "digits"
    small = ["num=40", "num_train=60", "num_heldout=40", "t=[0.75]", "weights=model", "probe.iterations=20"]
    ENTRY.run([f"run={run}", *small])
    once = (run / "inside" / "choose_pair.json").read_bytes()
    found = json.loads(once)
    assert found["depth"] == 5 and set(found["results"]["criteria"]) == {"agreement", "cknna", "rank", "probe"}
    assert found["results"]["rule"]["strong"] == 3 and max(found["results"]["quality"]) > 0
    assert "rule       2 -> 3" in capsys.readouterr().out
    with Image.open(run / "inside" / "choose_pair.png") as picture:
        picture.load()
    ENTRY.run([f"run={run}", *small, "overwrite=true"])
    assert json.loads((run / "inside" / "choose_pair.json").read_bytes())["results"] == found["results"]


def test_the_command_that_it_prints_compares_ways_to_choose(tmp_path):
    """Of the digits, each run with the weight of the experiment."""
    best = {"weak": 3, "strong": 6, "score": 0.5, "reasons": []}
    results = {"notes": [], "pairs": [best], "rule": {"weak": 2, "strong": 5, "score": 0.4}}
    (line,) = (line for line in report(results, "image").splitlines() if line.startswith("compare"))
    words = shlex.split(line)[4:]
    configs = plan_runs(COMPARE.config([*words, "seeds=1", "steps=10"])).check(tmp_path)
    found = {method: getattr(config.alignment, "pairs", None) for (method, _), config in configs.items()}
    named = {"rule_pair": "auto", "random_pair": "random", "adaptive_pair": "adaptive", "measured": [(3, 6)]}
    assert found == {"baseline": None, "layersync": [(2, 5)], **named}
    assert len({config.alignment.weight for config in configs.values() if hasattr(config.alignment, "weight")}) == 1
