"""Weights over the network, asked for by name: with progress, resumed where they broke off, verified before they count.

A download grows in `<file>.part`; what names its version at the server (ETag) lies beside it as `<file>.part.tag`, so
that two versions are never joined. Only what has the right size and hash gets the file's name.
"""

from __future__ import annotations

import fcntl
import http.client
import os
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from eval.published.entry import HUB, WeightsEntry, WeightsFile
from eval.published.store import Recorded, add_command, check, commands, expected_file, place, record

CHUNK = 1 << 20
TIMEOUT = 30  # seconds without a byte
STAGE = ".hub"
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
Show = Callable[[str], None]


def fetch(entry: WeightsEntry, root: Path, show: Show) -> None:
    """Put the files of an entry that are not there, or not what they should be, into their place.

    show  takes a line for each file

    Raises ValueError, one message, for what cannot be reached, broke off, or is not what it should be.
    """
    lacking = [file for file in entry.files if not _present(entry, file, root, show)]
    automatic = [file for file in lacking if not file.by_hand]
    if _offline() and any(file.url.startswith(f"{HUB}/") for file in automatic):
        raise _unreachable(entry, automatic[0], root, f"{' or '.join(OFFLINE)} forbids it")
    if automatic and not (entry.repository and _from_hub(entry, automatic, root)):
        for file in automatic:
            _download(entry, file, root)
    for file in automatic:
        show(f"fetched  {place(entry, file, root)}")
    hand = [file for file in lacking if file.by_hand]
    if hand:
        files = "; ".join(expected_file(entry, file, root) for file in hand)
        raise ValueError(f"no program can fetch some of '{entry.name}': {files}; {add_command(entry, root)}")


