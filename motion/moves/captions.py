"""Captions of clips: who, what, and how, in the words of several people, true of what the clip shows."""

from __future__ import annotations

import numpy as np

from core.draws import numpy_rng
from motion.moves.actions import Facts

PER_CLIP = 3
SUBJECTS = ("a person", "a man", "a woman", "someone", "somebody", "the person", "a figure", "a human")
COUNTS = {1: ("once", "one time", ""), 2: ("twice", "two times"), 3: ("three times", "3 times")}
Slots = list[tuple[str, ...]]  # one of each is chosen; they follow each other in the sentence


def captions_of(facts: Facts, split: str, row: int) -> list[str]:
    """PER_CLIP different captions of a clip; a function of the clip."""
    rng = numpy_rng("moves captions", split, row)
    captions: list[str] = []
    while len(captions) < PER_CLIP:
        caption = _sentence(PHRASES[facts.action](facts), rng)
        if caption not in captions:
            captions.append(caption)
    return captions


def _sentence(slots: Slots, rng: np.random.Generator) -> str:
    words = [slot[int(rng.integers(len(slot)))] for slot in (SUBJECTS, *slots)]
    return " ".join(word for word in words if word).replace(" ,", ",")


def _course(facts: Facts) -> tuple[str, ...]:
    """The way of a walk or run."""
    side = facts.side
    turning = {"left": "counterclockwise", "right": "clockwise"}[side]
    return {
        "straight": ("forward", "straight ahead", "in a straight line", "straight forward", "ahead"),
        "curve": (
            f"in a curve to the {side}",
            f"and turns to the {side}",
            f"while veering {side}",
            f"along a curve to the {side}",
            f"bearing {side}",
        ),
        "circle": (
            f"in a circle to the {side}",
            f"in a {turning} circle",
            f"around in a circle, turning {side}",
            f"{turning} in a circle",
        ),
    }[facts.details["course"]]


def _walk(facts: Facts) -> Slots:
    verbs = {
        "slow": ("walks slowly", "strolls", "strolls slowly", "ambles", "is slowly walking", "wanders slowly"),
        "normal": ("walks", "is walking", "walks at a normal pace", "steps", "walks casually", "paces"),
        "fast": (
            "walks quickly",
            "walks briskly",
            "strides quickly",
            "walks fast",
            "is walking fast",
            "hurries",
        ),
    }
    return [verbs[facts.details["speed"]], _course(facts)]


def _run(facts: Facts) -> Slots:
    verbs = {
        "slow": ("jogs", "jogs slowly", "is jogging", "runs slowly", "jogs at an easy pace"),
        "normal": ("runs", "is running", "runs at a steady pace", "goes for a run"),
        "fast": ("sprints", "runs fast", "runs very quickly", "is sprinting", "races", "dashes"),
    }
    return [verbs[facts.details["speed"]], _course(facts)]


def _walk_backwards(facts: Facts) -> Slots:
    verbs, how = (
        ("walks backwards", "walks backward", "steps backwards", "is walking backwards", "moves back"),
        {
            "slow": ("slowly", "with slow steps", "carefully", "at a slow pace"),
            "normal": ("", "at a normal pace", "in a straight line", "with even steps"),
            "fast": ("quickly", "with quick steps", "fast", "in a hurry"),
        },
    )
    return [verbs, how[facts.details["speed"]]]


def _sidestep(facts: Facts) -> Slots:
    side = facts.side
    how = {
        "slow": ("slowly", "with slow steps", "carefully"),
        "normal": ("", "at a normal pace", "with even steps"),
        "fast": ("quickly", "with quick steps", "fast"),
    }
    verbs = (
        f"sidesteps to the {side}",
        f"steps sideways to the {side}",
        f"shuffles to the {side}",
        f"moves sideways to the {side}",
        f"side steps {side}",
    )
    return [verbs, how[facts.details["speed"]]]


def _turn(facts: Facts) -> Slots:
    side = facts.side
    amounts = {
        "quarter": (
            f"makes a quarter turn to the {side}",
            f"turns 90 degrees to the {side}",
            f"turns {side} by a quarter",
        ),
        "half": (f"turns around to the {side}", f"turns 180 degrees to the {side}", f"makes a half turn to the {side}"),
    }
    return [amounts[facts.details["amount"]], ("", "on the spot", "in place", "while standing")]


