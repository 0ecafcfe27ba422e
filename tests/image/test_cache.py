"""`python -m image.cache` on real files: the moments are the tokenizer's, a run from them is the run from pixels."""

import dataclasses

import numpy as np
import pytest
import torch

from core.commands.entry import compose_config
from core.data.stream import StepPositions, fingerprint, on_device, step_batches
from core.draws import SampleRandom, StepRandom, numpy_rng
from core.flow.objective import FlowMatching
from core.latents.cache import read_spec
from core.latents.tokenizer import FromMoments
from core.schema import strict
from core.step import TrainingLoss
from image.cache import ImageCacheConfig, main
from image.datasets.digits import DigitsConfig
from image.datasets.files import FolderConfig
from image.tokenizer import AutoencoderKLConfig, ConvKLConfig, PixelsConfig
from image.train import ImageConfig, build_domain
from image.train_tokenizer import ImageTrainTokenizerConfig
from tests.image.caches import IMAGES, SIZE, config, files, latents, save_conv_kl

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def autoencoder_kl(tmp_path_factory):
    """A tiny one with random weights, in the format of the published ones."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("vae")
    diffusers.AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        scaling_factor=0.3,
        shift_factor=0.1,
    ).save_pretrained(path)
    return path


def test_the_yaml_file_and_the_dataclass_agree():
    assert strict(ImageCacheConfig, compose_config("image.conf", "cache")) == ImageCacheConfig()


# --- the moments


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("float16", 1e-3)])
@pytest.mark.parametrize("kind", ["conv_kl", "autoencoder_kl"])
def test_the_moments_are_the_tokenizers_for_both_mirrors(pictures, kind, dtype, tolerance, tmp_path, request):
    path = str(request.getfixturevalue(kind))
    schema = ConvKLConfig if kind == "conv_kl" else AutoencoderKLConfig
    main(config(pictures, path, tmp_path / "c", tokenizer=schema(path=path), dtype=dtype, num_workers=1))
    tokenizer, images = schema(path=path).build("cpu"), FolderConfig(str(pictures), SIZE).build()
    shards = [np.load(tmp_path / "c" / f"shard_0000{shard}.npy") for shard in range(3)]
    stored = torch.from_numpy(np.concatenate(shards)).float()
    assert stored.shape == (IMAGES, 2, 2, 4, SIZE // 2, SIZE // 2)
    for mirror in (False, True):
        media = torch.stack([images.pixels(index, mirror) for index in range(IMAGES)])
        expected = torch.stack(tokenizer.moments(media), dim=1)
        torch.testing.assert_close(stored[:, int(mirror)], expected, rtol=tolerance, atol=tolerance)
    assert not torch.equal(stored[:, 0], stored[:, 1])


def test_digits_have_one_mirror_and_their_labels(tmp_path):
    tokenizer = save_conv_kl(tmp_path / "tokenizer", channels=1)
    main(config(None, tokenizer, tmp_path / "c", data=DigitsConfig(split="heldout"), rows_per_shard=200))
    data = latents(tmp_path / "c", size=8, channels=1, flip=False).build()
    digits = DigitsConfig(split="heldout").build()
    assert torch.equal(data.labels, digits.labels) and fingerprint(data) == fingerprint(digits)
    mean, std = ConvKLConfig(path=str(tokenizer)).build("cpu").moments(digits.pixels(250)[None])
    torch.testing.assert_close(data.item(250, numpy_rng(0))["media"], torch.cat([mean, std]), rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match=r"data\.flip is true, but the cache .* no mirrored latents"):
        latents(tmp_path / "c", size=8, channels=1).build()


# --- training from a cache


def run_config(pictures, tokenizer, data):
    overrides = [
        "name=x",
        "data=folder",
        f"data.root={pictures}",
        f"data.size={SIZE}",
        "tokenizer=conv_kl",
        f"tokenizer.path={tokenizer}",
        "evaluation=none",
        "backbone.depth=4",
        "backbone.hidden_size=16",
        "backbone.num_heads=2",
        "alignment=none",
    ]
    values = compose_config("image.conf", "train", overrides)
    return dataclasses.replace(strict(ImageConfig, values), data=data)


def losses(config, steps=2, batch=6):
    """Losses of some steps of plain gradient descent."""
    domain = build_domain(config, CPU, evaluate=False)
    backbone = domain.backbone
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        for parameter in backbone.parameters():  # what starts at zero gives no gradient
            parameter.copy_(0.1 * torch.randn_like(parameter))
    objective = FlowMatching(config.objective)
    loss = TrainingLoss(
        domain.tokenizer, domain.conditioning, backbone, backbone, objective, config.alignment.build(backbone)
    )
    found = []
    for step, batch_ in enumerate(
        on_device(each, CPU)
        for each in step_batches(domain.dataset, 0, StepPositions(0, steps, batch, (0, batch)), 0, False)
    ):
        total = loss(batch_, StepRandom(0, step), step).total
        backbone.zero_grad()
        total.backward()
        with torch.no_grad():
            for parameter in backbone.parameters():
                parameter -= 0.1 * parameter.grad
        found.append(total.item())
    return found


def test_training_from_a_cache_is_training_from_pixels(pictures, conv_kl, cache):
    pixels = losses(run_config(pictures, conv_kl, FolderConfig(root=str(pictures), size=SIZE)), steps=3)
    cached = losses(run_config(pictures, conv_kl, latents(cache)), steps=3)
    assert cached == pytest.approx(pixels, abs=1e-5)
    assert len(set(pixels)) == 3
    unflipped = losses(run_config(pictures, conv_kl, latents(cache, flip=False)), steps=3)
    assert unflipped != pytest.approx(pixels, abs=1e-3)


def test_each_step_draws_anew(conv_kl, cache):
    data = latents(cache).build()
    tokenizer = FromMoments(ConvKLConfig(path=str(conv_kl)).build("cpu"), data.spec.tokenizer, cache)
    media = torch.stack([data.item(index, numpy_rng(0))["media"] for index in range(5)])
    first = tokenizer.encode(media, StepRandom(0, 1))
    assert first.dtype == torch.float32 and torch.equal(first, tokenizer.encode(media, StepRandom(0, 1)))
    assert not torch.equal(first, tokenizer.encode(media, StepRandom(0, 2)))
    draws = torch.stack([tokenizer.encode(media, StepRandom(0, step)) for step in range(2000)])
    scale, shift = (tokenizer.constants()[name] for name in ("scale", "shift"))
    spread = media[:, 1] * scale
    assert ((draws.mean(0) - (media[:, 0] - shift) * scale).abs() < 5 * spread / 2000**0.5).all()
    torch.testing.assert_close(draws.std(0), spread, rtol=0.1, atol=0)


def test_half_moments_are_drawn_from_in_float32(conv_kl, cache):
    data = latents(cache).build()
    tokenizer = FromMoments(ConvKLConfig(path=str(conv_kl)).build("cpu"), data.spec.tokenizer, cache)
    media = data.item(3, numpy_rng(0))["media"][None]
    full, half = (tokenizer.encode(each, SampleRandom(0, [0])) for each in (media, media.half()))
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, full, rtol=1e-2, atol=1e-2)


def test_the_wrapped_tokenizer_decodes_as_before(conv_kl, cache):
    plain = ConvKLConfig(path=str(conv_kl)).build("cpu")
    wrapped = FromMoments(plain, latents(cache).build().spec.tokenizer, cache).to("cpu")
    z = torch.randn(2, 4, 8, 8)
    assert torch.equal(wrapped.decode(z), plain.decode(z))
    assert wrapped.constants() == plain.constants()
    assert wrapped.latent_shape((3, SIZE, SIZE)) == (4, 8, 8)


# --- what is refused


def test_another_tokenizer_is_refused_by_what_differs(pictures, conv_kl, cache, tmp_path):
    other = save_conv_kl(tmp_path / "other", seed=1, latent_std=2.0)
    with pytest.raises(ValueError, match=r"made with another tokenizer .*scale .*, here 0\.5; sha256") as caught:
        build_domain(run_config(pictures, other, latents(cache)), CPU, evaluate=False)
    assert "path" not in str(caught.value) and "\n" not in str(caught.value)


def test_a_copy_of_the_tokenizer_is_the_same(pictures, cache, tmp_path):
    copy = save_conv_kl(tmp_path / "copy")
    assert build_domain(run_config(pictures, copy, latents(cache)), CPU, evaluate=False).latent_shape == (4, 8, 8)


def test_a_run_on_latents_needs_a_tokenizer(pictures, conv_kl, cache):
    run = run_config(pictures, conv_kl, latents(cache))
    with pytest.raises(ValueError, match=r"data is 'latents' but tokenizer is 'pixels'; allowed there: autoencoder_kl"):
        dataclasses.replace(run, tokenizer=PixelsConfig())


@pytest.mark.parametrize("changes", [{"size": 32}, {"channels": 1}])
def test_other_images_than_those_encoded_are_refused(cache, changes):
    with pytest.raises(ValueError, match=r"data\.size is .* made of images with data\.size=16 data\.channels=3"):
        latents(cache, **changes).build()


def test_latents_are_no_images(cache):
    for entry, schema in (("train_tokenizer", ImageTrainTokenizerConfig), ("cache", ImageCacheConfig)):
        values = compose_config("image.conf", entry, ["data=latents", f"data.root={cache}"])
        allowed = r"\['digits', 'folder', 'parquet', 'scenes'\]"
        with pytest.raises(ValueError, match=rf"'data\.name' is 'latents'; allowed: {allowed}"):
            strict(schema, values)


def test_a_missing_shard_says_how_to_go_on(cache):
    (cache / "shard_00001.npy").unlink()
    message = r"1 of 3 shards .* such as shard_00001\.npy; the same `python -m image\.cache \.\.\.`"
    with pytest.raises(ValueError, match=message):
        latents(cache).build()


def test_pictures_are_not_a_cache(pictures):
    with pytest.raises(ValueError, match=r"holds no latent cache .*`python -m image\.cache` makes one"):
        latents(pictures).build()


def test_a_cache_of_something_else_is_refused(cache):
    manifest = cache / "manifest.json"
    before = read_spec(cache).identity()
    manifest.write_text(manifest.read_text().replace('"kind": "image"', '"kind": "sound"'))
    for facts in cache.glob("shard_*.json"):
        facts.write_text(facts.read_text().replace(before, read_spec(cache).identity()))
    with pytest.raises(ValueError, match=r"a cache of kind 'sound'; allowed: 'image'"):
        latents(cache).build()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokenizer": PixelsConfig()}, "tokenizer is 'pixels', which encodes nothing"),
        ({"out": ""}, "out is ''"),
        ({"rows_per_shard": 0}, "rows_per_shard is 0; allowed: 1 or more"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"num_workers": -1}, "num_workers is -1; allowed: 0 or more"),
    ],
)
def test_bad_values_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        ImageCacheConfig(**changes)


@pytest.mark.parametrize("change", ["size", "tokenizer", "data"])
def test_another_job_in_the_same_folder_is_refused(pictures, conv_kl, cache, change, tmp_path):
    same = config(pictures, conv_kl, cache)
    if change == "size":
        other, message = (
            dataclasses.replace(same, data=FolderConfig(str(pictures), 8)),
            r"transform\.size \(16, now 8\)",
        )
    elif change == "tokenizer":
        tokenizer = ConvKLConfig(path=str(save_conv_kl(tmp_path / "other", seed=1)))
        other, message = dataclasses.replace(same, tokenizer=tokenizer), r"another tokenizer\.sha256"
    else:
        (tmp_path / "fewer").mkdir()
        (tmp_path / "fewer" / "cat").symlink_to(pictures / "cat")
        other, message = (
            dataclasses.replace(same, data=FolderConfig(str(tmp_path / "fewer"), SIZE)),
            "another class_names",
        )
    before = files(cache)
    with pytest.raises(ValueError, match=message):
        main(other)
    assert files(cache) == before
