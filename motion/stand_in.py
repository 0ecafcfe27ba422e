"""What the default run measures: FID, R-precision and diversity of moves by a small text-motion evaluator, and skating.

A stand-in for the published evaluators on motion that needs no download: a motion encoder and a text encoder that are
trained on the moves to bring a clip and its captions together. Its numbers compare runs on moves and nothing else; each
stands beside that of held-out clips.

Letters: B batch, n clips, C numbers of a frame, F frames, T steps of the encoder, E numbers of a sentence, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from core.conditioning.encoders import MiniLMEncoder, embed_texts
from core.contracts import Condition, Requests
from core.draws import StepRandom
from core.schema import plain
from core.storage.provenance import json_sha256
from eval.measure.extractor import ExtractedFeatures
from eval.measure.media import ArrayMedia
from eval.measure.metrics import Metric, ReferenceStatistics
from eval.measure.pairs import MeanFeature, TextExtractor, text_media_metrics
from eval.measure.record import real_name
from eval.measure.stand_in import NoEvaluationConfig, TrainedExtractor
from eval.statistics.frechet import moments
from eval.statistics.retrieval import POOL
from motion.body.physics import skate_ratio
from motion.data import UNIT, lengths_of, motion_format
from motion.datasets.moves import MovesConfig

NAME, MOTION, SKATE = "moves", "motion", "skate_ratio"
FEATURES, SENTENCE = 64, 384
WIDTHS = (96, 128)  # of the convolutions, each over every second frame
TEMPERATURE = 0.1
SAME = 0.9  # cosine of two sentences above which neither is a wrong answer to the other's clip


@dataclass(frozen=True)
class MovesEvaluationConfig:
    """The default's evaluation.

    num_samples  to be generated; null takes as many as the held-out split has, so that the distance of the samples and
                 that of held-out clips carry the same bias of small samples
    steps, seed  training of the evaluator, cached in <runs_dir>/cache
    """

    num_samples: int | None = None
    steps: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_samples is not None and self.num_samples < POOL:
            raise ValueError(f"evaluation.num_samples is {self.num_samples}; it must be at least {POOL}, or null")
        if self.steps < 1:
            raise ValueError(f"evaluation.steps is {self.steps}; it must be at least 1")

    def build(
        self, cache: Path, device: torch.device, data: MovesConfig, moves: Any, conditioning: Any
    ) -> MovesEvaluator:
        """The evaluator of the clips `moves` of `data`, with its network from the cache or trained now."""
        features = MovesFeatures(self, data, cache, device, moves)
        return MovesEvaluator(features, conditioning.config.prompts)


EVALUATIONS = {"moves": MovesEvaluationConfig, "none": NoEvaluationConfig}
METRICS: tuple[Metric, ...] = (*text_media_metrics(NAME), MeanFeature(SKATE, (NAME,), SKATE))


class TextMotionNetwork(nn.Module):
    """Convolutions over a clip, and two linear layers over a sentence, into one space of unit vectors."""

    def __init__(self, numbers: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(numbers, 1))
        self.register_buffer("std", torch.ones(numbers, 1))
        layers, before = [], numbers
        for width in WIDTHS:
            layers += [nn.Conv1d(before, width, 5, stride=2, padding=2), nn.GELU()]
            before = width
        self.layers = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Linear(2 * before, before), nn.GELU(), nn.Linear(before, FEATURES))
        self.words = nn.Sequential(nn.Linear(SENTENCE, 128), nn.GELU(), nn.Linear(128, FEATURES))

    def motions(self, clips: Tensor, lengths: Tensor) -> Tensor:
        """Clips (B, C, F) with lengths (B,) in frames -> (B, D); what lies behind a clip's length is not looked at."""
        real = torch.arange(clips.shape[-1], device=clips.device) < lengths[:, None]
        x = torch.where(real[:, None], (clips - self.mean) / self.std, 0)
        x = self.layers(x)
        steps = real[:, None, :: 2 ** len(WIDTHS)]
        mean = torch.where(steps, x, 0).sum(-1) / steps.sum(-1)
        most = torch.where(steps, x, -torch.inf).amax(-1)
        return normalize(self.head(torch.cat([mean, most], dim=1)), dim=1)

    def sentences(self, embeddings: Tensor) -> Tensor:
        """Embeddings (B, E) of captions -> (B, D)."""
        return normalize(self.words(embeddings), dim=1)


