import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from audio.codecs.autoencoder import (
    KIND,
    AudioAutoencoder,
    AudioAutoencoderConfig,
    Snake,
    load_autoencoder,
    save_autoencoder,
)
from core.draws import StepRandom, seeded_weights
from core.latents.own_files import CONFIG_FILE, WEIGHTS_FILE

CONFIG = AudioAutoencoderConfig(latent_channels=4, ratios=(2, 4), width=8, units=1)
RATE = 8000
MEAN, STD = [0.0, 0.1, -0.2, 0.3], [1.0, 2.0, 0.5, 0.1]


def tiny(seed: int = 0, config: AudioAutoencoderConfig = CONFIG, channels: int = 2) -> AudioAutoencoder:
    with seeded_weights("test", seed):
        return AudioAutoencoder(config, channels, RATE)


def tones(samples: int = 512) -> torch.Tensor:
    """Four tones, each at its own place between left and right, (4, 2, L)."""
    time = torch.arange(samples) / RATE
    waves = torch.stack([0.4 * torch.sin(2 * math.pi * pitch * time) for pitch in (220, 330, 440, 660)])
    return torch.stack([waves, waves * torch.tensor([0.2, 0.5, 0.8, -0.5])[:, None]], dim=1)


# --- the network


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("ratios", [(2,), (2, 4), (6, 2, 4)])
def test_shapes(ratios: tuple[int, ...], channels: int):
    network = tiny(config=replace(CONFIG, ratios=ratios), channels=channels)
    hop = math.prod(ratios)
    assert (network.hop, network.sample_rate, network.in_channels, network.latent_channels) == (hop, RATE, channels, 4)
    media = torch.randn(3, channels, 10 * hop)
    mean, std = network.moments(media)
    assert mean.shape == std.shape == (3, *network.latent_shape((channels, 10 * hop))) == (3, 4, 10)
    assert (std > 0).all()
    assert network.decode(mean).shape == media.shape


def test_clips_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="1 channels"):
        tiny().latent_shape((1, 512))
    with pytest.raises(ValueError, match="513 samples; the tokenizer takes whole frames of 8"):
        tiny().latent_shape((2, 513))


def test_snake_by_its_formula():
    snake = Snake(2)
    snake.log_a.data, snake.log_b.data = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.5], [0.0]])
    x = torch.tensor([[[0.3], [0.3]]])
    expected = [0.3 + math.sin(0.3) ** 2 / math.exp(0.5), 0.3 + math.sin(0.3 * math.e) ** 2]
    assert snake(x).flatten().tolist() == pytest.approx(expected)


# --- the loss


def test_the_loss_is_the_sum_of_its_parts():
    network = tiny()
    found = network.loss(tones(), StepRandom(0, 0))
    per_number = found.kl / (4 * 512 / 8)
    total = found.spectral + CONFIG.waveform_weight * found.waveform + CONFIG.kl_weight * per_number
    assert found.total.item() == pytest.approx(total.item(), rel=1e-6)
    mean, std = network.moments(tones())
    normal = torch.distributions.kl_divergence(torch.distributions.Normal(mean, std), torch.distributions.Normal(0, 1))
    assert found.kl.item() == pytest.approx(normal.sum().item() / 4, rel=1e-5)


def test_the_loss_is_a_function_of_the_step():
    network = tiny()
    first, again, other = (network.loss(tones(), StepRandom(0, step)).total.item() for step in (0, 0, 1))
    assert first == again != other


def test_a_batch_can_be_learned_by_heart():
    network, media = tiny(), tones()
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    losses = []
    for step in range(120):
        loss = network.loss(media, StepRandom(0, step))
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        losses.append((loss.total.item(), loss.waveform.item()))
    assert losses[-1][0] < 0.4 * losses[0][0]
    assert losses[-1][1] < 0.3 * losses[0][1]


