"""Weights that are fetched from a real server: resumed, verified, never joined of two versions."""

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from eval.published import download, registry
from eval.published.entry import WeightsFile
from eval.weights import locate, verified
from tests.eval.published.weights_server import (
    DATA,
    REVISION,
    SHA256,
    begun,
    entry_of,
    folder_of,
    forbidden,
    refused,
    run,
)
from tests.rows import every_row

ROOT = Path(__file__).resolve().parents[3]
HUB_FILES = {"vae/config.json": b'{"a": 1}', "vae/weights.safetensors": DATA}


def test_fetch_puts_a_verified_file_into_its_place(toy, server, capsys):
    assert run("fetch", "toy") == 0
    assert toy.read_bytes() == DATA and folder_of(toy) == ["weights.pth"]
    assert locate("toy") == toy
    assert verified("toy") == {"weights.pth": SHA256}
    assert "weights.pth" in capsys.readouterr().err, "the bar"
    assert run("fetch", "toy") == 0
    assert len(server.seen) == 1, "what is there is not fetched again"


@pytest.mark.parametrize("published", [True, False])
def test_an_interrupted_fetch_goes_on(published, request, server, capsys):
    place = request.getfixturevalue("toy" if published else "unknown")
    server.trouble = "close"
    message = refused(capsys, "fetch", "toy")
    assert f"broke off after {len(DATA) // 2} of {len(DATA)} bytes" in message
    assert not place.exists()
    server.trouble = None
    assert run("fetch", "toy") == 0
    assert [span for _, span in server.seen] == [None, f"bytes={len(DATA) // 2}-"]
    assert place.read_bytes() == DATA and folder_of(place) == ["weights.pth"]


@every_row("trouble", ["redirect", "no range", "wrong range", "416"])
def test_a_server_may_send_all_again_or_from_elsewhere(toy, server, trouble):
    toy.unlink(missing_ok=True)
    begun(toy, 1000)
    server.trouble, server.seen[:] = trouble, []
    assert run("fetch", "toy") == 0
    assert toy.read_bytes() == DATA
    assert server.seen[0][1] == "bytes=1000-"


@pytest.mark.parametrize("kind", ["toy", "unknown"])
def test_a_download_that_was_complete_needs_its_name_only(kind, request):
    """One whose size is not published is taken by 416."""
    place = request.getfixturevalue(kind)
    begun(place, len(DATA))
    assert run("fetch", "toy") == 0
    assert place.read_bytes() == DATA


@every_row("tag", ['"old"', None])
def test_two_versions_are_never_joined(unknown, tag):
    unknown.unlink(missing_ok=True)
    begun(unknown, 1000, tag).write_bytes(b"x" * 1000)
    assert run("fetch", "toy") == 0
    assert unknown.read_bytes() == DATA


def test_a_begun_file_of_another_version_is_found_by_its_hash(toy, server, capsys):
    server.tag = None
    begun(toy, 1000, None).write_bytes(b"x" * 1000)
    assert "its SHA-256 is" in refused(capsys, "fetch", "toy")
    assert folder_of(toy) == [], "the bad file is not kept"
    assert run("fetch", "toy") == 0
    assert toy.read_bytes() == DATA


