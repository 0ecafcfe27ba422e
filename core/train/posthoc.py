"""Averages of any width after training, from snapshots of power-function averages (arXiv 2312.02696, section 3.2).

A snapshot of width w_i at step n_i is a weighted sum of the weights of all steps k, with the profile
p_i(k) = (gamma_i + 1) k^gamma_i / n_i^(gamma_i + 1) for k <= n_i. The sum of snapshots with coefficients x_i has the
profile sum_i x_i p_i; the x that bring it nearest, in L2 over k, to the wanted profile solve A x = b, with the inner
products of the snapshots' profiles among themselves in A and with the wanted one in b (Algorithm 3).

A snapshot is one file `step_00001000_width0.05.safetensors` with the keys of the model's state dict, written whole or
not at all; its metadata tell step and width, which keys are buffers, and the SHA-256 of its tensors.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from core.storage.checkpoint import State
from core.train.ema import check_width, label, power_exponent

SCHEMA_VERSION = 1
NAME = re.compile(r"step_(\d{8,})_width([\d.e+-]+)\.safetensors")
# Of the largest inner product, added to each snapshot's own: profiles that are all but equal get bounded coefficients.
RIDGE = 1e-12


@dataclass(frozen=True)
class Snapshot:
    """One file: the average of relative `width` after `step`; `buffers` are the keys that were not averaged."""

    path: Path
    step: int
    width: float
    buffers: frozenset[str]
    sha256: str


@dataclass(frozen=True)
class Reconstruction:
    """How an average was made: of how many snapshots, and how well.

    residual: L2 distance between the profile that was reached and the wanted one, relative to the wanted one's norm.
    total: sum of the coefficients, which is 1 where the residual is 0.
    """

    step: int
    width: float
    snapshots: int
    residual: float
    total: float


def save_snapshot(
    folder: Path,
    step: int,
    groups: Mapping[str, Mapping[str, Tensor]],
    widths: Mapping[str, float],
    averaged: Iterable[str],
) -> list[Path]:
    """Write the averages named in `widths` (group name to relative width) after `step`, a file each.

    groups: whole tensors by group and by key of the model's state dict. averaged: the keys that are no buffers.
    `EMA.widths` and `EMA.averaged` are both. A file of the same step and width is replaced. Raises OSError when a file
    cannot be written; those written before stay.
    """
    folder, averaged, paths = Path(folder), set(averaged), []
    folder.mkdir(parents=True, exist_ok=True)
    for group, width in widths.items():
        path = folder / f"step_{step:08d}_width{label(width)}.safetensors"
        buffers = sorted(groups[group].keys() - averaged)
        _write(path, groups[group], {"step": step, "width": width, "buffers": buffers})
        paths.append(path)
    return paths


def drop_snapshots(folder: Path, after: int) -> None:
    """Remove the snapshots of steps beyond `after`: a run that starts again from there makes its own."""
    for path in _files(Path(folder)):
        if int(NAME.fullmatch(path.name)[1]) > after:
            path.unlink()


def save_reconstruction(path: Path, state: State, facts: Reconstruction) -> Path:
    """Write a reconstructed average as a weights file, with `facts` in its metadata."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, state, vars(facts))
    return path


def snapshots(folder: Path) -> list[Snapshot]:
    """The snapshots in a folder by step and width; raises ValueError where there are none, or one is damaged."""
    found = [_read_facts(path) for path in _files(Path(folder))]
    if not found:
        raise ValueError(f"{folder} holds no snapshots; ema.widths and ema.snapshot_every say what a run keeps")
    return sorted(found, key=lambda snapshot: (snapshot.step, snapshot.width))


def reconstruct(folder: Path, width: float, step: int | None = None) -> tuple[State, Reconstruction]:
    """The average of relative `width` after `step` (the last snapshot's by default) from the snapshots in `folder`.

    Every snapshot up to `step` is read once; in memory are the result, in float64, and one tensor. The result has the
    keys and types of the model's state dict, buffers from the newest snapshot. Raises ValueError for a width outside
    (0, 0.28], a step before the first or beyond the last snapshot, no snapshots, a damaged one, and snapshots of
    different architectures.
    """
    check_width(width, "width")
    found = snapshots(folder)
    first, last = found[0].step, found[-1].step
    step = last if step is None else step
    if not first <= step <= last:
        raise ValueError(f"step is {step}; the snapshots in {folder} allow {first} to {last}")
    used = [snapshot for snapshot in found if snapshot.step <= step]
    coefficients, residual = fit([(each.step, each.width) for each in used], step, width)
    facts = Reconstruction(step, width, len(used), residual, float(coefficients.sum()))
    return _combine(used, coefficients), facts


def fit(given: Sequence[tuple[int, float]], step: int, width: float) -> tuple[np.ndarray, float]:
    """Coefficients (I,) whose sum of profiles is nearest to the wanted profile, and the relative residual.

    given: the profiles as I pairs (step, width). Nearest is meant in L2 over the steps. A wanted profile that is among
    the given ones is taken alone.
    """
    if (step, width) in given:
        return np.array([float(pair == (step, width)) for pair in given]), 0.0
    wanted = [(step, width)]
    own, norm = inner_products(given, given), inner_products(wanted, wanted).item()
    cross = inner_products(given, wanted)[:, 0]
    scale = np.sqrt(np.diag(own))  # every profile gets norm 1: late and narrow ones are far higher than others
    system = own / np.outer(scale, scale) + RIDGE * np.eye(len(given))
    coefficients = np.linalg.solve(system, cross / scale) / scale
    square = coefficients @ own @ coefficients - 2 * coefficients @ cross + norm
    return coefficients, float(np.sqrt(max(square, 0.0) / norm))


