"""The second pass of a method ends at the block that it asks for, and gives what a whole one gives there."""

import copy

import pytest
import torch

from core.alignment.contract import listen
from core.alignment.teacher import Teacher
from core.draws import seeded_weights
from core.nets.layers import LabelEmbedder
from image.backbone import SiTConfig
from layersync.blocks import find_blocks
from motion.nets.mdm import MDM, Recipe
from tests.rows import every_row
from video.backbone import LatteConfig

DEPTH = 4


class Unconditional:
    """No condition."""

    def embedder(self, width, null):
        return LabelEmbedder(1, width, null_row=True)


def networks():
    """Small networks of `DEPTH` blocks with random weights, and latents that they take."""
    small = {"depth": DEPTH, "hidden_size": 16, "num_heads": 2}
    with seeded_weights(0, "weights"):
        models = {
            "SiT": (SiTConfig(**small).build((3, 4, 4), 2), (3, 4, 4)),
            "routed": (SiTConfig(**small).build((3, 4, 4), 2), (3, 4, 4)),
            "two times": (SiTConfig(**small).build((3, 4, 4), 2), (3, 4, 4)),
            "Latte": (LatteConfig(**small, patch_size=[1, 2, 2]).build((3, 4, 4, 4), Unconditional()), (3, 4, 4, 4)),
            "MDM": (MDM((5, 8), Recipe(DEPTH, 16, 2, 32), actions=2), (5, 8)),
        }
        for model, _ in models.values():
            for each in model.parameters():
                each.data += 0.1 * torch.randn_like(each)
    models["routed"][0].routed = (1, 2)
    models["two times"][0].two_times = True
    return models


def heard(model, number, x):
    """Tokens of a block in a whole pass."""
    model.eval()
    hooks = listen(model, [number])
    with torch.no_grad():
        model(x, torch.full((2,), 0.5), torch.zeros(2, dtype=torch.int64))
    (tokens,) = hooks.take().values()
    hooks.remove()
    return tokens


@every_row("kind", ["SiT", "routed", "two times", "Latte", "MDM"])
def test_no_block_behind_the_last_that_is_asked_for_runs(kind):
    model, shape = networks()[kind]
    x, calls = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)), []
    for number, block in enumerate(model.blocks, start=1):
        block.number = number
    place, _ = find_blocks(model)
    for layers in ([2], [1, 3], [f"{place}.1"], [f"{place}.0", f"{place}.2"]):
        teacher = Teacher(copy.deepcopy(model), layers)
        for block in teacher.model.blocks:
            block.register_forward_hook(lambda block, *told: calls.append(block.number))
        calls.clear()
        tokens = teacher.tokens(x, torch.full((2,), 0.5), torch.zeros(2, dtype=torch.int64))
        last = 2 if len(layers) == 1 else 3
        assert calls == list(range(1, last + 1))
        torch.testing.assert_close(tokens[layers[-1]], heard(copy.deepcopy(model), last, x), rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore")  # of torch.compile
def test_a_compiled_pass_ends_there_too():
    model, shape = networks()["SiT"]
    teacher, x, calls = Teacher(model, [2]), torch.randn(2, *shape), []
    for block in teacher.model.blocks:
        block.register_forward_hook(lambda *told: calls.append(1))
    teacher.network = torch.compile(teacher.model, backend=lambda graph, inputs: calls.clear() or graph.forward)
    tokens = teacher.tokens(x, torch.full((2,), 0.5), torch.zeros(2, dtype=torch.int64))
    assert len(teacher.model.blocks) == 2 and len(model.blocks) == DEPTH
    torch.testing.assert_close(tokens[2], heard(model, 2, x))


def test_a_layer_that_is_in_no_block_leaves_all_blocks():
    model, _ = networks()["SiT"]
    assert len(Teacher(copy.deepcopy(model), ["x_embedder"]).model.blocks) == DEPTH
    assert len(Teacher(copy.deepcopy(model), ["blocks.1.mlp"]).model.blocks) == 2
