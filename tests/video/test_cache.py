"""`python -m video.cache`: what is kept of real files is what a run encodes by itself, masks and mirrors included."""

import json
import re
import shlex

import numpy as np
import pytest
import torch

from core.draws import StepRandom
from core.latents.cache import LENGTHS, LatentShards
from tests.rows import every_row
from tests.video.networks import save_sd_vae, save_wan_vae
from tests.video.video_files import numbered_frames, write_video
from video.cache import ENTRY as CACHE
from video.data import LatentsConfig
from video.datasets.clips import ClipConfig, FrameMasks
from video.datasets.folder import FolderConfig
from video.tokenizer import SDVAEConfig, WanVAEConfig
from video.train import ENTRY as TRAIN
from video.train import build_domain

CPU = torch.device("cpu")
FRAMES, SIDE = 9, 16
UNTRAINED = {"subfolder": "", "allow_untrained": True}


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Four clips in two classes, the third of them four frames short."""
    root = tmp_path_factory.mktemp("films")
    write_video(root / "calm" / "long.mp4", numbered_frames(2 * FRAMES, (SIDE, 24)))
    write_video(root / "calm" / "short.avi", numbered_frames(FRAMES - 4, (24, SIDE), first=40))
    write_video(root / "wild" / "other.mkv", numbered_frames(FRAMES, (SIDE, SIDE), first=60))
    return root


@pytest.fixture(scope="module")
def wan(tmp_path_factory):
    return save_wan_vae(tmp_path_factory.mktemp("wan"))


@pytest.fixture(scope="module")
def sd(tmp_path_factory):
    return save_sd_vae(tmp_path_factory.mktemp("sd"))


def words(films, vae, kind="wan_vae"):
    """Overrides of data and tokenizer."""
    data = {"root": films, "clip.frames": FRAMES, "size": SIDE, "short": "pad", "classes": "folders"}
    own = [f"data.{key}={value}" for key, value in data.items()] + ["data.cache_dir=null"]
    return ["data=folder", *own, f"tokenizer={kind}", f"tokenizer.path={vae}", *TINY]


TINY = ["tokenizer.subfolder=''", "tokenizer.allow_untrained=true"]


def cached(out, arguments, *more):
    """Write a cache in float32."""
    own = [f"out={out}", "dtype=float32", "num_workers=0", "device=cpu", "rows_per_shard=2", f"runs_dir={out.parent}"]
    CACHE.main(CACHE.config([*arguments, *own, *more]))
    return out


def folder(films, **changes):
    values = {"root": str(films), "clip": ClipConfig(frames=FRAMES), "size": SIDE, "short": "pad", "window": "tiled"}
    return FolderConfig(**{**values, "classes": "folders", "cache_dir": None, **changes})


def test_what_is_kept_is_what_is_encoded_to_the_bit(films, wan, tmp_path):
    """Lossless: in float32 the moments of each clip, decoded once, are those of the tokenizer on the clip."""
    root = cached(tmp_path / "latents_of", words(films, wan))
    tokenizer = WanVAEConfig(path=str(wan), **UNTRAINED).build(CPU)
    masks = FrameMasks(FRAMES, tokenizer.frame_stride, tokenizer.first, 1, 4)
    files = folder(films).build(masks)
    kept = LatentsConfig(str(root), ClipConfig(frames=FRAMES), SIDE).build(masks)
    assert len(files) == len(kept) == 4 and files.labels.equal(kept.labels)
    batch = kept.items(np.arange(4), [np.random.default_rng(0)] * 4)
    media = torch.stack([files.clip_at(row) for row in range(4)])
    assert torch.equal(batch["media"], torch.stack(tokenizer.moments(media), dim=1))
    assert torch.equal(batch["condition"], files.conditions)
    assert torch.equal(batch["mask"], torch.stack([files.mask(row) for row in range(4)]))
    assert batch["mask"].sum(1).tolist() == [12, 12, 8, 12]  # of the short one, 5 of 9 frames in 2 of 3 latent frames
    mean, std = batch["media"].unbind(1)
    random = StepRandom(0, 0)
    assert torch.equal(tokenizer.from_moments(mean, std, random), tokenizer.encode(media, random))


def test_float16_keeps_the_moments_to_its_rounding(films, sd, tmp_path):
    root = cached(tmp_path / "latents_of", words(films, sd, "sd_vae"), "dtype=float16")
    kept = LatentsConfig(str(root), ClipConfig(frames=FRAMES), SIDE).build(FrameMasks(FRAMES, 1, 1, 1, 16))
    tokenizer = SDVAEConfig(path=str(sd), **UNTRAINED).build(CPU)
    moments = torch.stack(tokenizer.moments(folder(films).build().clip_at(0)[None]), dim=1)
    found = kept.item(0, np.random.default_rng(0))["media"]
    assert found.dtype == torch.float16
    torch.testing.assert_close(found[None].float(), moments, atol=1e-4, rtol=1e-3)


def test_mirrors_are_kept_where_clips_are_mirrored(films, wan, tmp_path):
    root = cached(tmp_path / "latents_of", words(films, wan), "data.flip=true", "data.short=drop")
    clip = ClipConfig(frames=FRAMES)
    kept = LatentsConfig(str(root), clip, SIDE, flip=True).build()
    files = folder(films, short="drop", flip=True).build()
    tokenizer = WanVAEConfig(path=str(wan), **UNTRAINED).build(CPU)
    assert kept.spec.mirrors == 2 and len(kept) == len(files) == 3 and not (root / LENGTHS).exists()
    seen = set()
    for seed in range(4):
        media = files.item(1, np.random.default_rng(seed))["media"]
        moments = kept.item(1, np.random.default_rng(seed))["media"]
        assert torch.equal(moments, torch.stack(tokenizer.moments(media[None]), dim=1)[0])
        seen.add(torch.equal(media, files.clip_at(1)))
    assert seen == {True, False}
    plain = cached(tmp_path / "plain", words(films, wan), "data.short=drop")
    with pytest.raises(ValueError, match=r"data.flip is true, but the cache .* holds no mirrored latents"):
        LatentsConfig(str(plain), clip, SIDE, flip=True).build()


def test_the_command_that_it_prints_opens_the_cache(films, wan, tmp_path, capsys):
    cached(tmp_path / "latents_of", words(films, wan))
    said = capsys.readouterr().out
    assert said.startswith("tried             1 clip in ")
    told = shlex.split(re.search(r"python -m video\.train (.*)", said)[1])
    config = TRAIN.config([*told, f"runs_dir={tmp_path}", "backbone.patch_size=1"])
    domain = build_domain(config, CPU, evaluate=False)
    assert domain.latent_shape == (4, 3, 2, 2) and len(domain.dataset) == 4
    assert domain.dataset.item(2, np.random.default_rng(0))["mask"].sum() == 8


def test_a_run_from_the_cache_is_the_run_from_the_files(films, wan, tmp_path):
    """Losses to the last digit: conditions, masks and noise are the same."""
    small = ["backbone.depth=1", "backbone.hidden_size=24", "backbone.num_heads=2", "backbone.patch_size=1"]
    small += ["trainer.steps=3", "trainer.batch_size=3", "trainer.log_every=1", "trainer.preview_every=0"]
    small += ["alignment=none", "evaluation=none", "name=run"]
    tokenizer = ["tokenizer=wan_vae", f"tokenizer.path={wan}", *TINY]
    root = cached(tmp_path / "latents_of", words(films, wan))
    clip = [f"data.root={root}", f"data.clip.frames={FRAMES}", f"data.size={SIDE}"]
    runs = {
        "files": [*words(films, wan), "data.window=tiled"],
        "latents": ["data=latents", *clip, *tokenizer],
    }
    losses = {}
    for name, arguments in runs.items():
        TRAIN.main(TRAIN.config([*small, *arguments, "device=cpu", f"runs_dir={tmp_path / name}"]))
        lines = (tmp_path / name / "video" / "run" / "metrics.jsonl").read_text().splitlines()
        losses[name] = [json.loads(line)["flow_loss"] for line in lines]
    assert len(losses["files"]) == 3 and losses["files"] == losses["latents"]


@every_row(
    ("changes", "message"),
    [
        (["data.clip.frames=8"], r"data.clip.frames is 8; .* \(4n\+1\), so 5 or 9"),
        (["data.size=20"], r"clips \(data.size\) of 20x20 pixels; .* multiples of 8"),
        (["data.channels=1"], "of 1 channels; the tokenizer takes 3"),
        (["tokenizer=pixels"], "tokenizer is 'pixels', which encodes nothing: .* allowed: conv3d_kl, sd_vae, wan_vae"),
        (["tokenizer.allow_untrained=false"], "Are its weights random"),
        (["conditioning=labels", "data.classes=none"], "conditioning is 'labels'"),
        (["data.root=nowhere"], "data.root is 'nowhere'"),
    ],
)
def test_what_cannot_be_cached_is_refused_before_anything_is_written(changes, message, films, wan, tmp_path):
    named = {word.partition("=")[0] for word in changes}
    base = [word for word in words(films, wan) if word.partition("=")[0] not in named]
    if "tokenizer=pixels" in changes:
        base = [word for word in base if not word.startswith("tokenizer")]
    with pytest.raises(ValueError, match=message):
        cached(tmp_path / "latents_of", [*base, *changes])
    assert not (tmp_path / "latents_of").exists()


def test_a_clip_whose_pixels_leave_the_range_is_named(films, wan, tmp_path, monkeypatch):
    monkeypatch.setattr("video.datasets.windows.from_uint8", lambda pixels: pixels.float() / 2)
    with pytest.raises(ValueError, match=r"\w+\.\w+ from .* \(row \d\): its pixels lie in \[0, 127.5\]; needed"):
        cached(tmp_path / "latents_of", words(films, wan))


@every_row(
    ("changes", "message"),
    [
        ({"clip": ClipConfig(frames=13)}, r"give clips of \(3, 13, 16, 16\) .* made of clips of \(3, 9, 16, 16\)"),
        ({"clip": ClipConfig(frames=FRAMES, stride=2)}, "data.clip.stride is 2, but the cache .* was made with 1"),
        ({"clip": ClipConfig(frames=FRAMES, fps=8.0)}, "data.clip.fps is 8.0, but the cache .* was made with None"),
        ({"size": [SIDE, 32]}, r"give clips of \(3, 9, 16, 32\)"),
        ({"root": "nowhere"}, "data.root is 'nowhere', which holds no latent cache .*python -m video.cache"),
    ],
)
def test_a_cache_of_other_clips_is_refused(changes, message, films, wan, tmp_path):
    root = tmp_path / "latents_of"
    if not root.exists():
        cached(root, words(films, wan))
    values = {"root": str(root), "clip": ClipConfig(frames=FRAMES), "size": SIDE}
    with pytest.raises(ValueError, match=message):
        LatentsConfig(**{**values, **changes}).build()


def test_a_cache_of_another_kind_of_media_is_refused(films, wan, tmp_path):
    root = cached(tmp_path / "latents_of", words(films, wan))
    with pytest.raises(ValueError, match="a cache of kind 'video'; allowed: 'image'"):
        LatentShards(root, kind="image", make_command="python -m image.cache")