def _offline() -> bool:
    """Whether the hub's own variables forbid the network."""
    return any(os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE") for name in OFFLINE)


def _present(entry: WeightsEntry, file: WeightsFile, root: Path, show: Show) -> bool:
    path = place(entry, file, root)
    if not path.is_file():
        return False
    try:
        sha256 = check(path, entry, file, Recorded.load(root))
    except ValueError as error:
        show(f"damaged  {error}")
        return False
    record(entry, file, root, sha256)
    show(f"present  {path}")
    return True


def _unreachable(entry: WeightsEntry, file: WeightsFile, root: Path, reason: object) -> ValueError:
    """The one message when something cannot be had: which file from where goes to which place."""
    others = f", with its {len(entry.files) - 1} other files" if len(entry.files) > 1 else ""
    what = f"{expected_file(entry, file, root)}{others}"
    return ValueError(f"could not fetch '{entry.name}' ({reason}): {what}; {commands(entry, root)}")


def _accept(path: Path, entry: WeightsEntry, file: WeightsFile, root: Path) -> None:
    """Give a complete download its name; a wrong one is removed."""
    try:
        sha256 = check(path, entry, file, Recorded.load(root), source=f"what {file.url} gave")
    except ValueError:
        path.unlink()
        raise
    destination = place(entry, file, root)
    destination.parent.mkdir(parents=True, exist_ok=True)
    path.replace(destination)
    record(entry, file, root, sha256)


# Plain files


@dataclass(frozen=True)
class Answer:
    """The answer of a server: where its bytes begin, how many the whole has, which version it is."""

    start: int
    total: int | None
    tag: str | None
    body: http.client.HTTPResponse


class RestartError(Exception):
    """The server cannot go on where the download broke off."""


class _NoDowngrade(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but not from https to something that anybody can change on the way."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        """Redirect as urllib does, refusing a step from https to another scheme."""
        if req.full_url.startswith("https:") and not newurl.startswith("https:"):
            raise urllib.error.URLError(f"redirected from https to {newurl}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _download(entry: WeightsEntry, file: WeightsFile, root: Path) -> None:
    destination = place(entry, file, root)
    part = destination.with_name(destination.name + ".part")
    tag = part.with_name(part.name + ".tag")
    part.parent.mkdir(parents=True, exist_ok=True)
    with _exclusive(part) as output:
        try:
            try:
                _transfer(entry, file, output, tag, root)
            except RestartError:
                output.truncate(0)
                _transfer(entry, file, output, tag, root)
        except urllib.error.HTTPError as error:
            raise _unreachable(entry, file, root, _refusal(entry, error)) from error
        except (OSError, http.client.HTTPException, RestartError) as error:
            raise _unreachable(entry, file, root, getattr(error, "reason", None) or error) from error
        output.flush()
        os.fsync(output.fileno())
        tag.unlink(missing_ok=True)
        _accept(part, entry, file, root)


@contextmanager
def _exclusive(part: Path) -> Iterator[BinaryIO]:
    """The part file, open to go on, gone if it stayed empty; ValueError when another process is writing it."""
    with part.open("ab") as output:
        try:
            fcntl.flock(output, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"another process is fetching {part}") from error
        try:
            yield output
        finally:
            if part.exists() and part.stat().st_size == 0:
                part.unlink()


def _refusal(entry: WeightsEntry, error: urllib.error.HTTPError) -> str:
    if error.code in (401, 403) and entry.gated:
        return f"HTTP {error.code}: agree to the licence at {entry.origin} and set HF_TOKEN"
    return f"HTTP {error.code} {error.reason}"


def _transfer(entry: WeightsEntry, file: WeightsFile, output: BinaryIO, tag: Path, root: Path) -> None:
    """Append what is missing; ValueError when the server's file has another size, OSError when it breaks off."""
    start = os.fstat(output.fileno()).st_size
    version = tag.read_text() if tag.exists() else None
    if start and not file.known and version is None:
        raise RestartError("which version the begun file is of was not written down")
    answer = _ask(file, entry, start, version) if start == 0 or start != file.size else None
    if answer is None:
        return  # it is complete
    with answer.body as body:
        if answer.start != start:
            output.truncate(0)
        _check_announced(entry, file, answer, tag.parent, root)
        if answer.tag:
            tag.write_text(answer.tag)
        else:
            tag.unlink(missing_ok=True)
        size = _copy(body, output, answer, file.path)
    if answer.total is not None and size != answer.total:
        raise OSError(f"broke off after {size} of {answer.total} bytes; the same command goes on from there")


def _ask(file: WeightsFile, entry: WeightsEntry, start: int, version: str | None) -> Answer | None:
    """Ask for the bytes from `start` on; a server that ignores this begins at 0. None: there are no more."""
    request = urllib.request.Request(file.url, headers={"User-Agent": "layersync"})
    if start:
        request.add_header("Range", f"bytes={start}-")
        if version is not None:
            request.add_header("If-Range", version)
    if entry.gated and os.environ.get("HF_TOKEN"):
        request.add_unredirected_header("Authorization", f"Bearer {os.environ['HF_TOKEN']}")
    try:
        body = urllib.request.build_opener(_NoDowngrade).open(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and error.headers.get("Content-Range") == f"bytes */{start}":
            return None
        if error.code == 416 and start:
            raise RestartError(f"HTTP 416 for the bytes from {start} on") from error
        raise
    etag = body.headers.get("ETag")
    strong = etag if etag and not etag.startswith("W/") else None
    length = body.headers.get("Content-Length")
    if body.status != 206:
        return Answer(0, int(length) if length else None, strong, body)
    span = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", body.headers.get("Content-Range", ""))
    if not start or span is None or int(span[1]) != start:
        body.close()
        raise RestartError(f"asked for the bytes from {start} on, got '{body.headers.get('Content-Range')}'")
    return Answer(start, int(span[2]), strong, body)


def _check_announced(entry: WeightsEntry, file: WeightsFile, answer: Answer, folder: Path, root: Path) -> None:
    """Check before the bytes that it is no web page, has the right size, and fits on the disk."""
    kind = answer.body.headers.get("Content-Type", "")
    if kind.startswith("text/html"):
        raise OSError("the server answered with a web page instead of the file")
    expected = Recorded.load(root).size(entry, file)
    if None not in (expected, answer.total) and answer.total != expected:
        raise ValueError(f"what {file.url} gives is not {entry.name}/{file.path}: {answer.total} bytes, not {expected}")
    free = shutil.disk_usage(folder).free
    if answer.total is not None and answer.total - answer.start > free:
        raise OSError(f"it needs {answer.total - answer.start} bytes, the disk has {free}")


def _copy(body: http.client.HTTPResponse, output: BinaryIO, answer: Answer, name: str) -> int:
    """The body's bytes into the file; how many the file then has."""
    shown = {"unit": "B", "unit_scale": True, "unit_divisor": 1024, "dynamic_ncols": True}
    size = answer.start
    with tqdm(desc=Path(name).name, total=answer.total, initial=size, **shown) as bar:
        while block := body.read1(CHUNK if answer.total is None else min(CHUNK, answer.total - size)):
            size += output.write(block)
            output.flush()  # so that a killed process has lost nothing
            bar.update(len(block))
    return size


# Hub repositories


def _from_hub(entry: WeightsEntry, files: list[WeightsFile], root: Path) -> bool:
    """Fetch by huggingface_hub at the fixed revision; False where it is not installed: then as plain files.

    What is half done waits in a folder of its own and is gone on with.
    """
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import GatedRepoError, HTTPError
    except ImportError:
        return False
    stage = root / STAGE / entry.name
    names = {file: entry.remote_path(file) for file in files}
    where = {"revision": entry.revision, "local_dir": stage, "allow_patterns": list(names.values())}
    try:
        snapshot_download(entry.repository, **where)
    except GatedRepoError as error:
        reason = f"it is gated: agree to the licence at {entry.origin} and set HF_TOKEN"
        raise _unreachable(entry, files[0], root, reason) from error
    except (OSError, ValueError, RuntimeError, HTTPError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise _unreachable(entry, files[0], root, reason) from error
    for file, name in names.items():
        if not (stage / name).is_file():  # the hub library is content with what an earlier call left
            raise _unreachable(entry, file, root, "the hub gave no such file, or could not be reached")
        _accept(stage / name, entry, file, root)
    shutil.rmtree(stage, ignore_errors=True)
    with suppress(OSError):
        stage.parent.rmdir()
    return True
