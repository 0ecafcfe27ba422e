"""Wan as a backbone: its direction of time and sign, its tokens, its experts, what stays in float32."""

import pytest
import torch

from core.alignment.teacher import Teacher
from tests.rows import every_row
from tests.video.wan.tiny_wan import LATENTS, TEXT_WIDTH, tiny_transformer
from video.wan.backbone import FullPrecision, WanBackbone, velocity
from video.wan.files import WanFiles
from video.wan.lora import LoRAConfig, add_adapters
from video.wan.trainer import BlankTexts

SHAPE = (LATENTS, 2, 4, 6)


def random(*shape, seed=0):
    """Standard normal numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def backbone(time_range=(0.0, 1.0), **config):
    """A tiny Wan under texts of zeros."""
    return WanBackbone(tiny_transformer(**config), SHAPE, BlankTexts(5, TEXT_WIDTH), time_range).eval()


@torch.no_grad()
def test_an_euler_step_is_that_of_diffusers_scheduler():
    """From sigma to a lower one: x + (sigma' - sigma) (noise - data) there is x + (t' - t) (data - noise) here."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler, model = FlowMatchEulerDiscreteScheduler(shift=3.0), backbone()
    scheduler.set_timesteps(4)
    x, numbers = random(1, *SHAPE), torch.zeros(1, dtype=torch.int64)
    for step, timestep in enumerate(scheduler.timesteps):
        text = torch.zeros(1, 5, TEXT_WIDTH)
        theirs = model.transformer(x, timestep.expand(1), text, return_dict=False)[0]
        following = scheduler.step(theirs, timestep, x, return_dict=False)[0]
        t, t_next = 1 - scheduler.sigmas[step], 1 - scheduler.sigmas[step + 1]
        own = x + (t_next - t) * model(x, t.expand(1), numbers)
        torch.testing.assert_close(own, following, atol=1e-5, rtol=1e-5)
        x = following


