"""The ways a model is run: compiled, checkpointed, in bfloat16, distributed. The loss and its gradients are eager's."""

import contextlib
import copy
import gc
from functools import partial
from unittest import mock

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from layersync import LayerSync, compiler
from layersync.compiler import SETTINGS
from layersync.hooks import LayerHooks
from tests.core.stand_in import Block, Transformer, gradients, media, transformer
from tests.rows import every_row


class Checkpointed(Transformer):
    """Each block is run again during backward."""

    def through(self, block, x):
        return checkpoint(block, x, use_reentrant=False)


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


@every_row("built", ["before", "after"])
def test_adapters_up_to_the_weak_block_learn(built):
    """Built on the model before peft puts adapters into it, or on the PeftModel that is called."""
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["linear"])
    model = transformer()
    sync = LayerSync(model, [(2, 4)]) if built == "before" else None
    call = peft.get_peft_model(model, config)
    sync = sync or LayerSync(call, [(2, 4)])
    call(media())
    sync().backward()
    found = {name: gradient for name, gradient in gradients(call).items() if "lora_B" in name}
    learn = {int(name.split("blocks.")[1].split(".")[0]) + 1 for name, each in found.items() if each is not None}
    assert learn == {1, 2}
    assert all("lora_" in name for name, each in gradients(call).items() if each is not None)


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


# what torch.compile is told, and for how long


@contextlib.contextmanager
def torch_as_it_comes():
    """No LayerSync lives, and the settings are torch's own."""
    gc.collect()
    config = torch._dynamo.config
    before = {name: getattr(config, name) for name in SETTINGS}
    with mock.patch.object(compiler, "_LEASE", compiler._Lease()):
        for name, value in SETTINGS.items():
            setattr(config, name, not value)
        try:
            yield lambda: {name: getattr(config, name) for name in SETTINGS}
        finally:
            for name, value in before.items():
                setattr(config, name, value)


def test_settings_are_set_with_the_first_layersync_and_restored_with_the_last():
    with torch_as_it_comes() as settings:
        own = settings()
        first, second = (LayerSync(transformer(), [(2, 4)]) for _ in range(2))
        assert settings() == SETTINGS != own
        first.remove()
        first.remove()  # twice is once
        assert settings() == SETTINGS
        second.remove()
        assert settings() == own
        LayerSync(transformer(), [(2, 4)])  # nobody keeps it
        gc.collect()
        assert settings() == own


def test_what_somebody_else_set_meanwhile_stays():
    with torch_as_it_comes() as settings:
        sync = LayerSync(transformer(), [(2, 4)])
        name = "skip_fwd_side_effects_in_bwd_under_checkpoint"
        setattr(torch._dynamo.config, name, own := "something else")
        sync.remove()
        assert settings()[name] == own
        setattr(torch._dynamo.config, name, False)


def test_compiled_code_stays_where_the_settings_are_right_already():
    """The first LayerSync drops code that lacks the check for hooks; a second one, or its end, drops nothing."""
    call = compiled(unrelated := nn.Linear(3, 3))
    with torch_as_it_comes():
        first = LayerSync(transformer(), [(2, 4)])
        call(torch.ones(1, 3))
        with torch.compiler.set_stance("fail_on_recompile"):
            second = LayerSync(transformer(), [(2, 4)])
            call(torch.ones(1, 3))
            second.remove()
            first.remove()
            torch.testing.assert_close(call(torch.ones(1, 3)), unrelated(torch.ones(1, 3)))


def test_a_refused_layersync_leaves_nothing_changed():
    with torch_as_it_comes() as settings:
        own = settings()
        for arguments in ({"pairs": [(4, 2)]}, {"pairs": [(2, 99)]}, {"pairs": [(2, 2)]}):
            with pytest.raises(ValueError, match="pairs"):
                LayerSync(model := transformer(), **arguments)
            assert settings() == own
            assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_reentrant_checkpoint_changes_nothing():
    x = media().requires_grad_()
    reference = run(eager := transformer(), LayerSync(eager, [(2, 4)]), x)
    sync = LayerSync(model := transformer(), [(2, 4)])
    model.through = lambda block, x: checkpoint(block, x, use_reentrant=True)
    for _ in range(2):
        assert_same_step(run(model, sync, x), reference)


def test_a_whole_model_that_is_recomputed_is_heard_once():
    model, x = transformer(), media().requires_grad_()
    sync = LayerSync(model, [(2, 4)])
    for _ in range(2):
        loss = checkpoint(model, x, use_reentrant=False).square().mean()
        (loss + sync()).backward()
