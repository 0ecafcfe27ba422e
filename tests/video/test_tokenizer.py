"""Tokenizers of video by name: normalised once, fed [-1, 1], trained; and what is said of those that are not."""

import json
import logging
import os
import sys

import pytest
import torch

from core.draws import StepRandom
from core.latents.tokenizer import MediaError, weights_sha256
from core.schema import strict
from tests.rows import every_row
from tests.video.networks import SD_SCALE, SD_SHIFT, WAN_MEAN, WAN_STD, save_sd_vae, save_wan_vae, sd_vae, wan_vae
from video.codecs.autoencoder import AutoencoderConfig, VideoAutoencoder, save_autoencoder
from video.codecs.trained import ClipMeasurement, check_tokenizer, check_trained, tell_normalised
from video.datasets.clips import ClipConfig
from video.datasets.digits import DigitsConfig
from video.tokenizer import TOKENIZERS, Conv3dKLConfig, PixelsConfig, SDVAEConfig, WanVAEConfig

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported, which only the fixtures below do

CPU = torch.device("cpu")
MEAN = {"posterior": "mean"}


@pytest.fixture(scope="module")
def sd(tmp_path_factory):
    return str(save_sd_vae(tmp_path_factory.mktemp("sd")))


@pytest.fixture(scope="module")
def wan(tmp_path_factory):
    return str(save_wan_vae(tmp_path_factory.mktemp("wan") / "vae").parent)


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    path = tmp_path_factory.mktemp("own")
    torch.manual_seed(0)
    network = VideoAutoencoder(AutoencoderConfig(latent_channels=2, width=4), in_channels=3)
    save_autoencoder(path, network, [0.5, -0.5], [2.0, 4.0])
    return str(path)


