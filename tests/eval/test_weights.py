"""Weights by name: fetched from a real server, resumed, verified, placed by hand; and nothing fetched by itself."""

import hashlib
import http.server
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

import eval.weights
from eval.published import download, registry
from eval.published.entry import WeightsEntry, WeightsFile
from eval.published.registry import REGISTRY
from eval.weights import locate, main, verified, weights_root

ROOT = Path(__file__).resolve().parents[2]
DATA = bytes(range(256)) * 4096  # 1 MiB
SHA256 = hashlib.sha256(DATA).hexdigest()
HUB_FILES = {"vae/config.json": b'{"a": 1}', "vae/weights.safetensors": DATA}
REVISION = "f" * 40


class Server(http.server.ThreadingHTTPServer):
    """Files with ranges, and what goes wrong with them: `trouble` is one of the names in `Handler`."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.trouble, self.tag, self.seen = {"/weights.pth": DATA}, None, '"one"', []
        self.release = threading.Event()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        trouble, body = self.server.trouble, self.server.files.get(self.path)
        span, condition = self.headers.get("Range"), self.headers.get("If-Range")
        self.server.seen.append((self.path, span))
        if trouble == "redirect" and self.path == "/weights.pth":
            self.server.files["/elsewhere"] = body
            return self.answer(302, b"", Location="/elsewhere")
        if body is None or trouble in ("403", "500"):
            return self.answer(int(trouble or 404), b"")
        if trouble == "html":
            return self.answer(200, b"<html>agree</html>", **{"Content-Type": "text/html; charset=utf-8"})
        if span and trouble != "no range" and condition in (None, self.server.tag):
            start = int(re.fullmatch(r"bytes=(\d+)-", span)[1])
            if start >= len(body) or trouble == "416":
                return self.answer(416, b"", **{"Content-Range": f"bytes */{len(body)}"})
            said = start - 7 if trouble == "wrong range" else start
            place = f"bytes {said}-{len(body) - 1}/{len(body)}"
            return self.answer(206, body[start:], **{"Content-Range": place})
        return self.answer(200, body)

    def do_HEAD(self):
        self.do_GET()

    def answer(self, status, body, **headers):
        self.send_response(status)
        own = {"Content-Length": str(len(body)), "ETag": self.server.tag, "X-Repo-Commit": REVISION}
        for name, value in (own | headers).items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        if self.server.trouble in ("close", "stall"):
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            if self.server.trouble == "stall":
                self.server.release.wait(30)
            return
        self.wfile.write(body if self.command == "GET" else b"")

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    running = Server()
    thread = threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield running
    running.release.set()
    running.shutdown()
    running.server_close()
    thread.join()


@pytest.fixture
def root(tmp_path, monkeypatch):
    """The weights folder, and no proxy on the way to it."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("LAYERSYNC_WEIGHTS", str(tmp_path / "weights"))
    return tmp_path / "weights"


def entry_of(*files, kind="file", **others):
    words = {"title": "Toy", "licence": "MIT", "used_by": "tests", "origin": "https://example.org"} | others
    return WeightsEntry(name="toy", kind=kind, files=files, **words)


@pytest.fixture
def register(monkeypatch):
    """Make entries the registry."""

    def to(*entries):
        monkeypatch.setattr(registry, "REGISTRY", entries)
        monkeypatch.setattr(eval.weights, "REGISTRY", entries)

    return to


@pytest.fixture
def toy(register, server, root):
    """A registry of one file, whose hash and size are published; returns its place."""
    register(entry_of(WeightsFile("weights.pth", f"{server.url}/weights.pth", SHA256, len(DATA))))
    return root / "toy" / "weights.pth"


@pytest.fixture
def unknown(register, server, root):
    """The same file, about which nothing is published."""
    register(entry_of(WeightsFile("weights.pth", f"{server.url}/weights.pth")))
    return root / "toy" / "weights.pth"


