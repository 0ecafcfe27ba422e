"""The published evaluators of motion and text as extractors: which there are, where their files lie, what they take.

    t2m263   HumanML3D's 263 numbers (Guo et al. 2022)       kit251   KIT-ML's 251
    mardm67  their first 67 (Meng et al. 2025)               mardm64  KIT-ML's first 64

A clip is brought to the evaluator's numbers, cut to 196 frames at most and a multiple of 4, normalised by the mean and
deviation that are published with the evaluator, which are not the data's, and padded with zeros to 196 frames.
Embeddings are in the order in which clips came.

Letters: B clips, F frames, C numbers of a frame, D numbers of an embedding.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.conditioning.encoders import ClipTextEncoder
from core.extras import import_transformers
from core.storage.atomic import sha256_file
from core.storage.provenance import json_sha256
from eval.measure.pairs import TextExtractor
from eval.weights import locate, verified
from motion.body.representations import REPRESENTATIONS
from motion.body.skeleton import SKELETONS, Skeleton
from motion.encoders.contrast import read_contrast
from motion.encoders.matching import UNIT, read_matching
from motion.encoders.statistics import EvaluatorStatistics
from motion.encoders.words import INDEX, VECTORS, WORDS, WordVectors, plain_tokens
from motion.measured.clips import Clip

log = logging.getLogger(__name__)

LONGEST = 196  # frames that an evaluator sees
MATCHING, CONTRAST = "text_mot_match/model/finest.tar", "text_mot_match_clip/model/finest.tar"
TEXTS_AT_ONCE = 256
Tokens = Callable[[str], Sequence[str] | None]  # the tokens of a caption; None: no one has written them down


@dataclass(frozen=True)
class Evaluator:
    """One published evaluator.

    name            config key `features`, and the beginning of its metrics' names
    skeleton        by name
    representation  whose numbers it takes
    cut             how many at the end of a row it leaves out
    registry        its name in `python -m eval.weights`
    statistics      where mean and deviation may lie in its folder
    contrastive     whether a contrastive network for a CLIP score lies beside it
    """

    name: str
    skeleton: str
    representation: str
    cut: int
    registry: str
    statistics: tuple[tuple[str, str], ...]
    contrastive: bool = False

    @property
    def body(self) -> Skeleton:
        """The skeleton."""
        return SKELETONS[self.skeleton]

    @property
    def numbers(self) -> int:
        """C of a row, before the cut."""
        return REPRESENTATIONS[self.representation].size(self.body)

    def __str__(self) -> str:
        return f"{self.name} ({self.numbers} numbers of {self.body.joints} joints)"


CONTACTS = 4
OF_MARDM = (("eval_mean.npy", "eval_std.npy"),)
EVALUATORS = {
    each.name: each
    for each in (
        Evaluator(
            *("t2m263", "t2m", "full", CONTACTS, "t2m-evaluators"),
            (("t2m_mean.npy", "t2m_std.npy"), ("Comp_v6_KLD01/meta/mean.npy", "Comp_v6_KLD01/meta/std.npy")),
        ),
        Evaluator(
            *("kit251", "kit", "full", CONTACTS, "kit-evaluators"),
            (("kit_mean.npy", "kit_std.npy"), ("Comp_v6_KLD005/meta/mean.npy", "Comp_v6_KLD005/meta/std.npy")),
        ),
        Evaluator("mardm67", "t2m", "positions", 0, "mardm-evaluators", OF_MARDM, True),
        Evaluator("mardm64", "kit", "positions", 0, "mardm-kit-evaluators", OF_MARDM, True),
    )
}


@dataclass(frozen=True)
class EvaluatorFiles:
    """Where an evaluator's files lie.

    folder  given in place of the registry's, with `text_mot_match/model/finest.tar` and the statistics in it
    glove   a folder of word vectors, in place of the registry's
    clip    a directory of CLIP's tokenizer, for the contrastive evaluator
    root    the weights folder; None: its default
    """

    folder: Path | None = None
    glove: Path | None = None
    clip: Path | None = None
    root: Path | None = None

    def weights(self, evaluator: Evaluator, file: str) -> Path:
        """A file of weights; ValueError where it is not there."""
        folder = self.folder or locate(evaluator.registry, self.root)
        if not (folder / file).is_file():
            raise ValueError(f"config key 'evaluator': {folder} holds no {file}, which features={evaluator.name} needs")
        if self.folder is None:
            verified(evaluator.registry, self.root)
        return folder / file

    def statistics(self, evaluator: Evaluator) -> EvaluatorStatistics:
        """The evaluator's mean and deviation; ValueError where they are not there, or of other numbers."""
        folder = self.folder or locate(evaluator.registry, self.root)
        for mean, std in evaluator.statistics:
            if (folder / mean).is_file() and (folder / std).is_file():
                return EvaluatorStatistics.read(folder / mean, folder / std, evaluator.body, evaluator.representation)
        places = " or ".join(f"{mean} and {Path(std).name}" for mean, std in evaluator.statistics)
        raise ValueError(
            f"config key 'evaluator': {folder} holds no {places}; the mean and deviation that were published with "
            f"{evaluator.name} are needed, those of the data are no substitute"
        )

    def words(self) -> tuple[WordVectors, str]:
        """The word vectors, and the SHA-256 over their files."""
        folder = self.glove or locate("glove", self.root)
        files = {name: folder / name for name in (VECTORS, INDEX, WORDS)}
        return WordVectors.read(folder), json_sha256({name: sha256_file(path) for name, path in files.items()})


