"""Values as words of a command line, `key=value` in hydra's grammar, and back: what is written is what is read."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

KEY = re.compile(r"[+~]{0,2}[\w$@/.:-]+", re.ASCII)
QUOTED = ("[", "{", "(", "'", '"')  # beginnings of values that are no plain text
PLAIN = re.compile(r"[\w./+-]+", re.ASCII)
ESCAPED = re.compile(r"([\\()\[\]{}:=,\s])")  # in a key inside a value


def override(key: str, value: Any) -> str:
    """`key=value` as hydra reads it back: text as text, whatever it looks like, numbers, lists and mappings.

    Raises ValueError for a value that no command line can hold.
    """
    return f"{key}={_word(key, value)}"


def read_overrides(words: Sequence[str]) -> dict[str, Any]:
    """key -> value of overrides, as hydra reads the values; a key keeps its + or ++.

    Raises ValueError for a word that is no such override, deletes a key, gives several values or points to another key.
    """
    values = {}
    for word in words:
        try:
            parsed = OverridesParser.create().parse_override(word)
            if parsed.is_delete() or parsed.is_sweep_override():
                raise ValueError(f"{word!r} is no key=value with one value")
            sign = "+" if parsed.is_add() else "++" if parsed.is_force_add() else ""
            values[sign + parsed.key_or_group] = _read(parsed.value())
        except (HydraException, OmegaConfBaseException) as error:
            raise ValueError(f"{word!r} is no key=value: {str(error).partition(chr(10))[0]}") from error
    return values


def check_words(words: Sequence[str]) -> None:
    """Raises ValueError for a word that hydra does not take for an override, saying how a text is quoted."""
    for word in words:
        key, sign, value = word.partition("=")
        try:
            OverridesParser.create().parse_override(word)
        except HydraException as error:
            if not sign or word.startswith("-") or not KEY.fullmatch(key):
                raise ValueError(f"{word!r} is no key=value; --help shows the keys") from error
            said = str(error).partition("\n")[0]
            quotes = f"{key}={_quoted(value)}"
            how = f"; text stands in quotes: {shlex.quote(quotes)} in a shell" if value[:1] not in QUOTED else ""
            if value.startswith("~/"):  # no shell expands it there, and quotes would make it a folder's name
                how = f"; needed: {key}=$HOME{value[1:]} in a shell"
            raise ValueError(f"{word!r} is no key=value ({said}){how}") from error


def _word(key: str, value: Any) -> str:
    """A value; text that hydra reads as text stands without quotes, as a person would write it."""
    if isinstance(value, str) and PLAIN.fullmatch(value) and _parsed(value) == value:
        return value
    return _literal(key, value)


def _literal(key: str, value: Any) -> str:
    if isinstance(value, str):
        return _quoted(value)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(key, name)}: {_literal(key, each)}" for name, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_literal(key, each) for each in value) + "]"
    raise ValueError(f"{key} is {value!r} of type {type(value).__name__}; needed: text, numbers, lists or mappings")


def _quoted(text: str) -> str:
    if text == "???":  # OmegaConf's word for what has to be given; by way of an interpolation it is text
        return "${oc.decode:\"'???'\"}"
    escaped = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)  # no interpolation
    return QuotedString(escaped, Quote.double).with_quotes()


def _key(key: str, name: Any) -> str:
    """A key of a mapping inside a value; there, hydra takes no quotes."""
    words = [name, ESCAPED.sub(r"\\\1", name)] if isinstance(name, str) else [_literal(key, name)]
    for word in words:
        read = _parsed(f"{{{word}: 0}}")
        if isinstance(read, dict) and list(read) == [name] and type(next(iter(read))) is type(name):
            return word
    raise ValueError(f"{key} holds the key {name!r}, which no command line can; needed: a word")


def _parsed(word: str) -> Any:
    """What hydra reads of the value `word`, None where that is nothing; text in quotes as it is there."""
    try:
        return OverridesParser.create().parse_override(f"key={word}").value()
    except HydraException:
        return None


def _read(value: Any) -> Any:
    """A parsed value without quotes and interpolations; those of no other key are followed."""
    if isinstance(value, QuotedString):
        value = value.text
    if isinstance(value, str):
        return OmegaConf.to_container(OmegaConf.create({"": value}), resolve=True)[""] if "${" in value else value
    if isinstance(value, list):
        return [_read(each) for each in value]
    if isinstance(value, dict):
        return {name: _read(each) for name, each in value.items()}
    return value
