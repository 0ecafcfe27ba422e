"""The contrastive evaluator of MARDM (Meng et al. 2025): motion and text as unit vectors, for a CLIP score.

A motion transformer with a learned query in front takes every frame; the text side has the tables of a CLIP text model
and a transformer of its own without any mask, read at the end token. Names are those of the published state.

Letters: B batch, F frames, C numbers of a frame, L tokens of a text, E width, D numbers of an embedding.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812, the customary name
from torch import Tensor, nn

from core.storage.weights import check_finite_weights, load_into, load_state_dicts

NAME = "contrast_model"  # in the published file
HEADS = 8  # which no weight tells; 512 numbers wide there
LAYER = "layers.{}.linear1.weight"


def transformer(width: int, hidden: int, layers: int, heads: int) -> nn.TransformerEncoder:
    """Post-norm layers with the exact GELU."""
    layer = nn.TransformerEncoderLayer(width, heads, hidden, activation="gelu", batch_first=True)
    return nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)


def positions(length: int, width: int) -> Tensor:
    """(length, width): sines and cosines by turns, of frequencies that fall from 1 to 1 / 10000."""
    place = torch.arange(length, dtype=torch.float32)[:, None]
    rates = torch.exp(torch.arange(0, width, 2, dtype=torch.float32) * (-math.log(10_000.0) / width))
    return torch.stack([torch.sin(place * rates), torch.cos(place * rates)], -1).flatten(1)


class MotionTransformer(nn.Module):
    """Normalised rows (B, F, C) of so many frames (B,) -> (B, D), from a query token in front of them."""

    def __init__(self, numbers: int, width: int, hidden: int, layers: int, embedding: int, heads: int):
        super().__init__()
        self.embed_motion = nn.Linear(numbers, width)
        self.query_token = nn.Parameter(torch.zeros(1, width))
        self.transformer = transformer(width, hidden, layers, heads)
        self.out_ln = nn.LayerNorm(width)
        self.out = nn.Linear(width, embedding)

    def forward(self, rows: Tensor, frames: Tensor) -> Tensor:
        """Padded frames are hidden; the query has position 0."""
        tokens = self.embed_motion(rows)
        query = self.query_token.expand(len(rows), 1, -1)
        tokens = torch.cat([query, tokens], 1)
        tokens = tokens + positions(tokens.shape[1], tokens.shape[2]).to(tokens)
        hidden = torch.arange(tokens.shape[1], device=rows.device) > frames.to(rows.device)[:, None]
        return self.out(self.out_ln(self.transformer(tokens, src_key_padding_mask=hidden)[:, 0]))


class ContrastNetworks(nn.Module):
    """Both sides; `embed_motion` and `embed_text` are of unit length."""

    def __init__(self, motion: MotionTransformer, vocabulary: int, length: int, text: nn.TransformerEncoder):
        super().__init__()
        width, embedding = motion.out.in_features, motion.out.out_features
        self.motion_encoder = motion
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.positional_embedding = nn.Parameter(torch.zeros(length, width))
        self.textTransEncoder = text  # the published name
        self.text_ln = nn.LayerNorm(width)
        self.out = nn.Linear(width, embedding)
        self.logit_scale = nn.Parameter(torch.zeros(1))

    def embed_motion(self, rows: Tensor, frames: Tensor) -> Tensor:
        """Normalised rows (B, F, C) of so many frames (B,) -> (B, D) of unit length."""
        return F.normalize(self.motion_encoder(rows, frames), dim=-1)

    def raw_text(self, tokens: Tensor) -> Tensor:
        """Token numbers (B, L) -> (B, D); the end token is the largest of a row."""
        hidden = self.token_embedding(tokens) + self.positional_embedding[: tokens.shape[1]]
        hidden = self.text_ln(self.textTransEncoder(hidden))
        return self.out(hidden[torch.arange(len(tokens), device=tokens.device), tokens.argmax(-1)])

    def embed_text(self, tokens: Tensor) -> Tensor:
        """Token numbers (B, L) -> (B, D) of unit length."""
        return F.normalize(self.raw_text(tokens), dim=-1)


def build_contrast(state: Mapping[str, Tensor], source: str, heads: int = HEADS) -> ContrastNetworks:
    """The untrained networks of the sizes that published weights have; ValueError, naming the source, for others."""
    try:
        width, numbers = state["motion_encoder.embed_motion.weight"].shape
        embedding = state["motion_encoder.out.weight"].shape[0]
        length, vocabulary = len(state["positional_embedding"]), len(state["token_embedding.weight"])
        motion_hidden = len(state[f"motion_encoder.transformer.{LAYER.format(0)}"])
        text_hidden = len(state[f"textTransEncoder.{LAYER.format(0)}"])
    except (KeyError, ValueError) as error:
        raise ValueError(f"{source} is of another network than MARDM's contrastive evaluator: {error}") from error
    motion_layers, text_layers = (
        count_layers(state, name) for name in ("motion_encoder.transformer", "textTransEncoder")
    )
    motion = MotionTransformer(numbers, width, motion_hidden, motion_layers, embedding, heads)
    return ContrastNetworks(motion, vocabulary, length, transformer(width, text_hidden, text_layers, heads))


def count_layers(state: Mapping[str, Tensor], prefix: str) -> int:
    """The layers of a transformer whose names begin with `prefix`."""
    return sum(name.startswith(f"{prefix}.layers.") and name.endswith("linear1.weight") for name in state)


def read_contrast(path: Path, heads: int = HEADS) -> ContrastNetworks:
    """The networks of a published `finest.tar`, for evaluation.

    Raises ValueError, naming the file, for one that is damaged, holds foreign objects, or is of another network.
    """
    state = {name: value for name, value in load_state_dicts(path, [NAME])[NAME].items() if not name.endswith(".pe")}
    networks = build_contrast(state, str(path), heads)
    load_into(networks, state, f"{NAME} of {path}")
    check_finite_weights(networks, str(path))
    return networks.float().eval().requires_grad_(False)