def run(*argv):
    """Exit status of a command."""
    with pytest.raises(SystemExit) as caught:
        main([*map(str, argv)])
        raise SystemExit(0)
    return caught.value.code


def refused(capsys, *argv):
    """The one line of a command that is refused."""
    capsys.readouterr()
    assert run(*argv) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    return lines[0]


def begun(place, size, tag='"one"'):
    """A download that broke off after `size` bytes."""
    part = place.with_name(place.name + ".part")
    part.parent.mkdir(parents=True)
    part.write_bytes(DATA[:size])
    if tag is not None:
        part.with_name(part.name + ".tag").write_text(tag)
    return part


def folder_of(place):
    return sorted(path.name for path in place.parent.iterdir())


# Fetching


def test_fetch_puts_a_verified_file_into_its_place(toy, server, capsys):
    assert run("fetch", "toy") == 0
    assert toy.read_bytes() == DATA and folder_of(toy) == ["weights.pth"]
    assert locate("toy") == toy
    assert verified("toy") == {"weights.pth": SHA256}
    assert "weights.pth" in capsys.readouterr().err, "the bar"
    assert run("fetch", "toy") == 0
    assert len(server.seen) == 1, "what is there is not fetched again"


def test_fetch_follows_redirects(toy, server):
    server.trouble = "redirect"
    assert run("fetch", "toy") == 0
    assert toy.read_bytes() == DATA


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


@pytest.mark.parametrize("trouble", ["no range", "wrong range", "416"])
def test_a_server_that_cannot_go_on_sends_all(toy, server, trouble):
    begun(toy, 1000)
    server.trouble = trouble
    assert run("fetch", "toy") == 0
    assert toy.read_bytes() == DATA
    assert server.seen[0][1] == "bytes=1000-"


def test_a_download_that_was_complete_needs_its_name_only(toy):
    begun(toy, len(DATA))
    assert run("fetch", "toy") == 0
    assert toy.read_bytes() == DATA


def test_a_complete_download_of_unknown_size_is_taken_by_416(unknown):
    begun(unknown, len(DATA))
    assert run("fetch", "toy") == 0
    assert unknown.read_bytes() == DATA


@pytest.mark.parametrize("tag", ['"old"', None])
def test_two_versions_are_never_joined(unknown, server, tag):
    part = begun(unknown, 1000, tag)
    part.write_bytes(b"x" * 1000)
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


def test_a_wrong_hash_is_refused_and_not_kept(toy, server, capsys):
    server.files["/weights.pth"] = DATA[::-1]
    message = refused(capsys, "fetch", "toy")
    assert SHA256 in message and hashlib.sha256(DATA[::-1]).hexdigest() in message and server.url in message
    assert folder_of(toy) == []


def test_a_wrong_size_is_refused_before_it_is_loaded(toy, server, capsys):
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


@pytest.mark.parametrize(
    ("trouble", "said"), [("404", "HTTP 404"), ("500", "HTTP 500"), ("html", "web page instead of the file")]
)
def test_what_the_server_refuses_is_said_once(toy, server, capsys, trouble, said):
    server.files, server.trouble = ({}, None) if trouble == "404" else (server.files, trouble)
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


def test_only_by_hand(register, server, root, capsys):
    drive = WeightsFile("sub/finest.tar", "https://drive.google.com/file/d/1/view", by_hand=True)
    plain = WeightsFile("weights.pth", f"{server.url}/weights.pth")
    register(entry_of(drive, plain, kind="directory", notes="unpack toy.zip"))
    message = refused(capsys, "fetch", "toy")
    assert "sub/finest.tar from https://drive.google.com/file/d/1/view" in message and "unpack toy.zip" in message
    assert (root / "toy" / "weights.pth").read_bytes() == DATA, "what can be fetched is fetched"
    source = root.parent / "t2m"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "finest.tar").write_bytes(b"weights")
    assert run("add", "toy", source) == 0
    assert locate("toy") == root / "toy"


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


