"""Steps of a text-to-motion evaluator for the clips of a training batch, as a target of `alignment=external`.

Of the published evaluators (Guo et al. 2022) the movement encoder alone, two strided convolutions: a vector for each
four frames, from about ten. What comes behind it, one embedding of the whole clip, has no places.

Letters: B batch, C numbers of a frame, F frames, E numbers of a step, T = F // 4 steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from core.contracts import Batch
from core.storage.atomic import sha256_file
from core.storage.provenance import json_sha256
from motion.body.representations import REPRESENTATIONS, conversion
from motion.data import MotionFormat
from motion.encoders.matching import UNIT, MovementEncoder, read_matching
from motion.encoders.published import EVALUATORS, MATCHING, Evaluator, EvaluatorFiles
from motion.encoders.statistics import EvaluatorStatistics


@dataclass(frozen=True)
class FoundEvaluator:
    """The evaluator of a folder.

    network     its movement encoder
    statistics  its mean and deviation, which are not those of the data
    sha256      of the weights and of the statistics
    """

    evaluator: Evaluator
    network: MovementEncoder
    statistics: EvaluatorStatistics
    sha256: str


class MovementSteps:
    """The encoder `t2m:<folder>`, frozen, in float32, of clips (B, C, F) of one format, in the data's own units.

    Numbers are brought to those that the evaluator takes and normalised by its mean and deviation; frames that no real
    token holds are zeros, as it saw them.
    """

    def __init__(self, name: str, device: torch.device, clips: MotionFormat):
        self.found, self.clips, self.device = find_evaluator(name, clips), clips, device
        self.network = self.found.network.to(device)
        self.width = self.network.out_net.out_features

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Tensor:
        """Clips (B, C, F) -> (B, E, T)."""
        own, rows = self.found.evaluator, batch.media.float().mT
        kinds = REPRESENTATIONS[self.clips.representation], REPRESENTATIONS[own.representation]
        normal = self.found.statistics.normalise(kinds[0].convert(rows, kinds[1], self.clips.skeleton))
        normal = normal[..., : own.numbers - own.cut]
        if batch.mask is not None:
            of_token = rows.shape[1] // batch.mask.shape[1]
            normal = normal * batch.mask.repeat_interleave(of_token, dim=1)[..., None].to(normal)
        with torch.autocast(normal.device.type, enabled=False):
            return self.network(normal).mT

    @cached_property
    def flops(self) -> int:
        """FLOPs of one clip's pass."""
        from torch.utils.flop_counter import FlopCounterMode  # brings Triton, which only a run needs

        numbers = self.found.evaluator.numbers - self.found.evaluator.cut
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            self.network(torch.zeros(1, self.clips.frames, numbers, device=self.device))
        return counter.get_total_flops()


def find_evaluator(name: str, clips: MotionFormat) -> FoundEvaluator:
    """The evaluator in the folder of `t2m:<folder>`, laid out as it is published.

    Which of the published ones it is, its numbers say. ValueError for none, or one whose numbers clips do not have.
    """
    folder, told = Path(name.partition(":")[2]).expanduser(), f"encoder is {name!r}"
    if not (folder / MATCHING).is_file():
        raise ValueError(f"{told}, which holds no {MATCHING}; needed: the folder of a text-to-motion evaluator")
    try:
        network = read_matching(folder / MATCHING).movement_encoder
    except ValueError as error:
        raise ValueError(f"{told}: {error}") from error
    numbers = network.main[0].in_channels
    own = next((each for each in EVALUATORS.values() if each.numbers - each.cut == numbers), None)
    if own is None:
        raise ValueError(f"{told}, which takes {numbers} numbers of a frame; allowed: {', '.join(EVALUATORS)}")
    lost = conversion(clips.representation, own.representation).frames_lost
    if own.body != clips.skeleton or lost:
        raise ValueError(
            f"{told}, whose {numbers} numbers are of {own.representation!r} of the skeleton {own.skeleton!r}, but the "
            f"clips are {clips.representation!r} of {clips.skeleton.name!r}, which do not hold them; needed: an "
            "evaluator of their numbers (docs/alignment.md), or other data"
        )
    if clips.frames < UNIT:
        raise ValueError(f"{told}, which takes {UNIT} frames at least; data.frames is {clips.frames}")
    try:
        statistics = EvaluatorFiles(folder=folder).statistics(own)
    except ValueError as error:
        raise ValueError(f"{told}: {error}") from error
    return FoundEvaluator(own, network, statistics, json_sha256([sha256_file(folder / MATCHING), statistics.sha256]))
