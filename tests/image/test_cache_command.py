"""The command line of `python -m image.cache`: what it says, several processes, damage, a kill."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from core.commands.cache import workers
from core.commands.entry import compose_config, run_entry
from core.schema import strict
from image.cache import ImageCacheConfig, main
from image.train import ImageConfig, build_domain
from tests.image.caches import PER_SHARD, SIZE, config, files, latents

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")


def command(config, *more):
    return [
        "data=folder",
        f"data.root={config.data.root}",
        f"data.size={SIZE}",
        "tokenizer=conv_kl",
        f"tokenizer.path={config.tokenizer.path}",
        f"out={config.out}",
        f"rows_per_shard={PER_SHARD}",
        "dtype=float32",
        "batch_size=3",
        "num_workers=0",
        "device=cpu",
        *more,
    ]


def call(arguments):
    run_entry(main, config_module="image.conf", config_name="cache", schema=ImageCacheConfig, argv=arguments)


def test_it_says_what_it_wrote_and_how_to_use_it(pictures, conv_kl, tmp_path, capsys):
    call(command(config(pictures, conv_kl, tmp_path / "c")))
    said = capsys.readouterr().out
    assert "encoded           11 images, " in said and "images/s" in said and "3 of 3 shards" in said
    words = re.search(r"python -m image\.train (.*)", said)[1].split()
    train = strict(ImageConfig, compose_config("image.conf", "train", words))
    assert train.data == latents(tmp_path / "c")
    assert build_domain(train, CPU, evaluate=False).latent_shape == (4, 8, 8)
    call(command(config(pictures, conv_kl, tmp_path / "c")))
    assert "encoded           0 images\n" in capsys.readouterr().out


def test_two_processes_write_what_one_writes(pictures, conv_kl, cache, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, left in (("1", "left              2 shards"), ("0", "use  ")):
        monkeypatch.setenv("RANK", rank)
        main(config(pictures, conv_kl, tmp_path / "two"))
        assert left in capsys.readouterr().out
    assert files(tmp_path / "two") == files(cache)


def test_verify_finds_the_damaged_file(pictures, cache, capsys):
    call([f"out={cache}", "verify=true"])
    assert "3 shards" in capsys.readouterr().out
    content = bytearray((cache / "shard_00002.npy").read_bytes())
    content[-1] ^= 1
    (cache / "shard_00002.npy").write_bytes(content)
    with pytest.raises(SystemExit) as stopped:
        call([f"out={cache}", "verify=true"])
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and "1 files" in said and "shard_00002.npy; delete them" in said
    with pytest.raises(SystemExit):
        call([f"out={pictures}", "verify=true"])
    assert "holds no latent cache" in capsys.readouterr().err


def test_a_broken_image_stops_it_by_name(pictures, conv_kl, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "cat").symlink_to(pictures / "cat")
    (tmp_path / "data" / "eel").mkdir()
    (tmp_path / "data" / "eel" / "torn.png").write_bytes(b"\x89PNG")
    with pytest.raises(ValueError, match=r"broken image .*torn\.png"):
        main(config(tmp_path / "data", conv_kl, tmp_path / "c"))
    assert (tmp_path / "c" / "shard_00000.npy").exists() and not (tmp_path / "c" / "shard_00001.npy").exists()


def test_killed_and_started_again(pictures, conv_kl, cache, tmp_path):
    slow = (
        "import time, image.cache as c\nfrom image.datasets.files import FileDataset\npixels = FileDataset.pixels\n"
        "def slow(self, *args):\n    time.sleep(0.1)\n    return pixels(self, *args)\n"
        "FileDataset.pixels = slow\n"
        "c.ENTRY.run()\n"
    )
    root = tmp_path / "killed"
    arguments = command(config(pictures, conv_kl, root))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", slow, *arguments], env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (root / "shard_00001.json").exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (root / "shard_00002.npy").exists()
    call(arguments)
    assert files(root) == files(cache)


def test_workers_share_the_machine(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(12))
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert (workers(None), workers(3), workers(0)) == (8, 3, 0)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert workers(None) == 3
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "16")
    assert workers(None) == 1
