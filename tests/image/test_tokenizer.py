"""The tokenizers by name: pixels, and a diffusers AutoencoderKL that is read from a directory."""

import json
import os
import socket
import sys

import pytest
import torch
from torch import nn

from core.draws import SampleRandom, StepRandom
from core.latents.tokenizer import weights_sha256
from core.schema import strict
from image.tokenizer import TOKENIZERS, AutoencoderKLConfig, PixelsConfig

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported, which only the fixtures below do

SCALE, SHIFT = 0.3, 0.1
HEIGHT, WIDTH = 16, 8
AKL_FILES = ("config.json", "diffusion_pytorch_model.safetensors")


def tiny_autoencoder_kl(seed: int = 0, widths: tuple[int, ...] = (8, 8, 8), **config) -> nn.Module:
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(seed)
    options = {"scaling_factor": SCALE, "shift_factor": SHIFT, "norm_num_groups": 4, "latent_channels": 4, **config}
    down, up = ("DownEncoderBlock2D",) * len(widths), ("UpDecoderBlock2D",) * len(widths)
    return diffusers.AutoencoderKL(
        block_out_channels=widths, down_block_types=down, up_block_types=up, **options
    ).eval()


@pytest.fixture(scope="module")
def akl():
    return tiny_autoencoder_kl()


@pytest.fixture(scope="module")
def akl_path(akl, tmp_path_factory):
    path = tmp_path_factory.mktemp("vae") / "tiny"
    akl.save_pretrained(path)
    return str(path)


