"""Captions and prompts as the tokens that UMT5 makes of them, encoded once and read from files.

A condition is the number of a text, so that a batch stays small; the network looks the tokens up. As in diffusers'
pipeline a text has at most `max_tokens` tokens, and zeros stand behind them, which the network attends to as well.

Letters: B batch, n texts, L tokens of a text, E numbers of one.
"""

from __future__ import annotations

import hashlib
import html
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from tqdm import tqdm

from core.conditioning.contract import check_drop, drop_rows
from core.conditioning.embeddings import SequenceFiles
from core.draws import Random, fold_seed
from core.extras import extra
from core.schema import FREE
from core.storage.pretrained import LOCAL, read_pretrained
from core.storage.provenance import json_sha256
from video.wan.files import DTYPES, WanFiles

log = logging.getLogger(__name__)

ENCODER, TOKENIZER = "text_encoder", "tokenizer"
RECIPE = "umt5: last hidden state of a cleaned text's real tokens"
READ = (".json", ".safetensors", ".model", ".txt")
END = 2**20  # bytes at both ends of a large file that its identity is taken from
KEPT = 64  # texts whose tokens stay in memory


@dataclass(frozen=True)
class WanTextConfig:
    """Texts through the UMT5 of a Wan directory.

    prompts     what samples in training are asked for, in turn
    drop        share of the captions replaced by the empty text in training
    max_tokens  what is longer is cut, and told
    dtype       of the encoder and of the tokens in the files
    batch_size  texts encoded at once
    cache_dir   where tokens are kept
    """

    prompts: list[str] = field(metadata=FREE)
    drop: float = 0.1
    max_tokens: int = 512
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    batch_size: int = field(default=8, metadata=FREE)
    cache_dir: str = field(default="runs/cache", metadata=FREE)

    def __post_init__(self) -> None:
        check_drop(self.drop)
        if not self.prompts or not all(prompt.strip() for prompt in self.prompts):
            raise ValueError(f"conditioning.prompts is {self.prompts}; needed: one text or more, none of them empty")
        if self.max_tokens < 1 or self.batch_size < 1:
            raise ValueError(
                f"conditioning.max_tokens is {self.max_tokens} and batch_size {self.batch_size}; both must be 1 or more"
            )

    def build(self, files: WanFiles, captions: Iterable[str], device: torch.device) -> WanTexts:
        """The texts of a run, encoded on `device` by the encoder in `files` where they are not in the cache yet."""
        return WanTexts(self, files, captions, device)


class WanTexts:
    """Captions, prompts and the empty text of a run; fulfils `core.contracts.Conditioning`, conditions (B,) int64."""

    def __init__(self, config: WanTextConfig, wan: WanFiles, captions: Iterable[str], device: torch.device):
        self.config = config
        self.encoder = UMT5(config, wan)
        self.files = SequenceFiles("umt5", self.encoder.made_by(), Path(config.cache_dir).expanduser())
        self.texts: dict[int, str] = {}
        self.empty = self._add([""])[0]
        self.prompts = self._add(config.prompts)
        self._add(captions)
        self.encoder.encode(self.files, list(self.texts.values()), device)

    def _add(self, texts: Iterable[str]) -> list[int]:
        numbers = []
        for text in texts:
            number = text_number(text)
            self.texts[number] = cleaned(text)
            numbers.append(number)
        return numbers

    def numbers(self, texts: Iterable[str], device: torch.device) -> Tensor:
        """The numbers (n,) of texts, which are encoded where they are not yet."""
        numbers = self._add(texts)
        self.encoder.encode(self.files, [self.texts[number] for number in numbers], device)
        return torch.tensor(numbers)

    def table(self) -> TokenTable:
        """The module that turns numbers into tokens."""
        return TokenTable(self.texts, self.files, self.config.max_tokens)

    def drop(self, condition: Tensor, random: Random) -> Tensor:
        """Numbers (B,) of which a share is that of the empty text."""
        return drop_rows(condition, self.null(condition), self.config.drop, random)

    def null(self, condition: Tensor) -> Tensor:
        """The empty text, for each row (B,)."""
        return torch.full_like(condition, self.empty)

    def requests(self, num: int, seed: int) -> Tensor:
        """The config's prompts, in turn, (num,)."""
        return torch.tensor([self.prompts[i % len(self.prompts)] for i in range(num)])

    def titles(self, condition: Tensor) -> list[str]:
        """The texts behind conditions (B,)."""
        return [self.texts[number] for number in condition.tolist()]


