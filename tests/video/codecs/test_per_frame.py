"""An image VAE on clips: each frame as the VAE codes it as an image, however many are coded at once."""

import torch

from core.latents.autoencoder_kl import AutoencoderKLNetwork
from tests.video.networks import SD_FACTOR, sd_vae
from video.codecs.per_frame import PerFrameNetwork

CHUNKS = (1, 2, 5, 7, 64)


@torch.no_grad()
def test_each_frame_is_coded_as_the_image_that_it_is():
    model = sd_vae()
    network = PerFrameNetwork(AutoencoderKLNetwork(model))
    media = torch.rand(2, 3, 5, 16, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    mean, std = network.moments(media)
    assert mean.shape[1:] == network.latent_shape((3, 5, 16, 8)) == (4, 5, 16 // SD_FACTOR, 8 // SD_FACTOR)
    decoded = network.decode(mean)
    for row in range(2):
        for frame in range(5):
            posterior = model.encode(media[row : row + 1, :, frame]).latent_dist
            torch.testing.assert_close(mean[row, :, frame], posterior.mean[0], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(std[row, :, frame], posterior.std[0], atol=1e-5, rtol=1e-5)
            image = model.decode(mean[row : row + 1, :, frame]).sample[0]
            torch.testing.assert_close(decoded[row, :, frame], image, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_chunks_of_frames_equal_the_whole_and_bound_how_many_are_seen_at_once():
    """To rounding: convolutions of other batches add up in another order."""
    model, seen = sd_vae(), []
    for part in (model.encoder, model.decoder):
        part.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    network = AutoencoderKLNetwork(model)
    media = torch.rand(3, 3, 6, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    whole = PerFrameNetwork(network)
    moments = whole.moments(media)
    decoded = whole.decode(moments[0])
    assert seen == [18, 18]
    for chunk in CHUNKS:
        seen.clear()
        pieces = PerFrameNetwork(network, chunk)
        for a, b in zip(moments, pieces.moments(media), strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(decoded, pieces.decode(moments[0]), atol=1e-5, rtol=1e-4)
        assert max(seen) == min(chunk, 18) and sum(seen) == 36
