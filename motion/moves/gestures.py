"""What arms and legs do while a body stands: wave, clap, raise arms, punch, kick.

Each takes bodies, times (n, F), clip durations (n,) and chance, and gives a pose and what a caption may say of it, with
the left limb: the others are mirrored. Letters: n clips, F frames.
"""

from __future__ import annotations

import numpy as np

from motion.moves.bodies import progress, stand
from motion.moves.chance import Chance
from motion.moves.curves import bump, ease, hold, times_in
from motion.moves.gaits import Moved
from motion.moves.kinematics import COLLARS, ELBOWS, FEET, HIPS, SHOULDERS, WRISTS, Bodies, Pose, about, turn

LEFT = 0
HALF_HAND = 0.03  # metres between a wrist and the middle when hands clap


def wave(bodies: Bodies, t: np.ndarray, duration: np.ndarray, chance: Chance) -> Moved:
    """One arm up, the forearm to and fro."""
    pose, x = stand(bodies, t, chance), progress(t, duration, chance)
    level = chance.choice([1, 1])  # slowly, quickly
    rate = chance.uniform(np.array([0.8, 1.7])[level], np.array([1.15, 2.3])[level])
    up = hold(x, 0.24)
    target = np.stack([np.full(len(t), 1.45), chance.uniform(1.15, 1.75), np.zeros(len(t)), np.full(len(t), 1.35)], -1)
    _to(pose, LEFT, target, up)
    swing = chance.uniform(0.35, 0.55)[:, None] * np.sin(2 * np.pi * rate[:, None] * (t - 0.2 * duration[:, None]))
    pose.arms[:, :, LEFT, 3] += swing * ease((x - 0.12) / 0.14) * ease((0.88 - x) / 0.14)
    pose.bend[..., 1] += 0.06 * up
    pose.head[..., 1] += 0.1 * up
    return pose, {"speed": np.array(["slow", "fast"])[level]}


def clap(bodies: Bodies, t: np.ndarray, duration: np.ndarray, chance: Chance) -> Moved:
    """Hands together before the chest, several times."""
    pose, x = stand(bodies, t, chance), progress(t, duration, chance)
    level = chance.choice([1, 1])
    rate = chance.uniform(np.array([1.1, 2.0])[level], np.array([1.5, 2.7])[level])
    up = hold(x, 0.2)
    claps = 0.5 - 0.5 * np.cos(2 * np.pi * rate[:, None] * (t - 0.15 * duration[:, None]))
    apart = claps * chance.uniform(0.45, 0.7)[:, None]
    lift, outward, elbow = chance.uniform(0.55, 0.95), 0.05, 1.25
    across = _half_width(bodies) + np.sin(outward) * _length(bodies, ELBOWS) - HALF_HAND
    inward = np.arcsin(np.clip(across / (_length(bodies, WRISTS) * np.sin(elbow)), 0, 1))
    for side in (0, 1):
        target = np.stack([lift, np.full(len(t), outward), inward, np.full(len(t), elbow)], -1)
        _to(pose, side, target, up)
        pose.arms[:, :, side, 2] -= apart * up
    return pose, {"speed": np.array(["slow", "fast"])[level]}


def raise_arms(bodies: Bodies, t: np.ndarray, duration: np.ndarray, chance: Chance) -> Moved:
    """Both arms up, by the sides or by the front, and down again in some."""
    pose, x = stand(bodies, t, chance), progress(t, duration, chance)
    by_side, lowered = chance.maybe(), chance.maybe(0.6)
    start, stay = chance.uniform(0.05, 0.2)[:, None], chance.uniform(0.05, 0.3)[:, None]
    rise = chance.uniform(0.25, 0.35)[:, None]
    up = ease((x - start) / rise)
    up = up * np.where(lowered[:, None], 1 - ease((x - start - rise - stay) / 0.3), 1)
    height, none = chance.uniform(2.6, 3.0), np.zeros(len(t))
    target = np.stack([np.where(by_side, none, height), np.where(by_side, height, 0.12), none, none + 0.15], -1)
    for side in (0, 1):
        _to(pose, side, target, up)
    pose.bend[..., 0] -= 0.08 * up
    pose.head[..., 0] -= 0.15 * up
    way, end = np.array(["front", "side"])[by_side.astype(int)], np.array(["up", "down"])[lowered.astype(int)]
    return pose, {"way": way, "end": end}


