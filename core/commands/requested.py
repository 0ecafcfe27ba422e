"""What samples are asked to be on the command line: classes, a set of tags, or texts.

Each kind of conditioning has its key: labels, tags, prompts. A domain's sampling config has those that its models take.
"""

from __future__ import annotations

from typing import Any

from core.commands.sample import SamplingOptions, in_a_name
from core.conditioning.labels import LabelConditioning, LabelConfig, by_name
from core.conditioning.tags import TagConditioning, TagsConfig
from core.conditioning.texts import TextConditioning, TextConfig
from core.contracts import Condition
from core.storage.checkpoint import State

KINDS = {
    "labels": LabelConditioning,
    "tags": TagConditioning,
    "prompts": TextConditioning,
}  # by the key that asks for them


def check_requested(config: SamplingOptions) -> None:
    """Raises ValueError where samples are asked for in two ways, or by an empty list."""
    given = [key for key in KINDS if getattr(config, key, None) is not None]
    if len(given) > 1:
        raise ValueError(f"{' and '.join(given)} are given; samples are asked for by one of them")
    for key in given:
        if getattr(config, key) == []:
            raise ValueError(f"{key} is empty; give one or more, or null")


def requested(config: SamplingOptions) -> tuple[str, list[int | str]] | None:
    """The key that says what samples are to be, and its values as a list; None: the model's own rule says it."""
    for key in KINDS:
        wanted = getattr(config, key, None)
        if wanted is not None:
            return key, wanted if isinstance(wanted, list) else [wanted]
    return None


def request_name(config: SamplingOptions, class_names: list[str]) -> str:
    """What is asked for as a part of a folder's name: all, labels_piano-flute."""
    asked = requested(config)
    if asked is None:
        return "all"
    key, wanted = asked
    return f"{key}_{in_a_name(by_name(wanted, class_names) if key == 'labels' else wanted)}"


def requested_conditions(config: SamplingOptions, conditioning: Any) -> Condition:
    """Conditions (num, ...) of the samples to make; ValueError for a kind that the model does not take."""
    asked = requested(config)
    if asked is None:
        return conditioning.requests(config.num, config.seed)
    key, wanted = asked
    if not isinstance(conditioning, KINDS[key]):
        takes = next((name for name, kind in KINDS.items() if isinstance(conditioning, kind)), "none of them")
        value = getattr(config, key)
        raise ValueError(f"{key} is {value!r}, but the model knows other conditions; it takes: {takes}")
    return conditioning.named(wanted, config.num)


def request_entries(config: SamplingOptions, of_model: Any, class_names: list[str]) -> dict[str, Any]:
    """The protocol's entry for conditions; of_model: the config of the model's own conditioning."""
    asked = requested(config)
    if asked is not None:
        value = getattr(config, asked[0])
        return {asked[0]: by_name(value, class_names) if asked[0] == "labels" else value}
    if isinstance(of_model, LabelConfig):
        return {"labels": of_model.labels}
    if isinstance(of_model, TagsConfig):
        return {"tags": of_model.requests}
    return {"prompts": list(of_model.prompts)} if isinstance(of_model, TextConfig) else {}


def requested_texts(config: SamplingOptions, conditioning: Any) -> list[str]:
    """The text behind each of the samples; [] for a model that takes none."""
    if not isinstance(conditioning, TextConditioning):
        return []
    texts = config.prompts or conditioning.config.prompts
    return [texts[number % len(texts)] for number in range(config.num)]


def unnamed_classes(conditioning: Any, null_label: bool, state: State, source: str) -> list[str]:
    """Numbers for the classes or tags of saved weights that come without names.

    conditioning  its config; null_label: whether the table of classes has a row for none

    Raises ValueError for weights without a table.
    """
    if not isinstance(conditioning, LabelConfig | TagsConfig):
        return []
    table = state.get("y_embedder.embedding_table.weight")
    if table is None:
        raise ValueError(f"{source} is of another architecture than the configured backbone: it has no table of labels")
    null_row = isinstance(conditioning, TagsConfig) or null_label
    return [str(number) for number in range(len(table) - null_row)]
