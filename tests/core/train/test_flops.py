"""FLOPs are those of a closed form, counting leaves no trace, and the matrix product is a rate."""

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from core.train.flops import forward_flops, matmul_peak, matmul_rates, training_flops
from image.backbone import SIZES, SiTConfig
from layersync import LayerSync
from tests.rows import every_row

LABELS = torch.zeros(2, dtype=torch.long)
PER_SAMPLE = ("t_embedder", "adaLN_modulation")  # linear maps that see one vector of a sample, not its tokens


def closed_form(sit):
    """2 in out for each vector of a linear map, 4 N^2 D for the two products of attention."""
    total, width = 0, sit.pos_embed.shape[-1]
    for name, module in sit.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            vectors = 1 if any(part in PER_SAMPLE for part in name.split(".")) else sit.num_tokens
            total += 2 * vectors * module.weight.numel()
    return total + len(sit.blocks) * 4 * sit.num_tokens**2 * width


def small(**options):
    return SiTConfig(patch_size=2, depth=3, hidden_size=32, num_heads=2, **options).build((4, 8, 12), num_classes=10)


@every_row("options", [{}, {"learn_sigma": True}, {"swiglu": True, "rope": True, "qk_norm": True}, {"mlp_ratio": 2.0}])
def test_forward_is_the_closed_form(options):
    sit = small(**options)
    assert forward_flops(sit, (4, 8, 12), LABELS) == closed_form(sit)


def test_attention_counts_whatever_kernel_is_asked_for():
    sit = small()
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        assert forward_flops(sit, (4, 8, 12), LABELS) == closed_form(sit)


def test_training_is_what_pytorch_counts():
    sit = small()
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        sit(torch.randn(2, 4, 8, 12), torch.rand(2), LABELS).sum().backward()
    # the first layers need no gradient of their inputs
    assert 0.97 < counter.get_total_flops() / (2 * training_flops(sit, (4, 8, 12), LABELS)) <= 1


@every_row(("size", "gflops"), [("S", 6.06), ("B", 23.01), ("L", 80.71), ("XL", 118.64)])
def test_published_sizes_are_twice_the_published_multiplications(size, gflops):
    """DiT (arXiv 2212.09748), table 1, counts a multiply-add as one; on the meta device nothing is computed."""
    assert size in SIZES
    with torch.device("meta"):
        sit = SiTConfig(size=size, learn_sigma=True).build((4, 32, 32), num_classes=1000)
    assert forward_flops(sit, (4, 32, 32), LABELS) / 2e9 == pytest.approx(gflops, rel=0.02)


class Restless(nn.Module):
    """A backbone with dropout and a buffer that every forward pass moves."""

    num_tokens = 4

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(6, 6)])
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x, t, condition, mask=None):
        return self.norm(torch.dropout(self.blocks[0](x), 0.5, train=True))


@every_row("training", [True, False])
def test_counting_leaves_no_trace(training):
    network = Restless().train(training)
    network.blocks[0].weight.grad = torch.ones(6, 6)
    before, random = {name: value.clone() for name, value in network.state_dict().items()}, torch.get_rng_state()
    assert forward_flops(network, (4, 6), LABELS) == 4 * 2 * 36
    after = network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(network.blocks[0].weight.grad, torch.ones(6, 6))
    assert network.training == network.norm.training == training


def test_paused_hooks_hear_nothing():
    sit = small()
    sync = LayerSync(sit, pairs=[(1, 3)])
    with sync.paused():
        forward_flops(sit, (4, 8, 12), LABELS)
    assert not any(sync.hooks.tokens.values())


def test_matmul_peak_is_the_best_rate():
    before = torch.get_rng_state()
    rates = matmul_rates(torch.device("cpu"), torch.float32, repeats=1)
    assert list(rates)[:2] == [256, 512]
    assert all(1e8 < rate < 1e14 for rate in rates.values())
    assert 1e8 < matmul_peak(torch.device("cpu"), torch.float32, repeats=1) < 1e14
    assert torch.equal(torch.get_rng_state(), before)
