import pytest
import torch

from core.data.pixels import to_uint8


@pytest.mark.parametrize(
    ("value", "byte"), [(-1, 0), (1, 255), (0, 128), (-2, 0), (2, 255), (0.5, 191), (-0.5, 64), (1 / 255, 128)]
)
def test_the_rule_of_published_numbers(value, byte):
    out = to_uint8(torch.tensor([value]))
    assert (out.item(), out.dtype) == (byte, torch.uint8)


def test_every_byte_comes_back():
    bytes_ = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(bytes_.float() / 127.5 - 1), bytes_)


def test_half_precision_is_rounded_like_single():
    values = torch.linspace(-1, 1, 101).to(torch.bfloat16)
    assert torch.equal(to_uint8(values), to_uint8(values.float()))