@pytest.fixture
def hub(register, root, monkeypatch):
    """A registry of two files in a hub repository, and what the hub library then gives of them."""
    pytest.importorskip("huggingface_hub")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    base = f"https://huggingface.co/owner/model/resolve/{REVISION}/"
    files = tuple(WeightsFile(Path(path).name, base + path) for path in HUB_FILES)
    register(entry_of(*files, kind="directory", repository="owner/model", revision=REVISION))
    given = dict(HUB_FILES)

    def snapshot(repository, *, revision, local_dir, allow_patterns):
        assert (repository, revision, allow_patterns) == ("owner/model", REVISION, list(HUB_FILES))
        for path, content in given.items():
            (local_dir / path).parent.mkdir(parents=True, exist_ok=True)
            (local_dir / path).write_bytes(content)
        return str(local_dir)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    return given


def test_a_hub_repository_becomes_a_folder(hub, root):
    assert run("fetch", "toy") == 0
    assert locate("toy") == root / "toy"
    found = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and path.name[0] != "."}
    assert found == {"toy/config.json", "toy/weights.safetensors", "hashes.json"}
    assert verified("toy")["weights.safetensors"] == SHA256


def test_a_hub_that_gives_less_is_no_success(hub, root, capsys):
    del hub["vae/weights.safetensors"]
    assert "weights.safetensors from https://huggingface.co/owner/model" in refused(capsys, "fetch", "toy")
    with pytest.raises(ValueError, match="missing"):
        locate("toy")


