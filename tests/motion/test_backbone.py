"""The config of MDM: what it builds under each kind of conditions, and what it refuses with the key."""

import pytest
import torch

from core.conditioning.labels import LabelConditioning, LabelConfig
from core.conditioning.none import Unconditional
from core.conditioning.texts import TextConditioning, TextConfig
from core.schema import strict
from motion.backbone import BACKBONES, MDMConfig
from motion.train import ENTRY
from tests.rows import every_row

SHAPE = (263, 12)
TEXTS = TextConditioning(TextConfig("clip", "x", ["y"]), lambda texts: torch.zeros(len(texts), 7))


@every_row(
    ("conditioning", "names"),
    [
        (Unconditional(), {}),
        (TEXTS, {"embed_text.weight": (16, 7), "embed_text.bias": (16,)}),
        (LabelConditioning(LabelConfig(), 3), {"embed_action.action_embedding": (3, 16)}),
    ],
)
def test_each_kind_of_condition_has_its_published_weights(conditioning, names):
    state = MDMConfig(depth=2, hidden_size=16, num_heads=2, feedforward=8).build(SHAPE, conditioning).state_dict()
    found = {
        name: tuple(value.shape) for name, value in state.items() if name.startswith(("embed_text", "embed_action"))
    }
    assert found == names
    assert {name.split(".")[0] for name in state} - {name.split(".")[0] for name in names} == {
        "embed_timestep",
        "input_process",
        "output_process",
        "seqTransEncoder",
    }


def test_the_defaults_are_the_published_size():
    model = MDMConfig().build((263, 196), TextConditioning(TEXTS.config, lambda texts: torch.zeros(len(texts), 512)))
    assert sum(each.numel() for each in model.parameters()) == 17_880_327
    assert MDMConfig().dimensions == (8, 512, 4) and MDMConfig().num_blocks == 8


def test_weights_know_their_actions():
    assert MDMConfig().num_classes_in({"embed_action.action_embedding": torch.zeros(12, 4)}, "file") == 12
    with pytest.raises(ValueError, match="file is of another architecture than the configured backbone: it knows no"):
        MDMConfig().num_classes_in({"embed_text.weight": torch.zeros(4, 4)}, "file")


@every_row(
    ("node", "words"),
    [
        ({"num_heads": 5}, "backbone.hidden_size 512 does not divide by backbone.num_heads 5"),
        ({"hidden_size": 15, "num_heads": 3}, "backbone.hidden_size is 15; it must be even"),
        ({"depth": 0}, "backbone.depth is 0; it must be at least 1"),
        ({"feedforward": -1}, "backbone.feedforward is -1; it must be at least 1"),
        ({"dropout": 1.0}, r"backbone.dropout is 1.0; it must lie in \[0, 1\)"),
        ({"patch_size": 2}, "backbone.patch_size is 2; allowed with backbone=mdm: 1, a frame a token"),
    ],
)
def test_what_cannot_be_is_refused_with_its_key(node, words):
    with pytest.raises(ValueError, match=words):
        strict(BACKBONES["mdm"], node, "backbone")


MDM = ["experiment=humanml3d_mdm_layersync", "data.root=x", "conditioning.path=x"]


@every_row(
    ("words", "told"),
    [
        ([], None),
        (["alignment.pairs=[[2,9]]"], "alignment.pairs names block 9, .* the backbone has blocks 1 to 8"),
        (["backbone.depth=4"], "alignment.pairs names block 5, .* the backbone has blocks 1 to 4"),
        (["objective.time_per=token"], "objective.time_per is 'token'; allowed with this backbone: sample"),
        (["sampler=heun"], "sampler.solver is 'heun'; allowed: {name: ancestral"),
        (["objective.prediction=velocity"], r"objective.prediction is 'velocity'; allowed: \['noise', 'data'\]"),
    ],
)
def test_the_recipe_is_one(words, told):
    if told is None:
        assert ENTRY.config([*MDM, *words]).backbone.mask_frames
        return
    with pytest.raises(ValueError, match=told):
        ENTRY.config([*MDM, *words])
