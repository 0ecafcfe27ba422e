"""Listening to blocks: which layer a number or a name means, when its hook may fire, and what is kept."""

import contextlib
import copy
import gc
import pickle
import weakref
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from core.alignment.hooks import LayerHooks, find_blocks, resolve_layer
from core.alignment.layersync import LayerSync
from tests.core.stand_in import DEPTH, WIDTH, Block, Transformer, gradients, media, transformer


class Checkpointed(Transformer):
    """Each block is run again during backward."""

    def through(self, block, x):
        return checkpoint(block, x, use_reentrant=False)


class Twice(Transformer):
    """Each block runs twice in one forward."""

    def through(self, block, x):
        return block(block(x))


class Tupled(Block):
    """A block as of DiT variants and diffusers: (tokens, something else)."""

    def forward(self, x):
        return super().forward(x), torch.zeros(())


class Listed(Tupled):
    def forward(self, x):
        return list(super().forward(x))


@dataclass
class Output:
    sample: torch.Tensor


class Wrapped(Block):
    """A block whose output is no tensor and no tuple."""

    def forward(self, x):
        return Output(super().forward(x))


class Unwrapping(Transformer):
    def through(self, block, x):
        return block(x).sample


def run(call, sync, x):
    """Loss and gradients of one training step on the alignment loss plus a loss of the output."""
    out = call(x)
    loss = sync()
    model = sync.model
    model.zero_grad()
    (out.square().mean() + 3 * loss).backward()
    return loss.detach(), gradients(model)


def assert_same_step(ours, reference, tolerance=1e-6):
    """Equal loss and equal gradients of every parameter, all of which must have one."""
    torch.testing.assert_close(ours[0], reference[0], atol=tolerance, rtol=tolerance)
    assert all(gradient is not None for gradient in reference[1].values())
    torch.testing.assert_close(ours[1], reference[1], atol=tolerance, rtol=tolerance)


# which layer is meant


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
    with pytest.raises(ValueError, match=r"no torch\.nn\.ModuleList"):
        resolve_layer(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), 1)
    assert resolve_layer(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), "1") == "1"


def two_lists(first=4, second=4):
    model = nn.Module()
    model.double_blocks = nn.ModuleList(Block() for _ in range(first))
    model.single_blocks = nn.ModuleList(Block() for _ in range(second))
    return model


def test_two_equally_long_lists_must_be_told_apart():
    with pytest.raises(ValueError, match=r"several lists of 4 blocks.*double_blocks.*single_blocks.*blocks="):
        resolve_layer(two_lists(), 2)
    assert resolve_layer(two_lists(), 2, blocks="single_blocks") == "single_blocks.1"


def test_the_longest_list_is_meant_and_another_can_be_named():
    model = two_lists(first=3, second=5)
    assert find_blocks(model)[0] == "single_blocks"
    assert find_blocks(model, "double_blocks") == ("double_blocks", model.double_blocks)
    with pytest.raises(ValueError, match=r"blocks='layers' is not a list.*double_blocks.*single_blocks"):
        find_blocks(model, "layers")


def test_a_bare_module_list_is_its_own_list_of_blocks():
    assert resolve_layer(nn.ModuleList(Block() for _ in range(3)), 2) == "1"


# when a hook may fire


def test_each_forward_starts_afresh():
    model = transformer()
    hooks = LayerHooks(model, [2])
    first, second = media(seed=1), media(batch=2, seed=2)
    model(first)
    model(second)
    assert hooks.take()["blocks.1"].shape == (2, 4, WIDTH)


def test_tokens_are_handed_over_once():
    model = transformer()
    hooks = LayerHooks(model, [2])
    model(media())
    hooks.take()
    with pytest.raises(RuntimeError, match=r"'blocks\.1' did not fire since the last loss"):
        hooks.take()


def test_a_forward_around_the_hooks_is_noticed():
    model = transformer()
    hooks = LayerHooks(model, [2])
    model.forward(media())
    with pytest.raises(RuntimeError, match=r"'blocks\.1' did not fire.*not model\.forward"):
        hooks.take()


def test_a_layer_the_forward_skips_is_named():
    model = transformer()
    hooks = LayerHooks(model, [2, 5])
    model.through = lambda block, x: x if block is model.blocks[4] else block(x)
    model(media())
    with pytest.raises(RuntimeError, match=r"'blocks\.4' did not fire"):
        hooks.take()
    del model.through
    model(media())
    assert set(hooks.take()) == {"blocks.1", "blocks.4"}