def _jump(facts: Facts) -> Slots:
    ways = {
        "up": ("on the spot", "in place", "straight up", "up in the air"),
        "ahead": ("forward", "ahead", "to the front"),
    }
    heights = {
        "low": ("hops", "makes a small jump", "jumps lightly", "does a little hop"),
        "high": ("jumps high", "leaps", "makes a big jump", "leaps high"),
    }
    return [heights[facts.details["height"]], ways[facts.details["way"]], COUNTS[facts.details["count"]]]


def _wave(facts: Facts) -> Slots:
    side = facts.side
    verbs = {
        "slow": ("waves slowly", "slowly waves", "gives a slow wave", "waves calmly"),
        "fast": ("waves quickly", "quickly waves", "waves excitedly", "waves fast"),
    }
    withs = (f"with the {side} hand", f"using the {side} hand", f"with the {side} arm", f"with {side} hand raised")
    return [verbs[facts.details["speed"]], withs]


def _clap(facts: Facts) -> Slots:
    verbs = ("claps", "claps both hands", "applauds", "is clapping", "claps with both hands", "gives applause")
    how = {"slow": ("slowly", "at a slow pace", "calmly"), "fast": ("quickly", "fast", "rapidly", "with excitement")}
    return [verbs, how[facts.details["speed"]]]


def _raise_arms(facts: Facts) -> Slots:
    verbs = ("raises both arms", "lifts both arms", "raises the arms overhead", "puts both hands up", "lifts the arms")
    ways = {
        "side": ("by the sides", "out to the sides", "sideways"),
        "front": ("in front of the body", "to the front", "from the front"),
    }
    ends = {
        "up": ("", "and keeps them up", "and holds them there"),
        "down": ("and lowers them again", "and drops them"),
    }
    return [verbs, ways[facts.details["way"]], ends[facts.details["end"]]]


def _punch(facts: Facts) -> Slots:
    side = facts.side
    verbs = (
        f"punches with the {side} hand",
        f"throws a punch with the {side} fist",
        f"boxes with the {side} arm",
        f"strikes forward with the {side} fist",
        f"does a {side} punch",
    )
    return [verbs, COUNTS[facts.details["count"]]]


def _kick(facts: Facts) -> Slots:
    side = facts.side
    verbs = (
        f"kicks with the {side} leg",
        f"kicks with the {side} foot",
        f"does a {side} kick",
        f"swings the {side} leg",
    )
    heights = {"low": ("low", "at a low height", "down low"), "high": ("high", "up high", "high in the air")}
    return [verbs, heights[facts.details["height"]], COUNTS[facts.details["count"]]]


def _squat(facts: Facts) -> Slots:
    verbs = {
        "half": ("squats a little", "does a shallow squat", "bends the knees", "does a half squat"),
        "deep": ("squats deeply", "does a deep squat", "crouches down low", "squats all the way down"),
    }
    return [verbs[facts.details["depth"]], COUNTS[facts.details["count"]]]


def _sit_down(facts: Facts) -> Slots:
    verbs = ("sits down", "takes a seat", "sits on a chair", "lowers onto a seat", "sits down on a bench")
    ends = {
        "sits": ("", "and stays seated", "and remains sitting", "and rests there"),
        "rises": ("and stands up again", "and gets back up", "then rises", "and then stands up"),
    }
    return [verbs, ends[facts.details["end"]]]


def _pick_up(facts: Facts) -> Slots:
    side = facts.side
    verbs = ("picks something up", "bends down and picks something up", "lifts an object", "grabs something")
    hands = {
        "one": (f"with the {side} hand", f"using the {side} hand"),
        "both": ("with both hands", "using both hands", "with two hands"),
    }
    return [verbs, ("from the floor", "from the ground", "off the floor"), hands[facts.details["hands"]]]


PHRASES = {
    "walk": _walk,
    "run": _run,
    "walk backwards": _walk_backwards,
    "sidestep": _sidestep,
    "turn": _turn,
    "jump": _jump,
    "wave": _wave,
    "clap": _clap,
    "raise arms": _raise_arms,
    "punch": _punch,
    "kick": _kick,
    "squat": _squat,
    "sit down": _sit_down,
    "pick up": _pick_up,
}
