"""The YAML files behind a command: those that its command line chooses, and the keys that only look like a choice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from core.commands.overrides import read_overrides
from core.storage.yaml_files import load_yaml


def key_of(word: str) -> str:
    """The key of an override, without hydra's signs."""
    return word.partition("=")[0].lstrip("+~")


def own_values(config_module: str, config_name: str) -> set[str]:
    """Keys that the command's own file gives a value although there is a group of that name.

    hydra takes `tokenizer=...` for the choice of a group wherever there is one, whatever the file says of the key.
    """
    folders = _folders(config_module)
    file = folders[-1].joinpath(f"{config_name}.yaml")
    keys = (load_yaml(file) or {}) if file.is_file() else {}
    return {key for key in keys if _is_group(str(key), folders)}


def default_groups(config_module: str, config_name: str) -> set[str]:
    """The groups in the defaults list of the command's own file, those whose default is no file among them."""
    file = _folders(config_module)[-1].joinpath(f"{config_name}.yaml")
    content = load_yaml(file) if file.is_file() else {}
    return {str(name) for entry in (content or {}).get("defaults", []) if isinstance(entry, dict) for name in entry}


def check_chosen(config_module: str, overrides: Sequence[str]) -> None:
    """Raises ValueError naming the file that the overrides choose and that is no YAML of keys and values.

    hydra reads it without a look at what it grows to.
    """
    searched = read_overrides([word for word in overrides if key_of(word) == "hydra.searchpath"]).values()
    places = [place for each in searched if isinstance(each, list) for place in each]
    folders = [*_folders(config_module), *(Path(str(place).removeprefix("file://")) for place in places)]
    for file in _chosen(folders, overrides):
        content = load_yaml(file)
        if content is not None and not isinstance(content, dict):
            raise ValueError(f"{file} holds no keys and values, which a config file does")


def _chosen(folders: Sequence[Any], overrides: Sequence[str]) -> Iterator[Path]:
    """The files of the groups' choices on a command line; ValueError for a choice that is no name."""
    for word in overrides:
        if word.startswith("~") or not _is_group(key_of(word), folders):
            continue
        for value in read_overrides([word]).values():
            for name in value if isinstance(value, list) else [value]:
                if name is None or isinstance(name, int | float):
                    key = key_of(word)
                    raise ValueError(f"{word!r} chooses no file; needed: {key}=NAME, of those that --help shows")
                files = (Path(str(folder), key_of(word), f"{name}.yaml") for folder in folders)
                yield from (file for file in files if file.exists())


def _folders(config_module: str) -> list[Any]:
    return [resources.files(module) for module in ("core.conf", config_module)]


def _is_group(key: str, folders: Sequence[Any]) -> bool:
    return bool(key) and any(folder.joinpath(key).is_dir() for folder in folders)