@dataclass(frozen=True)
class Moves:
    """Clips with their captions, in memory.

    clips    (n, C, F)
    lengths  (n,) frames
    captions, rows   all captions, and (n + 1,) where those of each clip begin
    """

    clips: Tensor
    lengths: Tensor
    captions: list[str]
    rows: list[int]

    @classmethod
    def of(cls, dataset: Any) -> Moves:
        """All clips of a data set."""
        clips = torch.stack([dataset.clip_at(index) for index in range(len(dataset))])
        lengths = torch.as_tensor(dataset.lengths).long()
        return cls(clips, lengths, list(dataset.captions), [int(row) for row in dataset.caption_rows])

    def cut(self) -> list[Tensor]:
        """Clips (C, F) of their lengths."""
        return [clip[:, :length] for clip, length in zip(self.clips, self.lengths.tolist(), strict=True)]

    def first(self, num: int) -> Moves:
        """The first clips, or all where there are fewer."""
        return replace(self, clips=self.clips[:num], lengths=self.lengths[:num], rows=self.rows[: num + 1])

    def first_captions(self) -> list[str]:
        """The first caption of each clip."""
        return [self.captions[row] for row in self.rows[:-1]]


class MovesFeatures(TrainedExtractor, TextExtractor):
    """The evaluator of moves: motion (B, 64), and the skate ratio (B, 1); texts by the same space.

    moves: the training split, where it is there already.
    """

    name, main, title, noun = NAME, MOTION, "text-motion evaluator", "evaluator"
    preprocessing = "clips of the run's representation, cut to their length, normalised by the training split"
    fit_rows = 96

    def __init__(
        self, options: MovesEvaluationConfig, data: MovesConfig, cache: Path, device: torch.device, moves: Any = None
    ):
        self.options, self.data, self.cache = options, replace(data, split="train"), cache
        self.format, self._moves = motion_format(data), moves
        super().__init__(options.steps, options.seed, cache, device)

    def network(self) -> TextMotionNetwork:
        """An untrained network."""
        return TextMotionNetwork(self.format.shape[0])

    def variant(self) -> str:
        """A hash of what clips are made by."""
        return f"-{json_sha256(plain(self.data))[:12]}"

    def split(self, name: str) -> Moves:
        """The clips of the split "train" or "heldout"."""
        given = name == "train" and self._moves is not None and len(self._moves) and self._moves_are_train()
        return Moves.of(self._moves if given else replace(self.data, split=name).build())

    def _moves_are_train(self) -> bool:
        return getattr(self._moves, "split", "train") == "train"

    def sentences(self, texts: Sequence[str]) -> Tensor:
        """Embeddings (n, E) of texts by MiniLM."""
        return embed_texts(MiniLMEncoder(), None, texts, self.cache, self.device)

    def training_loss(self) -> Callable[[TextMotionNetwork, StepRandom], Tensor]:
        """Clips and captions of a batch find each other, but for captions that say nearly the same."""
        moves = self.split("train")
        sentences, first = self.sentences(moves.captions), torch.tensor(moves.rows)
        flat = torch.cat([clip.T for clip in moves.cut()])
        std, mean = torch.std_mean(flat, dim=0)

        def loss(network: TextMotionNetwork, random: StepRandom) -> Tensor:
            if network.std.eq(1).all():
                network.mean.copy_(mean[:, None])
                network.std.copy_(std.clamp_min(1e-3)[:, None])
            rows = (random.uniform("rows", (self.fit_rows,)) * len(moves.clips)).long()
            counts = first[rows + 1] - first[rows]
            words = sentences[first[rows] + (random.uniform("captions", (self.fit_rows,)) * counts).long()]
            clips = network.motions(moves.clips[rows], moves.lengths[rows])
            return contrast(clips, network.sentences(words), words @ words.T > SAME)

        return loss

    @torch.no_grad()
    def __call__(self, rows: Sequence[Tensor]) -> dict[str, Tensor]:
        """Clips (C, F) of any lengths -> motion (B, D) and skate ratio (B, 1); ValueError for another format."""
        numbers, most = self.format.shape
        wrong = next((clip for clip in rows if clip.shape[0] != numbers or not 1 <= clip.shape[1] <= most), None)
        if wrong is not None:
            raise ValueError(
                f"features={NAME} takes clips of {numbers} numbers and 1 to {most} frames, got {tuple(wrong.shape)}; "
                "they are for samples of a run with data=moves"
            )
        lengths = torch.tensor([clip.shape[1] for clip in rows])
        padded = torch.stack([nn.functional.pad(clip.cpu(), (0, most - clip.shape[1])) for clip in rows])
        found = self.trained.motions(padded.to(self.device), lengths.to(self.device)).cpu()
        real = torch.arange(most) < lengths[:, None]
        skating = skate_ratio(self.format.joints(padded), self.format.skeleton, real)
        return {MOTION: found, SKATE: skating[:, None]}

    @torch.no_grad()
    def text_features(self, texts: Sequence[str]) -> Tensor:
        """Texts in the space of motions (n, D)."""
        return self.trained.sentences(self.sentences(texts).to(self.device)).cpu()