@torch.no_grad()
def test_a_perfect_network_gives_the_velocity_of_our_path():
    """diffusers' noise - data at timestep 1000 sigma; ours is data - noise at t = 1 - sigma."""
    data, noise = random(2, *SHAPE), random(2, *SHAPE, seed=1)
    seen = {}

    class Perfect(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.patch_embedding = torch.nn.Linear(1, 1)

        def forward(self, x, timestep, text, return_dict):
            seen["timestep"] = timestep
            return (noise - data,)

    t = torch.tensor([0.25, 1.0])
    out = velocity(Perfect(), data, t, torch.zeros(2, 5, TEXT_WIDTH))
    assert torch.equal(out, data - noise) and seen["timestep"].tolist() == [750.0, 0.0]


def test_tokens_are_laid_out_as_the_transformer_lays_them():
    """A patch that is marked changes one token of the embedding; times of a token reach its numbers."""
    model = backbone()
    assert (model.num_tokens, model.grid, model.width, model.token_size) == (12, (2, 2, 3), 24, 4 * LATENTS)
    assert model.frame_tokens == 6
    x = torch.zeros(1, *SHAPE)
    x[0, :, 1, 2:4, 2:4] = 1.0  # frame 1, row 1, column 1: token 1 * 6 + 1 * 3 + 1
    embedded = model.transformer.patch_embedding(x).flatten(2).transpose(1, 2)
    blank = model.transformer.patch_embedding(torch.zeros_like(x)).flatten(2).transpose(1, 2)
    assert (embedded != blank).any(-1)[0].nonzero().flatten().tolist() == [10]
    assert model.patches(x)[0].sum(-1).nonzero().flatten().tolist() == [10]
    values = torch.zeros(1, 12)
    values[0, 10] = 1.0
    assert torch.equal(model.expand(values, x), x[:, :1])
    assert model.expand(torch.tensor([3.0]), x).shape == (1, 1, 1, 1, 1)


@torch.no_grad()
def test_one_time_for_all_tokens_is_that_time_for_each():
    model, x, numbers = backbone(), random(2, *SHAPE), torch.zeros(2, dtype=torch.int64)
    t = torch.tensor([0.2, 0.7])
    torch.testing.assert_close(model(x, t[:, None].expand(2, 12), numbers), model(x, t, numbers), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_in_samples_each_time_goes_to_its_expert_and_in_training_to_the_trained_one():
    """At the boundary itself the expert of high noise works, as in diffusers' pipeline."""
    high, low = (0.0, 0.125), (0.125, 1.0)
    for time_range, own_is_high in ((high, True), (low, False)):
        model, other = backbone(time_range), tiny_transformer(seed=5)
        model.set_other(other)
        x, t = random(3, *SHAPE), torch.tensor([0.1, 0.125, 0.2])
        numbers, text = torch.zeros(3, dtype=torch.int64), torch.zeros(3, 5, TEXT_WIDTH)
        first, second = velocity(model.transformer, x, t, text), velocity(model._other[0], x, t, text)
        expected = torch.cat([first[:2], second[2:]] if own_is_high else [second[:2], first[2:]])
        torch.testing.assert_close(model(x, t, numbers), expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(model.train()(x, t, numbers), first, atol=1e-5, rtol=1e-5)
        assert not any("_other" in name for name in model.state_dict())


def test_the_embedding_of_times_stays_float32_under_autocast():
    """Its output is what it is without autocast; the blocks' maps run in bfloat16."""
    model, seen = backbone(), {}
    embedder = model.transformer.condition_embedder.time_embedder
    assert isinstance(embedder, FullPrecision)
    embedder.register_forward_hook(lambda module, inputs, output: seen.__setitem__("times", output.dtype))
    query = model.blocks[0].attn1.to_q
    query.register_forward_hook(lambda module, inputs, output: seen.__setitem__("query", output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        out = model(random(1, *SHAPE), torch.tensor([0.3]), torch.zeros(1, dtype=torch.int64))
    assert seen == {"times": torch.float32, "query": torch.bfloat16} and out.dtype == torch.float32


def test_frozen_weights_are_bfloat16_but_norms_modulation_and_times(wan):
    model = WanFiles(str(wan)).transformer("only", "bfloat16")
    kept = {name for name, value in model.named_parameters() if value.dtype == torch.float32}
    assert any("time_embedder" in name for name in kept) and any("scale_shift_table" in name for name in kept)
    assert all(f"blocks.{i}.norm2.weight" in kept for i in range(3) if model.config.cross_attn_norm)
    assert model.blocks[0].attn1.to_q.weight.dtype == torch.bfloat16
    add_adapters(model, LoRAConfig(rank=2))
    trained = {value.dtype for value in model.parameters() if value.requires_grad}
    assert trained == {torch.float32}


def test_checkpointed_blocks_give_the_same_gradient():
    def gradients(checkpoint):
        model = backbone()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            add_adapters(model.transformer.requires_grad_(False), LoRAConfig(rank=2))
        model.checkpoint_blocks = checkpoint
        assert model.checkpoint_blocks is checkpoint
        out = model.train()(random(1, *SHAPE), torch.tensor([0.4]), torch.zeros(1, dtype=torch.int64))
        out.square().sum().backward()
        return [value.grad for value in model.parameters() if value.requires_grad]

    for plain, again in zip(gradients(False), gradients(True), strict=True):
        torch.testing.assert_close(plain, again)


def test_latents_and_masks_that_wan_cannot_take_are_refused():
    with pytest.raises(ValueError, match=r"latents \(4, 2, 5, 6\).*do not fit Wan's transformer: it takes 4 channels"):
        WanBackbone(tiny_transformer(), (4, 2, 5, 6), BlankTexts(5, TEXT_WIDTH))
    with pytest.raises(ValueError, match=r"data\.short=drop"):
        backbone()(random(1, *SHAPE), torch.tensor([0.4]), torch.zeros(1), torch.ones(1, 12, dtype=torch.bool))


@every_row(
    ("expert", "folder", "words"),
    [
        ("high_noise", "wan", "has one transformer; allowed: only"),
        ("only", "two_experts", "has two experts with the boundary 0.875; allowed: high_noise, low_noise"),
    ],
)
def test_an_expert_that_the_model_has_not_is_refused(expert, folder, words, wan, two_experts):
    files = WanFiles(str({"wan": wan, "two_experts": two_experts}[folder]))
    with pytest.raises(ValueError) as caught:
        files.time_range(expert)
    assert f"backbone.expert is {expert!r}" in str(caught.value) and words in str(caught.value)


def test_experts_meet_at_the_boundary(two_experts):
    files = WanFiles(str(two_experts))
    assert files.time_range("high_noise") == (0.0, 0.125) and files.time_range("low_noise") == (0.125, 1.0)
    first, second = (files.transformer(expert, "float32") for expert in ("high_noise", "low_noise"))
    assert not torch.equal(first.proj_out.weight, second.proj_out.weight)


def test_a_teacher_ends_at_its_block():
    model = backbone(num_layers=3)
    teacher, calls = Teacher(model, [2]), []
    for block in teacher.model.blocks:
        block.register_forward_hook(lambda *told: calls.append(1))
    tokens = teacher.tokens(random(2, *SHAPE), torch.tensor([0.2, 0.7]), torch.zeros(2, dtype=torch.int64))
    assert len(calls) == len(teacher.model.blocks) == 2 and len(model.blocks) == 3
    assert tokens[2].shape == (2, 12, model.width)
