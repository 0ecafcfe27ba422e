"""`python -m eval.report`: a page that needs nothing else, tables that agree with the numbers, no mixed protocols."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import wave
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from core.commands.overrides import override
from core.data.movies import write_mp4
from core.train.tracking import METRICS
from eval.compare import ENTRY as COMPARE
from eval.measure.record import Provenance, write_records
from eval.pages import html
from eval.pages.charts import Line, line_chart, ticks
from eval.pages.tables import escape_latex
from eval.report import ENTRY
from eval.statistics.estimate import Estimate
from tests.eval.matched_runs import make_runs, toy

VOID = {"meta", "img", "br", "link", "input", "line", "polyline", "polygon", "circle"}
MEDIA = {"img": "alt", "audio": "aria-label", "video": "aria-label"}


@pytest.fixture(scope="module")
def compared(tmp_path_factory) -> Path:
    """The folder of a comparison with a sound, a clip and a matrix of blocks in one of its runs."""
    folder = make_runs(tmp_path_factory.mktemp("reported") / "toy")
    COMPARE.run(toy(f"runs={folder}"))
    run = folder / "image" / "layersync-seed0"
    with wave.open(str(run / "previews" / "step_00000012_note.wav"), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(800))
    (run / "previews" / "step_00000012_clip.mp4").write_bytes(b"\0\0\0\x18ftypmp42")
    (run / "inside").mkdir()
    shutil.copy(run / "loss_curve.png", run / "inside" / "cosine.png")
    return folder


class Page(HTMLParser):
    """What is on a page: tags with attributes, links, headings, tables, and tags that were not closed."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.words: list[tuple[str, str]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if data.strip() and self.open:
            self.words.append((self.open[-1], data.strip()))

    def all(self, tag: str) -> list[dict[str, str]]:
        """The attributes of every such tag."""
        return [attributes for name, attributes in self.tags if name == tag]

    def texts(self, tag: str) -> list[str]:
        """The words directly inside such tags."""
        return [words for name, words in self.words if name == tag]


@pytest.fixture(scope="module")
def report(compared: Path, tmp_path_factory) -> Path:
    """The report of the comparison."""
    out = tmp_path_factory.mktemp("report")
    ENTRY.run([str(compared), f"out={out}", override("title", "Toy <runs> & more")])
    return out


def test_page_needs_nothing_else(report: Path):
    """Every tag is closed, every link is within the page, every medium is in it and says what it is."""
    text = (report / "index.html").read_text()
    page = Page(text)
    assert page.open == []
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {a["href"] for a in page.all("a")} == {f"#{name}" for name in ids if name.startswith("part")}
    assert all(section["aria-labelledby"] in ids for section in page.all("section"))
    for tag, described in MEDIA.items():
        assert page.all(tag), tag
        for attributes in page.all(tag):
            assert attributes["src"].startswith("data:") and attributes[described]
    for video in page.all("video"):  # a browser starts by itself what makes no sound
        assert {"controls", "loop", "muted", "autoplay", "playsinline"} <= video.keys()
        assert video["src"].startswith("data:video/mp4;base64,")
    assert not page.all("link") and not page.all("script")
    text = re.sub(r"base64,[\w+/=]*", "", text)
    assert not re.search(r"(?:https?:)?//\w", text) and "url(" not in text and "@import" not in text
    assert page.all("html")[0]["lang"] == "en" and any(
        "width=device-width" in m.get("content", "") for m in page.all("meta")
    )


def test_page_has_its_parts(report: Path):
    """Headings, tables with heads, charts with words for those who cannot see them."""
    page = Page((report / "index.html").read_text())
    assert page.texts("h1") == ["Toy <runs> & more"]
    assert page.texts("h2")[1:] == ["Results of the runs", "Training", "Samples", "Inside the backbone"]
    assert len(page.all("table")) == 3 and {th["scope"] for th in page.all("th")} == {"row", "col"}
    charts = [svg for svg in page.all("svg") if svg.get("class") == "chart"]
    assert len(charts) >= 4
    assert all(svg["role"] == "img" and "optimizer steps: " in svg["aria-label"] for svg in charts)
    notes = " ".join(page.texts("li"))
    assert "sampler.num_steps = 2" in notes and "num_samples = 40" in notes