class TokenTable(nn.Module):
    """Numbers of texts (B,) -> their tokens (B, L, E), L = `length`, zeros behind a text's own; read from files."""

    def __init__(self, texts: dict[int, str], files: SequenceFiles, length: int):
        super().__init__()
        self.texts, self.files, self.length = texts, files, length
        self._kept: dict[int, Tensor] = {}

    def forward(self, numbers: Tensor) -> Tensor:
        """Tokens in the type of the files, on the device of the numbers."""
        found = [self._tokens(number) for number in numbers.tolist()]
        out = found[0].new_zeros(len(found), self.length, found[0].shape[1])
        for row, tokens in zip(out, found, strict=True):
            row[: len(tokens)] = tokens[: self.length]
        return out.to(numbers.device)

    def _tokens(self, number: int) -> Tensor:
        if number not in self._kept:
            if len(self._kept) >= KEPT:
                self._kept.pop(next(iter(self._kept)))
            self._kept[number] = self.files.read(self.texts[number])
        return self._kept[number]


class UMT5:
    """The text encoder of a Wan directory, read only when there is a text to encode."""

    def __init__(self, config: WanTextConfig, wan: WanFiles):
        self.config, self.name = config, wan.name
        self.folders = [wan.part(name) for name in (ENCODER, TOKENIZER)]

    def made_by(self) -> dict[str, Any]:
        """What tokens are a function of, besides their text."""
        config = self.config
        found = {
            f"{folder.name}/{file.name}": _identity(file) for folder in self.folders for file in _read_files(folder)
        }
        return {"recipe": RECIPE, "files": found, "max_tokens": config.max_tokens, "dtype": config.dtype}

    def encode(self, files: SequenceFiles, texts: Sequence[str], device: torch.device) -> None:
        """Write the tokens of the texts that have no file; ValueError for an encoder that cannot be read."""
        missing = files.missing(texts)
        if not missing:
            return
        with tqdm(total=len(missing), desc="encoding texts", unit="text", disable=None) as bar:
            for text, tokens in self._tokens(missing, device):
                files.write(text, tokens)
                bar.update(1)

    @torch.no_grad()
    def _tokens(self, texts: list[str], device: torch.device) -> Iterator[tuple[str, Tensor]]:
        transformers = extra("transformers", "the text encoder of Wan", "wan")
        tokenizer = self._tokenizer(transformers)
        network = read_pretrained(
            transformers.UMT5EncoderModel, self.folders[0], self.name, dtype=DTYPES[self.config.dtype]
        )
        network = network.eval().to(device)
        if len(tokenizer) > network.config.vocab_size:
            raise ValueError(
                f"{self.name}: the tokenizer has {len(tokenizer)} tokens, UMT5 {network.config.vocab_size}"
            )
        limit, size = self.config.max_tokens, self.config.batch_size
        long = sum(len(ids) > limit for ids in tokenizer(texts, verbose=False)["input_ids"])
        if long:
            log.warning("%d of %d texts are longer than %d tokens and are cut", long, len(texts), limit)
        for start in range(0, len(texts), size):
            part = texts[start : start + size]
            options = {"padding": "max_length", "max_length": limit, "truncation": True, "return_tensors": "pt"}
            tokens = tokenizer(part, return_attention_mask=True, **options).to(device)
            states = network(tokens["input_ids"], tokens["attention_mask"]).last_hidden_state
            for text, row, mask in zip(part, states, tokens["attention_mask"], strict=True):
                yield text, row[: int(mask.sum())].to(DTYPES[self.config.dtype]).clone()

    def _tokenizer(self, transformers: Any) -> Any:
        folder = self.folders[1]
        try:
            return transformers.AutoTokenizer.from_pretrained(str(folder), **LOCAL)
        except Exception as error:  # a missing or damaged file fails in ways that transformers does not name
            raise ValueError(f"{self.name}: there is no tokenizer in {folder} that is read: {error}") from error


def cleaned(text: str) -> str:
    """A text as diffusers' pipeline cleans it: entities of HTML twice undone, runs of white space as one blank."""
    return " ".join(html.unescape(html.unescape(text)).split())


def text_number(text: str) -> int:
    """The number of a text, a function of what is left of it after cleaning."""
    return fold_seed("text", cleaned(text))


def _read_files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.is_file() and file.suffix in READ)


def _identity(file: Path) -> str:
    """SHA-256 of a file's size and of its ends, which hold all of a small one, and the header of safetensors."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        digest = hashlib.sha256(opened.read(END))
        opened.seek(max(0, size - END))
        digest.update(opened.read(END))
    return json_sha256({"size": size, "ends": digest.hexdigest()})
