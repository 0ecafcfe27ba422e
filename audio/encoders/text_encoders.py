"""Captions as vectors for conditioning: CLAP's text branch, or T5's encoder, computed once and kept in a cache.

Both come from a local directory; nothing is downloaded. Letters: n texts, N tokens, D features.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from audio.encoders.clap import MAX_TOKENS, PREPROCESSOR, ClapFeatures, ClapSource, import_transformers
from core.conditioning.embeddings import cached_embeddings
from core.data.captions import composed
from core.storage.atomic import sha256_file
from core.storage.pretrained import LOCAL, read_pretrained
from core.storage.provenance import json_sha256

log = logging.getLogger(__name__)

Kind = Literal["clap", "t5"]
T5_TOKENS = 128
T5_BATCH = 32
T5_BESIDE = ("decoder.", "lm_head.")  # of the whole T5, which is what is published
READ = (".json", ".safetensors", ".txt", ".model")  # what of a directory decides the embeddings
# What a cached file is a function of, besides encoder and texts; a change here makes new files.
RECIPES = {
    "clap": f"text branch, projected, length 1, at most {MAX_TOKENS} tokens",
    "t5": f"encoder, mean over real tokens, at most {T5_TOKENS} tokens",
}


def embed_texts(
    kind: Kind, path: str, texts: list[str], cache: Path | None, device: torch.device | str = "cpu"
) -> Tensor:
    """Embeddings (n, D) float32 on the CPU of n texts by the encoder at `path`.

    clap    the text branch of a CLAP (a directory of transformers, or LAION's .pt with the tokenizer's files beside
            it): D = 512, of length 1
    t5      T5's encoder (a directory of transformers), the mean over a text's real tokens, its end token among them

    cache: a folder where they are kept, by the hash of the encoder's files and the texts; null: nowhere. Raises
    ValueError for another kind, no text, an encoder that is missing or damaged, or a damaged file in the cache;
    ImportError without the extra `text` or `eval`.
    """
    if kind not in RECIPES:
        raise ValueError(f"the text encoder is {kind!r}; allowed: {', '.join(RECIPES)}")
    place, embed = Path(path).expanduser(), _clap if kind == "clap" else _t5
    made_by = {"recipe": RECIPES[kind], "encoder": _encoder_sha256(kind, place)}
    texts = [composed(text) if isinstance(text, str) else text for text in texts]  # two spellings are one text
    return cached_embeddings(kind, made_by, texts, cache, lambda texts: embed(place, texts, torch.device(device)))


def _clap(place: Path, texts: list[str], device: torch.device) -> Tensor:
    features = ClapFeatures(ClapSource("clap", place), device=device)
    _warn_of_long(features.tokenizer(), texts, MAX_TOKENS)
    return features.text_embedding(texts)


@torch.no_grad()
def _t5(place: Path, texts: list[str], device: torch.device) -> Tensor:
    transformers = import_transformers("the text encoder t5", "text")
    network = read_pretrained(transformers.T5EncoderModel, place, "t5", beside=T5_BESIDE).float().eval().to(device)
    tokenizer, found = _tokenizer(transformers.AutoTokenizer, place), []
    if len(tokenizer) > network.config.vocab_size:
        raise ValueError(f"t5: the tokenizer in {place} has {len(tokenizer)} tokens, T5 {network.config.vocab_size}")
    _warn_of_long(tokenizer, texts, T5_TOKENS)
    for start in range(0, len(texts), T5_BATCH):
        part = texts[start : start + T5_BATCH]
        tokens = tokenizer(part, padding=True, truncation=True, max_length=T5_TOKENS, return_tensors="pt").to(device)
        states = network(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).last_hidden_state
        found.append(masked_mean(states, tokens["attention_mask"]).float().cpu())
    return torch.cat(found)


def masked_mean(states: Tensor, mask: Tensor) -> Tensor:
    """States (n, N, D) and mask (n, N), 1 where a token is real -> their mean (n, D); ValueError for no real token."""
    real = mask.to(states.dtype)[..., None]
    counts = real.sum(dim=1)
    if (counts == 0).any():
        raise ValueError("a text has no token; needed: at least one")
    return (states * real).sum(dim=1) / counts


def _tokenizer(reader: Any, place: Path) -> Any:
    try:
        return reader.from_pretrained(str(place), **LOCAL)
    except Exception as error:  # a missing or damaged file fails in ways that transformers does not name
        raise ValueError(f"t5: there is no tokenizer in {place} that transformers reads: {error}") from error


def _warn_of_long(tokenizer: Callable[..., Any], texts: list[str], limit: int) -> None:
    long = sum(len(ids) > limit for ids in tokenizer(texts, verbose=False)["input_ids"])
    if long:
        log.warning("%d of %d texts are longer than %d tokens; what comes after is not heard", long, len(texts), limit)


def _encoder_sha256(kind: Kind, place: Path) -> str:
    """One hash over all files that are read: weights, config, tokenizer."""
    if not place.exists() or (kind == "t5" and not place.is_dir()):
        needed = "a directory of transformers" + (" or LAION's .pt" if kind == "clap" else "")
        raise ValueError(f"the text encoder {kind} is looked for at {place}; needed: {needed}")
    folder = place if place.is_dir() else place.parent
    files = {file for file in folder.iterdir() if file.suffix in READ and file.name != PREPROCESSOR}
    if not place.is_dir():
        files = {file for file in files if file.suffix != ".safetensors"} | {place}
    return json_sha256({file.name: sha256_file(file) for file in sorted(files) if file.is_file()})