def test_tables_agree_with_the_numbers(report: Path, compared: Path):
    """The means of the comparison's file stand in every table."""
    content = json.loads((compared / "comparison_frechet_distance.json").read_text())
    ends = {method: content["mean"][method][-1] for method in content["methods"]}
    rows = list(csv.DictReader(io.StringIO((report / "table.csv").read_text())))
    assert [row["run"] for row in rows] == ["toy/baseline, 2 seeds", "toy/layersync, 2 seeds"]
    assert [float(row["frechet_distance"]) for row in rows] == [end["value"] for end in ends.values()]
    curves = list(csv.DictReader(io.StringIO((report / "curves.csv").read_text())))
    for method in content["methods"]:
        own = [r for r in curves if r["group"] == f"toy/{method}" and r["metric"] == "frechet_distance"]
        assert [int(row["step"]) for row in own] == content["steps"]
        for row, mean in zip(own, content["mean"][method], strict=True):
            assert {name: float(row[name]) for name in ("low", "high")} == {n: mean[n] for n in ("low", "high")}
            assert float(row["mean"]) == mean["value"]
    for name in ("table.md", "table.tex", "index.html"):
        text = (report / name).read_text()
        assert all(f"{end['value']:.4g}" in text and f"{end['low']:.4g}" in text for end in ends.values()), name


def test_latex_is_balanced(report: Path):
    """Environments and braces close, rows have the cells that the head has, nothing special is left bare."""
    text = (report / "table.tex").read_text()
    stack = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
        stack.append(name) if kind == "begin" else stack.pop() == name or pytest.fail(name)
    assert not stack
    bare = re.sub(r"\\[\\&%$#_{}]", "", text)
    assert bare.count("{") == bare.count("}") and "%" not in bare and "#" not in bare
    assert "_" not in bare.replace(r"\pm", "")
    for columns, body in re.findall(r"\\begin\{tabular\}\{(l+)\}(.*?)\\end\{tabular\}", text, re.S):
        rows = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert rows and all(len(re.findall(r"(?<!\\)&", row)) == len(columns) - 1 for row in rows)
    assert escape_latex("50 % of a_b") == r"50 \% of a\_b"


