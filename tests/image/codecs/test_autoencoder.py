"""Our small KL autoencoder: shapes, loss, files, and the tokenizer that loads them."""

import json

import pytest
import torch

from core.draws import StepRandom
from core.latents.tokenizer import kl_divergence, weights_sha256
from image.codecs.autoencoder import AutoencoderConfig, ConvKL, load_autoencoder, save_autoencoder
from image.tokenizer import ConvKLConfig

HEIGHT, WIDTH = 16, 8


def conv_kl(seed: int = 0, in_channels: int = 1, **options) -> ConvKL:
    torch.manual_seed(seed)
    return ConvKL(AutoencoderConfig(**{"width": 8, **options}), in_channels)


@pytest.mark.parametrize(("downsample", "shape"), [(1, (3, 16, 8)), (2, (3, 8, 4)), (8, (3, 2, 1))])
def test_conv_kl_shapes(downsample, shape):
    network = conv_kl(downsample=downsample, latent_channels=3, in_channels=2)
    mean, std = network.moments(torch.zeros(4, 2, HEIGHT, WIDTH))
    assert mean.shape == std.shape == (4, *shape)
    assert network.latent_shape((2, HEIGHT, WIDTH)) == shape
    assert network.decode(mean).shape == (4, 2, HEIGHT, WIDTH)


def test_conv_kl_default_size():
    parameters = sum(parameter.numel() for parameter in ConvKL(AutoencoderConfig()).parameters())
    assert 100_000 < parameters < 500_000


def test_conv_kl_refuses_sizes_that_do_not_fit():
    with pytest.raises(ValueError, match="multiples of 4"):
        conv_kl(downsample=4).latent_shape((1, 8, 6))
    with pytest.raises(ValueError, match="3 channels; the tokenizer takes 1"):
        conv_kl().latent_shape((3, 8, 8))


@pytest.mark.parametrize(
    "options", [{"downsample": 3}, {"downsample": 0}, {"width": 0}, {"latent_channels": 0}, {"kl_weight": -1.0}]
)
def test_conv_kl_refuses_bad_options(options):
    with pytest.raises(ValueError, match=rf"autoencoder\.{next(iter(options))} is"):
        AutoencoderConfig(**options)


def test_kl_divergence_equals_the_closed_form():
    mean, std = torch.randn(3, 4, 2, 2), torch.rand(3, 4, 2, 2) + 0.1
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(mean, std), normal(0.0, 1.0)).sum((1, 2, 3))
    torch.testing.assert_close(kl_divergence(mean, std), expected)
    assert torch.equal(kl_divergence(torch.zeros(2, 3), torch.ones(2, 3)), torch.zeros(2))


def test_conv_kl_loss_is_its_parts_and_reaches_every_weight():
    network = conv_kl(kl_weight=0.5)
    loss = network.loss(torch.rand(4, 1, 8, 8) * 2 - 1, StepRandom(0, 0))
    torch.testing.assert_close(loss.total, loss.reconstruction + 0.5 * loss.kl / (4 * 4 * 4))
    loss.total.backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


def test_the_kl_gradient_stays_out_of_the_decoder():
    network = conv_kl()
    network.loss(torch.rand(4, 1, 8, 8), StepRandom(0, 0)).kl.backward()
    assert all(parameter.grad is None for parameter in network.decoder.parameters())
    assert all(parameter.grad is not None for parameter in network.encoder.parameters())


def test_a_heavier_kl_term_gives_a_smaller_kl():
    media = torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1

    def trained(kl_weight: float) -> float:
        network = conv_kl(kl_weight=kl_weight)
        optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
        for step in range(40):
            optimizer.zero_grad()
            loss = network.loss(media, StepRandom(0, step))
            loss.total.backward()
            optimizer.step()
        return loss.kl.item()

    assert trained(10.0) < 0.1 * trained(0.0)


@pytest.fixture
def saved(tmp_path):
    directory = tmp_path / "mine"
    directory.mkdir()
    save_autoencoder(directory, conv_kl(), latent_mean=0.5, latent_std=2.0)
    return directory


def test_conv_kl_files_hold_the_network(saved):
    network, description = load_autoencoder(saved)
    assert (description.latent_mean, description.latent_std) == (0.5, 2.0)
    assert network.config == AutoencoderConfig(width=8)
    assert weights_sha256(network) == weights_sha256(conv_kl())


def test_conv_kl_standardises_its_latents(saved):
    tokenizer = ConvKLConfig(path=str(saved), posterior="mean").build("cpu")
    media, network = torch.rand(3, 1, 8, 8), conv_kl()
    with torch.no_grad():
        mean, _ = network.moments(media)
        expected = network.decode(mean).clamp(-1, 1)
    latents = tokenizer.encode(media, StepRandom(0, 0))
    torch.testing.assert_close(latents, (mean - 0.5) / 2)
    torch.testing.assert_close(tokenizer.decode(latents), expected)
    constants = tokenizer.constants()
    assert constants.pop("sha256") == weights_sha256(network)
    assert constants == {"kind": "conv_kl", "path": "mine", "scale": 0.5, "shift": 0.5, "downsample": 2}


def test_conv_kl_without_files_names_the_command(saved, tmp_path):
    with pytest.raises(ValueError, match=r"tokenizer\.path is '.*absent', .*python -m image\.train_tokenizer"):
        ConvKLConfig(path=str(tmp_path / "absent")).build("cpu")
    (saved / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"lacks model\.safetensors; `python -m image\.train_tokenizer`"):
        ConvKLConfig(path=str(saved)).build("cpu")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: {"_class_name": "AutoencoderKL"}, "does not describe a 'conv_kl'"),
        (lambda content: [content], "does not describe a 'conv_kl'"),
        (lambda content: {**content, "latent_std": 0.0}, "latent_std > 0"),
        (lambda content: {**content, "widht": 3}, "unknown config key .*widht"),
        (lambda content: {**content, "in_channels": 3}, "does not fit config.json"),
    ],
)
def test_conv_kl_refuses_another_config(saved, change, message):
    file = saved / "config.json"
    file.write_text(json.dumps(change(json.loads(file.read_text()))))
    with pytest.raises(ValueError, match=message):
        load_autoencoder(saved)


@pytest.mark.parametrize("damaged", ["config.json", "model.safetensors"])
def test_conv_kl_refuses_a_damaged_file(saved, damaged):
    file = saved / damaged
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(ValueError, match=f"{damaged} is damaged"):
        load_autoencoder(saved)
