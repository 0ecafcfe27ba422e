"""Tokenizers with one scale for each latent channel, and caches that stand in for the encoder."""

import pytest
import torch
from torch import nn

from core.draws import StepRandom
from core.latents.tokenizer import CodingOptions, FromMoments, KLTokenizer, TokenizerConstants, cache_constants
from tests.rows import every_row

SHIFT, SCALE = [0.5, -1.0], [2.0, 0.25]


class Halves(nn.Module):
    """Media (B, 1, L) as their even and odd samples (B, 2, L/2)."""

    def latent_shape(self, media_shape):
        if media_shape[-1] % 2:
            raise ValueError("an odd number of samples")
        return 2, media_shape[-1] // 2

    def moments(self, media):
        mean = torch.stack([media[:, 0, ::2], media[:, 0, 1::2]], dim=1)
        return mean, 0.1 * torch.ones_like(mean)

    def decode(self, latents):
        return torch.stack([latents[:, 0], latents[:, 1]], dim=-1).flatten(1)[:, None]


def tokenizer(shift=SHIFT, scale=SCALE, **options):
    constants = TokenizerConstants("halves", None, scale, shift, 2, "0" * 64)
    return KLTokenizer(Halves(), constants, CodingOptions(**options)).to("cpu")


def test_each_channel_has_its_own_scale():
    media = torch.rand(3, 1, 8) - 0.5
    latents = tokenizer(posterior="mean").encode(media, StepRandom(0, 0))
    torch.testing.assert_close(latents[:, 0], (media[:, 0, ::2] - 0.5) * 2)
    torch.testing.assert_close(latents[:, 1], (media[:, 0, 1::2] + 1) * 0.25)
    torch.testing.assert_close(tokenizer().decode(latents), media)


def test_one_number_is_for_all_channels():
    media = torch.rand(2, 1, 8) - 0.5
    single, both = tokenizer(0.5, 2.0, posterior="mean"), tokenizer([0.5, 0.5], [2.0, 2.0], posterior="mean")
    assert torch.equal(single.encode(media, StepRandom(0, 0)), both.encode(media, StepRandom(0, 0)))


def test_slices_of_a_batch_change_nothing():
    media = torch.rand(5, 1, 8) - 0.5
    whole, sliced = tokenizer(), tokenizer(encode_batch=2, decode_batch=1)
    latents = whole.encode(media, StepRandom(0, 3))
    assert torch.equal(latents, sliced.encode(media, StepRandom(0, 3)))
    assert torch.equal(whole.decode(latents), sliced.decode(latents))


def test_cached_moments_give_the_same_latents():
    media, original = torch.rand(4, 1, 8) - 0.5, tokenizer()
    wrapped = FromMoments(original, cache_constants(original.constants()), "cache")
    moments = torch.stack(original.moments(media), dim=1)
    assert torch.equal(wrapped.encode(moments, StepRandom(0, 1)), original.encode(media, StepRandom(0, 1)))


def test_a_cache_of_another_scale_is_refused():
    with pytest.raises(ValueError, match=r"made with another tokenizer .*: scale 1.0, here \[2.0, 0.25\]"):
        FromMoments(tokenizer(), {**cache_constants(tokenizer().constants()), "scale": 1.0}, "cache")


@every_row(("key", "value"), [("posterior", "mode"), ("dtype", "float16"), ("decode_batch", 0)])
def test_bad_options_name_their_key(key, value):
    with pytest.raises(ValueError, match=f"tokenizer.{key} is {value!r}; allowed"):
        CodingOptions(**{key: value})