def inner_products(rows: Sequence[tuple[int, float]], columns: Sequence[tuple[int, float]]) -> np.ndarray:
    """Integrals over k of p_i(k) p_j(k), (rows, columns), of profiles given as pairs (step, width), in float64.

    With m <= n the two steps and gamma_n the exponent of the later one, the integral from 0 to m is
    (gamma_i + 1) (gamma_j + 1) / (gamma_i + gamma_j + 1) (m / n)^gamma_n / n.
    """
    n_i, gamma_i = (np.array(each, float)[:, None] for each in _steps_and_exponents(rows))
    n_j, gamma_j = (np.array(each, float)[None] for each in _steps_and_exponents(columns))
    m, n, gamma_n = np.minimum(n_i, n_j), np.maximum(n_i, n_j), np.where(n_i > n_j, gamma_i, gamma_j)
    return (gamma_i + 1) * (gamma_j + 1) / (gamma_i + gamma_j + 1) * (m / n) ** gamma_n / n


def _steps_and_exponents(pairs: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [step for step, _ in pairs], [power_exponent(width) for _, width in pairs]


def _combine(used: Sequence[Snapshot], coefficients: np.ndarray) -> State:
    """The sum of the snapshots' tensors with `coefficients`; the newest snapshot says keys, types and buffers."""
    pairs = [pair for pair in zip(reversed(used), reversed(coefficients.tolist()), strict=True) if pair[1] != 0]
    newest, total, layout = pairs[0][0], {}, None
    for snapshot, coefficient in pairs:
        seen = {}
        for key, value in _tensors(snapshot):
            seen[key] = (value.shape, value.dtype, key in snapshot.buffers)
            if layout is not None and layout.get(key) != seen[key]:
                raise ValueError(_another(snapshot, newest, key))
            if key in newest.buffers:
                total.setdefault(key, value)
            elif key in total:
                total[key].add_(value, alpha=coefficient)
            else:
                total[key] = coefficient * value.double()
        layout = layout or seen
        for key in layout.keys() - seen.keys():
            raise ValueError(_another(snapshot, newest, key))
    return {key: total.pop(key).to(dtype) for key, (_, dtype, _) in layout.items()}


def _another(snapshot: Snapshot, newest: Snapshot, key: str) -> str:
    return f"snapshots {snapshot.path} and {newest.path} are of different architectures: they differ in '{key}'"


def _tensors(snapshot: Snapshot) -> Iterator[tuple[str, Tensor]]:
    """Keys and tensors of a file, one at a time; the sum is checked when all were taken."""
    digest = hashlib.sha256()
    with _readable(snapshot.path) as file:
        for key in sorted(file.keys()):
            value = file.get_tensor(key)
            _take(digest, key, value)
            yield key, value
    if digest.hexdigest() != snapshot.sha256:
        raise ValueError(f"snapshot {snapshot.path} is damaged: its SHA-256 differs from what was written")


def _read_facts(path: Path) -> Snapshot:
    with _readable(path) as file:
        text = (file.metadata() or {}).get("layersync")
    try:
        facts = json.loads(text)
        if facts["schema_version"] != SCHEMA_VERSION:
            raise ValueError(
                f"{path} has snapshot schema {facts['schema_version']}; this version reads {SCHEMA_VERSION}"
            )
        step, width, sha256 = facts["step"], facts["width"], facts["sha256"]
        if not (isinstance(step, int) and isinstance(width, int | float) and isinstance(sha256, str)):
            raise TypeError(f"step {step!r}, width {width!r}, sha256 {sha256!r}")
        return Snapshot(path, step, width, frozenset(facts["buffers"]), sha256)
    except (TypeError, KeyError, RecursionError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no snapshot: its metadata do not tell step and width") from error


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[safe_open]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise ValueError(f"snapshot {path} is damaged: {error}") from error


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step_*.safetensors") if NAME.fullmatch(path.name))


def _take(digest, key: str, value: Tensor) -> None:
    digest.update(key.encode())
    digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy())


def _write(path: Path, state: Mapping[str, Tensor], facts: Mapping[str, object]) -> None:
    """Write tensors with `facts` and their SHA-256 in the metadata, the file whole or not at all."""
    copies = {key: value.detach().to("cpu", copy=True).contiguous() for key, value in state.items()}  # tied are refused
    digest = hashlib.sha256()
    for key in sorted(copies):
        _take(digest, key, copies[key])
    metadata = json.dumps({"schema_version": SCHEMA_VERSION, **facts, "sha256": digest.hexdigest()})
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        save_file(copies, temporary, {"layersync": metadata})
        temporary.chmod(path.parent.stat().st_mode & 0o666)  # safetensors lets only the owner read
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except SafetensorError as error:
        raise OSError(f"{path} could not be written: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)
