"""Walking, running, walking backwards, stepping sideways, turning on the spot.

Each takes bodies, times (n, F), clip durations (n,) and chance, and gives a pose and what a caption may say of it, of
a body that turns or steps to the left: the others are mirrored.

Letters: n clips, F frames, G times of a path's table.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from motion.moves.bodies import stand
from motion.moves.chance import Chance
from motion.moves.curves import ease
from motion.moves.kinematics import FEET, Bodies, Pose
from motion.moves.steps import Gait, Path, Steps, steps, times

SLOW, NORMAL, FAST = "slow", "normal", "fast"
SPEEDS = np.array([SLOW, NORMAL, FAST])
STRAIGHT, CURVE, CIRCLE = "straight", "curve", "circle"
COURSES = np.array([STRAIGHT, CURVE, CIRCLE])
Moved = tuple[Pose, dict[str, np.ndarray]]


def walk(bodies: Bodies, t: np.ndarray, duration: np.ndarray, chance: Chance) -> Moved:
    """Forward, straight on, in a curve or in a circle; some set out from standing, some come to a stop."""
    level = chance.choice([1, 1, 1])
    speed = chance.uniform(np.array([0.55, 1.05, 1.6])[level], np.array([0.8, 1.3, 1.85])[level]) * _size(bodies)
    course = chance.choice([2, 1, 1])
    turning = _turning(course, chance)
    period = 1.1 * (1.2 * _size(bodies) / speed) ** 0.6
    gait = _gait(bodies, chance, period, duty=0.6, width=0.07, height=0.12, roll=0.95)
    path, pace = _path(speed, turning, np.zeros(len(t)), duration, chance)
    pose, feet = _follow(bodies, t, chance, path, gait)
    _swing(pose, feet, gait, (0.25 + 0.22 * speed)[:, None] * _at(pace, t), elbow=0.25)
    pose.lean += 0.02 * speed[:, None]
    return pose, {"speed": SPEEDS[level], "course": COURSES[course]}


def run(bodies: Bodies, t: np.ndarray, duration: np.ndarray, chance: Chance) -> Moved:
    """Forward with a flight between the steps."""
    level = chance.choice([1, 1, 1])
    speed = chance.uniform(np.array([1.9, 2.6, 3.5])[level], np.array([2.2, 3.1, 4.2])[level]) * _size(bodies)
    course = chance.choice([2, 1, 1])
    turning = _turning(course, chance)
    period = 0.72 * (3 * _size(bodies) / speed) ** 0.3
    gait = _gait(bodies, chance, period, duty=0.36, width=0.05, height=0.24, roll=1.9)
    path, pace = _path(speed, turning, np.zeros(len(t)), duration, chance, still=0.0)
    pose, feet = _follow(bodies, t, chance, path, gait)
    _swing(pose, feet, gait, (0.45 + 0.1 * speed)[:, None] * _at(pace, t), elbow=1.5)
    bounce = np.cos(4 * np.pi * (feet.phase[..., 0] - gait.duty[:, None] / 2))
    pose.pelvis[..., 1] -= 0.03 + 0.035 * bounce
    pose.lean += 0.06 + 0.025 * speed[:, None]
    return pose, {"speed": SPEEDS[level], "course": COURSES[course]}


def walk_backwards(bodies: Bodies, t: np.ndarray, duration: np.ndarray, chance: Chance) -> Moved:
    """Backwards, straight on."""
    level = chance.choice([1, 1, 1])
    speed = chance.uniform(np.array([0.4, 0.7, 1.0])[level], np.array([0.55, 0.85, 1.25])[level]) * _size(bodies)
    period = 1.15 * (0.8 * _size(bodies) / speed) ** 0.5
    gait = _gait(bodies, chance, period, duty=0.6, width=0.09, height=0.12, roll=0.7)
    path, pace = _path(speed, np.zeros(len(t)), np.full(len(t), np.pi), duration, chance)
    pose, feet = _follow(bodies, t, chance, path, gait)
    _swing(pose, feet, gait, -(0.1 + 0.15 * speed)[:, None] * _at(pace, t), elbow=0.3)
    return pose, {"speed": SPEEDS[level]}


def sidestep(bodies: Bodies, t: np.ndarray, duration: np.ndarray, chance: Chance) -> Moved:
    """To the left, looking ahead; feet do not cross."""
    level = chance.choice([1, 1, 1])
    speed = chance.uniform(np.array([0.25, 0.42, 0.65])[level], np.array([0.35, 0.55, 0.85])[level]) * _size(bodies)
    period = 1.0 * (0.5 * _size(bodies) / speed) ** 0.6
    gait = _gait(bodies, chance, period, duty=0.6, width=0.05, height=0.12, roll=0.4)
    gait = replace(gait, width=0.08 + speed * period / 4)
    path, _ = _path(speed, np.zeros(len(t)), np.full(len(t), np.pi / 2), duration, chance)
    pose, _ = _follow(bodies, t, chance, path, gait)
    arms = chance.uniform(0, 0.45)[:, None]
    pose.arms[..., 1] += arms[..., None]
    pose.pelvis[..., 1] -= chance.uniform(0, 0.04)[:, None]
    return pose, {"speed": SPEEDS[level]}


def turn_around(bodies: Bodies, t: np.ndarray, duration: np.ndarray, chance: Chance) -> Moved:
    """On the spot to the left, by small steps: a quarter or half a turn."""
    amount = chance.choice([1, 1])
    angle = np.array([0.5, 1.0])[amount] * np.pi * chance.uniform(0.93, 1.07)
    first, last = 0.1 * duration, duration * chance.uniform(0.75, 0.95)
    at = times()
    turning = angle[:, None] * np.gradient(ease((at - first[:, None]) / (last - first)[:, None]), at[0], axis=1)
    gait = _gait(bodies, chance, chance.uniform(0.75, 1.0), duty=0.6, width=0.1, height=0.12, roll=0.2)
    path = Path.of(np.zeros_like(turning), turning, np.zeros(len(t)))
    pose, _ = _follow(bodies, t, chance, path, gait)
    pose.head[..., 1] += 0.25 * _at(turning, t)
    return pose, {"amount": np.array(["quarter", "half"])[amount]}


def _size(bodies: Bodies) -> np.ndarray:
    """Of the legs beside those of an average body: long ones are faster."""
    return (bodies.legs / 0.79) ** 0.5


def _gait(bodies: Bodies, chance: Chance, period, *, duty, width, height, roll) -> Gait:
    """A gait of that kind for those bodies."""
    ones, scale = np.ones(len(period)), bodies.legs / 0.79
    reach = bodies.offsets[:, FEET[0], 2] - 0.05
    heights = height * scale * chance.uniform(0.85, 1.2)
    return Gait(
        period, duty * ones, chance.uniform(), width * scale, reach, heights, roll * ones, chance.uniform(0, 0.2)
    )


def _turning(course: np.ndarray, chance: Chance) -> np.ndarray:
    """Radians a second to the left: none, a wide curve, a circle (more of it in a longer clip).

    Not faster than a turn in 4.7 s: the heading to which a row's numbers are relative is smoothed over two seconds.
    """
    return chance.uniform(np.array([0, 0.25, 1.05])[course], np.array([0, 0.5, 1.35])[course])


def _path(speed, turning, course, duration, chance: Chance, still: float = 0.4) -> tuple[Path, np.ndarray]:
    """A path at that speed, and the pace (n, G) from 0 to 1 along it; a share of `still` starts, or ends, standing."""
    kind, at = chance.choice([1 - still, still / 2, still / 2]), times()
    starts, ends = (kind == 1)[:, None], (kind == 2)[:, None]
    pace = np.where(starts, ease((at - 0.1) / 0.9), 1.0)
    pace = np.where(ends, 1 - ease((at - duration[:, None] + 1.1) / 0.9), pace)
    return Path.of(pace * speed[:, None], pace * turning[:, None], course), pace


def _at(values: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Values (n, G) of a path's table at times (n, F)."""
    return Path(np.zeros((*values.shape, 2)), values).at(t)[1]


