"""Listening to blocks: when a hook may fire, what is kept, and what a copy has of it."""

import contextlib
import copy
import gc
import io
import pickle
import pickletools
import weakref

import pytest
import torch
from torch import nn

from layersync import TIME_WEIGHTS, LayerSync
from layersync.hooks import LayerHooks
from tests.core.stand_in import WIDTH, Block, Transformer, media, transformer
from tests.rows import every_row


class Twice(Transformer):
    """Each block runs twice in one forward."""

    def through(self, block, x):
        return block(block(x))


def test_each_forward_starts_afresh():
    model = transformer()
    hooks = LayerHooks(model, [2])
    first, second = media(seed=1), media(batch=2, seed=2)
    with torch.no_grad():
        model(first)
    model(second)
    assert hooks.take()["blocks.1"].shape == (2, 4, WIDTH)


def test_a_forward_with_gradient_that_nobody_reads_is_told():
    model = transformer()
    sync = LayerSync(model, [(2, 4)])
    model(media(seed=1))
    model(media(seed=2))
    with pytest.raises(RuntimeError, match=r"more than once with gradient since the last loss.*sync\.discard\(\)"):
        sync()
    model(media())  # told once, the next loss is as ever
    assert sync().requires_grad
    with pytest.raises(RuntimeError, match="did not fire"):
        sync()


def test_forwards_without_gradient_in_evaluation_or_discarded_are_nobodys_loss():
    model = transformer()
    sync = LayerSync(model, [(2, 4)])
    model(media(seed=1))
    sync.discard()
    model.eval()(media(seed=2))
    with torch.no_grad():
        model.train()(media(seed=3))
    model(media(batch=2))
    with sync.paused():
        model(media(seed=4))
    assert sync().requires_grad


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


class Conditioned(Transformer):
    """A model that runs once more inside of its own forward, without gradient or detached."""

    sync, grad, inner = None, False, False

    def forward(self, x):
        if not self.inner:
            self.inner = True
            with torch.set_grad_enabled(self.grad), self.sync.paused() if self.sync else contextlib.nullcontext():
                x = x + self(x).detach()
            self.inner = False
        return super().forward(x)


@every_row(("grad", "backend"), [(False, None), (True, None), (True, "eager")])
def test_a_model_that_calls_itself_is_told_to_pause(grad, backend):
    model = transformer(Conditioned)
    model.grad = grad
    sync = LayerSync(model, [(2, 4)])
    (torch.compile(model, backend=backend) if backend else model)(media())
    with pytest.raises(RuntimeError, match=r"called itself in its forward.*inside sync\.paused\(\)"):
        sync()
    model.sync = sync
    seen = []
    model.blocks[1].register_forward_hook(lambda block, inputs, output: seen.append(output))
    model(media())
    assert torch.equal(sync.hooks.take()["blocks.1"], seen[1])


def test_one_block_in_several_places_is_ambiguous():
    shared = Block()
    model = transformer(blocks=[shared] * 4)
    hooks = LayerHooks(model, [1, 3])
    model(media())
    with pytest.raises(RuntimeError, match=r"ran 4 times in one forward"):
        hooks.take()


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


def saved_and_loaded(model):
    """As torch.save writes a whole model."""
    file = io.BytesIO()
    torch.save(model, file)
    return torch.load(io.BytesIO(file.getvalue()), weights_only=False)


COPIES = {
    "deep copy": copy.deepcopy,
    "shallow copy": copy.copy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "torch.save": saved_and_loaded,
}


@pytest.mark.parametrize("duplicate", COPIES.values(), ids=COPIES)
def test_a_copy_of_the_model_is_not_listened_to(duplicate):
    model = transformer()
    sync = LayerSync(model, [(2, 4)])
    model(media(seed=1))
    other = duplicate(model)  # between forward and loss
    torch.testing.assert_close(other.state_dict(), model.state_dict())
    kept = []
    other.blocks[1].register_forward_hook(lambda module, args, out: kept.append(weakref.ref(out)))
    expected = sync.hooks.tokens["blocks.1"][0]
    other(media(batch=7, seed=2))
    gc.collect()
    assert [ref() for ref in kept] == [None]  # no hook of a copy holds tokens
    assert sync.hooks.tokens["blocks.1"] == [expected]
    assert sync().requires_grad