class MotionExtractor(TextExtractor):
    """A published network that motion and texts go through: motion (B, D), and `text_features`.

    Raises ValueError, naming the file, for weights or statistics of another evaluator.
    """

    main = "motion"
    takes_floats = True
    weights: str  # the file in the evaluator's folder

    def __init__(self, evaluator: Evaluator, files: EvaluatorFiles, device: torch.device):
        self.evaluator, self.device, self.name = evaluator, device, evaluator.name
        path = files.weights(evaluator, self.weights)
        self.weights_sha256 = sha256_file(path)
        self.statistics = files.statistics(evaluator)
        self.networks = self.read(path).to(device)

    def read(self, path: Path) -> torch.nn.Module:
        """The networks, with `embed_motion` of rows (B, F, C) and lengths (B,)."""
        raise NotImplementedError

    @property
    def preprocessing(self) -> str:
        """What is done to a clip and to a caption."""
        cut = f", the last {self.evaluator.cut} numbers left out" if self.evaluator.cut else ""
        return (
            f"{self.evaluator.representation} of {self.evaluator.body.name}, {LONGEST} frames at most and a multiple "
            f"of {UNIT}, the evaluator's mean and deviation{cut}, zeros behind the end"
        )

    def facts(self) -> dict[str, Any]:
        """The hashes of the statistics too."""
        return {**super().facts(), "statistics_sha256": self.statistics.sha256}

    @torch.no_grad()
    def __call__(self, rows: list[Clip]) -> dict[str, Tensor]:
        """Clips of any length -> motion (B, D); ValueError for one of another skeleton, or of fewer than 4 frames."""
        normal = [self.normalised(clip) for clip in rows]
        frames = torch.tensor([len(each) for each in normal])
        padded = torch.zeros(len(rows), LONGEST, normal[0].shape[1])
        for row, each in enumerate(normal):
            padded[row, : len(each)] = each
        return {"motion": self.networks.embed_motion(padded.to(self.device), frames.to(self.device)).cpu()}

    def normalised(self, clip: Clip) -> Tensor:
        """Normalised numbers (F, C) of a clip, without those that the evaluator leaves out."""
        clip.check_skeleton(self.evaluator.body, f"features={self.name}")
        rows = clip.as_rows(self.evaluator.representation)
        frames = min(len(rows), LONGEST) // UNIT * UNIT
        if frames == 0:
            raise ValueError(f"a clip of {len(rows)} frames; features={self.name} takes {UNIT} at least")
        return self.statistics.normalise(rows[:frames])[:, : self.evaluator.numbers - self.evaluator.cut]