def test_silence_has_a_finite_loss_and_gradient():
    network = tiny()
    loss = network.loss(torch.zeros(2, 2, 512), StepRandom(0, 0)).total
    loss.backward()
    assert math.isfinite(loss.item())
    assert all(value.grad.isfinite().all() for value in network.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latent_channels": 0}, "autoencoder.latent_channels is 0"),
        ({"width": 0}, "autoencoder.width is 0"),
        ({"units": 4}, "autoencoder.units is 4; allowed: 1 to 3"),
        ({"ratios": ()}, r"autoencoder.ratios is \[\]"),
        ({"ratios": (2, 3)}, r"autoencoder.ratios is \[2, 3\]; allowed: one or more even"),
        ({"kl_weight": -1.0}, "autoencoder.kl_weight is -1.0"),
        ({"waveform_weight": math.nan}, "autoencoder.waveform_weight is nan"),
    ],
)
def test_bad_sizes_are_refused(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        AudioAutoencoderConfig(**options)


# --- the files


@pytest.fixture
def saved(tmp_path) -> Path:
    save_autoencoder(tmp_path, tiny(), MEAN, STD)
    return tmp_path


@torch.no_grad()
def test_round_trip_through_files(saved):
    network, description = load_autoencoder(saved)
    for found, expected in zip(network.moments(tones()), tiny().moments(tones()), strict=True):
        assert torch.equal(found, expected)
    assert (description.kind, description.sample_rate, description.in_channels) == (KIND, RATE, 2)
    assert (description.autoencoder, description.latent_mean, description.latent_std) == (CONFIG, MEAN, STD)
    assert network.sample_rate == RATE


@pytest.mark.parametrize("name", [CONFIG_FILE, WEIGHTS_FILE])
def test_a_missing_file_is_named(saved, name: str):
    (saved / name).unlink()
    with pytest.raises(ValueError, match=f"lacks {name}; `python -m audio.train_tokenizer` makes them"):
        load_autoencoder(saved)


@pytest.mark.parametrize("content", [b"", b"short", b"\x00" * 100])
def test_damaged_weights_are_named(saved, content: bytes):
    (saved / WEIGHTS_FILE).write_bytes(content)
    with pytest.raises(ValueError, match=f"{WEIGHTS_FILE} is damaged or does not fit"):
        load_autoencoder(saved)


def test_cut_weights_are_named(saved):
    file = saved / WEIGHTS_FILE
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(ValueError, match=f"{WEIGHTS_FILE} is damaged"):
        load_autoencoder(saved)


@pytest.mark.parametrize("content", ["", "{", "\udcff"])
def test_a_damaged_config_is_named(saved, content: str):
    (saved / CONFIG_FILE).write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=f"{CONFIG_FILE} is damaged"):
        load_autoencoder(saved)


def change(folder: Path, **values) -> None:
    file = folder / CONFIG_FILE
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "conv_kl"}, f"does not describe a '{KIND}' autoencoder"),
        ({"sample_rate": 0}, "needed are sample_rate"),
        ({"in_channels": 0}, "needed are sample_rate and in_channels"),
        ({"latent_mean": [0.0]}, "for each of the 4 latent channels"),
        ({"latent_std": [1.0, 1.0, 1.0, 0.0]}, "a latent_std above 0"),
        ({"latent_std": [1.0, 1.0, 1.0, math.inf]}, r"latent_std\[3\]' is inf; needed: a finite"),
        ({"latent_mean": [0.0, 0.0, 0.0, math.nan]}, r"latent_mean\[3\]' is nan; needed: a finite"),
        ({"latent_mean": 0.0}, "latent_mean"),
        ({"colour": "red"}, "unknown config key .*colour"),
        ({"autoencoder": {"ratios": [3]}}, r"autoencoder.ratios is \[3\]"),
        ({"in_channels": 1}, f"{WEIGHTS_FILE} is damaged or does not fit"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(saved, values: dict, message: str):
    change(saved, **values)
    with pytest.raises(ValueError, match=message):
        load_autoencoder(saved)
