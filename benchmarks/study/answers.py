"""The questions of the page, answered in words that follow from the numbers of the records and from nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.study.networks import MEASURED as MEASURED_PAIR
from benchmarks.study.networks import PAIRS
from benchmarks.study.records import ALONE, GAIN, LOSS, OPEN, Found, Numbers, verdict
from eval.methods.text import gain_text, number, percent

WORDS = {
    GAIN: "gain shown",
    LOSS: "loss shown",
    OPEN: "no gain shown, the interval includes 0",
    ALONE: "one seed, no interval",
}
GAINS, LATER = "Is there a gain?", "Does it turn into a loss later?"
LAYERSYNC, MATCHED = "layersync", "gradient_matched"


def listed(pairs: Sequence[tuple[str, Numbers | None]]) -> str:
    """Gains grouped by what their intervals show, in words."""
    groups = {kind: [f"{name} {gain_text(gain)}" for name, gain in pairs if verdict(gain) == kind] for kind in WORDS}
    return "; ".join(f"{WORDS[kind]}: {', '.join(texts)}" for kind, texts in groups.items() if texts)


def is_there_a_gain(found: Found) -> str:
    """All methods by what the interval of their final gain shows."""
    return listed([(name, found.gains(name)[-1]) for name in found.measured])


def by_noise_level(found: Found) -> str | None:
    """Where in t LayerSync changes the flow loss."""
    if LAYERSYNC not in found.measured:
        return None
    gains = {name: each["gain"] for name, each in found.methods[LAYERSYNC]["loss_by_time"].items()}
    shown = [f"t {name}: {gain_text(gain)}" for name, gain in gains.items() if verdict(gain) != OPEN]
    others = [gain["value"] for gain in gains.values() if verdict(gain) == OPEN]
    if others:
        means = f"{percent(min(others))} to {percent(max(others))} %"
        shown.append(f"no difference shown in {'the other' if shown else 'any of the'} {len(others)} bins, {means}")
    return ", ".join(shown)


def larger_gradient(found: Found) -> str | None:
    """LayerSync beside the baseline's gradient of the same norm."""
    gain = found.gain_over(LAYERSYNC, MATCHED)
    if gain is None:
        return None
    words = {
        GAIN: "layersync is more than a larger gradient",
        LOSS: "a gradient of the same norm does better than layersync",
        OPEN: "no difference shown between layersync and a gradient of the same norm",
        ALONE: "one seed, no interval",
    }
    own = gain_text(found.gains(MATCHED)[-1])
    return f"{words[verdict(gain)]}: {gain_text(gain)} over it; itself it is {own} from the baseline"


def later(found: Found) -> str:
    """How the gain of each LayerSync goes over training."""
    texts = []
    for name in (each for each in found.measured if each.startswith(LAYERSYNC)):
        gains, steps = found.gains(name), found.comparison(name)["steps"]
        kinds = [verdict(gain) for gain in gains]
        curve = ", ".join(gain_text(gain).partition(" [")[0] for gain in gains)
        texts.append(f"{name} {curve}: {turn(kinds, steps)}")
    return "; ".join(texts)


def turn(kinds: Sequence[str], steps: Sequence[int]) -> str:
    """In words what the intervals of gains over training show."""
    if ALONE in kinds:
        return "one seed, no interval"
    shown = [str(step) for kind, step in zip(kinds, steps, strict=True) if kind == GAIN]
    if kinds[-1] == LOSS:
        return f"a gain at step {', '.join(shown)} turns into a loss" if shown else "a loss at the end, no gain before"
    if kinds[-1] == GAIN:
        return "a gain at the end"
    return f"a gain at step {', '.join(shown)} is none at the end" if shown else "no gain at any evaluation"


def which_pair(found: Found) -> str | None:
    """The pair by the rule and by `eval.choose_pair`, and their gains."""
    facts = found.content["results"]["pair"]
    if facts is None:
        return None
    rule, best = facts["rule"], (facts["pairs"] or [None])[0]
    text = f"the rule's pair is {rule['weak']} -> {rule['strong']}"
    text += f" (score {number(rule['score'])} in a baseline run of {facts['step']} steps); "
    if best is None:
        return f"{text}eval.choose_pair found none that gains"
    text += f"eval.choose_pair takes {best['weak']} -> {best['strong']} (score {number(best['score'])})"
    name = next((each for each, own in found.methods.items() if own["keys"].get(PAIRS) == MEASURED_PAIR), None)
    gain = None if name is None else found.gain_over(name, LAYERSYNC)
    if gain is None:
        return f"{text}; the two are not compared by runs"
    words = {GAIN: "it is better", LOSS: "it is worse", OPEN: "no difference shown", ALONE: "one seed, no interval"}
    return f"{text}; over the rule's by {gain_text(gain)}: {words[verdict(gain)]}"


def costs(found: Found) -> str:
    """Seconds of a step over the baseline's, from the processor's clock where it is known."""
    texts = []
    for name in found.measured:
        each = found.comparison(name)["costs"]
        clock = "seconds_per_step" if None in (c["cpu_seconds_per_step"] for c in each.values()) else None
        ratio = each[name][clock or "cpu_seconds_per_step"] / each[found.baseline][clock or "cpu_seconds_per_step"]
        flops = each[name]["flops_per_step"] / each[found.baseline]["flops_per_step"]
        texts.append(f"{name} {ratio:.2f} ({flops:.2f})")
    return ", ".join(texts)


QUESTIONS: dict[str, Callable[[Found], str | None]] = {
    GAINS: is_there_a_gain,
    "Where: at which noise level, by the gain in flow loss of layersync (t = 1 is data)?": by_noise_level,
    "Is it more than a larger gradient?": larger_gradient,
    LATER: later,
    "Which pair?": which_pair,
    "What does each method cost, in seconds (FLOPs) of a step over the baseline's?": costs,
}
OF_VARIATIONS = (GAINS, LATER)  # asked also of networks that vary another; all are in the table of sizes