def test_mixed_protocols_are_refused(compared: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    """Runs with other samplers are not put into one table, unless that is allowed; a column and a footnote say so."""
    other = tmp_path / "other"
    shutil.copytree(compared / "image" / "baseline-seed0", other)
    config = yaml.safe_load((other / "config.yaml").read_text())
    config["sampler"]["num_steps"] = 9
    (other / "config.yaml").write_text(yaml.safe_dump(config))
    words = [str(compared), str(other), f"out={tmp_path / 'out'}"]
    with pytest.raises(SystemExit) as exit_:
        ENTRY.run(words)
    said = capsys.readouterr().err
    assert exit_.value.code == 2 and "protocol.sampler.num_steps is 2 or 9" in said and "allow_differences=true" in said
    assert not (tmp_path / "out").exists()
    ENTRY.run([*words, "allow_differences=true"])
    text = (tmp_path / "out" / "table.md").read_text()
    assert "protocol.sampler.num_steps" in text.splitlines()[2]
    assert "not made by one protocol: protocol.sampler.num_steps is 2 or 9" in text
    assert "not made by one protocol" in (tmp_path / "out" / "index.html").read_text()


def test_single_run_and_records(compared: Path, tmp_path: Path):
    """A run by itself and a record file each have their part, without a comparison."""
    facts = Provenance(
        protocol={"steps": 250}, hardware={"device": "cpu"}, created="2026-01-01T00:00:00", step=5, run="a|b"
    )
    record = facts.record("fid", Estimate(12.25, 500), {"network": "inception"}, {"name": "reference"})
    file = write_records(tmp_path, [record])
    run = shutil.copytree(compared / "image" / "layersync-seed1", tmp_path / "alone")
    ENTRY.run([str(run), str(file), f"out={tmp_path / 'out'}"])
    text = (tmp_path / "out" / "table.md").read_text()
    assert "| alone | 12 |" in text and "| a\\|b | 5 | 12.25 |" in text
    page = Page((tmp_path / "out" / "index.html").read_text())
    assert page.open == [] and page.texts("h2")[:2] == ["Results of the runs", "Evaluations"]
    assert not any("polygon" in tag for tag, _ in page.tags)  # one seed: no band


def test_lines_that_somebody_edited_are_no_curves(compared: Path, tmp_path: Path):
    """A record that holds words where numbers were costs its own curve."""
    run = shutil.copytree(compared / "image" / "layersync-seed1", tmp_path / "alone")
    lines = (run / METRICS).read_text().splitlines()
    (run / METRICS).write_text("\n".join([json.dumps({**json.loads(lines[0]), "flow_loss": "2.5"}), *lines[1:]]))
    ENTRY.run([str(run), f"out={tmp_path / 'out'}"])
    words = Page((tmp_path / "out" / "index.html").read_text()).words
    assert any("similarity" in each for _, each in words) and not any("flow_loss" in each for _, each in words)


def test_the_loss_by_noise_level_is_drawn_over_the_steps_that_were_measured(compared: Path, tmp_path: Path):
    """Of one run a line for each bin; of several a chart for each bin, a line for each."""

    def measured(name: str) -> Path:
        run = shutil.copytree(compared / "image" / "layersync-seed1", tmp_path / name)
        lines = [json.loads(line) for line in (run / METRICS).read_text().splitlines()]
        for line in lines:
            if line["step"] in (4, 8):
                line |= {"loss_by_time/0-0.5": 8 / line["step"], "loss_by_time/0.5-1": 0.25}
                line |= {"loss_by_time_ema/0-0.5": 3.0}
        (run / METRICS).write_text("".join(json.dumps(line) + "\n" for line in lines))
        return run

    def charts(*paths: Path) -> list[str]:
        ENTRY.run([*map(str, paths), f"out={tmp_path / 'out'}"])
        page = Page((tmp_path / "out" / "index.html").read_text())
        words = [svg.get("aria-label", "") for svg in page.all("svg")]
        return [each for each in words if each.startswith(("loss by noise level", "loss at t"))]

    one, other = measured("one"), measured("other")
    assert charts(compared, one, other) == [
        "loss at t 0-0.5, averaged weights over optimizer steps: one from 3 at step 4 to 3 at step 8; "
        "other from 3 at step 4 to 3 at step 8"
    ]
    assert charts(one, compared) == [
        "loss by noise level, weights over optimizer steps: t 0-0.5 from 2 at step 4 to 1 at step 8; "
        "t 0.5-1 from 0.25 at step 4 to 0.25 at step 8",
        "loss by noise level, averaged weights over optimizer steps: t 0-0.5 from 3 at step 4 to 3 at step 8",
    ]


def test_bad_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture):
    """A path that is nothing of ours is named."""
    (tmp_path / "broken.json").write_text("[1")
    for path in ("nothing", "broken.json"):
        with pytest.raises(SystemExit) as exit_:
            ENTRY.run([str(tmp_path / path), f"out={tmp_path / 'out'}"])
        said = capsys.readouterr().err
        assert exit_.value.code == 2 and path in said and len(said.splitlines()) == 1


def test_ticks_are_round_and_inside():
    """Ticks are multiples of 1, 2, 2.5 or 5 times a power of ten, between the ends."""
    assert ticks(0, 10) == [0, 2, 4, 6, 8, 10]
    assert ticks(0.993, 1.001) == [0.994, 0.996, 0.998, 1.0]
    assert all(-3e-7 <= tick <= 5e-7 for tick in ticks(-3e-7, 5e-7)) and ticks(2, 2) == [2]


def test_chart_of_a_constant_and_of_nothing():
    """A flat curve of one point is drawn without a division by zero; no curve is an error."""
    chart = line_chart("<flat>", "x", "y", [Line("a & b", [5], [0.0])])
    assert "&lt;flat&gt;" in chart and "nan" not in chart
    with pytest.raises(ValueError, match="nothing to show"):
        line_chart("empty", "x", "y", [])


def test_wide_pictures_and_clips_have_the_whole_width_of_the_page(tmp_path):
    for width in (898, 900, 1600):
        picture, clip = tmp_path / "a.png", tmp_path / "a.mp4"
        Image.new("RGB", (width, 4)).save(picture)
        write_mp4(np.zeros((1, 4, width, 3), np.uint8), clip, 8.0)
        assert [html.is_wide(file) for file in (picture, clip)] == [width >= 900] * 2, width
        assert html.figure("", "a", wide=html.is_wide(clip)).startswith("<figure class=") == (width >= 900)
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    assert not html.is_wide(tmp_path / "a.wav")