def test_a_saved_model_needs_nothing_of_ours():
    model = transformer()
    LayerSync(model, [(2, 4)])
    words = [value for _, value, _ in pickletools.genops(pickle.dumps(model)) if isinstance(value, str)]
    assert any("Transformer" in word for word in words)
    assert not any("layersync" in word.lower() for word in words), words


class Learner(nn.Module):
    """A model beside its LayerSync, as in a training module that is copied whole."""

    def __init__(self):
        super().__init__()
        self.model = transformer()
        self.sync = LayerSync(self.model, [(2, 4)])


@every_row("name", list(TIME_WEIGHTS))
def test_a_layersync_with_a_named_time_weight_can_be_pickled(name):
    sync = pickle.loads(pickle.dumps(LayerSync(transformer(), [(2, 4)], time_weight=name)))
    sync.model(media())
    assert sync(t=torch.tensor([0.2, 0.5, 0.7])).requires_grad


@pytest.mark.parametrize("duplicate", [copy.deepcopy, COPIES["pickle"]], ids=["deep copy", "pickle"])
def test_a_copy_of_layersync_listens_to_the_copy_of_the_model(duplicate):
    learner = Learner()
    learner.model(media())
    other = duplicate(learner)
    assert other.sync.model is other.model
    other.model(media(seed=2))
    loss = other.sync()
    loss.backward()
    assert other.model.blocks[1].linear.weight.grad.abs().max() > 0
    assert learner.model.blocks[1].linear.weight.grad is None
    assert learner.sync().requires_grad
    other.sync.remove()
    learner.model(media())
    assert learner.sync().requires_grad


def test_a_layersync_that_lives_in_its_own_model_says_that_a_copy_is_deaf():
    model = transformer()
    model.sync = LayerSync(model, [(2, 4)])
    other = copy.deepcopy(model)
    other(media())
    with pytest.raises(RuntimeError, match="copy that was made inside of its own model"):
        other.sync()
    model(media())
    assert model.sync().requires_grad


# who is called, and how


def test_a_module_around_the_one_that_is_called_is_told_to_be_the_wrong_one():
    learner = Learner()
    learner.sync.remove()
    sync = LayerSync(learner, [("model.blocks.1", "model.blocks.3")])
    learner.model(media())
    with pytest.raises(RuntimeError, match=r"the Learner that LayerSync was built on.*self\.model, not self"):
        sync()


def test_replicas_of_data_parallel_are_refused():
    model = transformer()
    sync = LayerSync(model, [(2, 4)])
    replica = model._replicate_for_data_parallel()  # what nn.DataParallel calls on each GPU
    with pytest.raises(RuntimeError, match=r"DataParallel.*DistributedDataParallel"):
        replica(media())
    with sync.paused():
        assert replica(media()).shape == media().shape
    with pytest.raises(ValueError, match=r"DataParallel.*DistributedDataParallel"):
        LayerSync(nn.DataParallel(transformer()), [(2, 4)])


class Accumulating(Transformer):
    """The output of a block is changed in place by what comes after."""

    def through(self, block, x):
        out = block(x)
        out += 0.1
        return out


def test_tokens_that_are_changed_in_place_afterwards_are_told():
    model = transformer(Accumulating)
    sync = LayerSync(model, [(2, 4)])
    model(media())
    with pytest.raises(RuntimeError, match=r"'blocks\.1' was changed in place.*h = h \+ x"):
        sync()
    with torch.inference_mode():  # where changes are not counted, and nothing is learned
        model.eval()(media())
        assert sync().isfinite()
