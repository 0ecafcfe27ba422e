"""`python -m audio.cache`: cached moments give the run that the sound itself gives, masks included."""

import json
import re
import shlex

import numpy as np
import pytest
import torch

from audio.cache import ENTRY as CACHE
from audio.train import ENTRY as TRAIN
from audio.train import build_domain
from core.latents.cache import LENGTHS
from tests.audio.networks import save_t5
from tests.end_to_end.toys.audio import RATE, SECONDS, on_files, save_vae, write_music
from tests.end_to_end.toys.contract import SMALL, changed

FEW = ["trainer.steps=4", "trainer.preview_every=0"]
CLIP = [f"data.sample_rate={RATE}", f"data.seconds={SECONDS}", "data.channels=2"]


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    return save_vae(tmp_path_factory.mktemp("vae"))


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    root = tmp_path_factory.mktemp("collection")
    write_music(root)
    (root / "split.tsv").unlink()
    return root


def clips(collection, vae, *changes):
    """Words of a small run on the files."""
    return list(changed((*SMALL, *on_files(collection, vae), "alignment.pairs=[[1,2]]", "evaluation=none"), changes))


def cached(collection, vae, out, *overrides):
    """Write a cache of the folder in float32."""
    nodes = ("data", "tokenizer", "conditioning")
    base = [word for word in clips(collection, vae) if word.partition("=")[0].split(".")[0] in nodes]
    own = [f"out={out}", "dtype=float32", "num_workers=0", "device=cpu", "rows_per_shard=5", f"runs_dir={out.parent}"]
    CACHE.main(CACHE.config([*base, *own, *overrides]))
    return out


def losses(place, *arguments):
    TRAIN.main(TRAIN.config([*arguments, f"runs_dir={place}"]))
    lines = (place / "audio" / "notes" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["flow_loss"] for line in lines]


def test_masks_of_a_cache_are_those_of_the_files(collection, vae, tmp_path):
    root = cached(collection, vae, tmp_path / "latents_of")
    base = [word for word in clips(collection, vae) if not word.startswith("data")]
    cache = TRAIN.config([*base, "data=latents", f"data.root={root}", *CLIP, f"runs_dir={tmp_path}"])
    files = TRAIN.config([*clips(collection, vae), "data.window=tiled", f"runs_dir={tmp_path}"])
    cpu = torch.device("cpu")
    a, b = (build_domain(config, cpu, evaluate=False) for config in (cache, files))
    assert len(a.dataset) == len(b.dataset)
    rng = np.random.default_rng(0)
    for index in range(len(a.dataset)):
        assert torch.equal(*(each.dataset.item(index, rng)["mask"] for each in (a, b)))
    assert a.tokenizer.constants() == b.tokenizer.constants()


def test_an_interrupted_cache_continues_and_damage_is_found(collection, vae, tmp_path, capsys):
    root = cached(collection, vae, tmp_path / "latents_of")
    whole = {file.name: file.read_bytes() for file in root.iterdir()}
    (root / "shard_00001.npy").unlink()
    (root / LENGTHS).unlink()
    cached(collection, vae, root)
    assert {file.name: file.read_bytes() for file in root.iterdir()} == whole
    cached(collection, vae, root, "verify=true")
    assert "are as they were written" in capsys.readouterr().out
    with (root / LENGTHS).open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x07")
    with pytest.raises(ValueError, match=rf"1 files of .* are damaged: .*{LENGTHS}"):
        cached(collection, vae, root, "verify=true")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["conditioning=labels"], "conditioning is 'labels', but the cache .* was made with conditioning=none"),
        (["data.seconds=0.5"], "data.channels, seconds and sample_rate give clips of"),
        (["data.root=nowhere"], "data.root is 'nowhere', which holds no latent cache"),
    ],
)
def test_a_run_that_does_not_fit_the_cache_is_refused(overrides, words, collection, vae, tmp_path):
    root = cached(collection, vae, tmp_path / "latents_of")
    base = [w for w in clips(collection, vae, *FEW) if not w.startswith("data") and w not in ("conditioning=none",)]
    mode = [] if "conditioning=labels" in overrides else ["conditioning=none"]
    with pytest.raises(ValueError, match=words):
        losses(tmp_path, *base, *mode, "data=latents", f"data.root={root}", *CLIP, *overrides)


def told_command(capsys):
    """The words after `python -m audio.train` that a cache has printed for its use."""
    return shlex.split(re.search(r"python -m audio\.train (.*)", capsys.readouterr().out)[1])


@pytest.mark.parametrize("kind", ["none", "labels", "text"])
def test_the_command_that_it_prints_opens_the_cache(kind, collection, vae, tmp_path, capsys):
    """Also with a VAE in the top folder, without an unconditional pass, and with a text encoder."""
    words = [f"conditioning={kind}"]
    if kind == "labels":
        words += ["data.classes=folders"]
    if kind == "text":
        save_t5(tmp_path / "t5")
        paths = sorted(str(each.relative_to(collection)) for each in collection.rglob("*") if each.is_file())
        (collection / "captions.csv").write_text("\n".join(["path,caption", *(f"{each},a sound" for each in paths)]))
        own = [f"path={tmp_path / 't5'}", "encoder=t5", 'prompts=["a dog, twice"]', f"cache_dir={tmp_path}"]
        words += ["data.captions=captions.csv", *(f"conditioning.{each}" for each in own)]
    cached(collection, vae, tmp_path / "latents_of", *words)
    config = TRAIN.config([*told_command(capsys), f"runs_dir={tmp_path}"])
    domain = build_domain(config, torch.device("cpu"), evaluate=False)
    assert domain.latent_shape == (4, 32) and len(domain.dataset) > 7
    assert "mask" in domain.dataset.item(0, np.random.default_rng(0))


def test_the_command_of_notes_names_the_codec_that_was_used(tmp_path, capsys):
    out = tmp_path / "latents_of"
    words = ["data.num_notes=24", f"out={out}", "num_workers=0", "device=cpu", f"runs_dir={tmp_path}"]
    CACHE.main(CACHE.config([*words, "tokenizer.griffin_lim_iterations=2", "tokenizer.bands=32"]))
    config = TRAIN.config([*told_command(capsys), f"runs_dir={tmp_path}"])
    assert (config.tokenizer.bands, config.tokenizer.griffin_lim_iterations) == (32, 2)
    assert len(build_domain(config, torch.device("cpu"), evaluate=False).dataset) == 24
