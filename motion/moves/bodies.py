"""Bodies of different size and build, standing at ease: where every action starts from.

Letters: n clips, F frames, J joints.
"""

from __future__ import annotations

import numpy as np

from motion.moves.chance import Chance
from motion.moves.kinematics import ANKLES, ELBOWS, FEET, HIPS, KNEES, OFFSETS, SHOULDERS, WRISTS, Bodies, Pose


def draw_bodies(chance: Chance) -> Bodies:
    """From 1.5 to 1.95 m, with arms, legs and shoulders that differ by 4 % beside that."""
    scale = np.broadcast_to(chance.uniform(0.88, 1.14)[:, None, None], (len(chance), *OFFSETS.shape)).copy()
    for joints in ((*KNEES, *ANKLES), (*ELBOWS, *WRISTS), (*SHOULDERS, *HIPS)):
        scale[:, list(joints)] *= chance.uniform(0.96, 1.04)[:, None, None]
    return Bodies(OFFSETS * scale)


def progress(t: np.ndarray, duration: np.ndarray, chance: Chance) -> np.ndarray:
    """How much of an action is over at times (n, F): below 0 before it begins, 1 and more after its end.

    It takes from 80 to 100 % of a clip (n,).
    """
    before, after = chance.uniform(0, 0.1)[:, None], chance.uniform(0, 0.1)[:, None]
    return (t / duration[:, None] - before) / (1 - before - after)


def stand(bodies: Bodies, t: np.ndarray, chance: Chance) -> Pose:
    """A body (n, F) at ease: it breathes, and sways by some millimetres, feet beside each other."""
    shape = t.shape
    zero = np.zeros(shape)
    rate, phase = chance.uniform(1.2, 2.2)[:, None], chance.uniform(0, 2 * np.pi)[:, None]
    sway = np.sin(rate * t + phase)
    apart = bodies.hip_width * chance.uniform(1.3, 2.2)
    pelvis = np.stack([0.008 * sway, np.broadcast_to(bodies.stand[:, None], shape), 0.005 * np.cos(0.7 * rate * t)], -1)
    arms = np.zeros((*shape, 2, 4))
    arms[..., 0] = (chance.uniform(-0.05, 0.1)[:, None] + 0.02 * sway)[..., None]
    arms[..., 1] = (chance.uniform(0.1, 0.22)[:, None] + 0.01 * sway)[..., None]
    arms[..., 2] = 0.3
    arms[..., 3] = chance.uniform(0.15, 0.45)[:, None, None]
    toes = np.zeros((*shape, 2, 3))
    toes[..., 0] = apart[:, None, None] * np.array([1, -1])
    toes[..., 2] = bodies.offsets[:, FEET[0], 2][:, None, None] - 0.02
    toe_out = chance.uniform(0, 0.3)[:, None, None] * np.array([1, -1])
    bend = np.stack([0.03 + 0.01 * np.sin(1.7 * rate * t), 0.01 * sway, zero], -1)
    head = np.stack([0.02 * sway + chance.uniform(-0.1, 0.15)[:, None], chance.uniform(-0.1, 0.1)[:, None] + zero], -1)
    foot_yaw = np.broadcast_to(toe_out, (*shape, 2)).copy()
    return Pose(pelvis, zero.copy(), zero.copy(), zero.copy(), bend, head, arms, toes, foot_yaw, np.zeros((*shape, 2)))
