"""What a clip is asked to be: a class, a set of tags, a text, or nothing.

A kind of conditioning knows how to drop and make up its conditions, and which module turns them into vectors. The null
condition of tags and texts is a row of zeros: no tag, no text. It has a learned vector of its own.

Letters: B batch, n rows, K tags or classes, E numbers of a text's embedding, D width of the backbone.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from audio.encoders.text_encoders import embed_texts
from core.conditioning.labels import LabelConditioning, LabelConfig
from core.draws import Random, numpy_rng
from core.latents.cache import LatentShards
from core.nets.layers import LabelEmbedder

NUM_NEAR = 3  # similar tags in an error


class AudioConditioning(Protocol):
    """`core.contracts.Conditioning`, and the module that the backbone embeds the conditions with."""

    def embedder(self, width: int, null: bool) -> nn.Module:
        """Conditions (B, ...) -> (B, D = width); `null` keeps a vector for the unconditional pass."""
        ...


def check_drop(drop: float) -> None:
    """Raises ValueError for a share outside [0, 1)."""
    if not 0 <= drop < 1:
        raise ValueError(f"conditioning.drop is {drop}; it must lie in [0, 1)")


@dataclass(frozen=True)
class TagsConfig:
    """Sets of tags, such as MTG-Jamendo's genres, instruments and moods.

    drop      share of the sets replaced by none in training, for guidance
    requests  which sets samples are asked for where none are named: single, one tag each, in turn; or random, one tag
              drawn for each sample
    """

    drop: float = 0.1
    requests: Literal["single", "random"] = "single"

    def __post_init__(self) -> None:
        check_drop(self.drop)


@dataclass(frozen=True)
class TextConfig:
    """Captions through a frozen text encoder, which is read from a local directory; its embeddings are cached.

    encoder    clap: the text branch of a CLAP model; t5: the mean over the tokens of a T5 encoder
    path       directory of the encoder, as transformers saves it
    drop       share of the captions replaced by none in training, for guidance
    prompts    texts that previews and evaluations are asked for, in turn
    cache_dir  where embeddings are kept
    """

    encoder: Literal["clap", "t5"]
    path: str
    prompts: list[str]
    drop: float = 0.1
    cache_dir: str = "runs/cache"

    def __post_init__(self) -> None:
        check_drop(self.drop)
        if not self.path:
            raise ValueError(f"conditioning.path is {self.path!r}; needed: the directory of the text encoder")
        if not self.prompts or not all(prompt.strip() for prompt in self.prompts):
            raise ValueError(f"conditioning.prompts is {self.prompts}; needed: one text or more, none of them empty")


@dataclass(frozen=True)
class NoneConfig:
    """Nothing: an unconditional model."""

    @property
    def drop(self) -> float:
        """There is nothing to drop."""
        return 0.0


CONDITIONINGS: dict[str, type] = {"labels": LabelConfig, "tags": TagsConfig, "text": TextConfig, "none": NoneConfig}
ConditioningConfig = LabelConfig | TagsConfig | TextConfig | NoneConfig


def condition_dataset(dataset: Any, config: ConditioningConfig, device: torch.device) -> None:
    """Give a data set of files or notes the conditions (n, ...) that `config` asks for, and their names.

    Raises ValueError, naming the config keys, for a data set that has no classes, tags or captions.
    """
    if isinstance(config, LabelConfig):
        if dataset.labels is None:
            raise ValueError(_lacks("labels", "no classes (data=folder: data.classes=folders)"))
        dataset.conditions = torch.as_tensor(dataset.labels).long()
    elif isinstance(config, TagsConfig):
        if dataset.tag_sets is None:
            raise ValueError(_lacks("tags", "no tags (data=jamendo has)"))
        dataset.conditions, dataset.class_names = torch.as_tensor(dataset.tag_sets), list(dataset.tag_names)
        dataset.labels = None
    elif isinstance(config, TextConfig):
        if dataset.captions is None:
            raise ValueError(_lacks("text", "no captions (data=folder: data.captions)"))
        dataset.conditions = _embed(config, dataset.captions, device)
        dataset.class_names, dataset.labels = [], None
    else:
        dataset.conditions, dataset.class_names = torch.zeros(len(dataset), dtype=torch.int64), []
        dataset.labels = None


def condition_cache(cache: LatentShards, config: ConditioningConfig) -> None:
    """Check that a latent cache has the conditions that `config` asks for; any cache can do without.

    Raises ValueError, naming what it was made with, for others.
    """
    if isinstance(config, NoneConfig):
        cache.conditions, cache.class_names, cache.labels = torch.zeros(len(cache), dtype=torch.int64), [], None
        return
    held = cache.conditions
    made_with = "text" if held.is_floating_point() else "tags" if held.ndim == 2 else "labels"
    if made_with == "labels" and not cache.class_names:
        made_with = "none"
    wanted = next(name for name, schema in CONDITIONINGS.items() if type(config) is schema)
    if made_with != wanted:
        raise ValueError(
            f"conditioning is {wanted!r}, but the cache {cache.root} was made with conditioning={made_with}; allowed "
            f"with it: {made_with} or none"
        )


def _lacks(name: str, what: str) -> str:
    others = ", ".join(sorted(set(CONDITIONINGS) - {name}))
    return f"conditioning is {name!r} but the data has {what}; other kinds of conditioning: {others}"


def _embed(config: TextConfig, texts: Sequence[str], device: torch.device) -> Tensor:
    return embed_texts(config.encoder, config.path, list(texts), Path(config.cache_dir), device)


def build_conditioning(config: ConditioningConfig, names: Sequence[str], device: torch.device) -> Any:
    """The conditioning for classes or tags called `names`; of texts, its prompts are embedded now."""
    if isinstance(config, LabelConfig):
        return Labels(config, names)
    if isinstance(config, TagsConfig):
        return Tags(config, names)
    if isinstance(config, TextConfig):
        return Texts(config, lambda texts: _embed(config, texts, device))
    return Unconditional()


class Labels(LabelConditioning):
    """Classes by number or name; conditions (B,) int64."""

    def __init__(self, config: LabelConfig, names: Sequence[str]):
        super().__init__(config, len(names))
        self.names = list(names)

    def embedder(self, width: int, null: bool) -> nn.Module:
        """A table of vectors."""
        return LabelEmbedder(self.num_classes, width, null_row=null)

    def named(self, wanted: Sequence[int | str], num: int) -> Tensor:
        """Labels (num,) that cycle through classes given by number or name; ValueError for an unknown one."""
        numbers = [each if isinstance(each, int) else _position(each, self.names, "labels") for each in wanted]
        return self.chosen(numbers, num)


class Tags:
    """Sets of tags as rows of zeros and ones; conditions (B, K) uint8."""

    def __init__(self, config: TagsConfig, names: Sequence[str]):
        if not names:
            raise ValueError("conditioning is 'tags' but the vocabulary is empty")
        self.config, self.names = config, list(names)

    def embedder(self, width: int, null: bool) -> nn.Module:
        """The sum of the tags' vectors over the root of their number."""
        return TagEmbedder(len(self.names), width)

    def drop(self, condition: Tensor, random: Random) -> Tensor:
        """Sets (B, K) of which a share is empty."""
        return _dropped(condition, self.config.drop, random)

    def null(self, condition: Tensor) -> Tensor:
        """No tag, for each row."""
        return torch.zeros_like(condition)

    def requests(self, num: int, seed: int) -> Tensor:
        """Sets (num, K) of one tag each."""
        count = len(self.names)
        if self.config.requests == "single":
            chosen = torch.arange(num) % count
        else:
            chosen = torch.tensor([int(numpy_rng(seed, "tag", i).integers(count)) for i in range(num)])
        return torch.nn.functional.one_hot(chosen, count).to(torch.uint8)

    def named(self, wanted: Sequence[str], num: int) -> Tensor:
        """The set of the tags `wanted`, for each of num samples (num, K); ValueError for an unknown tag."""
        row = torch.zeros(len(self.names), dtype=torch.uint8)
        row[[_position(tag, self.names, "tags") for tag in wanted]] = 1
        return row.expand(num, -1).clone()