REAL_HUB = f"""
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


@pytest.mark.slow
def test_the_real_hub_library_fetches_the_revision(server, root):
    pytest.importorskip("huggingface_hub")
    tree = [{"type": "file", "path": path, "size": len(content), "oid": "0"} for path, content in HUB_FILES.items()]
    listing = f"/api/models/owner/model/tree/{REVISION}?recursive=true&expand=false"
    server.files = {f"/owner/model/resolve/{REVISION}/{path}": content for path, content in HUB_FILES.items()}
    server.files[listing] = json.dumps(tree).encode()
    done = fetch_by_the_hub_library(server.url, root)
    assert done.returncode == 0, done.stderr
    assert (root / "toy" / "weights.safetensors").read_bytes() == DATA
    assert (root / "toy" / "config.json").read_bytes() == HUB_FILES["vae/config.json"]


@pytest.mark.slow
def test_the_real_hub_library_without_a_hub_gives_the_one_message(root):
    pytest.importorskip("huggingface_hub")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        done = fetch_by_the_hub_library(f"http://127.0.0.1:{closed.getsockname()[1]}", root)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: could not fetch 'toy'") and str(root / "toy" / "config.json") in last


# By hand


def test_add_takes_a_file_under_any_name(toy, tmp_path, capsys):
    (tmp_path / "copy (1).bin").write_bytes(DATA)
    assert run("add", "toy", tmp_path / "copy (1).bin") == 0
    assert locate("toy").read_bytes() == DATA and not toy.is_symlink()


def test_add_refuses_a_wrong_file(toy, tmp_path, capsys):
    (tmp_path / "weights.pth").write_bytes(DATA[::-1])
    assert "its SHA-256 is" in refused(capsys, "add", "toy", tmp_path / "weights.pth")
    (tmp_path / "weights.pth").write_bytes(b"short")
    assert "5 bytes instead of 1048576" in refused(capsys, "add", "toy", tmp_path / "weights.pth")
    assert not toy.exists()
    assert "no file or folder" in refused(capsys, "add", "toy", tmp_path / "nowhere.pth")


def test_add_links(toy, tmp_path):
    source = tmp_path / "weights.pth"
    source.write_bytes(DATA)
    assert run("add", "toy", source, "--link") == 0
    assert toy.is_symlink() and locate("toy").read_bytes() == DATA
    source.unlink()
    assert run("verify") == 1


def test_an_archive_is_not_taken_for_the_file_in_it(unknown, tmp_path, capsys):
    (tmp_path / "weights.zip").write_bytes(b"PK")
    assert "not clearly a file of 'toy'" in refused(capsys, "add", "toy", tmp_path / "weights.zip")
    (tmp_path / "weights.pth").touch()
    assert "0 bytes" in refused(capsys, "add", "toy", tmp_path / "weights.pth")


def test_add_a_folder(register, root, tmp_path, capsys):
    files = [WeightsFile(path, f"https://example.org/{path}") for path in ("a/config.json", "b/config.json", "c.npy")]
    register(entry_of(*files, kind="directory"))
    source = tmp_path / "download"
    for path in ("a/config.json", "b/config.json"):
        (source / path).parent.mkdir(parents=True)
        (source / path).write_text(path)
    assert "lacks c.npy" in refused(capsys, "add", "toy", source)
    assert not root.exists(), "nothing is taken of a folder that is not whole"
    (source / "c.npy").write_bytes(DATA)
    assert run("add", "toy", source) == 0
    assert locate("toy") == root / "toy"
    assert (root / "toy" / "b" / "config.json").read_text() == "b/config.json"
    assert "not clearly a file" in refused(capsys, "add", "toy", source / "a" / "config.json")


def test_what_lies_in_place_already_is_recorded(unknown, capsys):
    unknown.parent.mkdir(parents=True)
    unknown.write_bytes(DATA)
    assert run("verify") == 0
    assert "no hash to compare with" in capsys.readouterr().out
    assert run("add", "toy", unknown) == 0
    assert run("verify") == 0
    assert "toy/weights.pth: ok" in capsys.readouterr().out


# Trust on first use, verification


def test_what_nobody_published_is_recorded_at_first_and_compared_later(unknown, server, capsys):
    run("list")
    assert "unknown: recorded at first import" in capsys.readouterr().out
    assert run("fetch", "toy") == 0
    recorded = json.loads((unknown.parents[1] / "hashes.json").read_text())["files"]
    assert recorded == {"toy/weights.pth": {"sha256": SHA256, "bytes": len(DATA)}}
    capsys.readouterr()
    run("list")
    listed = capsys.readouterr().out
    assert "present" in listed and "recorded  " in listed
    unknown.write_bytes(DATA[::-1])
    assert run("verify", "toy") == 1
    assert "DAMAGED" in capsys.readouterr().out
    with pytest.raises(ValueError, match="at its import"):
        verified("toy")
    assert run("fetch", "toy") == 0, "a damaged file is fetched again"
    assert unknown.read_bytes() == DATA
    server.files["/weights.pth"], server.tag = DATA[::-1], '"two"'
    unknown.unlink()
    assert "hashes.json" in refused(capsys, "fetch", "toy"), "what changed at its origin is not taken silently"


def test_a_damaged_size_shows_without_reading(toy, capsys):
    assert run("fetch", "toy") == 0
    toy.write_bytes(DATA[:-1])
    run("list")
    assert "damaged size" in capsys.readouterr().out
    with pytest.raises(ValueError, match="1048575 bytes instead of 1048576"):
        locate("toy")
    assert run("verify") == 1


def test_a_damaged_record_is_one_error(unknown, capsys):
    unknown.parents[1].mkdir()
    for content in ("{", "[]", '{"files": {"a": {"sha256": 1, "bytes": 2}}}'):
        (unknown.parents[1] / "hashes.json").write_text(content)
        assert "hashes.json is damaged" in refused(capsys, "list")


def test_an_empty_folder_has_nothing_to_verify(toy, root, capsys):
    assert run("verify") == 0
    assert str(root) in capsys.readouterr().out


# Places and names


def test_the_place_is_the_key_then_the_environment_then_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("LAYERSYNC_WEIGHTS", str(tmp_path / "environment"))
    assert weights_root(str(tmp_path / "key")) == tmp_path / "key"
    assert weights_root(None) == tmp_path / "environment"
    monkeypatch.delenv("LAYERSYNC_WEIGHTS")
    assert weights_root(None) == Path.home() / ".cache" / "layersync" / "weights"
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file"):
        weights_root(str(tmp_path / "file"))


def test_another_folder_on_the_command_line(toy, tmp_path, capsys):
    other = tmp_path / "other"
    with pytest.raises(ValueError, match=f"fetch toy --weights-dir {other}`.*add toy FILE --weights-dir {other}`"):
        locate("toy", other)
    assert run("fetch", "toy", "--weights-dir", other) == 0
    assert locate("toy", other) == other / "toy" / "weights.pth"
    assert not toy.exists()


def test_an_unknown_name_lists_the_names(root, capsys):
    for command in (["fetch", "incepton"], ["add", "incepton", "x"], ["verify", "incepton"]):
        message = refused(capsys, *command)
        assert "incepton" in message and "inception, " in message and "clap-music" in message
    with pytest.raises(ValueError, match="names: inception"):
        locate("incepton")


def forbidden(*args, **kwargs):
    raise AssertionError("the network is touched")


def test_locate_fetches_nothing(root, monkeypatch):
    monkeypatch.setattr(socket, "socket", forbidden)
    monkeypatch.setattr(socket, "create_connection", forbidden)
    for entry in REGISTRY:
        with pytest.raises(ValueError) as caught:
            locate(entry.name)
        message, first = str(caught.value), entry.files[0]
        assert "\n" not in message
        for part in (first.path, first.url, root / entry.name / first.path, f"add {entry.name}"):
            assert str(part) in message
        assert (f"fetch {entry.name}`" in message) != all(file.by_hand for file in entry.files)
    assert not root.exists()


def test_a_list_needs_no_torch(root):
    code = "import sys, eval.weights as w; w.main(['list']); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(REGISTRY) + 1 and "absent" in done.stdout


# The registry


@pytest.mark.parametrize("entry", REGISTRY, ids=lambda entry: entry.name)
def test_every_entry_is_complete(entry):
    for text in (entry.title, entry.licence, entry.used_by):
        assert text.strip() and "|" not in text
    assert re.fullmatch("[a-z0-9-]+", entry.name) and entry.origin.startswith("https://")
    assert entry.files and (entry.kind == "directory") == (len(entry.files) > 1)
    assert (entry.repository is None) == (entry.revision is None)
    for file in entry.files:
        assert file.url.startswith("https://")
        assert file.sha256 is None or re.fullmatch("[0-9a-f]{8,64}", file.sha256)
        assert file.size is None or file.size > 0
        assert not Path(file.path).is_absolute() and ".." not in Path(file.path).parts
        if entry.repository:
            assert re.fullmatch("[0-9a-f]{40}", entry.revision)
            assert file.url.startswith(f"https://huggingface.co/{entry.repository}/resolve/{entry.revision}/")
            assert entry.remote_path(file).endswith(file.path)
    if any(file.by_hand for file in entry.files):
        assert "unpack" in entry.notes


def test_names_and_places_are_unique():
    names = [entry.name for entry in REGISTRY]
    places = [f"{entry.name}/{file.path}" for entry in REGISTRY for file in entry.files]
    assert len(set(names)) == len(names) and len(set(places)) == len(places)
    hashes = [
        file.sha256 for entry in REGISTRY for file in entry.files if file.known and not entry.name.startswith("wan")
    ]
    assert len(set(hashes)) == len(hashes)


def test_what_the_papers_need_is_there():
    needed = {"inception", "dinov2", "clap-music", "clap-audio", "vggish", "i3d", "t2m-evaluators", "sd-vae-ema"}
    assert needed | {"stable-audio-vae", "wan", "wan-vae"} <= {entry.name for entry in REGISTRY}


def test_the_page_is_the_registry(root, capsys):
    assert run("table") == 0
    table = capsys.readouterr().out
    page = (ROOT / "docs" / "weights.md").read_text()
    assert table in page, "python -m eval.weights table prints what docs/weights.md holds"
    told = page.split("## Licences")[1]
    for entry in REGISTRY:
        assert f"`{entry.name}`" in told, f"the licence of {entry.name} has no sentence"
