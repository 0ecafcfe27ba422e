"""`python -m benchmarks.study page`: docs/results.md and its pictures, made of the records and of nothing else."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import headline
from benchmarks.study.answers import OF_VARIATIONS, QUESTIONS
from benchmarks.study.record import MEASURED
from benchmarks.study.records import Found, read_studies
from core.storage.atomic import write_atomic
from core.storage.yaml_files import read_yaml
from eval.methods.numbers import mean_over_seeds
from eval.methods.result import as_numbers
from eval.methods.text import draw_comparison, gain_text, mean_text, number, percent

PUBLISHED = Path(__file__).parent / "published.yaml"
TITLE = "# Results: methods beside each other"
INTRODUCTION = """\
Made by `python -m benchmarks.study page` from the records in [benchmarks/results](../benchmarks/results), whose runs
[benchmarks/README.md](../benchmarks/README.md#the-study) explains. Small stand-ins on deep and narrow networks:
they say what a method does there, and nothing of ImageNet. Runs of a seed share weights, data, noise and times.
Gain: mean, over the seeds that both have, of (baseline - method) over the baseline's mean, turned so that positive is
better, with Student's 95 % interval; curves are of the seeds that all methods have. Of ten intervals without any effect
at least one leaves out 0 in four tables of ten. Samples are made by the averaged weights, without guidance, and by the
last output layer alone, also of internal_guidance."""
HEAD = ("method", "seeds", "final", "gain", "steps", "s", "TFLOP", "MiB", "parameters", "alike", "its paper")
LEGEND = """\
In the tables: steps, s, TFLOP until the mean curve has the baseline's final value, s of the main process; MiB,
parameters: more than the baseline's, memory at its peak in training; alike: similarity of the pair in the first and the
last part of training; of the baseline, which records none, of its averaged weights at the end (eval.similarity)."""


@dataclass(frozen=True, kw_only=True)
class PageConfig:
    """The page to make; the keys are explained in benchmarks/study/conf/page.yaml."""

    results: str
    out: str


def write_page(config: PageConfig) -> Path:
    """Write the page and a picture beside it for each network with a table; the page's path."""
    studies, out = read_studies(Path(config.results)), Path(config.out)
    for found in studies:
        if found.has_numbers and found.network.varies is None:
            draw_comparison(out.with_name(picture(found, out)), curves(found))
    return write_atomic(out, page(studies, out))


def picture(found: Found, out: Path) -> str:
    """The name of the picture of a network's curves."""
    return f"{out.stem}-{found.network.name}.png"


def page(studies: Sequence[Found], out: Path) -> str:
    """The whole page as Markdown."""
    parts = [TITLE, INTRODUCTION, *questions(studies)]
    domains = dict.fromkeys(found.network.domain for found in studies)
    for domain in sorted(domains, key=lambda name: name != "image"):
        parts.append(f"## {domain.capitalize()}")
        for found in studies:
            if found.network.domain == domain and found.network.varies is None:
                parts += section(found, picture(found, out))
    parts.append(LEGEND)
    return "\n\n".join(parts) + "\n"


def questions(studies: Sequence[Found]) -> list[str]:
    """Each question with an answer for each network that has numbers; of variations, what they were made for."""
    answered = [found for found in studies if found.has_numbers and found.measured]
    if not answered:
        return ["Nothing has been run yet."]
    parts = []
    for question, answer in QUESTIONS.items():
        parts.append(f"## {question}")
        asked = [found for found in answered if found.network.varies is None or question in OF_VARIATIONS]
        lines = [(found.network.title, answer(found)) for found in asked]
        parts.append("\n".join(f"- **{title}**: {text or 'not run'}." for title, text in lines))
        if question.startswith("Where"):
            parts.append(sizes(studies))
    return parts


def sizes(studies: Sequence[Found]) -> str:
    """Depth, width and data of each network beside LayerSync's gain: what there is to say of them."""
    rows = [("network", "blocks", "width", "batch x steps", "baseline", "its last step", "layersync", "gain", "record")]
    for found in studies:
        if not found.has_numbers or "layersync" not in found.measured:
            rows.append((found.network.title, *["-"] * 5, "not run", "-", "-"))
            continue
        setting, comparison = found.content["settings"], found.comparison("layersync")
        words = [word for word in setting["overrides"] if word.startswith("trainer.batch_size=")]
        batch = words[-1].partition("=")[2] if words else "the experiment's"
        size = (str(setting["depth"]), str(setting["hidden_size"]), f"{batch} x {setting['steps']}")
        own, other = (mean_text(comparison["mean"][name][-1]) for name in (found.baseline, "layersync"))
        moved = last_change(found.comparison(found.baseline))
        gain = gain_text(found.gains("layersync")[-1])
        rows.append((found.network.title, *size, own, moved or "-", other, gain, f"`{found.file}`"))
    note = "Its last step: from the evaluation before to the last; near 0, a gain is one of finished runs."
    return f"{markdown(rows)}\n\n{note}"


def section(found: Found, image: str) -> list[str]:
    """The table of a network and the picture of its curves."""
    title = f"### {found.network.title[0].upper()}{found.network.title[1:]}"
    if found.content is None:
        return [title, f"Not run: {', '.join(found.network.methods)}."]
    setting = found.content["settings"]
    place = f"{headline(found.content)}; {setting['threads']} threads a run; `{found.file}`"
    if not found.has_numbers:
        return [title, f"No run of the baseline is complete ({place})."]
    first = found.comparison(found.baseline)
    text = (
        f"{first['metric']} ({first['better']} is better) of {first['num_samples']} samples, {setting['depth']} blocks "
    )
    told = latents(found.content, first["metric"])
    text += f"of width {setting['hidden_size']}, {setting['steps']} steps{told}{still(first)}. {place}."
    table = markdown([HEAD, *(row(found, name) for name in found.methods)])
    return [
        title,
        text,
        f'<img src="{image}" alt="{found.network.title}: curves" width="560">',
        f"<details><summary>Every method</summary>\n\n{table}\n\n</details>",
    ]


def still(comparison: Mapping[str, Any]) -> str:
    """How far the baseline is from its end, in words."""
    moved = last_change(comparison)
    return f"; the baseline's last evaluation is {moved} from the one before" if moved else ""


def last_change(comparison: Mapping[str, Any]) -> str:
    """The baseline's last evaluation from the one before, which decides what a gain there says; "" where it is none."""
    (baseline,) = comparison["methods"]
    *_, before, last = (None, *(point["value"] for point in comparison["mean"][baseline]))
    return f"{percent(last / before - 1)} %" if before else ""


def latents(content: Mapping[str, Any], metric: str) -> str:
    """What is said of the tokenizer that a study made for its runs."""
    facts = content["results"].get("tokenizer")
    if facts is None:
        return ""
    text, floor = f", in latents of a tokenizer of ours (PSNR {facts['psnr_db']:.1f} dB", facts.get("floor")
    if floor is None:
        return f"{text})"
    data, through = (number(floor[name][metric]) for name in ("data", "reconstruction"))
    return f"{text}; held-out data have {data}, and {through} through the tokenizer, as samples come)"


def row(found: Found, name: str) -> tuple[str, ...]:
    """A method's line of the table."""
    each, paper = found.methods[name], published().get(found.network.domain, {}).get(name, "-")
    if each["state"] != MEASURED:
        state = each["state"] + (f": {each['reason']}" if each["reason"] else "")
        return (name, "0", state.replace("|", "/"), *["-"] * (len(HEAD) - 4), paper)
    comparison = each["comparison"]
    gain = "-" if name == found.baseline else gain_text(comparison["gain"][name][-1])
    return (
        name,
        str(len(each["seeds"])),
        mean_text(comparison["mean"][name][-1]),
        gain,
        *until(comparison["costs"][name]),
        *more(found, name),
        alike(found.own_similarity if name == found.baseline else each["similarity"]),
        paper,
    )


def until(cost: Mapping[str, Any]) -> tuple[str, str, str]:
    """Steps, seconds and TFLOP until the baseline's final value."""
    if cost["steps"] is None:
        return "not reached", "-", "-"
    seconds = cost["seconds"] if cost["cpu_seconds"] is None else cost["cpu_seconds"]
    steps = f"{'at most ' * cost['at_most']}{cost['steps']:.0f}"
    return steps, "-" if seconds is None else number(seconds), number(cost["flops"] / 1e12)


def more(found: Found, name: str) -> tuple[str, str]:
    """Memory and parameters beyond the baseline's of the same seeds."""
    if name == found.baseline:
        peak = found.methods[name]["peak_memory_mib"][name]
        parameters = found.comparison(name)["costs"][name]["parameters"]
        return "-" if peak is None else f"{peak:.0f}", f"{parameters:,.0f}"
    peaks = found.methods[name]["peak_memory_mib"]
    own, base = peaks[name], peaks[found.baseline]
    costs = found.comparison(name)["costs"]
    extra = costs[name]["parameters"] - costs[found.baseline]["parameters"]
    return "-" if None in (own, base) else f"{own - base:+.0f}", f"{extra:+,.0f}" if extra else "0"


def alike(similarity: Mapping[str, Sequence[float]]) -> str:
    """The similarity of the pairs at the beginning and at the end, or at the end where that is all there is."""
    texts = [
        f"{pair.replace('->', ' -> ')}: {', '.join(f'{value:.3f}' for value in (each[:1] + each[1:][-1:]))}"
        for pair, each in similarity.items()
    ]
    return ", ".join(texts) or "-"


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Rows as a Markdown table, the first one its head."""
    lines = [f"| {' | '.join(cells)} |" for cells in rows]
    return "\n".join([lines[0], f"|{'---|' * len(rows[0])}", *lines[1:]])


def curves(found: Found) -> dict[str, Any]:
    """What the chart of a comparison draws: every measured method, over the seeds that all of them have.

    Bands are of the baseline and LayerSync alone.
    """
    names = [found.baseline, *found.measured]
    seeds = [seed for seed in found.curves(found.baseline) if all(seed in found.curves(name) for name in names)]
    means = {}
    for name in names:
        values = np.array([found.curves(name)[seed] for seed in seeds])
        points = [as_numbers(mean_over_seeds(column)) for column in values.T]
        banded = name in (found.baseline, "layersync")
        means[name] = points if banded else [{**point, "low": None, "high": None} for point in points]
    return {**found.comparison(found.baseline), "methods": names, "seeds": seeds, "mean": means}


@functools.cache
def published() -> Mapping[str, Mapping[str, str]]:
    """What the papers report, by domain and method."""
    return read_yaml(PUBLISHED)