class Texts:
    """Embeddings of captions; conditions (B, E) float32."""

    def __init__(self, config: TextConfig, embed: Callable[[Sequence[str]], Tensor]):
        self.config, self.embed = config, embed
        self._prompts = embed(config.prompts)

    def embedder(self, width: int, null: bool) -> nn.Module:
        """A small network on the embedding."""
        return VectorEmbedder(self._prompts.shape[1], width)

    def drop(self, condition: Tensor, random: Random) -> Tensor:
        """Embeddings (B, E) of which a share is zero."""
        return _dropped(condition, self.config.drop, random)

    def null(self, condition: Tensor) -> Tensor:
        """No text, for each row."""
        return torch.zeros_like(condition)

    def requests(self, num: int, seed: int) -> Tensor:
        """Embeddings (num, E) of the config's prompts, in turn."""
        return self._prompts[torch.arange(num) % len(self._prompts)]

    def named(self, wanted: Sequence[str], num: int) -> Tensor:
        """Embeddings (num, E) of the texts `wanted`, in turn."""
        return self.embed(wanted)[torch.arange(num) % len(wanted)]


class Unconditional:
    """No condition; conditions (B,) int64 of zeros, which are not looked at."""

    config = NoneConfig()

    def embedder(self, width: int, null: bool) -> nn.Module:
        """Nothing is added to the time."""
        return NothingEmbedder(width)

    def drop(self, condition: Tensor, random: Random) -> Tensor:
        """There is nothing to drop."""
        return condition

    def null(self, condition: Tensor) -> Tensor:
        """The same."""
        return condition

    def requests(self, num: int, seed: int) -> Tensor:
        """Zeros (num,)."""
        return torch.zeros(num, dtype=torch.int64)