def test_a_killed_process_goes_on(toy, server, root, tmp_path):
    server.trouble = "stall"
    entry = registry.REGISTRY[0]
    script = tmp_path / "fetch.py"
    script.write_text(
        "from eval import weights\nfrom eval.published import registry\n"
        "from eval.published.entry import WeightsEntry, WeightsFile\n"
        f"registry.REGISTRY = ({entry!r},)\n"
        "weights.main(['fetch', 'toy'])\n"
    )
    process = subprocess.Popen([sys.executable, script], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
    part = toy.with_name("weights.pth.part")
    deadline = time.monotonic() + 30
    while not (part.exists() and part.stat().st_size == len(DATA) // 2):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    with pytest.raises(ValueError, match="another process is fetching"):
        download.fetch(entry, root, print)
    process.send_signal(signal.SIGKILL)
    process.wait()
    server.trouble = None
    assert not toy.exists()
    assert run("fetch", "toy") == 0
    assert toy.read_bytes() == DATA and server.seen[-1][1] == f"bytes={len(DATA) // 2}-"


def test_a_wrong_hash_or_size_is_refused_and_not_kept(toy, server, capsys):
    server.files["/weights.pth"] = DATA[::-1]
    message = refused(capsys, "fetch", "toy")
    assert SHA256 in message and hashlib.sha256(DATA[::-1]).hexdigest() in message and server.url in message
    server.files["/weights.pth"] = DATA + b"more"
    assert f"{len(DATA) + 4} bytes, not {len(DATA)}" in refused(capsys, "fetch", "toy")
    assert folder_of(toy) == []


def test_the_first_digits_of_a_hash_are_compared(register, server, root, capsys):
    file = WeightsFile("weights.pth", f"{server.url}/weights.pth", SHA256[:8])
    register(entry_of(replace(file, sha256="0" * 8)))
    assert "00000000..." in refused(capsys, "fetch", "toy")
    register(entry_of(file))
    assert run("fetch", "toy") == 0
    (root / "toy" / "weights.pth").write_bytes(DATA[::-1])
    assert run("verify") == 1


@every_row(("trouble", "said"), [("403", "HTTP 403"), ("500", "HTTP 500"), ("html", "web page instead of the file")])
def test_what_the_server_refuses_is_said_once(toy, server, capsys, trouble, said):
    server.trouble = trouble
    assert said in refused(capsys, "fetch", "toy")
    assert folder_of(toy) == []


def test_a_gated_file_says_what_to_do_and_sends_the_token(register, server, root, capsys, monkeypatch):
    register(entry_of(WeightsFile("weights.pth", f"{server.url}/weights.pth"), gated=True))
    monkeypatch.setenv("HF_TOKEN", "secret")
    server.trouble = "403"
    message = refused(capsys, "fetch", "toy")
    assert "agree to the licence at https://example.org and set HF_TOKEN" in message and "secret" not in message


def test_without_network_one_message_says_all(register, root, capsys):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/weights.pth"
        register(entry_of(WeightsFile("weights.pth", url)))
        message = refused(capsys, "fetch", "toy")
    for part in ("weights.pth", url, root / "toy" / "weights.pth", "add toy FILE", "Connection refused"):
        assert str(part) in message
    assert not list((root / "toy").iterdir())


def test_no_step_from_https_to_http():
    handler, request = download._NoDowngrade(), download.urllib.request.Request("https://example.org/a")
    with pytest.raises(download.urllib.error.URLError, match="redirected from https"):
        handler.redirect_request(request, None, 302, "Found", {}, "http://example.org/a")


# The hub


def test_offline_hub_gives_the_one_message(root, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(socket, "socket", forbidden)
    message = refused(capsys, "fetch", "sd-vae-ema")
    for part in (
        "HF_HUB_OFFLINE",
        "config.json from https://huggingface.co/",
        root / "sd-vae-ema",
        "add sd-vae-ema DIR",
    ):
        assert str(part) in message


def test_a_hub_that_gives_less_is_no_success(register, root, capsys, monkeypatch):
    pytest.importorskip("huggingface_hub")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    base = f"https://huggingface.co/owner/model/resolve/{REVISION}/"
    files = tuple(WeightsFile(Path(path).name, base + path) for path in HUB_FILES)
    register(entry_of(*files, kind="directory", repository="owner/model", revision=REVISION))

    def snapshot(repository, *, revision, local_dir, allow_patterns):
        assert (repository, revision, allow_patterns) == ("owner/model", REVISION, list(HUB_FILES))
        (local_dir / "vae").mkdir(parents=True)
        (local_dir / "vae" / "config.json").write_text("{}")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    assert "weights.safetensors from https://huggingface.co/owner/model" in refused(capsys, "fetch", "toy")
    with pytest.raises(ValueError, match="missing"):
        locate("toy")


REAL_HUB = f"""
import time
time.sleep = lambda seconds: None  # the library tries again, ever more rarely
from eval import weights
from eval.published import registry as r
base = "https://huggingface.co/owner/model/resolve/{REVISION}/vae/"
files = tuple(r.WeightsFile(name, base + name) for name in ("config.json", "weights.safetensors"))
words = dict(title="t", licence="l", used_by="u", origin="o", repository="owner/model", revision="{REVISION}")
r.REGISTRY = (r.WeightsEntry(name="toy", kind="directory", files=files, **words),)
weights.main(["fetch", "toy"])
"""


def fetch_by_the_hub_library(endpoint, root):
    """The command with the real library, told that the hub is elsewhere."""
    environment = os.environ | {"HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0", "HF_HOME": str(root.parent / "hf")}
    return subprocess.run(
        [sys.executable, "-c", REAL_HUB], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )


def test_the_real_hub_library_fetches_the_revision(server, root):
    pytest.importorskip("huggingface_hub")
    tree = [{"type": "file", "path": path, "size": len(content), "oid": "0"} for path, content in HUB_FILES.items()]
    listing = f"/api/models/owner/model/tree/{REVISION}?recursive=true&expand=false"
    server.files = {f"/owner/model/resolve/{REVISION}/{path}": content for path, content in HUB_FILES.items()}
    server.files[listing] = json.dumps(tree).encode()
    done = fetch_by_the_hub_library(server.url, root)
    assert done.returncode == 0, done.stderr
    recorded = json.loads((root / "hashes.json").read_text())["files"]
    assert recorded["toy/weights.safetensors"]["sha256"] == SHA256
    shown = {path.name: path.read_bytes() for path in (root / "toy").iterdir() if path.is_file()}
    assert shown == {"config.json": HUB_FILES["vae/config.json"], "weights.safetensors": DATA}


def test_the_real_hub_library_without_a_hub_gives_the_one_message(root):
    pytest.importorskip("huggingface_hub")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        done = fetch_by_the_hub_library(f"http://127.0.0.1:{closed.getsockname()[1]}", root)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: could not fetch 'toy'") and str(root / "toy" / "config.json") in last