@pytest.fixture
def media():
    return torch.rand(5, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def build(path: str, **options):
    return AutoencoderKLConfig(path=path, **options).build("cpu")


def test_every_tokenizer_is_selected_by_its_name():
    assert set(TOKENIZERS) == {"pixels", "autoencoder_kl", "conv_kl"}
    for schema in TOKENIZERS.values():
        assert strict(schema, {}) == schema()


# --- pixels


def test_pixels_are_the_identity():
    tokenizer = PixelsConfig().build("cpu")
    media = torch.rand(2, 1, 8, 8) * 2 - 1
    latents = tokenizer.encode(media, StepRandom(0, 0))
    assert torch.equal(latents, media)
    assert torch.equal(tokenizer.decode(latents), media)
    assert tokenizer.latent_shape((1, 8, 8)) == (1, 8, 8)
    assert tokenizer.constants() == {
        "kind": "pixels",
        "path": None,
        "scale": 1.0,
        "shift": 0.0,
        "downsample": 1,
        "sha256": None,
    }


def test_pixels_outside_the_range_are_clamped():
    assert PixelsConfig().build("cpu").decode(torch.tensor([-1.5, 0.5, 1.5])).tolist() == [-1, 0.5, 1]


# --- AutoencoderKL


def test_shift_and_scale_are_applied_once(akl, akl_path, media):
    latents = build(akl_path, posterior="mean").encode(media, StepRandom(0, 0))
    with torch.no_grad():
        mean = akl.encode(media).latent_dist.mean
    torch.testing.assert_close(latents, (mean - SHIFT) * SCALE)
    assert latents.shape == (5, 4, HEIGHT // 4, WIDTH // 4)


def test_decode_undoes_shift_and_scale(akl, akl_path):
    z = torch.randn(3, 4, 4, 2)
    with torch.no_grad():
        expected = akl.decode(z).sample.clamp(-1, 1)
    torch.testing.assert_close(build(akl_path).decode((z - SHIFT) * SCALE), expected)


def test_infinity_is_not_decoded_to_the_end_of_the_range(akl_path, monkeypatch):
    tokenizer = build(akl_path)
    numbers = torch.tensor([-3.0, 0.5, torch.inf, -torch.inf, torch.nan])
    monkeypatch.setattr(tokenizer._network, "decode", lambda z: numbers.expand(len(z), 5))
    decoded = tokenizer.decode(torch.zeros(2, 4, 4, 2))
    assert decoded[0, :2].tolist() == [-1, 0.5] and decoded[:, 2:].isnan().all()


def test_a_missing_shift_is_zero(tmp_path, media):
    model = tiny_autoencoder_kl(shift_factor=None)
    model.save_pretrained(tmp_path)
    tokenizer = build(str(tmp_path), posterior="mean")
    with torch.no_grad():
        mean = model.encode(media).latent_dist.mean
    torch.testing.assert_close(tokenizer.encode(media, StepRandom(0, 0)), mean * SCALE)
    assert tokenizer.constants()["shift"] == 0.0


def test_the_posterior_is_sampled_with_its_stream(akl_path, media):
    tokenizer = build(akl_path)
    mean, std = tokenizer.moments(media)
    noise = StepRandom(3, 7).normal("posterior", tuple(mean.shape))
    torch.testing.assert_close(tokenizer.encode(media, StepRandom(3, 7)), (mean + std * noise - SHIFT) * SCALE)


def test_the_posterior_is_a_function_of_seed_and_step(akl_path, media):
    tokenizer = build(akl_path)
    first = tokenizer.encode(media, StepRandom(0, 1))
    assert torch.equal(first, tokenizer.encode(media, StepRandom(0, 1)))
    assert not torch.equal(first, tokenizer.encode(media, StepRandom(0, 2)))
    assert not torch.equal(first, tokenizer.encode(media, StepRandom(1, 1)))


def test_cached_moments_give_the_latents_of_encode(akl_path, media):
    tokenizer = build(akl_path)
    latents = tokenizer.from_moments(*tokenizer.moments(media), StepRandom(0, 4))
    assert torch.equal(latents, tokenizer.encode(media, StepRandom(0, 4)))


@pytest.mark.parametrize("random", [StepRandom(0, 5), SampleRandom(0, range(5))], ids=["step", "sample"])
def test_slices_change_nothing(akl_path, media, random):
    noise = random.normal("posterior", (5, 4, 4, 2))

    class Fixed:
        def normal(self, stream, shape):
            assert (stream, shape) == ("posterior", (5, 4, 4, 2))
            return noise

    whole, sliced = build(akl_path), build(akl_path, encode_batch=2, decode_batch=1)
    latents = whole.encode(media, Fixed())
    torch.testing.assert_close(sliced.encode(media, Fixed()), latents, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(sliced.decode(latents), whole.decode(latents), atol=1e-5, rtol=1e-5)


def test_autocast_around_the_tokenizer_does_not_reach_it(akl_path, media):
    tokenizer = build(akl_path)
    plain = tokenizer.encode(media, StepRandom(0, 0))
    with torch.autocast("cpu", torch.bfloat16):
        latents = tokenizer.encode(media, StepRandom(0, 0))
        decoded = tokenizer.decode(latents)
    assert torch.equal(latents, plain)
    assert torch.equal(decoded, tokenizer.decode(plain))


def test_bfloat16_is_near_and_keeps_the_constants(akl_path, media):
    exact, short = build(akl_path), build(akl_path, dtype="bfloat16")
    latents = short.encode(media, StepRandom(0, 0))
    assert latents.dtype == torch.float32
    torch.testing.assert_close(latents, exact.encode(media, StepRandom(0, 0)), atol=0.05, rtol=0.05)
    assert not torch.equal(latents, exact.encode(media, StepRandom(0, 0)))
    assert short.constants() == exact.constants()


def test_nothing_is_trained(akl_path, media):
    tokenizer = build(akl_path)
    media.requires_grad_()
    latents = tokenizer.encode(media, StepRandom(0, 0))
    assert not latents.requires_grad
    assert not tokenizer.decode(latents.requires_grad_()).requires_grad


def test_a_model_without_downsampling(tmp_path):
    tiny_autoencoder_kl(widths=(8,)).save_pretrained(tmp_path)
    tokenizer = build(str(tmp_path))
    assert tokenizer.latent_shape((3, 5, 7)) == (4, 5, 7)
    assert tokenizer.constants()["downsample"] == 1


def test_sizes_that_do_not_fit_are_refused(akl_path):
    tokenizer = build(akl_path)
    for shape in [(3, 10, 8), (3, 8, 10)]:
        with pytest.raises(ValueError, match="multiples of 4"):
            tokenizer.latent_shape(shape)
        with pytest.raises(ValueError, match="multiples of 4"):
            tokenizer.encode(torch.zeros(1, *shape), StepRandom(0, 0))
    with pytest.raises(ValueError, match="1 channels; the tokenizer takes 3"):
        tokenizer.latent_shape((1, 8, 8))


def test_constants_name_the_weights(akl, akl_path, tmp_path):
    constants = build(akl_path).constants()
    assert constants == json.loads(json.dumps(constants))
    assert constants == {
        "kind": "autoencoder_kl",
        "path": "tiny",
        "scale": SCALE,
        "shift": SHIFT,
        "downsample": 4,
        "sha256": weights_sha256(akl),
    }
    tiny_autoencoder_kl(seed=1).save_pretrained(tmp_path / "tiny")
    changed = build(str(tmp_path / "tiny")).constants()
    assert changed.pop("sha256") != constants.pop("sha256")
    assert changed == constants


def test_one_changed_weight_changes_the_hash():
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).bfloat16()  # a 0-d integer among the entries
    before = weights_sha256(network)
    assert weights_sha256(network) == before
    with torch.no_grad():
        network[0].bias[1] += 1
    assert weights_sha256(network) != before


def test_a_directory_is_read_without_the_network(akl_path, no_network):
    build(akl_path)


def test_the_autoencoder_of_a_pipeline(akl, tmp_path):
    akl.save_pretrained(tmp_path / "pipe" / "vae")
    tokenizer = build(str(tmp_path / "pipe"), subfolder="vae")
    assert tokenizer.constants()["path"] == "pipe/vae"
    with pytest.raises(ValueError, match="subfolder=vae"):
        build(str(tmp_path / "pipe"))


@pytest.mark.parametrize("lost", AKL_FILES)
def test_a_directory_that_lacks_a_file_is_refused(akl, tmp_path, lost):
    akl.save_pretrained(tmp_path)
    (tmp_path / lost).unlink()
    with pytest.raises(ValueError, match=rf"tokenizer\.path '.*' lacks {lost}"):
        build(str(tmp_path))


@pytest.mark.parametrize("damaged", AKL_FILES)
def test_a_damaged_file_is_refused(akl, tmp_path, damaged):
    akl.save_pretrained(tmp_path)
    (tmp_path / damaged).write_bytes(b"{")
    with pytest.raises(ValueError, match=rf"tokenizer\.path.*{damaged} is damaged"):
        build(str(tmp_path))


def test_weights_that_would_stay_random_are_refused(akl, tmp_path):
    from safetensors.torch import load_file, save_file

    akl.save_pretrained(tmp_path)
    file = tmp_path / AKL_FILES[1]
    state, name = load_file(file), "decoder.conv_in.bias"
    bias = state.pop(name)
    for change, message in (
        ({}, "lacks the weights decoder.conv_in.bias"),
        ({name: bias, "encoder.more": bias}, "has the unknown weights encoder.more"),
        ({name: bias * torch.nan}, "holds NaN or infinity in decoder.conv_in.bias"),
        ({name: bias[1:]}, "decoder.conv_in.bias"),
    ):
        save_file(state | {key: value.clone() for key, value in change.items()}, file, metadata={"format": "pt"})
        with pytest.raises(ValueError, match=rf"tokenizer\.path '.*' .*{message}"):
            build(str(tmp_path))


def test_a_pickle_and_a_config_that_names_code_are_not_read(akl, tmp_path):
    akl.save_pretrained(tmp_path, safe_serialization=False)
    with pytest.raises(ValueError, match=r"lacks diffusion_pytorch_model\.safetensors; its \.bin is a pickle"):
        build(str(tmp_path))
    akl.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for content, message in (
        ({**config, "quantization_config": {"quant_method": "x"}}, "names other code"),
        ([], "holds list"),
        ({**config, "block_out_channels": [400_000] * 3}, r"describes \d+ weights"),  # some 10^12
    ):
        (tmp_path / "config.json").write_text(json.dumps(content))
        with pytest.raises(ValueError, match=rf"config\.json.*{message}"):
            build(str(tmp_path))


@pytest.mark.parametrize(
    ("config", "message"),
    [({"latents_mean": [0.0] * 4, "latents_std": [1.0] * 4}, "each channel"), ({"scaling_factor": 0.0}, "factor 0.0")],
)
def test_another_normalisation_is_refused(tmp_path, config, message):
    tiny_autoencoder_kl(**config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        build(str(tmp_path))


def test_a_path_that_is_nothing_is_refused(tmp_path):
    pytest.importorskip("diffusers")
    with pytest.raises(ValueError, match="no such directory, and not a hub id"):
        build(str(tmp_path / "absent"))


def test_a_hub_that_cannot_be_reached_says_what_to_do(no_network, monkeypatch, tmp_path):
    pytest.importorskip("diffusers")
    with pytest.raises(ValueError, match=r"hf download someone/vae --local-dir DIR.*tokenizer\.path=DIR"):
        build("someone/vae")


def test_an_absent_extra_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ImportError, match=r"pip install 'layersync\[vae\]'"):
        build("someone/vae")


@pytest.mark.parametrize(
    "options", [{"path": ""}, {"posterior": "mode"}, {"dtype": "float16"}, {"encode_batch": 0}, {"decode_batch": 0}]
)
def test_bad_options_are_refused(options):
    with pytest.raises(ValueError, match=rf"tokenizer\.{next(iter(options))} is"):
        AutoencoderKLConfig(**options)
