"""LayerSync as a method of a run: the contract and its config, whose keys its errors name."""

from types import SimpleNamespace

import pytest
import torch

from core.alignment.contract import NoAlignment
from core.alignment.layersync import LayerSyncConfig
from core.alignment.methods import ALIGNMENTS
from core.nets.layers import BlockOptions, LabelEmbedder
from core.nets.sit import Recipe, SiT
from core.schema import strict
from layersync import TIME_WEIGHTS, LayerSync, WeightSchedule
from tests.core.stand_in import DEPTH, WIDTH, Block, media, transformer
from tests.rows import every_row


def test_pausing_and_removing_reach_the_hooks():
    sync = LayerSync(model := transformer(), [(2, 4)])
    with sync.paused():
        model(media())
    assert not any(sync.hooks.tokens.values())
    sync.remove()
    model(media())
    assert not any(sync.hooks.tokens.values())


def test_the_baseline_adds_nothing():
    baseline = strict(ALIGNMENTS["none"], {}).build(transformer())
    assert isinstance(baseline, NoAlignment)
    with baseline.paused():
        terms = baseline.terms(SimpleNamespace(t=torch.rand(3)), None)
    assert terms.loss == 0 and len(baseline.heads) == 0
    assert terms.similarity == terms.values == {}


def test_config_defaults_are_the_paper():
    config = strict(ALIGNMENTS["layersync"], {"pairs": [[2, 4]]})
    assert config == LayerSyncConfig(pairs=[(2, 4)], weight=0.2, time_weight="uniform", stop_gradient=True)
    assert config.schedule.factor(10**6) == 1


def test_config_hands_every_option_on():
    node = {
        "pairs": [[1, "blocks.3"], [2, 5]],
        "weight": "3e-1",
        "schedule": {"kind": "stop", "end_step": 7},
        "time_weight": "towards_data",
        "stop_gradient": False,
        "neighbour_frames": 1,
        "neighbour_decay": 2.0,
    }
    model = transformer()
    model.frame_tokens = 1
    sync = strict(LayerSyncConfig, node).build(model).sync
    assert sync.pairs == [("blocks.0", "blocks.3"), ("blocks.1", "blocks.4")]
    assert (sync.weight, sync.stop_gradient) == (0.3, False)
    assert sync.schedule == WeightSchedule("stop", end_step=7)
    assert sync.time_weight is TIME_WEIGHTS["towards_data"]
    assert (sync.neighbour_frames, sync.neighbour_decay) == (1, 2.0)


def test_on_one_axis_every_token_is_a_frame():
    recipe = Recipe(3, 1, BlockOptions(16, 2))
    model = SiT((3, 6), recipe, lambda width: LabelEmbedder(2, width, null_row=True))
    sync = LayerSyncConfig(pairs=[(1, 3)], weight=1.0, neighbour_frames=1).build(model).sync
    model(torch.randn(2, 3, 6), t := torch.rand(2), torch.tensor([0, 1]))
    terms = sync.terms(t=t)
    torch.testing.assert_close(terms.loss, -(terms.similarity["1->3"] + terms.values["neighbours/1->3"]))
    assert terms.values["neighbours/1->3"] != 0


def test_blocks_chooses_the_list_that_numbers_refer_to():
    model = transformer()
    model.extra = torch.nn.ModuleList(Block(WIDTH) for _ in range(DEPTH))
    with pytest.raises(ValueError, match="several lists"):
        LayerSync(model, [(2, 4)])
    assert LayerSync(model, [(2, 4)], blocks="blocks").pairs == [("blocks.1", "blocks.3")]


@every_row(
    ("node", "message"),
    [
        ({"pairs": []}, r"^alignment\.pairs is empty"),
        ({"pairs": [[3, 2]]}, r"^alignment\.pairs holds \(3, 2\); the weak layer must come before"),
        (
            {"pairs": [[1, 2]], "weight": 0},
            r"^alignment\.weight is 0\.0; .*above 0 .*alignment=none is the baseline",
        ),
        ({"pairs": [[1, 2]], "neighbour_frames": -1}, r"^alignment\.neighbour_frames is -1"),
        ({"pairs": [[1, 2]], "neighbour_decay": 0}, r"^alignment\.neighbour_decay is 0\.0; it must be above 0"),
        ({"pairs": [[1, 2]], "schedule": {"kind": "linear"}}, r"alignment\.schedule\.kind"),
        ({"pairs": [[1, 2]], "schedule": {"kind": "warmup"}}, r"alignment\.schedule\.kind is 'warmup' but"),
    ],
)
def test_what_is_wrong_is_named_by_its_config_key(node, message):
    with pytest.raises(ValueError, match=message):
        strict(LayerSyncConfig, node, "alignment")


def test_a_block_that_the_backbone_has_not_is_named_by_its_config_key():
    with pytest.raises(
        ValueError, match=rf"^alignment\.pairs is \[\(2, 99\)\]: block 99 does not exist.* 1 to {DEPTH}"
    ):
        LayerSyncConfig(pairs=[(2, 99)]).build(transformer())
