"""Which code and which config made a file: for checkpoints, records and benchmarks."""

from __future__ import annotations

import functools
import hashlib
import json
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def json_sha256(value: Any) -> str:
    """Hex SHA-256 of a JSON value, a resolved config for one, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


@functools.cache
def code_version() -> dict[str, Any]:
    """Version of the package, commit of the source tree and whether files differ from it; nulls without git."""
    try:
        version = metadata.version("layersync")
    except metadata.PackageNotFoundError:
        version = None
    commit, changes = git("rev-parse", "HEAD"), git("status", "--porcelain", "--untracked-files=no")
    return {"version": version, "commit": commit, "dirty": None if changes is None else bool(changes)}


def git(*arguments: str) -> str | None:
    """What git says of our source tree, which is not written to; None without git, or outside a repository of ours."""
    if not (ROOT / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
