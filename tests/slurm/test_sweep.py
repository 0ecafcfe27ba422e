"""A sweep file: what it holds, the runs it stands for, and one clear error for everything that does not fit."""

import re
from pathlib import Path

import pytest
import yaml

from core.schema import plain
from slurm.resources import Resources, parse_minutes
from slurm.sweep import PROFILES, check_runs, find_entry, load_profile, load_sweep
from tests.rows import every_row

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "slurm" / "examples").glob("*.yaml"))
LEAST = {"name": "weights", "entry": "image.train"}


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes sweep.yaml from keys, or text, in a folder that is the working directory; returns its path."""
    monkeypatch.chdir(tmp_path)

    def write_sweep(text=None, **keys):
        path = tmp_path / "sweep.yaml"
        path.write_text(text if text is not None else yaml.safe_dump({**LEAST, **keys}))
        return path

    return write_sweep


def names(sweep):
    return [case.name for case in sweep.runs()]


# Reading


def test_least_file_is_one_run_of_an_hour(write):
    sweep = load_sweep(write())
    assert names(sweep) == ["seed0"]
    assert sweep.folder == Path("runs/sweeps/weights")
    assert sweep.run_path("seed0") == Path("runs/sweeps/weights/image/seed0")
    assert (sweep.resources.minutes, sweep.resources.tasks, sweep.metric) == (60, 1, None)


def test_runs_are_cases_times_grid_times_seeds(write):
    grid = {"alignment.weight": [0.1, 0.3], "optimizer.lr": ["1e-4"]}
    cases = [{"case": "small", "backbone.depth": 2}, {"alignment": "none", "ema.decays": [0.9, 0.5]}]
    sweep = load_sweep(write(overrides={"trainer.steps": 9}, grid=grid, cases=cases, seeds=[3, 5]))
    assert names(sweep) == [
        f"{case}-weight{weight}-lr1e-4-seed{seed}"
        for case in ("small", "none-decays0.9_0.5")
        for weight in (0.1, 0.3)
        for seed in (3, 5)
    ]
    overrides = sweep.runs()[-1].overrides
    assert overrides == {
        "alignment": "none",
        "trainer.steps": 9,
        "ema.decays": [0.9, 0.5],
        "alignment.weight": 0.3,
        "optimizer.lr": "1e-4",
        "seed": 5,
    }


def test_groups_come_before_keys_and_the_experiment_first(write):
    """A point of the grid replaces an override."""
    given = {"trainer.steps": 7, "alignment": "none", "experiment": "digits"}
    case = load_sweep(write(overrides=given, grid={"trainer.steps": [9]}, runs_dir="elsewhere")).runs()[0]
    assert case.arguments(Path("elsewhere/sweeps/weights")) == [
        "experiment=digits",
        "alignment=none",
        "trainer.steps=9",
        "seed=0",
        "name=steps9-seed0",
        "runs_dir=elsewhere/sweeps/weights",
    ]


TEXTS = ["two words", "a,b=c", "it's", 'say "hi"', "x#y", "$HOME", "größe", "Größe, zwei", "[1]", "{a}"]
TEXTS += ["2024", "null", "a\tb\nc\\", "${seed}", "???"]


@every_row(
    ("key", "value", "read"),
    [
        *(("tracking.wandb_project", text, text) for text in TEXTS),
        ("ema.decays", [0.9, 0.5], [0.9, 0.5]),
        ("alignment.pairs", [[1, 2]], [[1, 2]]),
        ("optimizer.lr", "1e-4", 1e-4),
        ("optimizer.lr", 1e30, 1e30),
        ("trainer.steps", "1e3", 1000),
        ("tracking.wandb_project", None, None),
        ("trainer.tf32", True, True),
    ],
)
def test_a_value_reaches_the_config_as_it_stands_in_the_file(write, key, value, read):
    sweep = load_sweep(write(overrides={key: value}, runs_dir="umlaut ä"))
    config = find_entry("image.train").config(sweep.runs()[0].arguments(sweep.folder))
    assert config.runs_dir == "umlaut ä/sweeps/weights"
    node = plain(config)
    for name in key.split("."):
        node = node[name]
    assert node == read


# Time


def test_time_formats():
    minutes = {90: 90, "90": 90, "90m": 90, "90 min": 90, "12h": 720, "2d": 2880, "12:00:00": 720, "0:30:01": 31}
    minutes |= {"1-12:00:00": 2160}
    assert {time: parse_minutes(time) for time in minutes} == minutes


@every_row("time", [0, -5, "0h", "-1h", "1.5h", "h", "12:00", "1:00:00:00", "forever", ""])
def test_a_time_that_is_none_is_refused_with_the_formats(write, time):
    is_refused(write(resources={"time": time}), "sweep.yaml: resources.time is", repr(time))


@every_row(("text", "minutes"), [("12:00:00", 720), ("2:30:00", 150), ("1-12:00:00", 2160)])
def test_a_time_needs_no_quotes(write, text, minutes):
    """YAML 1.1 takes 12:00:00 for 43200, a month in minutes."""
    sweep = load_sweep(write(f"name: a\nentry: image.train\nresources: {{time: {text}}}\n"))
    assert sweep.resources.minutes == minutes


def test_a_date_is_text(write):
    sweep = load_sweep(write("name: 2026-01-31\nentry: image.train\noverrides: {data.cache_dir: 2026-01-31}\n"))
    assert sweep.name == "2026-01-31"
    assert "data.cache_dir=2026-01-31" in sweep.runs()[0].arguments(sweep.folder)


# Profiles


def test_every_profile_fits_and_a_sweep_overrules_it(write):
    profiles = sorted(PROFILES.glob("*.yaml"))
    assert profiles
    for path in profiles:
        assert Resources(**load_profile(path.stem)).minutes >= 1
    needs = load_sweep(write(resources={"profile": "eight_gpus", "time": "2h", "nodes": 2})).resources
    assert (needs.tasks, needs.gpus_per_node, needs.nodes, needs.minutes) == (8, 8, 2, 120)


def test_a_profile_may_be_a_path(write, tmp_path):
    (tmp_path / "mine.yaml").write_text("partition: long\ntasks_per_node: 4\n")
    needs = load_sweep(write(resources={"profile": "mine.yaml", "tasks_per_node": 2})).resources
    assert (needs.partition, needs.tasks) == ("long", 2)


@every_row(
    ("content", "parts"),
    [
        ("partitoin: long\n", ["mine.yaml holds partitoin; allowed: partition, account"]),
        ("profile: cpu\n", ["mine.yaml holds profile; allowed: partition"]),
        ("nodes: two\n", ["profile mine.yaml", "resources.nodes", "'two'", "int"]),
        ("nodes: 0\n", ["profile mine.yaml", "resources.nodes is 0; it must be at least 1"]),
        ("[1, 2]\n", ["mine.yaml holds [1, 2]; needed: keys"]),
        ("nodes: [\n", ["mine.yaml is no YAML"]),
    ],
)
def test_a_bad_profile_is_told_with_its_file(write, tmp_path, content, parts):
    (tmp_path / "mine.yaml").write_text(content)
    is_refused(write(resources={"profile": "mine.yaml"}), *parts)


# Errors


def is_refused(path, *parts):
    """Loading it, and composing its runs, gives one line that holds all of `parts`."""
    with pytest.raises(ValueError, match=r".") as error:
        sweep = load_sweep(path)
        check_runs(sweep, sweep.runs())
    message = str(error.value)
    missing = [part for part in parts if part not in message]
    assert not missing, f"{missing} not in: {message}"
    assert "\n" not in message
    return message


WRONG = {  # keys of the file, parts of the error
    "unknown key": ({"ovrrides": {}}, ["unknown config key 'ovrrides'", "overrides, grid, cases, seeds"]),
    "unknown resource": ({"resources": {"gpus": 8}}, ["'resources.gpus'", "(value 8)", "gpus_per_node"]),
    "resources no mapping": ({"resources": "cpu"}, ["'resources' must be a mapping", "'cpu'"]),
    "resource of a wrong type": ({"resources": {"nodes": "two"}}, ["'resources.nodes' is 'two'", "int"]),
    "setup of a wrong type": ({"resources": {"setup": "module load cuda"}}, ["resources.setup", "module load cuda"]),
    "no node": ({"resources": {"nodes": 0}}, ["resources.nodes is 0; it must be at least 1"]),
    "no cores": ({"resources": {"cpus_per_task": 0}}, ["resources.cpus_per_task is 0"]),
    "two tasks for each GPU": (
        {"resources": {"gpus_per_node": 2, "tasks_per_node": 4}},
        ["resources.tasks_per_node is 4", "gpus_per_node 2"],
    ),
    "a warning after the end": (
        {"resources": {"time": 2, "signal_seconds": 120}},
        ["resources.signal_seconds is 120", "resources.time is 2, 120 s"],
    ),
    "an unknown profile": ({"resources": {"profile": "gpu"}}, ["resources.profile is 'gpu'", "cpu, eight_gpus"]),
    "a profile that is no name": ({"resources": {"profile": 3}}, ["resources.profile is 3", "cpu, eight_gpus"]),
    "an option that the launcher sets": ({"resources": {"extra": {"array": "0-9"}}}, ["resources.extra holds array"]),
    "an option that is a resource": ({"resources": {"extra": {"job_name": "x"}}}, ["resources.extra holds job_name"]),
    "an option without a value": ({"resources": {"extra": {"nice": None}}}, ["resources.extra.nice is None"]),
    "a flag that is off": ({"resources": {"extra": {"exclusive": False}}}, ["resources.extra.exclusive is False"]),
    "a name with a slash": ({"name": "a/b"}, ["name is 'a/b'", "letters, digits"]),
    "a name that is a number": ({"name": 3}, ["config key 'name' is 3", "str"]),
    "no seed": ({"seeds": []}, ["seeds is []"]),
    "a seed twice": ({"seeds": [1, 1]}, ["seeds is [1, 1]"]),
    "a seed that is no number": ({"seeds": ["a"]}, ["seeds[0]", "'a'", "int"]),
    "a grid without a list": ({"grid": {"alignment.weight": 0.3}}, ["grid.alignment.weight is 0.3", "a list"]),
    "a grid over nothing": ({"grid": {"alignment.weight": []}}, ["grid.alignment.weight is []"]),
    "a grid that is a list": ({"grid": ["alignment.weight"]}, ["config key 'grid'", "dict"]),
    "the run's own keys": ({"overrides": {"seed": 3}}, ["overrides holds seed; the sweep itself sets name, runs_dir"]),
    "a key that is no text": ({"grid": {True: [1]}}, ["grid holds True of type bool"]),
    "the run's own keys in a grid": ({"grid": {"runs_dir": ["x"]}}, ["grid holds runs_dir"]),
    "the run's own keys in a case": ({"cases": [{}, {"seed": 1}]}, ["cases[1] holds seed"]),
    "a key in a case and the grid": (
        {"cases": [{"trainer.steps": 1}], "grid": {"trainer.steps": [2]}},
        ["cases[0] and grid both hold trainer.steps"],
    ),
    "too many runs": (
        {"grid": {f"trainer.k{key}": list(range(60)) for key in range(5)}, "seeds": [0, 1]},
        [f"make {2 * 60**5} runs", "10000 at most"],
    ),
    "two equal names": (
        {"cases": [{"case": "a"}, {"case": "a", "trainer.steps": 2}]},
        ["two runs are called 'a-seed0'", "case: NAME"],
    ),
    "values with one name": (
        {"grid": {"data.cache_dir": ["a/b", "a b"]}},
        ["two runs are called 'cache_dira_b-seed0'"],
    ),
    "a case with a slash": ({"cases": [{"case": "../a"}]}, ["'../a-seed0'", "case: NAME"]),
    "a name of too many bytes": ({"grid": {"data.cache_dir": ["ü" * 150]}}, ["is called 'cache_dirüüü", "200 letters"]),
    "a name too long": ({"grid": {"data.cache_dir": ["x" * 200]}}, ["is called 'cache_dirxxx", "200 letters"]),
    "no such module": ({"entry": "image.trian"}, ["entry is 'image.trian'", "no such module", "image.train"]),
    "an entry without a name": ({"entry": ""}, ["entry is ''", "image.train"]),
    "an entry that is a file": ({"entry": "image/train.py"}, ["entry is 'image/train.py'", "image.train"]),
    "a module that is no command": ({"entry": "image.backbone"}, ["entry is 'image.backbone'", "no command"]),
    "a grid over an unknown key": (
        {"grid": {"alignment.wieght": [0.1]}},
        ["run wieght0.1-seed0", "unknown config key 'alignment.wieght'", "weight"],
    ),
    "an unknown override": ({"overrides": {"trainer.stepz": 1}}, ["run seed0", "'trainer.stepz'", "steps"]),
    "an unknown choice": ({"cases": [{"alignment": "nine"}]}, ["run nine-seed0", "alignment/nine", "none"]),
    "a value of a wrong type": ({"grid": {"trainer.steps": ["many"]}}, ["trainer.steps", "'many'", "int"]),
    "a value that the domain refuses": ({"overrides": {"trainer.steps": 0}}, ["trainer.steps is 0", "at least 1"]),
    "a mapping as a value": ({"overrides": {"backbone": {"depth": 2}}}, ["overrides.backbone is {'depth': 2}"]),
    "a mapping in a grid": ({"grid": {"backbone": [{"depth": 2}]}}, ["grid.backbone is [{'depth': 2}]"]),
    "a key that is no word": ({"overrides": {"a b": 1}}, ["overrides holds 'a b'", "trainer.steps"]),
    "a key of two lines": ({"grid": {"seed\nname": [1]}}, ["grid holds 'seed\\nname'"]),
    "the run's own key, forced": ({"overrides": {"++seed": 3}}, ["overrides holds ++seed; the sweep itself sets"]),
    "a case without a name": ({"cases": [{"case": None}]}, ["cases[0].case is None"]),
    "a case of two lines": ({"cases": [{"case": "a\nb"}]}, ["a run is called 'a\\nb-seed0'"]),
    "a value that is not finite": (
        {"overrides": {"optimizer.lr": float("nan")}},
        ["'overrides.optimizer.lr' is nan", "a finite number"],
    ),
    "a point that is not finite": (
        {"grid": {"optimizer.clip_norm": [1.0, float("inf")]}},
        ["'grid.optimizer.clip_norm[1]' is inf", "a finite number"],
    ),
    "a weight that the method refuses": ({"grid": {"alignment.weight": [-1]}}, ["alignment.weight is -1.0"]),
    "a block that is not there": ({"overrides": {"alignment.pairs": [[1, 99]]}}, ["alignment.pairs", "99"]),
    "no block": ({"overrides": {"alignment.pairs": []}}, ["alignment.pairs is empty"]),
    "a number where text is needed": (
        {"overrides": {"tracking.wandb_project": 2024}},
        ["'tracking.wandb_project' is 2024", '"2024" in YAML'],
    ),
    "less memory than SLURM counts": ({"resources": {"memory_gb": 1e-9}}, ["resources.memory_gb is 1e-09", "0.001"]),
    "more nodes than fit": ({"resources": {"nodes": 10**30}}, ["'resources.nodes' is 1000", "a whole number"]),
    "arrays of nothing": ({"resources": {"array_size": 0}}, ["resources.array_size is 0; it must be at least 1"]),
    "logs that SLURM renames": ({"runs_dir": "runs/%j"}, ["runs_dir is 'runs/%j'", "without %"]),
    "logs at home": ({"runs_dir": "~/runs"}, ["runs_dir is '~/runs'", "without ~"]),
    "logs of two lines": ({"runs_dir": "a\nb"}, ["runs_dir is 'a\\nb'", "one line"]),
    "a shell's word as the interpreter": (
        {"resources": {"python": "$VENV/bin/python"}},
        ["resources.python is '$VENV/bin/python'", "no shell expands"],
    ),
    "the beginning of an option that the launcher sets": (
        {"resources": {"extra": {"arr": "0-9"}}},
        ["resources.extra holds arr; the launcher sets it"],
    ),
    "an option that hides the job's number": (
        {"resources": {"extra": {"parsable": True}}},
        ["resources.extra holds parsable"],
    ),
    "an option that is a short one": ({"resources": {"extra": {"J": "x"}}}, ["resources.extra holds 'J'", "long name"]),
    "an option of two lines": (
        {"resources": {"extra": {"comment=a\n#SBATCH --nodes": 2}}},
        ["resources.extra holds 'comment=a\\n#SBATCH --nodes'"],
    ),
    "fewer images than processes": (
        {"overrides": {"trainer.batch_size": 3}, "resources": {"nodes": 2, "tasks_per_node": 2}},
        ["run seed0", "trainer.batch_size is 3; 4 processes"],
    ),
}


@every_row(("wrong", "case"), WRONG.items())
def test_bad_input_is_one_line_with_key_value_and_what_is_allowed(write, wrong, case):
    keys, parts = case
    is_refused(write(**keys), *parts)


def test_an_interpreter_is_no_option_of_srun():
    with pytest.raises(ValueError, match=r"resources\.python is '-c'; needed: a path"):
        Resources(python="-c")


SCRIPTED = ("partition", "account", "qos", "constraint", "python", "extra.comment", "extra.mail-user", "setup[0]")


@every_row("key", SCRIPTED)
@every_row("text", ["a\nb", "a\n#SBATCH --nodes=9", "a\rb", "a\x1bb", "a\u2028b", "a\x00b", "a\x85b"])
def test_a_text_that_is_not_one_line_enters_no_batch_script(key, text):
    """What YAML itself refuses is refused in a profile or sweep made by a program too."""
    name, _, option = key.partition(".")
    value = {option: text} if option else [text] if name == "setup[0]" else text
    with pytest.raises(ValueError, match=re.escape(f"resources.{key} is {text!r}; needed: one line")):
        Resources(**{name.removesuffix("[0]"): value})


@every_row("key", [key for key in SCRIPTED if key != "setup[0]"])
@every_row("text", ["", " ", " a", "a ", "a\\b", "a\tb"])
def test_a_text_that_sbatch_reads_otherwise_enters_no_batch_script(key, text):
    name, _, option = key.partition(".")
    with pytest.raises(ValueError, match=re.escape(f"resources.{key} is {text!r}; needed: a text")):
        Resources(**{name: {option: text} if option else text})


@every_row(
    ("text", "parts"),
    [
        ("? [a, b]\n: 1\nname: weights\n", ["a key is a list"]),
        ("name: weights\nentry: image.train\ngrid: &a {b: [*a]}\n", ["an alias inside what it stands for"]),
        ("name: weights\n", ["sweep.yaml: missing config key 'entry'", "name, entry, runs_dir"]),
        ("entry: image.train\n", ["sweep.yaml: missing config key 'name'"]),
        ("", ["holds None; needed: keys"]),
        ("- name\n", ["holds ['name']; needed: keys"]),
        ("name: a\nentry: image.train\ngrid: {optimizer/lr: [1]}\n", ["a run is called 'optimizer/lr1-seed0'"]),
        ("name: [\n", ["is no YAML"]),
        ("name: a\nentry: image.train\ngrid: {a: [1], a: [2]}\n", ["'a' stands twice", "line 3"]),
        ("name: a\nname: b\nentry: image.train\n", ["'name' stands twice"]),
        ("\udce4".encode("utf-8", "surrogateescape").decode("latin-1"), ["holds 'ä'; needed: keys"]),
    ],
)
def test_a_file_that_is_no_sweep_is_told(write, text, parts):
    path = write(text)
    is_refused(path, str(path), *parts)


def test_a_file_in_another_encoding_or_that_is_not_there_is_told(write, tmp_path):
    path = write("")
    path.write_bytes(b"name: \xe4\n")
    is_refused(path, f"{path} is no YAML")
    is_refused(tmp_path / "nowhere.yaml", f"there is no sweep file {tmp_path}/nowhere.yaml")
    is_refused(tmp_path, f"there is no sweep file {tmp_path}")


def test_an_entry_that_lacks_a_package_says_which(write, tmp_path, monkeypatch):
    """It is there, so "no such module" would be wrong."""
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "lacking.py").write_text("import nowhere_at_all\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="nowhere_at_all"):
        find_entry("pack.lacking")


# Examples


@every_row("path", EXAMPLES)
def test_an_example_composes_and_says_how_it_is_run(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    sweep = load_sweep(path)
    cases = sweep.runs()
    check_runs(sweep, cases)
    header = "\n".join(line for line in path.read_text().splitlines() if line.startswith("#"))
    for word in ("command", "hardware", "expected"):
        assert re.search(rf"^# {word}\s+\S", header, re.M), f"{path.name} does not say its {word}"
    assert f"python slurm/launch.py slurm/examples/{path.name}" in header
    assert sweep.name == path.stem
    count = re.search(r"(\d+) runs", header)
    assert count is None or int(count[1]) == len(cases)
