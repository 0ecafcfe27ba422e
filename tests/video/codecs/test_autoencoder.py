"""Our causal autoencoder: no frame sees a later one, pieces are the whole, files hold what was trained."""

import json

import pytest
import torch

from core.draws import StepRandom
from tests.rows import every_row
from video.codecs.autoencoder import AutoencoderConfig, VideoAutoencoder, load_autoencoder, save_autoencoder
from video.codecs.chunked import ChunkedNetwork

CONFIGS = (
    AutoencoderConfig(latent_channels=3, downsample=4, frame_stride=4, width=4),
    AutoencoderConfig(latent_channels=2, downsample=2, frame_stride=8, width=4, blocks=2),
    AutoencoderConfig(latent_channels=2, downsample=4, frame_stride=1, width=4),
    AutoencoderConfig(latent_channels=2, downsample=1, frame_stride=2, width=4),
    AutoencoderConfig(latent_channels=2, downsample=1, frame_stride=1, width=4),
)


def network(config, channels=3):
    torch.manual_seed(0)
    made = VideoAutoencoder(config, channels).eval()
    with torch.no_grad():
        for value in made.parameters():
            value.add_(0.05 * torch.randn_like(value))
    return made


def clips(frames=17, channels=3, side=8):
    return torch.rand(2, channels, frames, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1


@every_row("config", CONFIGS)
@torch.no_grad()
def test_shapes_are_those_that_it_says(config):
    made, media = network(config), clips()
    mean, std = made.moments(media)
    side, frames = 8 // config.downsample, 16 // config.frame_stride + 1
    assert mean.shape[1:] == made.latent_shape(media.shape[1:]) == (config.latent_channels, frames, side, side)
    assert std.min() > 0 and made.decode(mean).shape == media.shape


@every_row("config", CONFIGS)
@torch.no_grad()
def test_a_latent_frame_depends_on_no_later_frame_and_on_all_of_its_own(config):
    made, media = network(config), clips(frames=2 * config.frame_stride + 1)
    mean = made.moments(media)[0]
    for frame in range(media.shape[2]):
        changed = media.clone()
        changed[:, :, frame] += 0.5
        touched = (made.moments(changed)[0] - mean).abs().amax((0, 1, 3, 4)) > 1e-6
        own = -(-frame // config.frame_stride)  # the latent frame that holds it
        assert touched.tolist()[: own + 1] == [False] * own + [True], frame
    decoded = made.decode(mean)
    for latent in range(mean.shape[2]):
        changed = mean.clone()
        changed[:, :, latent] += 0.5
        touched = (made.decode(changed) - decoded).abs().amax((0, 1, 3, 4)) > 1e-6
        first = max(0, 1 + (latent - 1) * config.frame_stride)
        assert touched.tolist()[: first + 1] == [False] * first + [True], latent


@every_row("config", CONFIGS)
@torch.no_grad()
def test_pieces_equal_the_whole_clip_and_bound_what_is_seen_at_once(config):
    made, media = network(config), clips(frames=4 * config.frame_stride + 1)
    moments = made.moments(media)
    decoded = made.decode(moments[0])
    seen = []
    for part in (made.encoder, made.decoder):
        part.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[2]))
    for chunk in (1, 2 * config.frame_stride, 3 * config.frame_stride + 1, 1000):
        seen.clear()
        pieces = ChunkedNetwork(made, chunk)
        for a, b in zip(moments, pieces.moments(media), strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(decoded, pieces.decode(moments[0]), atol=1e-5, rtol=1e-5)
        assert max(seen) <= max(chunk, config.frame_stride)


@torch.no_grad()
def test_a_still_clip_has_the_latents_of_its_frame_in_its_first_and_decodes_alike_in_pieces():
    made = network(CONFIGS[0])
    frame = clips(frames=1)
    still = frame.expand(-1, -1, 9, -1, -1)
    first = made.moments(frame)[0]
    torch.testing.assert_close(made.moments(still)[0], first.expand(-1, -1, 3, -1, -1), atol=1e-5, rtol=1e-5)


def test_its_loss_falls_by_a_step_along_its_gradient():
    made, media = network(CONFIGS[0]).train(), clips()
    loss = made.loss(media, StepRandom(0, 0))
    loss.total.backward()
    assert all(value.grad is not None and value.grad.isfinite().all() for value in made.parameters())
    with torch.no_grad():
        norm = sum(value.grad.square().sum() for value in made.parameters()).sqrt()
        for value in made.parameters():
            value -= 1e-3 * value.grad / norm
    assert made.loss(media, StepRandom(0, 0)).total < loss.total
    assert loss.kl > 0


def test_files_give_back_the_network(tmp_path):
    made = network(CONFIGS[1])
    save_autoencoder(tmp_path, made, [0.5, -0.5], [1.0, 2.0])
    found, saved = load_autoencoder(tmp_path)
    assert (saved.latent_mean, saved.latent_std, saved.autoencoder) == ([0.5, -0.5], [1.0, 2.0], CONFIGS[1])
    media = clips()
    with torch.no_grad():
        assert torch.equal(found.eval().moments(media)[0], made.moments(media)[0])


@every_row(
    ("change", "words"),
    [
        (lambda content: {**content, "kind": "conv_kl"}, "does not describe a 'conv3d_kl'"),
        (lambda content: {**content, "latent_std": [1.0, 0.0, 1.0]}, "a latent_std above 0"),
        (lambda content: {**content, "latent_mean": [1.0]}, "for each of the 3 latent channels"),
        (lambda content: {**content, "in_channels": 1}, "does not fit config.json"),
        (lambda content: {**content, "widht": 3}, "unknown config key .*widht"),
    ],
)
def test_files_of_another_model_are_refused(change, words, tmp_path):
    save_autoencoder(tmp_path, network(CONFIGS[0]), [0.0] * 3, [1.0] * 3)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(change(json.loads(file.read_text()))))
    with pytest.raises(ValueError, match=words):
        load_autoencoder(tmp_path)


@every_row(
    ("values", "words"),
    [
        ({"downsample": 3}, "autoencoder.downsample is 3; allowed: a power of two"),
        ({"frame_stride": 6}, "autoencoder.frame_stride is 6; allowed: a power of two"),
        ({"width": 0}, "autoencoder.width is 0; allowed: 1 or more"),
        ({"kl_weight": -1.0}, "autoencoder.kl_weight is -1.0"),
    ],
)
def test_sizes_that_cannot_be_are_refused(values, words):
    with pytest.raises(ValueError, match=words):
        AutoencoderConfig(**values)
