"""A server of weights and what goes wrong with it; a registry of one toy, and the command on it."""

import hashlib
import http.server
import re
import threading

import pytest

from eval.published.entry import WeightsEntry
from eval.weights import main

DATA = bytes(range(256)) * 4096  # 1 MiB
SHA256 = hashlib.sha256(DATA).hexdigest()
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


def entry_of(*files, kind="file", **others):
    words = {"title": "Toy", "licence": "MIT", "used_by": "tests", "origin": "https://example.org"} | others
    return WeightsEntry(name="toy", kind=kind, files=files, **words)


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
    part.parent.mkdir(parents=True, exist_ok=True)
    part.write_bytes(DATA[:size])
    if tag is not None:
        part.with_name(part.name + ".tag").write_text(tag)
    return part


def folder_of(place):
    return sorted(path.name for path in place.parent.iterdir())


def forbidden(*args, **kwargs):
    raise AssertionError("the network is touched")
