"""Numbers in [-1, 1] as bytes."""

import torch

from core.data.pixels import from_uint8, to_uint8


def test_the_rule_of_published_numbers():
    rule = {-2: 0, -1: 0, -0.5: 64, 0: 128, 1 / 255: 128, 0.5: 191, 1: 255, 2: 255}
    out = to_uint8(torch.tensor(list(rule)))
    assert (out.tolist(), out.dtype) == (list(rule.values()), torch.uint8)
    halves = torch.linspace(-1, 1, 101).to(torch.bfloat16)
    assert torch.equal(to_uint8(halves), to_uint8(halves.float()))


def test_every_byte_comes_back():
    bytes_ = torch.arange(256, dtype=torch.uint8)
    media = from_uint8(bytes_.numpy())
    assert torch.equal(to_uint8(media), bytes_) and (media.min(), media.max()) == (-1, 1)
