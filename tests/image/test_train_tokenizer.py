import json

import numpy as np
import pytest
import torch
from PIL import Image

from core.commands.entry import compose_config, run_entry
from core.draws import StepRandom
from core.latents.fitting import fit, latent_statistics
from core.latents.tokenizer import weights_sha256
from core.processes.failures import NonFiniteError
from core.schema import strict
from image.codecs.autoencoder import AutoencoderConfig, load_autoencoder
from image.datasets.digits import DigitsConfig
from image.datasets.files import FolderConfig
from image.tokenizer import ConvKLConfig
from image.train_tokenizer import (
    ImageFitting,
    ImageTrainTokenizerConfig,
    main,
)

SMALL = AutoencoderConfig(width=8)


@pytest.fixture(autouse=True)
def one_thread():
    """At this size a second thread gains nothing; on a busy machine, threads that wait for each other lose minutes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def tiny(tmp_path, **options) -> ImageTrainTokenizerConfig:
    settings = {"steps": 3, "batch_size": 8, "autoencoder": SMALL, "device": "cpu", **options}
    return ImageTrainTokenizerConfig(runs_dir=str(tmp_path), **settings)


@pytest.fixture
def trained(tmp_path):
    return main(tiny(tmp_path))


def test_the_yaml_file_and_the_dataclass_agree():
    assert (
        strict(ImageTrainTokenizerConfig, compose_config("image.conf", "train_tokenizer"))
        == ImageTrainTokenizerConfig()
    )


def test_a_training_leaves_a_tokenizer(trained, capsys):
    assert {file.name for file in trained.iterdir()} == ImageFitting.files()
    metrics = json.loads((trained / "metrics.json").read_text())
    config = json.loads((trained / "config.json").read_text())
    assert all(np.isfinite(metrics[key]) for key in ("psnr_db", "psnr_sampled_db", "kl", "train_seconds"))
    assert (metrics["train_images"], metrics["heldout_images"]) == (1438, 359)
    assert [metrics[key] for key in ("latent_mean", "latent_std")] == [config["latent_mean"], config["latent_std"]]
    assert strict(ImageTrainTokenizerConfig, metrics["config"]).autoencoder == SMALL
    tokenizer = ConvKLConfig(path=str(trained)).build("cpu")
    assert tokenizer.latent_shape((1, 8, 8)) == (4, 4, 4)
    with Image.open(trained / "reconstructions.png") as picture:
        assert min(picture.size) > 100
        assert len(set(picture.convert("L").tobytes())) > 10


def test_it_says_where_things_are_and_how_to_go_on(tmp_path, capsys):
    directory = main(tiny(tmp_path))
    said = capsys.readouterr().out
    assert "PSNR" in said
    assert f"python -m image.train tokenizer=conv_kl tokenizer.path={directory}" in said


def test_the_seed_decides(tmp_path):
    def weights(name: str, seed: int) -> str:
        return weights_sha256(load_autoencoder(main(tiny(tmp_path, name=name, seed=seed)))[0])

    torch.manual_seed(1)
    first = weights("a", 0)
    torch.manual_seed(2)
    assert weights("b", 0) == first
    assert weights("c", 1) != first


def test_a_complete_tokenizer_is_not_lost(trained, tmp_path):
    before = {file.name: file.read_bytes() for file in trained.iterdir()}
    with pytest.raises(ValueError, match=r"left as it is: overwrite=true replaces it.*tokenizer\.path="):
        main(tiny(tmp_path, seed=1))
    assert {file.name: file.read_bytes() for file in trained.iterdir()} == before
    main(tiny(tmp_path, seed=1, overwrite=True))
    assert (trained / "model.safetensors").read_bytes() != before["model.safetensors"]


def test_files_of_others_are_never_replaced(trained, tmp_path):
    (trained / "notes.txt").write_text("precious")
    with pytest.raises(ValueError, match=r"something else \('notes.txt'\)"):
        main(tiny(tmp_path, overwrite=True))
    assert (trained / "notes.txt").read_text() == "precious"


def test_an_incomplete_directory_is_filled(trained, tmp_path):
    (trained / "model.safetensors").unlink()
    main(tiny(tmp_path))
    load_autoencoder(trained)


def test_a_failed_training_leaves_nothing(tmp_path):
    with pytest.raises(NonFiniteError, match="step 1: loss inf"):
        main(tiny(tmp_path, autoencoder=AutoencoderConfig(width=8, kl_weight=1e38)))
    assert list(tmp_path.rglob("*.safetensors")) == []


def test_a_loss_that_is_not_finite_stops_before_the_weights(tmp_path):
    config = tiny(tmp_path, autoencoder=AutoencoderConfig(width=8, kl_weight=1e38))
    train, _ = ImageFitting(config).split()
    network = ImageFitting(config).start(train.media_shape)
    before = weights_sha256(network)
    with pytest.raises(NonFiniteError):
        fit(network, train, config)
    assert weights_sha256(network) == before


def test_digits_are_measured_on_their_own_heldout_split(tmp_path):
    train, heldout = ImageFitting(tiny(tmp_path)).split()
    for images, split in ((train, "train"), (heldout, "heldout")):
        media = torch.cat(list(images.batches(500, len(images))))
        assert torch.equal(media, DigitsConfig(split=split).build().images)


def test_other_data_gives_up_rows(tmp_path):
    split = ImageFitting(tiny(tmp_path, data=DigitsConfig(split="all"), heldout_images=100)).split()
    train, heldout = (set(images.rows.tolist()) for images in split)
    assert len(heldout) == 100
    assert not train & heldout
    assert len(train | heldout) == 1797
    other = ImageFitting(tiny(tmp_path, data=DigitsConfig(split="all"), heldout_images=100, seed=5)).split()[1]
    assert set(other.rows.tolist()) == heldout


def test_a_folder_of_colour_images(tmp_path):
    rng = np.random.default_rng(0)
    for index in range(10):
        folder = tmp_path / "images" / f"class{index % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    data = FolderConfig(root=str(tmp_path / "images"), size=16)
    directory = main(tiny(tmp_path, data=data, name="folder", autoencoder=AutoencoderConfig(width=8, downsample=4)))
    metrics = json.loads((directory / "metrics.json").read_text())
    assert (metrics["train_images"], metrics["heldout_images"]) == (8, 2)
    assert ConvKLConfig(path=str(directory)).build("cpu").latent_shape((3, 16, 16)) == (4, 4, 4)


def test_latent_statistics_are_those_of_sampled_latents(tmp_path):
    config = tiny(tmp_path)
    train, _ = ImageFitting(config).split()
    network = ImageFitting(config).start(train.media_shape)
    expected_mean, expected_std = latent_statistics(network, train, batch_size=100).of_all()
    with torch.no_grad():
        mean, std = network.moments(next(train.batches(len(train), len(train))))
    latents = mean + std * StepRandom(0, 0).normal("posterior", tuple(mean.shape))
    assert abs(latents.mean().item() - expected_mean) < 0.01
    assert abs(latents.std().item() / expected_std - 1) < 0.01


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"lr": 0.0}, "lr is 0.0"),
        ({"num_workers": -1}, "num_workers is -1"),
        ({"name": "../elsewhere"}, "name is '../elsewhere'"),
        ({"name": ".."}, "name is '..'"),
        ({"autoencoder": AutoencoderConfig(downsample=16)}, "multiples of 16"),
        ({"device": "quantum"}, "device is 'quantum'"),
    ],
)
def test_bad_settings_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        main(tiny(tmp_path, **options))


def test_a_mistake_on_the_command_line_is_one_line(capsys):
    with pytest.raises(SystemExit) as stop:
        run_entry(
            main,
            config_module="image.conf",
            config_name="train_tokenizer",
            schema=ImageTrainTokenizerConfig,
            argv=["autoencoder.widht=3"],
        )
    assert stop.value.code == 2
    assert "unknown config key 'autoencoder.widht'" in capsys.readouterr().err


def test_digits_are_reconstructed(tmp_path):
    directory = main(ImageTrainTokenizerConfig(steps=200, device="cpu", runs_dir=str(tmp_path)))
    metrics = json.loads((directory / "metrics.json").read_text())
    assert metrics["psnr_db"] > 20
    assert metrics["psnr_sampled_db"] > 20
    tokenizer = ConvKLConfig(path=str(directory)).build("cpu")
    latents = tokenizer.encode(DigitsConfig().build().images, StepRandom(0, 0))
    assert abs(latents.mean().item()) < 0.02
    assert abs(latents.std().item() - 1) < 0.02