def _dropped(condition: Tensor, share: float, random: Random) -> Tensor:
    if share == 0:
        return condition
    gone = random.uniform("condition drop", (len(condition),)) < share
    return torch.where(gone[:, None], torch.zeros_like(condition), condition)


def _position(name: str, names: Sequence[str], key: str) -> int:
    if name not in names:
        near = difflib.get_close_matches(name, names, NUM_NEAR) or list(names[:NUM_NEAR])
        raise ValueError(f"{key} has {name!r}, which the model does not know; of its {len(names)}: {', '.join(near)}")
    return list(names).index(name)


class TagEmbedder(nn.Module):
    """Sets of tags (B, K) as vectors: the sum of the tags' vectors over the root of their number.

    So the length of a vector does not grow with the set. No tag has a vector of its own, the last row of the table.
    """

    def __init__(self, num_tags: int, width: int):
        super().__init__()
        self.embedding_table = nn.Embedding(num_tags + 1, width)

    def initialize(self) -> None:
        """Normal, 0.02, as for classes."""
        nn.init.normal_(self.embedding_table.weight, std=0.02)

    def forward(self, tags: Tensor) -> Tensor:
        """(B, K) of zeros and ones -> (B, D)."""
        table = self.embedding_table.weight
        chosen = tags.to(table.dtype)
        count = chosen.sum(1, keepdim=True)
        total = (chosen / count.clamp_min(1).sqrt()) @ table[:-1]
        return torch.where(count > 0, total, table[-1])


class VectorEmbedder(nn.Module):
    """Embeddings of texts (B, E) as vectors: Linear, SiLU, Linear; a row of zeros has a vector of its own."""

    def __init__(self, size: int, width: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(size, width), nn.SiLU(), nn.Linear(width, width))
        self.null = nn.Parameter(torch.empty(width))

    def initialize(self) -> None:
        """Normal, 0.02, as for times and classes."""
        for weight in (self.mlp[0].weight, self.mlp[2].weight, self.null):
            nn.init.normal_(weight, std=0.02)

    def forward(self, embeddings: Tensor) -> Tensor:
        """(B, E) -> (B, D)."""
        given = (embeddings != 0).any(1, keepdim=True)
        return torch.where(given, self.mlp(embeddings.to(self.mlp[0].weight.dtype)), self.null)


class NothingEmbedder(nn.Module):
    """Zeros (B, D) for any condition (B, ...)."""

    def __init__(self, width: int):
        super().__init__()
        self.register_buffer("zero", torch.zeros(width), persistent=False)

    def initialize(self) -> None:
        """It has no weights."""

    def forward(self, condition: Tensor) -> Tensor:
        """(B, ...) -> (B, D)."""
        return self.zero.expand(len(condition), -1)