def _follow(bodies: Bodies, t: np.ndarray, chance: Chance, path: Path, gait: Gait) -> tuple[Pose, Steps]:
    """A body that follows a path in a gait: over the foot that stands, hips turned with the steps."""
    pose, feet = stand(bodies, t, chance), steps(path, gait, t)
    place, heading = path.at(t)
    middle = 2 * np.pi * (feet.phase[..., 0] - gait.duty[:, None] / 2)  # 0 when the left foot bears the body
    strength = np.clip(np.linalg.norm(np.gradient(place, axis=1), axis=-1) * 20 / 1.0, 0, 1)
    aside = 0.025 * strength * np.cos(middle)
    pose.pelvis[..., 0] += place[..., 0] + aside * np.cos(heading)
    pose.pelvis[..., 2] += place[..., 1] - aside * np.sin(heading)
    pose.pelvis[..., 1] += -0.012 + 0.012 * np.cos(2 * middle) * strength
    pose.yaw += heading
    pose.roll += 0.04 * strength * np.cos(middle)
    pose.toes, pose.foot_yaw, pose.foot_pitch = feet.toes, feet.yaw, feet.pitch
    return pose, feet


def _swing(pose: Pose, feet: Steps, gait: Gait, strength: np.ndarray, elbow: float) -> None:
    """Arms against the legs by `strength` (n, F) radians, and the trunk with them."""
    ahead = np.cos(2 * np.pi * feet.phase[..., 0])  # 1 when the left foot is put before the body
    for side, sign in enumerate((-1, 1)):
        pose.arms[:, :, side, 0] += sign * strength * ahead
        pose.arms[:, :, side, 3] += elbow + 0.35 * strength * (1 + sign * ahead)
    pose.yaw -= 0.2 * strength * ahead
    pose.bend[..., 2] += 0.4 * strength * ahead
    pose.head[..., 1] -= 0.2 * strength * ahead