def test_a_forward_that_failed_leaves_nothing_behind():
    model = transformer()
    hooks = LayerHooks(model, [2])
    handle = model.blocks[4].register_forward_pre_hook(lambda module, args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model(media())
    handle.remove()
    model(media(batch=2))
    assert hooks.take()["blocks.1"].shape[0] == 2


def test_a_block_that_runs_twice_is_ambiguous():
    model = transformer(Twice)
    hooks = LayerHooks(model, [2])
    model(media())
    with pytest.raises(RuntimeError, match=r"'blocks\.1' ran 2 times in one forward"):
        hooks.take()


def test_one_block_in_several_places_is_ambiguous():
    shared = Block()
    model = transformer(blocks=[shared] * 4)
    hooks = LayerHooks(model, [1, 3])
    model(media())
    with pytest.raises(RuntimeError, match=r"ran 4 times in one forward"):
        hooks.take()


@pytest.mark.parametrize("kind", [Tupled, Listed])
def test_the_first_of_several_outputs_is_the_tokens(kind):
    model = transformer(blocks=[kind() for _ in range(3)])
    plain = transformer(blocks=[Block() for _ in range(3)])
    hooks, expected = LayerHooks(model, [2]), LayerHooks(plain, [2])
    model(media())
    plain(media())
    assert torch.equal(hooks.take()["blocks.1"], expected.take()["blocks.1"])


def test_an_output_that_is_no_tensor_is_refused():
    model = transformer(Unwrapping, blocks=[Wrapped() for _ in range(3)])
    LayerHooks(model, [2])
    with pytest.raises(TypeError, match=r"layer 'blocks\.1' returned Output; needed: a tensor or a tuple"):
        model(media())


def test_hooks_can_be_taken_off():
    model = transformer()
    hooks = LayerHooks(model, [2])
    hooks.remove()
    model(media())
    assert not any(kept for kept in hooks.tokens.values())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


# paused, memory, copies


def test_nothing_is_collected_while_paused():
    model = transformer()
    hooks = LayerHooks(model, [2])
    with hooks.paused():
        model(media())
        with pytest.raises(RuntimeError, match="collecting is switched off"):
            hooks.take()
    with pytest.raises(RuntimeError, match="did not fire"):
        hooks.take()
    model(media())
    assert hooks.take()


def test_sampling_between_forward_and_loss_does_not_disturb():
    model = transformer()
    hooks = LayerHooks(model, [2, 4])
    model(media(seed=1))
    expected = {name: kept[0] for name, kept in hooks.tokens.items()}
    with hooks.paused(), torch.no_grad():
        model(media(batch=7, seed=2))
        model(media(batch=7, seed=3))
    taken = hooks.take()
    assert all(taken[name] is expected[name] for name in expected)


def test_paused_ends_with_an_exception_and_nests():
    hooks = LayerHooks(transformer(), [2])
    with pytest.raises(ZeroDivisionError), hooks.paused():
        _ = 1 / 0
    assert hooks.collecting
    with hooks.paused():
        with hooks.paused():
            pass
        assert not hooks.collecting


def test_no_memory_is_kept_after_the_loss():
    model = transformer()
    sync = LayerSync(model, [(2, 4)])
    kept = []
    for name in ("blocks.1", "blocks.3"):
        handle = model.get_submodule(name).register_forward_hook(lambda m, a, out: kept.append(weakref.ref(out)))
    with torch.no_grad():
        model.eval()(media())
        assert all(ref() is not None for ref in kept)
        sync()
    gc.collect()
    assert len(kept) == 2
    assert [ref() for ref in kept] == [None, None]
    assert not any(sync.hooks.tokens.values())
    handle.remove()


def test_a_copy_does_not_write_into_the_store_of_the_original():
    model = transformer()
    sync = LayerSync(model, [(2, 4)])
    ema = copy.deepcopy(model)
    model(media(seed=1))
    expected = sync.hooks.tokens["blocks.1"][0]
    ema(media(batch=7, seed=2))
    assert sync.hooks.tokens["blocks.1"] == [expected]
    sync()
    ema(media())
    assert not any(sync.hooks.tokens.values())


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_model_can_be_copied_between_forward_and_loss(duplicate):
    model = transformer()
    sync = LayerSync(model, [(2, 4)])
    model(media())
    ema = duplicate(model)
    torch.testing.assert_close(ema.state_dict(), model.state_dict())
    assert sync().requires_grad


# the ways a model is run: compiled, checkpointed, in bfloat16, distributed


@pytest.mark.slow
def test_compiled_by_inductor_equals_eager():
    x = media()
    build = partial(transformer, blocks=[Block() for _ in range(3)])
    reference = run(eager := build(), LayerSync(eager, [(1, 3)]), x)
    sync = LayerSync(model := build(), [(1, 3)])
    call = torch.compile(model, fullgraph=True)
    assert_same_step(run(call, sync, x), reference, tolerance=1e-5)
    with sync.paused(), torch.no_grad():
        call(x)
    with torch.compiler.set_stance("fail_on_recompile"):
        for _ in range(2):
            with sync.paused(), torch.no_grad():
                call(x)
            with pytest.raises(RuntimeError, match="did not fire"):
                sync()
            assert_same_step(run(call, sync, x), reference, tolerance=1e-5)


def compiled(model):
    return torch.compile(model, fullgraph=True, backend="aot_eager")


def test_compiled_hooks_fire_in_every_step_and_are_silent_while_paused():
    sync = LayerSync(model := transformer(), [(2, 4)])
    call = compiled(model)
    eager = LayerSync(twin := transformer(), [(2, 4)])
    for step in range(3):
        x = media(seed=step)
        assert_same_step(run(call, sync, x), run(twin, eager, x))
        with sync.paused(), torch.no_grad():
            call(x)
        assert not any(sync.hooks.tokens.values())


def test_a_compiled_model_is_refused():
    with pytest.raises(ValueError, match=r"before torch\.compile"):
        LayerSync(compiled(transformer()), [(2, 4)])


def test_hooks_built_after_an_earlier_compilation_of_the_class():
    """Compiled code belongs to the class: that of a model without hooks would run a model with hooks, and skip them."""
    compiled(transformer())(media())
    sync = LayerSync(model := transformer(), [(2, 4)])
    compiled(model)(media())
    assert sync().requires_grad


def test_hooks_built_after_a_compilation_in_place():
    model = transformer()
    model.compile(fullgraph=True, backend="aot_eager")
    model(media())
    sync = LayerSync(model, [(2, 4)])
    model(media())
    assert sync().requires_grad


def test_a_compiled_copy_does_not_write_into_the_store_of_the_original():
    sync = LayerSync(model := transformer(), [(2, 4)])
    ema = copy.deepcopy(model)
    call, call_ema = compiled(model), compiled(ema)
    call(media(seed=1))
    expected = sync.hooks.tokens["blocks.1"][0]
    call_ema(media(seed=2))
    assert sync.hooks.tokens["blocks.1"][0] is expected
    sync()
    call_ema(media())
    assert not any(sync.hooks.tokens.values())


def test_blocks_compiled_one_by_one():
    x = media()
    reference = run(eager := transformer(), LayerSync(eager, [(2, 4)]), x)
    sync = LayerSync(model := transformer(), [(2, 4)])
    for block in model.blocks:
        block.compile(fullgraph=True, backend="aot_eager")
    for _ in range(2):
        assert_same_step(run(model, sync, x), reference)
        with sync.paused():
            model(x)
        assert not any(sync.hooks.tokens.values())


@pytest.mark.parametrize("way", [lambda model: model, compiled], ids=["eager", "compiled"])
def test_activation_checkpointing_changes_nothing(way):
    x = media()
    reference = run(eager := transformer(), LayerSync(eager, [(2, 4)]), x)
    sync = LayerSync(model := transformer(Checkpointed), [(2, 4)])
    call = way(model)
    for _ in range(2):
        assert_same_step(run(call, sync, x), reference)
        assert not any(sync.hooks.tokens.values())
    with pytest.raises(RuntimeError, match="did not fire"):
        sync()


def test_a_block_run_again_in_backward_is_not_heard():
    x, again = media(), []
    reference = run(eager := transformer(), LayerSync(eager, [(2, 4)]), x)
    sync = LayerSync(model := transformer(Checkpointed), [(2, 4)])
    model.blocks[1].register_forward_hook(lambda module, args, out: again.append(out.shape))
    with set_checkpoint_early_stop(False):  # run to the very end of the block, where its hooks are
        assert_same_step(run(model, sync, x), reference)
    assert len(again) == 2
    assert not any(sync.hooks.tokens.values())


def test_bfloat16_autocast_stays_near_float32():
    x = media()
    exact, exact_gradients = run(eager := transformer(), LayerSync(eager, [(2, 4)]), x)
    sync = LayerSync(model := transformer(), [(2, 4)])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, loss_gradients = run(model, sync, x)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, exact, atol=2e-3, rtol=0)
    for name, gradient in loss_gradients.items():
        angle = torch.cosine_similarity(gradient.flatten(), exact_gradients[name].flatten(), dim=0)
        assert angle > 0.99, name


