"""What a checkpoint remembers of its run beside tensors: what it was made with and by, and whether that is still so."""

from __future__ import annotations

import datetime
import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from core.contracts import Domain
from core.data.stream import fingerprint
from core.processes.sharding import whole
from core.processes.world import World
from core.schema import plain
from core.storage.checkpoint import DamagedError
from core.storage.lines import JsonLines
from core.storage.provenance import code_version, json_sha256
from core.storage.weights import frozen_names
from core.train.config import RunConfig
from core.train.tracking import SESSIONS

log = logging.getLogger(__name__)

# Notes that a run cannot go on without, and what each is.
KINDS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("seconds", "wall_seconds"), (int, float)),
    **dict.fromkeys(("loss_scale", "tokenizer", "data", "config", "code"), dict),
    **{"domain": str, "torch": str, "skipped_steps": int},
}
LOSS_SCALE = {"scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker"}
FACTS = {"lines": int, "bytes": int, "sha256": str}  # of a record


def check_kinds(notes: Mapping[str, Any]) -> None:
    """Raises DamagedError unless the notes have everything that a run reads to go on; older ones know no records."""
    wrong = [name for name, kind in KINDS.items() if not isinstance(notes.get(name), kind)]
    if notes.get("loss_scale") and not notes["loss_scale"].keys() >= LOSS_SCALE:
        wrong.append("loss_scale")
    records = notes.get("records", {})
    if not isinstance(records, dict) or not all(map(_is_facts, records.values())):
        wrong.append("records")
    if wrong:
        raise DamagedError(f"notes.{wrong[0]} is {notes.get(wrong[0])!r}")


class RunNotes:
    """The notes of one run in one process; `counters` of the loop are merged into them."""

    def __init__(self, config: RunConfig, domain: Domain, world: World):
        self.config, self.domain, self.world = config, domain, world
        self.frozen = frozen_sha256(domain.backbone)

    def written(self, counters: Mapping[str, Any]) -> dict[str, Any]:
        """All notes of a checkpoint, JSON values."""
        config, domain = plain(self.config), self.domain
        notes = {
            "domain": domain.name,
            **counters,
            "tokenizer": domain.tokenizer.constants(),
            "data": fingerprint(domain.dataset),
            "class_names": list(domain.dataset.class_names),
            "config": config,
            "config_sha256": json_sha256(config),
            "code": code_version(),
            "torch": torch.__version__,
            "processes": self.world.size,
        }
        return notes if self.frozen is None else {**notes, "frozen_sha256": self.frozen}

    def check(self, path: Path, notes: Mapping[str, Any]) -> None:
        """Raises ValueError unless tokenizer, data and frozen weights are what they were; a change of code is told."""
        now = json.loads(json.dumps(self.domain.tokenizer.constants()))
        if _without_path(notes["tokenizer"]) != _without_path(now):
            raise ValueError(f"{path} was made with another tokenizer: {notes['tokenizer']}, now {now}")
        data = fingerprint(self.domain.dataset)
        allowed = {"data", "data.root"} & set(self.config.allow_changes)
        if notes["data"] != json.loads(json.dumps(data)) and not allowed:
            raise ValueError(
                f"{path} was made with other data: {notes['data']}, now {data}; allow_changes=[data.root] goes on"
            )
        before = notes.get("frozen_sha256")
        if before != self.frozen:
            raise ValueError(f"{path} was made on other frozen weights: SHA-256 {before}, now {self.frozen}")
        if notes["code"] != code_version():
            log.warning("%s was made by code %s, this is %s", path.name, notes["code"], code_version())
        if notes["torch"] != torch.__version__:
            log.warning("%s was made with torch %s, this is %s", path.name, notes["torch"], torch.__version__)


def _is_facts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(value.get(name), kind) for name, kind in FACTS.items())


def frozen_sha256(model: nn.Module) -> str | None:
    """SHA-256 over names and values of the parameters that are not trained, None where all are: they are not saved."""
    frozen = frozen_names(model)
    if not frozen:
        return None
    digest, state = hashlib.sha256(), model.state_dict()
    for name in sorted(frozen):
        digest.update(name.encode())
        value = whole(state[name]).detach().cpu().contiguous()
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _without_path(constants: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in constants.items() if key != "path"}


def note_session(folder: Path, step: int, config: RunConfig, world: World) -> JsonLines:
    """Append a line to sessions.jsonl: where a session begins, on what, with which config and code; all its lines."""
    line = {
        "step": step,
        "begun": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": str(world.device),
        "processes": world.size,
        "config_sha256": json_sha256(plain(config)),
        "code": code_version(),
        "torch": torch.__version__,
    }
    sessions = JsonLines(folder / SESSIONS, config.trainer.steps)
    sessions.write(line)
    return sessions
