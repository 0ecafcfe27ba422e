"""Planned steps along a path: a foot stays where it is put while it stands, and swings to its next place in between.

Letters: n clips, F frames, G times of a path's table. A pair of feet is (left, right).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from motion.moves.curves import bump, ease

FIRST, LAST, INTERVAL = -2.5, 6.0, 0.01  # seconds that a path knows, before and after the clip
TURN_LENGTH = 0.25  # metres that a foot swings for each radian that it turns, as far as its height is concerned
RISE = 0.4  # the share of a swing in which a foot is lifted, and in which it is put down
HALF_HEIGHT = 0.06  # metres of a step that is lifted half as high as a long one


@dataclass(frozen=True)
class Path:
    """Where a body is over time, and where it looks.

    place    (n, G, 2) x and z, metres
    heading  (n, G) radians, positive to the left
    """

    place: np.ndarray
    heading: np.ndarray

    @classmethod
    def of(cls, speed: np.ndarray, turning: np.ndarray, course: np.ndarray) -> Path:
        """Speed and turning (n, G) a second, and the angle (n,) between heading and course: pi for a walk backwards."""
        heading = _integral(turning)
        way = heading + course[:, None]
        place = np.stack([_integral(speed * np.sin(way)), _integral(speed * np.cos(way))], axis=-1)
        return cls(place, heading)

    def at(self, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Place (n, F, 2) and heading (n, F) at times (n, F) in seconds."""
        position = np.clip((t - FIRST) / INTERVAL, 0, self.heading.shape[1] - 1.001)
        index = position.astype(int)
        part = position - index
        rows = np.arange(len(t))[:, None]
        place = self.place[rows, index] * (1 - part[..., None]) + self.place[rows, index + 1] * part[..., None]
        return place, self.heading[rows, index] * (1 - part) + self.heading[rows, index + 1] * part


def times() -> np.ndarray:
    """The times (1, G) of a path's table, seconds."""
    return np.arange(FIRST, LAST, INTERVAL)[None]


def _integral(values: np.ndarray) -> np.ndarray:
    """Of values (n, G) over time from t = 0."""
    total = np.zeros_like(values)
    total[:, 1:] = np.cumsum((values[:, 1:] + values[:, :-1]) / 2, axis=1) * INTERVAL
    return total - total[:, [round(-FIRST / INTERVAL)]]


@dataclass(frozen=True)
class Gait:
    """How feet follow a path; every field is (n,).

    period  seconds of a step of the left and one of the right foot
    duty    the share of it in which a foot stands
    phase   of the left foot at t = 0, in periods
    width   metres from the middle to a foot
    reach   metres that a foot joint is before the middle, when it is passed
    height  of the foot in the middle of a long step, metres
    roll    heel up when a foot leaves the floor, radians
    toe_out heading of the feet away from the body's, radians
    """

    period: np.ndarray
    duty: np.ndarray
    phase: np.ndarray
    width: np.ndarray
    reach: np.ndarray
    height: np.ndarray
    roll: np.ndarray
    toe_out: np.ndarray

    def phases(self, t: np.ndarray) -> np.ndarray:
        """Of the feet at times (n, F): whole at the start of a stand (n, F, 2)."""
        left = t / self.period[:, None] + self.phase[:, None]
        return np.stack([left, left + 0.5], axis=-1)


@dataclass(frozen=True)
class Steps:
    """Feet over time: `toes` (n, F, 2, 3), `yaw`, `pitch` and `phase` (n, F, 2)."""

    toes: np.ndarray
    yaw: np.ndarray
    pitch: np.ndarray
    phase: np.ndarray


def steps(path: Path, gait: Gait, t: np.ndarray) -> Steps:
    """The feet at times (n, F)."""
    phases = gait.phases(t)
    duty = gait.duty[:, None]
    toes, yaws, pitches = [], [], []
    for side, sign in enumerate((1, -1)):
        stand = np.floor(phases[..., side])
        share = phases[..., side] - stand
        swing = np.clip((share - duty) / (1 - duty), 0, 1)
        (place, yaw), (next_place, next_yaw) = (_put(path, gait, stand + i, side, sign) for i in (0, 1))
        moved, turned = next_place - place, next_yaw - yaw
        length = np.linalg.norm(moved, axis=-1) + TURN_LENGTH * np.abs(turned)
        lift = length / (length + HALF_HEIGHT)
        height = gait.height[:, None] * lift * ease(swing / RISE) * ease((1 - swing) / RISE)
        across = ease((swing - 0.07) / 0.86)  # a foot is lifted before it is moved
        xz = place + moved * across[..., None]
        toes.append(np.stack([xz[..., 0], height, xz[..., 1]], axis=-1))
        yaws.append(yaw + turned * across)
        heel = ease((share / duty - 0.45) / 0.55) * (1 - ease(swing / 0.95))
        pitches.append(lift * (gait.roll[:, None] * heel - 0.1 * bump((swing - 0.5) / 0.5)))
    return Steps(*(np.stack(each, axis=2) for each in (toes, yaws, pitches)), phases)


def _put(path: Path, gait: Gait, stand: np.ndarray, side: int, sign: int) -> tuple[np.ndarray, np.ndarray]:
    """Where stand number `stand` (n, F) of a foot is, and its heading: beside the path as it is amid the stand."""
    middle = (stand + gait.duty[:, None] / 2 - 0.5 * side - gait.phase[:, None]) * gait.period[:, None]
    place, heading = path.at(middle)
    left = np.stack([np.cos(heading), -np.sin(heading)], axis=-1)
    ahead = np.stack([np.sin(heading), np.cos(heading)], axis=-1)
    place = place + sign * gait.width[:, None, None] * left + gait.reach[:, None, None] * ahead
    return place, heading + sign * gait.toe_out[:, None]
