"""Wan's VAE in the layouts of 2.1 and 2.2: groups of four frames, causal, bounded memory; bad configs."""

import pytest
import torch

from tests.rows import every_row
from tests.video.networks import WAN_MEAN, WAN_STD, wan22_vae, wan_vae
from video.codecs.wan import GROUP, WanNetwork

LAYOUTS = {"2.1": (wan_vae, 8), "2.2": (wan22_vae, 16)}


@pytest.fixture(scope="module", params=LAYOUTS)
def network(request):
    return WanNetwork(LAYOUTS[request.param][0]())


@pytest.fixture(scope="module")
def media():
    return torch.rand(1, 3, 13, 32, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


@torch.no_grad()
def test_a_clip_becomes_a_latent_frame_and_one_for_each_four(network, media):
    mean, std = network.moments(media)
    side = network.downsample
    assert mean.shape[1:] == network.latent_shape(media.shape[1:]) == (4, 4, 32 // side, 16 // side)
    assert (network.frame_stride, network.mean, network.std) == (4, list(WAN_MEAN), list(WAN_STD))
    decoded = network.decode(mean)
    assert decoded.shape == media.shape and std.min() > 0


@torch.no_grad()
def test_the_numbers_are_those_of_diffusers(media):
    for make, _ in LAYOUTS.values():
        model = make()
        network = WanNetwork(make())
        posterior = model.encode(media).latent_dist
        for a, b in zip(network.moments(media), (posterior.mean, posterior.std), strict=True):
            assert torch.equal(a, b)
        assert torch.equal(network.decode(posterior.mean), model.decode(posterior.mean).sample)


@torch.no_grad()
def test_no_latent_frame_depends_on_a_later_frame(network, media):
    """So coding a clip in pieces is coding the clip: the beginning of one is what its beginning gives alone."""
    mean, _ = network.moments(media)
    for frames in (1, 5, 9):
        alone, _ = network.moments(media[:, :, :frames])
        torch.testing.assert_close(mean[:, :, : alone.shape[2]], alone, atol=1e-5, rtol=1e-5)
        decoded = network.decode(alone)
        torch.testing.assert_close(network.decode(mean)[:, :, :frames], decoded, atol=1e-5, rtol=1e-5)
    changed = media.clone()
    changed[:, :, 5:] = -changed[:, :, 5:]
    other, _ = network.moments(changed)
    torch.testing.assert_close(mean[:, :, :2], other[:, :, :2], atol=0, rtol=0)
    assert (mean[:, :, 2:] - other[:, :, 2:]).abs().max() > 1e-3


@torch.no_grad()
def test_longer_groups_give_the_same_latents(media):
    """Four frames at once are a choice for memory: eight with the same carried features give the same numbers."""
    network = WanNetwork(wan_vae())
    model = network.model
    model.clear_cache()
    features = [None] * model._enc_conv_num
    parts = []
    for piece in (media[:, :, :1], media[:, :, 1:9], media[:, :, 9:]):
        parts.append(model.encoder(piece, feat_cache=features, feat_idx=[0]))
    mean = model.quant_conv(torch.cat(parts, 2)).chunk(2, dim=1)[0]
    model.clear_cache()
    torch.testing.assert_close(mean, network.moments(media)[0], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_four_frames_are_seen_at_once_however_long_the_clip(network):
    seen = []
    hooks = [
        part.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[2]))
        for part in (network.model.encoder, network.model.decoder)
    ]
    for frames in (5, 29):
        seen.clear()
        media = torch.zeros(1, 3, frames, 16, 16)
        network.decode(network.moments(media)[0])
        assert max(seen) == GROUP and len(seen) == 2 * ((frames - 1) // GROUP + 1)
    for hook in hooks:
        hook.remove()


@torch.no_grad()
def test_tiles_are_the_whole_frame_up_to_their_size_and_near_it_beyond():
    """Beyond, attention and padding end at a tile: an approximation, told in the constants of the tokenizer."""
    media = torch.nn.functional.interpolate(torch.rand(1, 3, 1, 6, 6) * 2 - 1, (1, 64, 96), mode="trilinear")
    whole, tiled = WanNetwork(wan_vae()), WanNetwork(wan_vae(), tile=64)
    small = media[..., :64]
    assert torch.equal(whole.moments(small)[0], tiled.moments(small)[0])
    mean, near = whole.moments(media)[0], tiled.moments(media)[0]
    assert near.shape == mean.shape
    assert 0 < (mean - near).abs().mean() < 0.5 * mean.std()
    assert tiled.decode(mean).shape == media.shape


def test_the_published_configs_add_up():
    """2.1: 16 channels of 4 x 8 x 8 pixels; 2.2 (5B): 48 of 4 x 16 x 16. Networks of full size, without weights."""
    from diffusers import AutoencoderKLWan

    patches = {"is_residual": True, "patch_size": 2, "in_channels": 12, "out_channels": 12, "scale_factor_spatial": 16}
    sizes = {"base_dim": 160, "decoder_base_dim": 256, "z_dim": 48}
    numbers = {"latents_mean": [0.1] * 48, "latents_std": [0.5] * 48}
    with torch.device("meta"):
        first, second = WanNetwork(AutoencoderKLWan()), WanNetwork(AutoencoderKLWan(**patches, **sizes, **numbers))
    assert first.latent_shape((3, 81, 480, 832)) == (16, 21, 60, 104)
    assert second.latent_shape((3, 121, 704, 1280)) == (48, 31, 44, 80)


@every_row(
    ("config", "tile", "words"),
    [
        ({"latents_mean": [0.0] * 3}, None, r"has 3 latents_mean for 4 channels \(z_dim\)"),
        ({"latents_std": [1.0] * 5}, None, r"has 5 latents_std for 4 channels"),
        ({"latents_std": [1.0, 1.0, 0.0, 1.0]}, None, "latents_std .*; needed: numbers above 0"),
        ({"latents_mean": [1.0, 1.0, float("nan"), 1.0]}, None, "latents_mean .*; needed: finite numbers"),
        ({"scale_factor_spatial": 16}, None, "scale_factor_spatial 16, its layers make 4 and 8"),
        ({"temperal_downsample": [False, False, True]}, None, "its layers make 2 and 8"),
        ({}, 48, "tokenizer.tile is 48; allowed: multiples of 32 pixels"),
        ({}, 0, "tokenizer.tile is 0; allowed: multiples of 32 pixels"),
    ],
)
def test_configs_that_do_not_add_up_are_refused(config, tile, words):
    with pytest.raises(ValueError, match=words):
        WanNetwork(wan_vae(**config), tile)
