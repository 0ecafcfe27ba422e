"""docs/add_a_domain.md tells the truth: the domain that its blocks make trains, samples, caches and measures."""

import importlib
import json
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest

from core.latents.cache import LatentShards
from eval.measure.record import read_records

PAGE = Path(__file__).resolve().parents[1] / "docs" / "add_a_domain.md"
COMPONENTS = {"data", "tokenizer", "conditioning", "backbone", "metrics", "stand_in", "preview"}
COMMANDS = {"train", "sample", "cache", "evaluate"}
RUN = Path("runs", "signals", "waves")


def files() -> dict[str, str]:
    """Path -> content of every file of the page's Python and YAML blocks; a line `# path` begins one."""
    blocks = re.findall(r"```(?:python|yaml)\n(.*?)```", PAGE.read_text(), re.S)
    parts = [part for block in blocks for part in re.split(r"^# (?=signals/)", block, flags=re.M)[1:]]
    found = dict(part.split("\n", 1) for part in parts)
    assert len(found) == len(parts) >= len(blocks)
    return found


def commands() -> list[list[str]]:
    """The words of every command of the page."""
    (block,) = re.findall(r"```console\n(.*?)```", PAGE.read_text(), re.S)
    return [shlex.split(line) for line in block.splitlines()]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder in which all commands of the page were run, in their order, with what each said in `said`."""
    place = tmp_path_factory.mktemp("user")
    code = tmp_path_factory.mktemp("code")
    for name, text in files().items():
        (code / name).parent.mkdir(parents=True, exist_ok=True)
        (code / name).write_text(text)
    for folder in (code / "signals", code / "signals" / "conf"):
        (folder / "__init__.py").touch()  # that of conf is empty
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(code))
        patch.chdir(place)
        for python, option, module, *words in commands():
            assert (python, option) == ("python", "-m")
            importlib.import_module(module).ENTRY.run([*words, "device=cpu"])
        yield place
        for name in [name for name in sys.modules if name.partition(".")[0] == "signals"]:
            del sys.modules[name]


def test_the_page_has_the_files_of_a_domain():
    names = {Path(name).stem for name in files() if Path(name).parent.name == "signals"}
    assert names == COMPONENTS | COMMANDS | {"__init__"}
    assert {words[2] for words in commands()} >= {f"signals.{name}" for name in COMMANDS}


@pytest.mark.slow
def test_the_toy_learns_its_shapes(place):
    summary = json.loads((place / RUN / "summary.json").read_text())
    assert summary["class_accuracy"] > 0.6 and summary["classifier_accuracy"] > 0.95
    assert summary["frechet_floor"] < summary["frechet_distance"]
    assert any((place / RUN / "previews").glob("step_*.png"))


@pytest.mark.slow
def test_its_commands_leave_what_they_say(place):
    samples = np.load(place / RUN / "samples" / "ema_labels0-3_seed0" / "samples.npy")
    assert samples.shape == (6, 1, 64) and np.abs(samples).max() <= 1
    assert len(LatentShards(place / "runs" / "latents" / "waves", kind="signals", make_command="")) == 512
    assert json.loads((place / "runs" / "signals" / "cached" / "summary.json").read_text())["steps"] > 0
    probe = json.loads((place / RUN / "inside" / "probe.json").read_text())
    assert probe["results"]["linear"]["chance"] == pytest.approx(0.25, abs=0.01)


@pytest.mark.slow
def test_measured_again_it_is_the_number_of_the_training(place):
    summary = json.loads((place / RUN / "summary.json").read_text())
    records = {record.metric: record.value for record in read_records([place / RUN / "evaluations"])}
    for name in ("frechet_distance", "class_accuracy"):
        assert records[name] == pytest.approx(summary[name], rel=1e-5)
