"""What a body does up and down on the spot: squat, sit down, pick something up, jump.

Each takes bodies, times (n, F), clip durations (n,) and chance, and gives a pose and what a caption may say of it.
Letters: n clips, F frames.
"""

from __future__ import annotations

import numpy as np

from motion.moves.bodies import progress, stand
from motion.moves.chance import Chance
from motion.moves.curves import bump, ease, hold, keys, pulses, times_in
from motion.moves.gaits import Moved
from motion.moves.gestures import _to
from motion.moves.kinematics import Bodies, Pose

GRAVITY = 9.81  # m/s^2


def squat(bodies: Bodies, t: np.ndarray, duration: np.ndarray, chance: Chance) -> Moved:
    """Knees bent and stretched, once to three times, arms ahead for balance."""
    pose, x = stand(bodies, t, chance), progress(t, duration, chance)
    count = times_in(duration, 1 + chance.choice([1, 1, 1]), 0.9)
    deep = chance.choice([1, 1])
    depth = chance.uniform(np.array([0.22, 0.42])[deep], np.array([0.3, 0.55])[deep]) * bodies.legs
    down = pulses((x - 0.06) / 0.88, count[:, None])
    _crouch(pose, depth[:, None] * down, bodies)
    _widen(pose, chance.uniform(1.1, 1.6), 0.35)
    ahead = chance.uniform(0.6, 1.5)
    for side in (0, 1):
        target = np.stack([ahead, np.full(len(t), 0.1), np.full(len(t), 0.1), np.full(len(t), 0.25)], -1)
        _to(pose, side, target, down**0.75)
    return pose, {"count": count, "depth": np.array(["half", "deep"])[deep]}


def sit_down(bodies: Bodies, t: np.ndarray, duration: np.ndarray, chance: Chance) -> Moved:
    """On a seat behind, to stay there or to rise again."""
    pose, x = stand(bodies, t, chance), progress(t, duration, chance)
    rises = chance.maybe(0.5)
    start, quick = chance.uniform(0.05, 0.15)[:, None], chance.uniform(0.24, 0.34)[:, None]
    sits = ease((x - start) / quick)
    leaning = bump((x - start + 0.02) / (quick * 1.15))
    again = chance.uniform(0.58, 0.64)[:, None]
    sits = sits * np.where(rises[:, None], 1 - ease((x - again) / quick), 1)
    leaning = leaning + np.where(rises[:, None], bump((x - again + 0.06) / (quick * 1.15)), 0)
    seat = (0.55 * bodies.legs + bodies.ankle_height) * chance.uniform(0.98, 1.1)
    drop = (pose.pelvis[..., 1] - seat[:, None]) * sits
    pose.pelvis[..., 1] -= drop
    pose.pelvis[..., 2] -= (0.42 * bodies.legs)[:, None] * sits**0.8
    pose.lean += 0.35 * leaning - 0.05 * sits
    pose.bend[..., 0] += 0.45 * leaning + 0.05 * sits
    _widen(pose, chance.uniform(1.0, 1.3), 0.12)
    for side in (0, 1):
        target = np.stack([np.full(len(t), v) for v in (0.45, 0.12, 0.25, 0.95)], -1)
        _to(pose, side, target, sits)
        pose.arms[:, :, side, 0] += 0.35 * leaning
    return pose, {"end": np.array(["sits", "rises"])[rises.astype(int)]}


def pick_up(bodies: Bodies, t: np.ndarray, duration: np.ndarray, chance: Chance) -> Moved:
    """Down to the floor ahead with one hand, the left one, or with both, and up with what was there."""
    pose, x = stand(bodies, t, chance), progress(t, duration, chance)
    both = chance.maybe(0.4)
    down = hold(np.clip((x - 0.06) / 0.84, 0, 1), chance.uniform(0.36, 0.44)[:, None])
    _crouch(pose, (chance.uniform(0.36, 0.46) * bodies.legs)[:, None] * down, bodies)
    pose.lean += 0.45 * down
    pose.bend[..., 0] += 0.75 * down
    pose.head[..., 0] += 0.1 * down
    _widen(pose, chance.uniform(1.0, 1.4), 0.2)
    reach, none = chance.uniform(1.15, 1.4), np.zeros(len(t))
    carried = ease((x - 0.5) / 0.3)
    for side in (0, 1):
        takes = down if side == 0 else down * both[:, None]
        holds = carried if side == 0 else carried * both[:, None]
        _to(pose, side, np.stack([none + 0.35, none + 0.1, none + 0.3, none + 1.35], -1), holds)
        _to(pose, side, np.stack([reach, none + 0.05, none + 0.15, none + 0.15], -1), takes)
    alone = (~both)[:, None] * down
    pose.bend[..., 2] -= 0.3 * alone
    _to(pose, 1, np.stack([none + 0.5, none + 0.25, none + 0.4, none + 0.9], -1), 0.8 * alone)
    return pose, {"hands": np.array(["one", "both"])[both.astype(int)]}