def contrast(clips: Tensor, words: Tensor, same: Tensor) -> Tensor:
    """The symmetric cross-entropy of pairs (B, D), without the others of a batch that `same` (B, B) calls as good."""
    own = torch.eye(len(clips), dtype=torch.bool, device=clips.device)
    logits = (clips @ words.T / TEMPERATURE).masked_fill(same & ~own, -torch.inf)
    wanted = torch.arange(len(clips), device=clips.device)
    return (cross_entropy(logits, wanted) + cross_entropy(logits.T, wanted)) / 2


class MovesEvaluator:
    """The end of a training run on moves, measured; fulfils `core.contracts.Evaluator`.

    FID is to the training split; beside each number is that of held-out clips with their first captions.

    prompts: that the samples are made of, in turn.
    """

    rows = 64  # clips at once

    def __init__(self, extractor: MovesFeatures, prompts: Sequence[str]):
        self.extractor, self.prompts = extractor, list(prompts)
        train = self.features(extractor.split("train").cut(), None)
        self.reference = ReferenceStatistics({MOTION: moments(train.arrays[MOTION])})
        heldout = extractor.split("heldout")
        if len(heldout.clips) < POOL:
            raise ValueError(
                f"data.num_clips is {extractor.data.num_clips}, of which {len(heldout.clips)} clips are held out; "
                f"evaluation=moves needs {POOL} for a pool"
            )
        self.real = self.measure(heldout.cut(), heldout.first_captions())
        self.num_samples = extractor.options.num_samples or len(heldout.clips)

    def evaluate(self, media: Tensor, condition: Condition | Requests) -> Mapping[str, float]:
        """The metrics of clips (n, C, F) that were made of the prompts, each cut to the length it was asked for."""
        clips = [clip[:, :length] for clip, length in zip(media, lengths_of(media, condition), strict=True)]
        texts = [self.prompts[number % len(self.prompts)] for number in range(len(clips))]
        found = self.measure(clips, texts)
        return {**found, **{real_name(name): value for name, value in self.real.items()}, "num_samples": len(clips)}

    def measure_heldout(self, num: int, change: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """The metrics of the first `num` held-out clips, changed; of all where there are fewer."""
        heldout = self.extractor.split("heldout").first(num)
        clips = replace(heldout, clips=change(heldout.clips)).cut()
        return {**self.measure(clips, heldout.first_captions()), "num_samples": len(clips)}

    def measure(self, clips: list[Tensor], texts: list[str]) -> dict[str, float]:
        """The metrics of clips (C, F) and their texts."""
        features = self.features(clips, texts)
        return {metric.name: metric.compute(features, self.reference).value for metric in METRICS}

    def features(self, clips: list[Tensor], texts: list[str] | None) -> ExtractedFeatures:
        """The features of clips (C, F)."""
        parts = [self.extractor(clips[first : first + self.rows]) for first in range(0, len(clips), self.rows)]
        arrays = {name: torch.cat([part[name] for part in parts]).numpy() for name in parts[0]}
        media = ArrayMedia("clips", UNIT, clips)
        media.texts = texts
        return ExtractedFeatures(self.extractor, media, arrays)


def report_lines(summary: Mapping[str, float]) -> list[str]:
    """What a run prints of its numbers, each beside that of real motion; nothing where nothing was measured."""
    if f"{NAME}/fid" not in summary:
        return []

    def both(metric: str, form: str) -> tuple[str, str]:
        return tuple(f"{summary[name]:{form}}" for name in (metric, real_name(metric)))

    tops = [both(f"{NAME}/r_precision_{top}", ".3f") for top in (1, 2, 3)]
    lines = {
        "FID (moves)": (
            *both(f"{NAME}/fid", ".4f"),
            f"{summary['num_samples']} samples, EMA weights, to training clips",
        ),
        "R-precision 1-3": (*(" / ".join(side) for side in zip(*tops, strict=True)), "in pools of 32"),
        "matching score": (*both(f"{NAME}/matching_score", ".3f"), "distance of a text and its motion"),
        "diversity": (*both(f"{NAME}/diversity", ".3f"), "distance of random pairs"),
        "skate ratio": (*both(SKATE, ".3f"), "frames in which a planted foot slides"),
    }
    return [f"{name:<17} {own}   (real motion: {other}; {what})" for name, (own, other, what) in lines.items()]
