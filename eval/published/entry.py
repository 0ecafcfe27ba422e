"""An entry of the registry of published weights: its files, their hashes and sizes, its terms."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

HUB = "https://huggingface.co"
Kind = Literal["file", "directory"]


@dataclass(frozen=True)
class WeightsFile:
    """One file of an entry.

    path     below the entry's folder, with slashes
    url      where it comes from: the file, or with by_hand the page
    sha256   hex, or its first digits; None: unknown
    size     bytes; None: unknown
    by_hand  no program can fetch it (a page of a drive, an archive to unpack)
    """

    path: str
    url: str
    sha256: str | None = None
    size: int | None = None
    by_hand: bool = False

    @property
    def known(self) -> bool:
        """Whether the whole hash is published."""
        return self.sha256 is not None and len(self.sha256) == 64


@dataclass(frozen=True, kw_only=True)
class WeightsEntry:
    """Weights under one name.

    kind        "file", or "directory": several files, as diffusers and transformers read them or as published
    files       all that is needed
    licence     of the weights, as far as it is stated
    used_by     what reads them
    origin      page that tells about them
    notes       what must be known to get or to use them
    repository  hub repository, which huggingface_hub fetches where it is installed
    revision    its commit
    gated       the repository asks for an agreement and a token
    """

    name: str
    title: str
    kind: Kind
    files: tuple[WeightsFile, ...]
    licence: str
    used_by: str
    origin: str
    notes: str = ""
    repository: str | None = None
    revision: str | None = None
    gated: bool = False

    @property
    def size(self) -> int | None:
        """Bytes of all files; None where one is unknown."""
        sizes = [file.size for file in self.files]
        return None if None in sizes else sum(sizes)

    def remote_path(self, file: WeightsFile) -> str:
        """The path of a file in the hub repository."""
        return file.url.split(f"/resolve/{self.revision}/", 1)[1]


HubFile = tuple[str, str | None, int | None]  # path, SHA-256, bytes


def hub_files(repository: str, revision: str, facts: Iterable[HubFile], subfolder: str = "") -> tuple[WeightsFile, ...]:
    """Files of a hub repository; below `subfolder` there, at the top of the folder here."""
    base = f"{HUB}/{repository}/resolve/{revision}/{subfolder}"
    return tuple(WeightsFile(path, base + path, sha256, size) for path, sha256, size in facts)


def shards(stem: str, facts: list[tuple[str, int]]) -> list[HubFile]:
    """The parts of one set of weights, as they are named on the hub."""
    return [
        (f"{stem}-{number:05d}-of-{len(facts):05d}.safetensors", sha256, size)
        for number, (sha256, size) in enumerate(facts, 1)
    ]
