"""Evaluators of motion: the stand-in's, the published ones, and the physics of joints; and where their weights are.

Every extractor takes clips and gives float32 features by name on the CPU; evaluators take texts into the same space. A
record of an evaluation holds its `facts`: numbers of different networks, weights or protocols are never compared.

Letters: B clips.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from core.storage.provenance import json_sha256
from eval.measure.extractor import Extractor
from eval.measure.pairs import TextExtractor
from motion.body import physics
from motion.datasets.moves import MovesConfig
from motion.encoders.published import (
    EVALUATORS,
    ContrastExtractor,
    EvaluatorFiles,
    MatchingExtractor,
    Tokens,
    clip_name,
)
from motion.measured.clips import Clip
from motion.stand_in import NAME, MovesEvaluationConfig, MovesFeatures


class PhysicsOfJoints(Extractor):
    """What joints say without a network: each number (B, 1)."""

    name, takes_floats = "physics", True
    numbers = ("skate_ratio", "jerk", "penetration", "floating")
    main = numbers[0]
    preprocessing = "joints in metres of the positions, real frames only"

    @property
    def weights_sha256(self) -> str:
        """There are no weights; the constants of the measures are what could change."""
        return json_sha256({name: value for name, value in vars(physics).items() if name.isupper()})

    def __call__(self, rows: Sequence[Clip]) -> dict[str, Tensor]:
        """Clips of any lengths -> each number (B, 1)."""
        joints = [clip.joints() for clip in rows]
        padded = pad_sequence(joints, batch_first=True)
        real = torch.arange(padded.shape[1]) < torch.tensor([len(each) for each in joints])[:, None]
        found = physics.measures(padded, rows[0].skeleton, real)
        return {name: found[name].float()[:, None] for name in self.numbers}


PHYSICS = PhysicsOfJoints()


@dataclass(frozen=True)
class MovesSource:
    """The moves, their evaluator's options, and where it is cached."""

    data: MovesConfig = field(default_factory=MovesConfig)
    options: MovesEvaluationConfig = field(default_factory=MovesEvaluationConfig)
    cache: Path = Path("runs/cache")

    def features(self, device: torch.device) -> MovesFeatures:
        """The evaluator, trained now or read from the cache."""
        return MovesFeatures(self.options, self.data, self.cache, device)


class MovesExtractor(TextExtractor):
    """The stand-in's evaluator, given clips as the command has them."""

    takes_floats = True

    def __init__(self, features: MovesFeatures):
        self.features = features
        self.name, self.main, self.preprocessing = features.name, features.main, features.preprocessing

    @property
    def weights_sha256(self) -> str:
        """The evaluator's."""
        return self.features.weights_sha256

    def __call__(self, rows: Sequence[Clip]) -> dict[str, Tensor]:
        """Clips of the moves' representation; ValueError for others."""
        return self.features([clip.rows.T for clip in rows])

    def text_features(self, texts: Sequence[str]) -> Tensor:
        """Captions in the space of motions (n, D)."""
        return self.features.text_features(texts)


@dataclass(frozen=True)
class ExtractorSource:
    """What extractors are made of.

    files   places of the published evaluators
    moves   of the stand-in's
    tokens  the words of a caption with their parts of speech, where someone wrote them down
    """

    files: EvaluatorFiles
    moves: MovesSource
    tokens: Tokens

    def extractor(self, name: str, device: torch.device) -> Extractor:
        """The extractor of that name on `device`; ValueError where its weights are absent or another's."""
        if name == PHYSICS.name:
            return PHYSICS
        if name == NAME:
            return MovesExtractor(self.moves.features(device))
        if name in EVALUATORS:
            return MatchingExtractor(EVALUATORS[name], self.files, self.tokens, device)
        own = next(each for each in EVALUATORS.values() if clip_name(each.name) == name)
        return ContrastExtractor(own, self.files, device)
