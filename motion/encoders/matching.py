"""The motion and text encoders of Guo et al. (2022) that text-to-motion papers measure with, under the published names.

Motion of F frames becomes F // 4 steps by two strided convolutions, then one embedding by a bidirectional GRU; a
caption's word vectors and parts of speech become one embedding by another. Nothing here depends on the order of a
batch: the published code sorts by length, ours gives what it gives, in the order of the input.

Letters: B batch, F frames, C numbers of a frame that the encoder takes, T = F // 4 steps, L words, W numbers of a word
vector, P parts of speech, H hidden, D numbers of an embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from core.storage.weights import check_finite_weights, load_into, load_state_dicts

NAMES = ("movement_encoder", "motion_encoder", "text_encoder")  # in the published file
UNIT = 4  # frames of a step
SLOPE = 0.2  # of LeakyReLU
DROPOUT = 0.2  # in training; it keeps its place among the layers' names


@dataclass(frozen=True)
class MatchingSizes:
    """The widths of the three encoders.

    numbers        C
    movement       channels of the first convolution, and of a step
    motion_hidden, text_hidden   H
    word, parts    W and P
    embedding      D
    """

    numbers: int
    movement: tuple[int, int]
    motion_hidden: int
    text_hidden: int
    word: int
    parts: int
    embedding: int

    @classmethod
    def of(cls, states: Mapping[str, Mapping[str, Tensor]], source: str) -> MatchingSizes:
        """Those of published weights; ValueError, naming the source, where one of them is of another network."""
        movement, motion, text = (states[name] for name in NAMES)
        try:
            return cls(
                numbers=movement["main.0.weight"].shape[1],
                movement=(movement["main.0.weight"].shape[0], movement["main.3.weight"].shape[0]),
                motion_hidden=motion["input_emb.weight"].shape[0],
                text_hidden=text["input_emb.weight"].shape[0],
                word=text["pos_emb.weight"].shape[0],
                parts=text["pos_emb.weight"].shape[1],
                embedding=text["output_net.3.weight"].shape[0],
            )
        except (KeyError, IndexError) as error:
            raise ValueError(f"{source} is of other networks than the text-to-motion evaluators: no {error}") from error


class MovementEncoder(nn.Module):
    """Rows of numbers (B, F, C) -> steps (B, T, M): main.0 and main.3 are convolutions, out_net is linear."""

    def __init__(self, numbers: int, first: int, steps: int):
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv1d(numbers, first, UNIT, stride=2, padding=1),
            nn.Dropout(DROPOUT),
            nn.LeakyReLU(SLOPE),
            nn.Conv1d(first, steps, UNIT, stride=2, padding=1),
            nn.Dropout(DROPOUT),
            nn.LeakyReLU(SLOPE),
        )
        self.out_net = nn.Linear(steps, steps)

    def forward(self, rows: Tensor) -> Tensor:
        """Zeros that pad a clip are seen by the convolutions, so that what is behind the end matters a little."""
        return self.out_net(rearrange(self.main(rearrange(rows, "b f c -> b c f")), "b m t -> b t m"))


class SequenceEncoder(nn.Module):
    """Sequences (B, T, inputs) of lengths (B,) -> (B, D), by a bidirectional GRU that starts at a learned state."""

    def __init__(self, inputs: int, hidden: int, embedding: int):
        super().__init__()
        self.input_emb = nn.Linear(inputs, hidden)
        self.gru = nn.GRU(hidden, hidden, batch_first=True, bidirectional=True)
        self.output_net = nn.Sequential(
            nn.Linear(2 * hidden, hidden), nn.LayerNorm(hidden), nn.LeakyReLU(SLOPE), nn.Linear(hidden, embedding)
        )
        self.hidden = nn.Parameter(torch.zeros(2, 1, hidden))

    def forward(self, sequences: Tensor, lengths: Tensor) -> Tensor:
        """What is behind a sequence's length is not looked at; each length is at least 1."""
        start = self.hidden.expand(-1, len(sequences), -1).contiguous()
        inputs = self.input_emb(sequences)
        packed = pack_padded_sequence(inputs, lengths.cpu(), batch_first=True, enforce_sorted=False)
        _, last = self.gru(packed, start)
        return self.output_net(rearrange(last, "directions b h -> b (directions h)"))


class TextEncoder(SequenceEncoder):
    """Word vectors (B, L, W), to which a linear map of the parts of speech (B, L, P) is added -> (B, D)."""

    def __init__(self, word: int, parts: int, hidden: int, embedding: int):
        super().__init__(word, hidden, embedding)
        self.pos_emb = nn.Linear(parts, word)

    def forward(self, words: Tensor, parts: Tensor, lengths: Tensor) -> Tensor:
        """Words and their parts of speech, one-hot; lengths (B,)."""
        return super().forward(words + self.pos_emb(parts), lengths)


class MatchingNetworks(nn.Module):
    """The three encoders; `embed_motion` and `embed_text` give points that are near each other where the two match."""

    def __init__(self, sizes: MatchingSizes):
        super().__init__()
        self.sizes = sizes
        self.movement_encoder = MovementEncoder(sizes.numbers, *sizes.movement)
        self.motion_encoder = SequenceEncoder(sizes.movement[1], sizes.motion_hidden, sizes.embedding)
        self.text_encoder = TextEncoder(sizes.word, sizes.parts, sizes.text_hidden, sizes.embedding)

    def embed_motion(self, rows: Tensor, frames: Tensor) -> Tensor:
        """Normalised rows (B, F, C), padded with zeros, of so many frames (B,) each -> (B, D).

        A clip has `frames // 4` steps; ValueError for one of fewer than 4 frames.
        """
        if int(frames.min()) < UNIT:
            raise ValueError(f"a clip of {int(frames.min())} frames; the evaluator takes {UNIT} at least")
        return self.motion_encoder(self.movement_encoder(rows), frames // UNIT)

    def embed_text(self, words: Tensor, parts: Tensor, lengths: Tensor) -> Tensor:
        """Word vectors (B, L, W) and parts of speech (B, L, P) of captions of so many words (B,) -> (B, D)."""
        return self.text_encoder(words, parts, lengths)


def read_matching(path: Path) -> MatchingNetworks:
    """The networks of a published `finest.tar`, for evaluation, of the sizes that its weights have.

    Raises ValueError, naming the file, for one that is damaged, holds foreign objects, or is of other networks.
    """
    states = load_state_dicts(path, NAMES)
    networks = MatchingNetworks(MatchingSizes.of(states, str(path)))
    for name in NAMES:
        load_into(getattr(networks, name), states[name], f"{name} of {path}")
    check_finite_weights(networks, str(path))
    return networks.float().eval().requires_grad_(False)