@pytest.fixture
def media():
    return torch.rand(2, 3, 9, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_every_tokenizer_is_selected_by_its_name():
    assert set(TOKENIZERS) == {"pixels", "sd_vae", "wan_vae", "conv3d_kl"}
    for name, schema in TOKENIZERS.items():
        assert strict(schema, {}) == schema() and schema.kind == name


def test_pixels_are_the_identity_on_the_range(media):
    tokenizer = PixelsConfig().build(CPU)
    assert torch.equal(tokenizer.decode(tokenizer.encode(media, StepRandom(0, 0))), media)
    assert (tokenizer.frame_stride, tokenizer.first, tokenizer.latent_shape((3, 4, 5, 6))) == (1, 1, (3, 4, 5, 6))
    assert tokenizer.decode(torch.tensor([-1.5, 0.5, 1.5])).tolist() == [-1, 0.5, 1]


@every_row("name", ["pixels", "sd_vae", "wan_vae", "conv3d_kl"])
def test_pixels_outside_the_range_reach_no_network(name, sd, wan, own, media):
    paths = {"sd_vae": sd, "wan_vae": wan, "conv3d_kl": own}
    tokenizer = TOKENIZERS[name](**({"path": paths[name]} if name in paths else {})).build(CPU)
    with pytest.raises(MediaError, match=r"its pixels lie in \[.*, 255\]; needed: .* in \[-1, 1\]") as refused:
        tokenizer.encode(torch.stack([media[0], (media[1] * 127.5 + 127.5).round().clamp(0, 255) * 0 + 255]), None)
    assert refused.value.row == 1


@torch.no_grad()
def test_an_image_vae_normalises_by_its_own_scale_and_shift(sd, media):
    tokenizer = SDVAEConfig(path=sd, **MEAN).build(CPU)
    mean = torch.stack([sd_vae().encode(clip.transpose(0, 1)).latent_dist.mean for clip in media]).transpose(1, 2)
    latents = tokenizer.encode(media, StepRandom(0, 0))
    torch.testing.assert_close(latents, (mean - SD_SHIFT) * SD_SCALE, atol=1e-5, rtol=1e-4)
    constants = tokenizer.constants()
    assert (constants["kind"], constants["frame_stride"], constants["downsample"]) == ("sd_vae", 1, 4)
    assert constants["sha256"] == weights_sha256(sd_vae())


@torch.no_grad()
def test_wan_normalises_each_channel_by_the_numbers_of_its_config(wan, media):
    tokenizer = WanVAEConfig(path=wan, **MEAN).build(CPU)
    model = wan_vae()
    mean = model.encode(media).latent_dist.mean
    latents = tokenizer.encode(media, StepRandom(0, 0))
    shift, std = (torch.tensor(each).reshape(-1, 1, 1, 1) for each in (WAN_MEAN, WAN_STD))
    torch.testing.assert_close(latents, (mean - shift) / std, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(tokenizer.decode(latents), model.decode(mean).sample, atol=1e-4, rtol=1e-4)
    assert (tokenizer.frame_stride, tokenizer.first) == (4, 1)
    assert tokenizer.constants()["path"] == f"{os.path.basename(wan)}/vae"


@torch.no_grad()
def test_a_posterior_is_sampled_with_the_noise_of_the_step(wan, media):
    tokenizer, mean = (WanVAEConfig(path=wan, **options).build(CPU) for options in ({}, MEAN))
    draws = [tokenizer.encode(media, StepRandom(0, step)) for step in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    assert not torch.equal(draws[0], mean.encode(media, StepRandom(0, 1)))


def test_our_own_brings_its_normalisation_and_codes_in_pieces(own, media):
    whole, pieces = (Conv3dKLConfig(path=own, chunk_frames=chunk, **MEAN).build(CPU) for chunk in (None, 4))
    latents = whole.encode(media, StepRandom(0, 0))
    moments = whole.moments(media)[0]
    expected = (moments - torch.tensor([0.5, -0.5]).reshape(2, 1, 1, 1)) / torch.tensor([2.0, 4.0]).reshape(2, 1, 1, 1)
    torch.testing.assert_close(latents, expected)
    torch.testing.assert_close(pieces.encode(media, StepRandom(0, 0)), latents, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(pieces.decode(latents), whole.decode(latents), atol=1e-5, rtol=1e-5)
    assert whole.constants() == pieces.constants() and whole.frame_stride == 4


def test_a_cache_made_in_tiles_is_another_one(wan):
    whole, tiled = (WanVAEConfig(path=wan, tile=tile).build(CPU).constants() for tile in (None, 32))
    assert {key for key in whole if whole[key] != tiled[key]} == {"tile"}


# --- what is refused


@every_row(
    ("kind", "options", "words"),
    [
        (SDVAEConfig, {"path": "nowhere"}, "tokenizer.path is 'nowhere': no such directory, and not a hub id"),
        (SDVAEConfig, {"path": "WAN"}, "lacks config.json and .*tokenizer.subfolder=vae"),
        (SDVAEConfig, {"path": "WAN", "subfolder": "vae"}, "tokenizer.path 'WAN'.*"),
        (WanVAEConfig, {"path": "SD", "subfolder": ""}, "tokenizer.path 'SD'.*"),
        (WanVAEConfig, {"path": "SD"}, "lacks config.json"),
        (Conv3dKLConfig, {"path": "nowhere"}, "which is no directory; `python -m video.train_tokenizer` makes one"),
        (Conv3dKLConfig, {"path": "SD"}, "lacks model.safetensors"),
        (SDVAEConfig, {"chunk_frames": 0}, "tokenizer.chunk_frames is 0; allowed: 1 or more, or null"),
        (Conv3dKLConfig, {"chunk_frames": -1}, "tokenizer.chunk_frames is -1"),
        (WanVAEConfig, {"posterior": "mode"}, "tokenizer.posterior is 'mode'"),
    ],
)
def test_files_of_another_model_and_options_that_cannot_be_are_refused(kind, options, words, sd, wan):
    real = {"SD": sd, "WAN": wan}
    changed = {name: real.get(value, value) for name, value in options.items()}
    for name, path in real.items():
        words = words.replace(f"'{name}'", f"'{path}'")
    with pytest.raises(ValueError, match=words):
        kind(**changed).build(CPU)


@every_row(
    ("kind", "shape", "words"),
    [
        ("wan", (3, 16, 16, 16), r"data.clip.frames is 16; .* \(4n\+1\), so 13 or 17"),
        ("wan", (1, 17, 16, 16), "of 1 channels; the tokenizer takes 3"),
        ("wan", (3, 17, 20, 16), r"clips \(data.size\) of 20x16 pixels; .* multiples of 8"),
        ("sd", (1, 16, 16, 16), "of 1 channels; the tokenizer takes 3"),
        ("sd", (3, 16, 16, 18), r"clips \(data.size\) of 16x18 pixels; .* multiples of 4"),
        ("own", (3, 16, 16, 16), "data.clip.frames is 16; .* so 13 or 17"),
    ],
)
def test_clips_that_do_not_fit_are_refused(kind, shape, words, sd, wan, own):
    config = {"wan": WanVAEConfig(path=wan), "sd": SDVAEConfig(path=sd), "own": Conv3dKLConfig(path=own)}[kind]
    with pytest.raises(ValueError, match=words):
        config.build(CPU).latent_shape(shape)


def test_a_missing_extra_is_named(sd, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ImportError, match=r"tokenizer.name=sd_vae needs the extra 'vae': pip install"):
        SDVAEConfig(path=sd).build(CPU)


# --- what is measured of the clips


class FewDigits:
    """A few moving digits as grey RGB clips of 17 frames."""

    def __init__(self, in_unit_range: bool = False):
        self._digits = DigitsConfig(num_clips=20, size=16, clip=ClipConfig(frames=17)).build()
        self.media_shape, self.class_names, self.labels = (3, 17, 16, 16), [], None
        self._unit = in_unit_range

    def __len__(self):
        return 12

    def name(self, index):
        return self._digits.name(index)

    def clip_at(self, index):
        clip = self._digits.clip_at(index).repeat(3, 1, 1, 1)
        return (clip + 1) / 2 if self._unit else clip


def test_random_weights_are_found_out(own, sd, tmp_path):
    for config in (Conv3dKLConfig(path=own), SDVAEConfig(path=sd)):
        tokenizer = config.build(CPU)
        with pytest.raises(ValueError, match="Are its weights random, or made for other clips"):
            check_tokenizer(config, tokenizer, FewDigits(), tmp_path)
        check_tokenizer(type(config)(path=config.path, allow_untrained=True), tokenizer, FewDigits(), tmp_path)
    check_tokenizer(PixelsConfig(), PixelsConfig().build(CPU), None, tmp_path)  # which has nothing to measure


class Perfect(ClipMeasurement):
    """A VAE that gives back what it is given."""

    def __init__(self, dataset):
        super().__init__(self, dataset)

    def moments(self, media):
        return media[:, :, ::4], torch.full_like(media[:, :, ::4], 0.5)

    def decode(self, latents):
        return self.dataset.clip_at(self.index)[None]

    def media(self, index):
        self.index = index
        return super().media(index)


def test_a_trained_one_passes_and_clips_in_the_unit_range_are_told(caplog):
    found = Perfect(FewDigits()).measure()
    assert found.correlation == 1 and found.num_items == 12
    check_trained(Conv3dKLConfig(path="x"), found)
    assert not caplog.records
    Perfect(FewDigits(in_unit_range=True)).measure()
    assert "no pixel of 12 clips is below 0, where black is -1 and mid-grey 0: are they in [0, 1]?" in caplog.text


def test_latents_far_from_mean_0_and_deviation_1_are_told(own, caplog):
    tokenizer = Conv3dKLConfig(path=own).build(CPU)
    found = Perfect(FewDigits()).measure()
    fields = {"correlation": 1.0, "num_items": 12}
    with caplog.at_level(logging.INFO):
        assert tell_normalised(tokenizer, type(found)([0.5, -0.5], [2.0, 4.0], **fields)) == pytest.approx(1)
        assert tell_normalised(tokenizer, type(found)([0.5, -0.5], [20.0, 40.0], **fields)) == pytest.approx(10)
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING"]


def test_what_was_measured_is_kept_for_the_next_run(own, tmp_path):
    config = Conv3dKLConfig(path=own, allow_untrained=True)
    tokenizer = config.build(CPU)
    check_tokenizer(config, tokenizer, FewDigits(), tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_text(json.dumps({**json.loads(file.read_text()), "correlation": 0.9}))
    check_tokenizer(Conv3dKLConfig(path=own), tokenizer, FewDigits(), tmp_path)  # read, not measured again
