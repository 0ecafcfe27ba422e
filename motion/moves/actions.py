"""The actions by name, and the clips of rows: joints, lengths and what captions may say.

Letters: n clips, F frames, J joints.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from motion.moves import gaits, gestures, lowering
from motion.moves.bodies import draw_bodies
from motion.moves.chance import Chance
from motion.moves.kinematics import joints_of, mirror

FPS = 20
# What each action is called, how it is made, and the share of clips that are mirrored: of one-sided ones, half.
ACTIONS: dict[str, Callable[..., gaits.Moved]] = {
    "walk": gaits.walk,
    "run": gaits.run,
    "walk backwards": gaits.walk_backwards,
    "sidestep": gaits.sidestep,
    "turn": gaits.turn_around,
    "jump": lowering.jump,
    "wave": gestures.wave,
    "clap": gestures.clap,
    "raise arms": gestures.raise_arms,
    "punch": gestures.punch,
    "kick": gestures.kick,
    "squat": lowering.squat,
    "sit down": lowering.sit_down,
    "pick up": lowering.pick_up,
}
CLASSES = list(ACTIONS)


@dataclass(frozen=True)
class Facts:
    """What a clip shows: its action, the side of its limb or course ("left" or "right"), and more by name."""

    action: str
    side: str
    details: dict[str, Any]


def render(split: str, rows: Sequence[int], frames: int, lengths: np.ndarray) -> tuple[np.ndarray, list[Facts]]:
    """Joints (n, frames, J, 3) float32 of the rows of a split, and their facts; row i shows action i modulo 14.

    lengths  (n,) frames in which an action takes place; what follows them is of no meaning
    """
    rows = np.asarray(rows)
    joints = np.empty((len(rows), frames, 22, 3), np.float32)
    facts: list[Facts | None] = [None] * len(rows)
    for number, name in enumerate(CLASSES):
        chosen = np.flatnonzero(rows % len(CLASSES) == number)
        if len(chosen):
            joints[chosen], made = _render_action(name, split, rows[chosen].tolist(), frames, lengths[chosen])
            for place, fact in zip(chosen, made, strict=True):
                facts[place] = fact
    return joints, facts


def _render_action(name: str, split: str, rows: list[int], frames: int, lengths: np.ndarray):
    chance = Chance.of(split, rows)
    mirrored = chance.maybe()
    bodies = draw_bodies(chance)
    t = np.broadcast_to(np.arange(frames) / FPS, (len(rows), frames))
    pose, details = ACTIONS[name](bodies, t, lengths / FPS, chance)
    joints = mirror(joints_of(pose, bodies), mirrored)
    sides = np.where(mirrored, "right", "left").tolist()
    columns = {key: values.tolist() for key, values in details.items()}
    made = [Facts(name, side, {key: values[i] for key, values in columns.items()}) for i, side in enumerate(sides)]
    return joints, made