def punch(bodies: Bodies, t: np.ndarray, duration: np.ndarray, chance: Chance) -> Moved:
    """From a guard, one arm straight ahead, once to three times."""
    pose, x = stand(bodies, t, chance), progress(t, duration, chance)
    count = times_in(duration, 1 + chance.choice([1, 1, 1]), 0.8)
    guard = hold(x, 0.18)
    for side in (0, 1):
        target = np.stack([np.full(len(t), v) for v in (0.65, 0.25, 0.35, 2.15)], -1)
        _to(pose, side, target, guard)
    hit = _repeats(x, count, chance.uniform(0.34, 0.42), duration)
    target = np.stack([np.full(len(t), 1.5), np.full(len(t), -0.12), np.full(len(t), 0.2), np.full(len(t), 0.12)], -1)
    _to(pose, LEFT, target, hit)
    pose.bend[..., 2] += 0.15 * guard - 0.65 * hit
    pose.yaw += 0.12 * guard - 0.25 * hit
    pose.bend[..., 0] += 0.08 * guard + 0.1 * hit
    pose.pelvis[..., 1] -= 0.03 * guard + 0.02 * hit
    pose.pelvis[..., 2] += 0.05 * hit
    pose.toes[..., LEFT, 2] += 0.1
    pose.toes[..., 1, 2] -= 0.12
    return pose, {"count": count}


def kick(bodies: Bodies, t: np.ndarray, duration: np.ndarray, chance: Chance) -> Moved:
    """One leg back and ahead, low or high, once or twice."""
    pose, x = stand(bodies, t, chance), progress(t, duration, chance)
    count = times_in(duration, 1 + chance.choice([1, 1]), 1.2)
    high = chance.choice([1, 1])
    angle = chance.uniform(np.array([0.65, 1.2])[high], np.array([0.9, 1.55])[high])
    one = np.clip((x - 0.1) / 0.8, 0, 0.9999) * count[:, None]
    one = one - np.floor(one)  # of a kick
    back, ahead = bump((one - 0.1) / 0.46), bump((one - 0.3) / 0.56)
    swing = angle[:, None] * ahead - 0.45 * back * (1 - ahead)
    bearing = hold(x, 0.16)
    pose.pelvis[..., 0] -= 0.9 * np.abs(pose.toes[..., 1, 0]) * bearing
    pose.lean -= 0.22 * ahead * high[:, None] + 0.08 * ahead
    pose.bend[..., 0] += 0.25 * ahead
    _leg(pose, bodies, swing, one)
    for side, sign in enumerate((-1, 1)):
        pose.arms[:, :, side, 0] += sign * 0.5 * swing
        pose.arms[:, :, side, 1] += 0.45 * bearing
    return pose, {"count": count, "height": np.array(["low", "high"])[high]}


def _half_width(bodies: Bodies) -> np.ndarray:
    """From the middle to a shoulder (n,)."""
    return bodies.offsets[:, COLLARS[LEFT], 0] + bodies.offsets[:, SHOULDERS[LEFT], 0]


def _length(bodies: Bodies, joints: tuple[int, int]) -> np.ndarray:
    """Of the bone that ends at these joints (n,)."""
    return np.linalg.norm(bodies.offsets[:, joints[LEFT]], axis=-1)


def _leg(pose: Pose, bodies: Bodies, swing: np.ndarray, one: np.ndarray) -> None:
    """The left leg at the angle `swing` (n, F) before the body in a kick whose share `one` (n, F) is over."""
    x = np.clip(one / 0.97, 0, 1)
    lifted, moved = hold(x, 0.12), hold(x, 0.22) ** 2  # a foot is lifted before it is moved
    folded, lowered = bump(one / 0.6), bump((one - 0.62) / 0.36)
    length = bodies.legs[:, None] * (0.96 - 0.24 * folded - 0.15 * lowered)
    hip = pose.pelvis + turn(about(1, pose.yaw), bodies.offsets[:, None, HIPS[LEFT]])
    ankle = hip + length[..., None] * np.stack([0.03 + 0 * swing, -np.cos(swing), np.sin(swing)], -1)
    pitch = -0.9 * swing + 0.45 * np.clip(swing, 0, 1) + 0.5 * folded
    foot = about(1, pose.foot_yaw[..., LEFT]) @ about(0, pitch)
    toe = ankle + turn(foot, bodies.offsets[:, None, FEET[LEFT]])
    toe[..., 1] = np.maximum(toe[..., 1], 0.06)
    pose.toes[:, :, LEFT] += np.stack([moved, lifted, moved], -1) * (toe - pose.toes[:, :, LEFT])
    pose.foot_pitch[..., LEFT] += moved * pitch


def _to(pose: Pose, side: int, angles: np.ndarray, share: np.ndarray) -> None:
    """An arm's angles (n, 4) by that share (n, F) of the way from where they are."""
    arm = pose.arms[:, :, side]
    arm += share[..., None] * (angles[:, None] - arm)


def _repeats(x: np.ndarray, count: np.ndarray, width: np.ndarray, duration: np.ndarray) -> np.ndarray:
    """Bumps (n, F) of `width` seconds each, evenly over the middle of the clip; x (n, F) from 0 to 1."""
    result = np.zeros_like(x)
    for i in range(int(count.max())):
        centre = 0.22 + 0.56 * (i + 0.5) / count
        share = (x - centre[:, None]) * (duration / (2 * width))[:, None] + 0.5
        result += np.where((i < count)[:, None], bump(share), 0)
    return result