def jump(bodies: Bodies, t: np.ndarray, duration: np.ndarray, chance: Chance) -> Moved:
    """With both feet, on the spot or ahead, low or high, once or twice."""
    pose = stand(bodies, t, chance)
    ahead, high = chance.choice([1, 1]), chance.choice([1, 1])
    count = times_in(duration, 1 + chance.choice([1, 1]), 1.3)
    height = chance.uniform(np.array([0.1, 0.26])[high], np.array([0.16, 0.42])[high])
    length = ahead * chance.uniform(0.35, 0.75)
    pause = chance.uniform(0.1, 0.2) * duration / count
    for i in range(2):
        start = i * duration / count + pause
        _leap(pose, bodies, t, start, np.where(i < count, height, 0), np.where(i < count, length, 0), duration / count)
    way = np.array(["up", "ahead"])[ahead]
    return pose, {"way": way, "height": np.array(["low", "high"])[high], "count": count}


def _leap(pose: Pose, bodies: Bodies, t, start, height, length, room) -> None:
    """One jump (all (n,)): crouch, push, flight, landing and up again within `room` seconds; none where height is 0."""
    speed = np.sqrt(2 * GRAVITY * height)
    flight = np.maximum(2 * speed / GRAVITY, 1e-3)
    rest = np.maximum(0.88 * room - 0.12 * room - flight, 0.5)
    times = [start, start + 0.33 * rest, start + 0.6 * rest]
    times += [times[2] + flight, times[2] + flight + 0.2 * rest, times[2] + flight + 0.48 * rest]
    off, none = 0.02 * bodies.legs, np.zeros(len(height))
    crouch = (0.2 + 0.25 * height) * bodies.legs * (height > 0)
    values = [none, -crouch, off * (height > 0), off * (height > 0), -0.8 * crouch, none]
    rises = keys(t, times, values, [none, none, speed, -speed, none, none])
    share = np.clip((t - times[2][:, None]) / flight[:, None], 0, 1)
    ballistic = 4 * height[:, None] * share * (1 - share)
    in_air = (t > times[2][:, None]) & (t < times[3][:, None])
    rises = np.where(in_air, off[:, None] + ballistic, rises)
    _crouch(pose, -np.minimum(rises, 0), bodies)
    pose.pelvis[..., 1] += np.maximum(rises, 0)
    ahead = length[:, None] * share
    pose.pelvis[..., 2] += ahead
    tuck = bump(share)
    pose.toes[..., 1] += (ballistic + 0.25 * height[:, None] * tuck)[..., None]
    pose.toes[..., 2] += length[:, None, None] * ease(share)[..., None]
    push = ease((t - times[1][:, None]) / (times[2] - times[1])[:, None]) * (1 - ease((share - 0.3) / 0.7))
    pose.foot_pitch += (0.75 * push * (height > 0)[:, None])[..., None]
    _arms_of_leap(pose, t, times, height)


def _arms_of_leap(pose: Pose, t: np.ndarray, times: list, height: np.ndarray) -> None:
    """Back in the crouch, up and ahead in the flight."""
    real = (height > 0).astype(float)
    zero = np.zeros(len(height))
    values = [zero, -0.7 * real, 0.8 * real, 1.2 * real, 0.4 * real, zero]
    swing = keys(t, times, values, [zero] * 6)
    pose.arms[..., 0] += swing[..., None]
    pose.arms[..., 3] += (0.3 * np.maximum(swing, 0))[..., None]


def _crouch(pose: Pose, depth: np.ndarray, bodies: Bodies) -> None:
    """The pelvis lower by `depth` (n, F) metres and back, the trunk ahead over the feet."""
    share = depth / bodies.legs[:, None]
    pose.pelvis[..., 1] -= depth
    pose.pelvis[..., 2] -= 0.3 * depth
    pose.lean += 0.9 * share
    pose.bend[..., 0] += 0.5 * share
    pose.head[..., 0] -= 0.6 * share


def _widen(pose: Pose, factor: np.ndarray, toe_out: float) -> None:
    """Feet further apart by `factor` (n,), turned out by as many radians more."""
    pose.toes[..., 0] *= factor[:, None, None]
    pose.foot_yaw += toe_out * np.array([1, -1])