class MatchingExtractor(MotionExtractor):
    """The matching evaluator of Guo et al., or MARDM's of the same form.

    tokens  what is written down of a caption's words and their parts of speech
    """

    weights = MATCHING

    def __init__(self, evaluator: Evaluator, files: EvaluatorFiles, tokens: Tokens, device: torch.device):
        super().__init__(evaluator, files, device)
        self.tokens, self.told = tokens, False
        self.words, self.words_sha256 = files.words()
        if self.words.size != self.networks.sizes.word:
            needed = self.networks.sizes.word
            raise ValueError(f"config key 'glove': vectors of {self.words.size} numbers, the evaluator takes {needed}")

    def read(self, path: Path) -> torch.nn.Module:
        """The three encoders; ValueError for those of another data set."""
        networks = read_matching(path)
        check_numbers(networks.sizes.numbers, self.evaluator, path)
        return networks

    def facts(self) -> dict[str, Any]:
        """The hash of the word vectors too."""
        return {**super().facts(), "words_sha256": self.words_sha256}

    @torch.no_grad()
    def text_features(self, texts: Sequence[str]) -> Tensor:
        """Captions -> (n, D); the words of those without tokens are taken without parts of speech, with a warning."""
        known = [self.tokens(text) for text in texts]
        if None in known and not self.told:
            self.told = True
            log.warning(
                "%d of %d captions stand in no text file with parts of speech, such as %r: words are taken as OTHER",
                *(known.count(None), len(known), texts[known.index(None)]),
            )
        captions = [plain_tokens(text) if each is None else each for text, each in zip(texts, known, strict=True)]
        found = []
        for first in range(0, len(captions), TEXTS_AT_ONCE):
            words, parts, lengths = self.words.embed(captions[first : first + TEXTS_AT_ONCE])
            found.append(self.networks.embed_text(words.to(self.device), parts.to(self.device), lengths).cpu())
        return torch.cat(found)


class ContrastExtractor(MotionExtractor):
    """MARDM's contrastive evaluator: unit vectors, for a CLIP score; captions through CLIP's tokenizer."""

    weights = CONTRAST

    def __init__(self, evaluator: Evaluator, files: EvaluatorFiles, device: torch.device):
        if files.clip is None:
            raise ValueError(f"{evaluator.name}/clip_score needs CLIP's tokenizer, a local directory: clip=DIR")
        super().__init__(evaluator, files, device)
        self.name = clip_name(evaluator.name)
        self.tokenizer = ClipTextEncoder().tokenizer(import_transformers(self.name, "text"), files.clip)

    def read(self, path: Path) -> torch.nn.Module:
        """Both sides; ValueError for those of another data set."""
        networks = read_contrast(path)
        check_numbers(networks.motion_encoder.embed_motion.in_features, self.evaluator, path)
        return networks

    @torch.no_grad()
    def text_features(self, texts: Sequence[str]) -> Tensor:
        """Captions -> (n, D) of unit length."""
        parts = self.token_numbers(texts).split(TEXTS_AT_ONCE)
        return torch.cat([self.networks.embed_text(part.to(self.device)).cpu() for part in parts])

    def token_numbers(self, texts: Sequence[str]) -> Tensor:
        """(n, L) int64: start, words and end by CLIP's tokenizer, then zeros, which this text side looks at too."""
        length = len(self.networks.positional_embedding)
        found = torch.zeros(len(texts), length, dtype=torch.int64)
        for row, numbers in enumerate(self.tokenizer(list(texts), truncation=True, max_length=length).input_ids):
            found[row, : len(numbers)] = torch.tensor(numbers)
        return found


def clip_name(evaluator: str) -> str:
    """The name of the extractor that an evaluator's CLIP score is taken with."""
    return f"{evaluator}_clip"


def check_numbers(found: int, evaluator: Evaluator, path: Path) -> None:
    """Raises ValueError, naming the file, where an evaluator's weights take other numbers than its clips have."""
    if found == evaluator.numbers - evaluator.cut:
        return
    fits = [str(each) for each in EVALUATORS.values() if each.numbers - each.cut == found]
    raise ValueError(
        f"{path} takes {found} numbers of a frame, as {' and '.join(fits) or 'no known evaluator'} does; features is "
        f"{str(evaluator)!r}, whose weights take {evaluator.numbers - evaluator.cut}"
    )