@contextlib.contextmanager
def one_process_group(folder):
    """A group of this process alone."""
    store = torch.distributed.FileStore(str(folder / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


def test_wrapped_in_ddp(tmp_path):
    x = media()
    reference = run(eager := transformer(), LayerSync(eager, [(2, 4)]), x)
    sync = LayerSync(model := transformer(), [(2, 4)])
    with one_process_group(tmp_path):
        wrapped = nn.parallel.DistributedDataParallel(model)
        for _ in range(2):
            assert_same_step(run(wrapped, sync, x), reference)


def test_sharded_by_fsdp2(tmp_path):
    from torch.distributed.fsdp import fully_shard

    x = media()
    reference = run(eager := transformer(), LayerSync(eager, [(2, 4)]), x)
    sync = LayerSync(model := transformer(), [(2, 4)])
    with one_process_group(tmp_path):
        mesh = torch.distributed.init_device_mesh("cpu", (1,))
        for module in (*model.blocks, model):
            fully_shard(module, mesh=mesh)
        loss, sharded = run(model, sync, x)
        whole = {name: gradient.full_tensor() for name, gradient in sharded.items()}
        assert_same_step((loss, whole), reference)


def test_a_compiled_model_without_hooks_does_not_use_the_code_of_one_with_hooks():
    """Two models of one class in one process, compiled: only the one that is listened to fills the store."""
    listened, plain = Transformer(), Transformer()
    hooks = LayerHooks(listened, [1])
    x = media()
    torch.compile(listened, backend="eager")(x)
    hooks.take()
    torch.compile(plain, backend="eager")(x)
    with pytest.raises(RuntimeError, match="did not fire"):
        hooks.take()
