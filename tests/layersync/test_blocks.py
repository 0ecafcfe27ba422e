"""Which module a number or a name means."""

import pytest
from torch import nn

from layersync.blocks import find_blocks, resolve_layer
from layersync.hooks import LayerHooks
from tests.core.stand_in import DEPTH, Block, media, transformer
from tests.rows import every_row


def test_numbers_count_blocks_from_one():
    model = transformer()
    assert [resolve_layer(model, n) for n in (1, 3, DEPTH)] == ["blocks.0", "blocks.2", f"blocks.{DEPTH - 1}"]


def test_a_number_means_the_output_of_that_block():
    model, kept = transformer(), {}
    for index, block in enumerate(model.blocks):
        block.register_forward_hook(lambda module, args, out, index=index: kept.setdefault(index + 1, out))
    hooks = LayerHooks(model, [2, "blocks.4", "head"])
    out = model(media())
    taken = hooks.take()
    assert hooks.names == ["blocks.1", "blocks.4", "head"]
    assert taken["blocks.1"] is kept[2]
    assert taken["blocks.4"] is kept[5]
    assert taken["head"] is out


@pytest.mark.parametrize("number", [0, -1, DEPTH + 1, 99])
def test_unknown_block_number_tells_the_range(number):
    with pytest.raises(ValueError, match=rf"block {number} does not exist.* 1 to {DEPTH} .*from 1"):
        resolve_layer(transformer(), number)


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [("transformer_blocks.3", "blocks.3"), ("block.3.linear", "blocks.3.linear")],
)
def test_unknown_name_suggests_a_similar_one(name, suggestion):
    with pytest.raises(ValueError, match=f"no module named '{name}'.*'{suggestion}'"):
        resolve_layer(transformer(), name)


@pytest.mark.parametrize("layer", [True, 2.0, None, ("blocks", 2)])
def test_a_layer_is_a_number_or_a_name(layer):
    with pytest.raises(ValueError, match=r"block number \(from 1\) or a module name"):
        resolve_layer(transformer(), layer)


def test_numbers_need_a_list_of_blocks():
    with pytest.raises(ValueError, match=r"no list of blocks .*name its layers"):
        resolve_layer(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), 1)
    assert resolve_layer(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), "1") == "1"


def two_lists(first=4, second=4):
    model = nn.Module()
    model.double_blocks = nn.ModuleList(Block() for _ in range(first))
    model.single_blocks = nn.ModuleList(Block() for _ in range(second))
    return model


@every_row(("first", "second"), [(4, 4), (3, 5), (2, 38)])
def test_several_lists_of_blocks_must_be_told_apart_whatever_their_lengths(first, second):
    lists = rf"'double_blocks' \({first}\), 'single_blocks' \({second}\)"
    told = rf"several lists of blocks: {lists}.*, as blocks='(double|single)_blocks'"
    with pytest.raises(ValueError, match=told):
        resolve_layer(two_lists(first, second), 2)
    assert resolve_layer(two_lists(first, second), 2, blocks="single_blocks") == "single_blocks.1"


def test_a_list_can_be_named():
    model = two_lists(first=3, second=5)
    assert find_blocks(model, "double_blocks") == ("double_blocks", model.double_blocks)
    with pytest.raises(ValueError, match=r"blocks='layers' is not a list.*double_blocks.*single_blocks"):
        find_blocks(model, "layers")


def test_lists_inside_of_blocks_and_lists_of_single_operations_are_no_lists_of_blocks():
    model = nn.Module()
    model.embedders = nn.ModuleList(nn.Linear(2, 2) for _ in range(9))
    model.blocks = nn.ModuleList(Block() for _ in range(3))
    for block in model.blocks:
        block.parts = nn.ModuleList(Block() for _ in range(7))
        block.mlp = nn.Sequential(nn.Linear(2, 2), nn.GELU())
    assert resolve_layer(model, 3) == "blocks.2"


def test_a_sequential_or_a_dict_of_blocks_is_a_list_of_blocks():
    for blocks, names in (
        (nn.Sequential(*(Block() for _ in range(3))), ["0", "1", "2"]),
        (nn.ModuleDict({name: Block() for name in ("early", "middle", "late")}), ["early", "middle", "late"]),
    ):
        model = nn.Module()
        model.blocks = blocks
        for told in (None, "blocks"):
            assert [resolve_layer(model, number, told) for number in (1, 2, 3)] == [f"blocks.{name}" for name in names]
        with pytest.raises(ValueError, match=r"block 4 does not exist.* 1 to 3"):
            resolve_layer(model, 4)


def test_a_bare_module_list_is_its_own_list_of_blocks():
    assert resolve_layer(nn.ModuleList(Block() for _ in range(3)), 2) == "1"


def test_a_list_is_named_by_any_of_its_names_and_not_given_itself():
    model = transformer()
    model.layers = model.blocks
    assert resolve_layer(model, 2, blocks="layers") == "layers.1"
    for given, kind in ((model.blocks, "ModuleList"), (["blocks"], "list"), (1, "int")):
        with pytest.raises(ValueError, match=rf"blocks is of type {kind}; needed: the name of one of 'blocks' "):
            resolve_layer(model, 2, blocks=given)
