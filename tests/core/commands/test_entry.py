"""From the command line to a checked config, and from an exception to one line and an exit code."""

import importlib
import logging
import subprocess
import sys
import textwrap

import pytest
from hydra import initialize_config_module

from core.commands.entry import compose_config, run_entry
from tests.rows import every_row

PACKAGE = "toy_entry"
MODULE = f"{PACKAGE}.conf"
FILES = {
    "__init__.py": "",
    "conf/__init__.py": "",
    "conf/train.yaml": """
        defaults:
          - network: small
          - _self_
          - experiment: null
        steps: 10
        name: toy-${seed}
        seed: 0
        optimizer:
          rate: 1e-4
          clip: null
    """,
    "conf/measure.yaml": "run: ???\nnum: 4\nnetwork: null\n",
    "conf/broken.yaml": "run: ${nowhere.to.be.found}\n",
    "conf/network/small.yaml": "name: small\nwidth: 8\n",
    "conf/network/large.yaml": "name: large\nwidth: 64\n",
    "conf/experiment/quick.yaml": """
        # @package _global_
        defaults:
          - override /network: large
        steps: 2
        optimizer:
          rate: 5e-3
    """,
    "conf/experiment/typo.yaml": """
        # @package _global_
        optimizer:
          ratte: 5e-3
    """,
    "conf/experiment/top_typo.yaml": """
        # @package _global_
        stps: 5
    """,
    "conf/experiment/not_finite.yaml": """
        # @package _global_
        optimizer:
          rate: .nan
    """,
    "conf/experiment/twice.yaml": "# @package _global_\nsteps: 1\nsteps: 2\n",
    "conf/experiment/tabs.yaml": "# @package _global_\noptimizer:\n\trate: 1\n",
    "conf/experiment/open.yaml": "# @package _global_\nname: ${\n",
    "conf/experiment/list.yaml": "- 1\n",
    "conf/experiment/bomb.yaml": "# @package _global_\na: &a [x, x]\n"
    + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}' if i else '*a'] * 9)}]\n" for i in range(6)),
    "conf/experiment/nothing.yaml": "",
    "conf/experiment/latin.yaml": "# @package _global_\nname: ä\n",
    "conf/experiment/deep.yaml": f"# @package _global_\nname: {'[' * 2000}{']' * 2000}\n",
    "conf/experiment/wrong_type.yaml": """
        # @package _global_
        optimizer:
          rate: fast
    """,
    "train.py": '''
        from __future__ import annotations

        from dataclasses import dataclass, field

        from core.commands.entry import run_entry
        from core.schema import choice


        @dataclass(frozen=True)
        class Optimizer:
            rate: float
            clip: float | None

            def __post_init__(self):
                if self.rate <= 0:
                    raise ValueError(f"optimizer.rate is {self.rate}; it must be above 0")


        @dataclass(frozen=True)
        class Small:
            width: int


        @dataclass(frozen=True)
        class Large:
            width: int


        @dataclass(frozen=True)
        class Config:
            steps: int
            name: str
            seed: int
            optimizer: Optimizer
            network: object = choice({"small": Small, "large": Large})


        @dataclass(frozen=True)
        class Measure:
            run: str
            num: int
            network: str | None


        seen = []
        failure = []


        def main(config: Config) -> None:
            """Train a toy.

            The second paragraph says more.
            """
            seen.append(config)
            if failure:
                raise failure[0]


        if __name__ == "__main__":
            run_entry(main, config_module="toy_entry.conf", config_name="train", schema=Config)
    ''',
}


@pytest.fixture(scope="module")
def entry(tmp_path_factory):
    """The module `toy_entry.train`, of a package written for these tests."""
    root = tmp_path_factory.mktemp("packages")
    for name, text in FILES.items():
        file = root / PACKAGE / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text).lstrip("\n"), encoding="latin-1")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(root)
        yield importlib.import_module(f"{PACKAGE}.train")
        for name in [name for name in sys.modules if name.split(".")[0] == PACKAGE]:
            del sys.modules[name]


@pytest.fixture
def run(entry, capsys):
    """Run the entry with these arguments; gives (exit code, stdout, stderr). `run.config` is what main received."""

    def call(*args, failure=None, config_name="train", schema=None):
        entry.seen.clear()
        entry.failure[:] = [failure] if failure else []
        schema = schema or entry.Config
        code = 0
        try:
            run_entry(entry.main, config_module=MODULE, config_name=config_name, schema=schema, argv=args)
        except SystemExit as exit_:
            code = exit_.code
        except KeyboardInterrupt:
            pytest.fail("the interrupt came through")
        call.config = entry.seen[-1] if entry.seen else None
        return code, *capsys.readouterr()

    return call


def bad(outcome, *parts):
    """Refused: exit code 2, nothing on stdout, one line on stderr that names every one of `parts`."""
    code, out, err = outcome
    assert code == 2, err
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1, err
    assert err.endswith("\n")
    assert all(part in err for part in parts), err


def test_what_our_packages_log_is_shown_and_nobody_elses(entry, capsys):
    names = ("core.part", "eval.part", "toy_entry.part", "other.part")

    def main(config):
        for name in names:
            logging.getLogger(name).info("said by %s", name)

    run_entry(main, config_module=MODULE, config_name="train", schema=entry.Config, argv=[])
    said = capsys.readouterr().err.splitlines()
    assert said == [f"said by {name}" for name in names[:3]]


# compose_config


@pytest.mark.usefixtures("entry")
def test_an_interpolation_that_leads_nowhere_is_named():
    with pytest.raises(ValueError, match=r"nowhere\.to\.be\.found"):
        compose_config(MODULE, "broken")


@pytest.mark.usefixtures("entry")
def test_composing_again_starts_afresh_also_within_a_program_that_uses_hydra():
    assert compose_config(MODULE, "train", ["steps=3"])["steps"] == 3
    with pytest.raises(ValueError):
        compose_config(MODULE, "train", ["stps=3"])
    with initialize_config_module(config_module=MODULE, version_base="1.3"):
        assert compose_config(MODULE, "train")["steps"] == 10


# run_entry


def test_main_receives_the_checked_config(run, entry):
    assert run()[0] == 0
    assert run.config == entry.Config(10, "toy-0", 0, entry.Optimizer(1e-4, None), entry.Small(8))
    assert run("experiment=quick", "seed=3", "optimizer.clip=1")[0] == 0
    assert run.config == entry.Config(2, "toy-3", 3, entry.Optimizer(5e-3, 1.0), entry.Large(64))
    assert run("steps=3", "experiment=quick", "network.width=128")[0] == 0
    assert (run.config.steps, run.config.network) == (3, entry.Large(128)), "the command line is the last word"


@every_row(
    ("args", "parts"),
    [
        ("stps=3", ["unknown config key 'stps'", "allowed: ", "steps", "optimizer"]),
        ("optimizer.ratte=3", ["unknown config key 'optimizer.ratte'", "allowed: clip, rate"]),
        ("+stps=3", ["unknown config key 'stps'", "3", "allowed: steps, name"]),
        ("+optimizer.ratte=3", ["unknown config key 'optimizer.ratte'", "allowed: rate, clip"]),
        ("steps", ["steps"]),
        ("steps=[1", ["'steps=[1' is no key=value"]),
        ("name=~/runs", ["'name=~/runs' is no key=value", "needed: name=$HOME/runs in a shell"]),
        ("name=a=b", ["'name=a=b' is no key=value", """'name="a=b"' in a shell"""]),
        ("--multirun", ["'--multirun' is no key=value; --help shows the keys"]),
        ("network=null", ["'network=null'", "network=NAME"]),
        ("steps=many", ["'steps'", "'many'", "int"]),
        ("steps=true", ["'steps'", "True", "int"]),
        ("optimizer.rate=-1", ["optimizer.rate is -1.0", "above 0"]),
        ("~optimizer", ["missing config key 'optimizer'"]),
        ("nothing=medium", ["'nothing'"]),
        ("network=medium", ["network/medium", "'network': large; small"]),
        ("network.name=medium", ["'network.name'", "'medium'", "['large', 'small']"]),
        ("--stepz", ["--stepz"]),
        ("experiment=slow", ["experiment/slow", "open; quick; tabs; top_typo; twice; typo"]),
        ("experiment=typo", ["unknown config key 'optimizer.ratte'", "0.005", "allowed: rate, clip"]),
        ("--print-config experiment=typo", ["optimizer.ratte"]),
        ("--print-config experiment=not_finite", ["'optimizer.rate' is nan", "a finite number"]),
        ("--print-config optimizer.rate=nan", ["'optimizer.rate' is nan", "a finite number"]),
        ("optimizer.clip=inf", ["'optimizer.clip' is inf", "a finite number"]),
        ("name=2024", ["'name' is 2024", """'KEY="2024"' in a shell"""]),
        ("name='${'", ["'${'"]),
        ("steps.more=3", ["unknown config key 'steps.more'; allowed: nothing below it"]),
        (f"name={'[' * 2000}{']' * 2000}", ["nested too deeply"]),
        ("experiment=twice", ["twice.yaml is no YAML: 'steps' stands twice"]),
        ("experiment=tabs", ["tabs.yaml is no YAML"]),
        ("experiment=deep", ["deep.yaml is no YAML: nested too deeply"]),
        ("experiment=bomb", ["bomb.yaml is no YAML: more than 200000 values"]),
        ("experiment=list", ["list.yaml holds no keys and values"]),
        ("experiment=latin", ["latin.yaml is no YAML", "utf-8"]),
        ("experiment=[quick,list]", ["list.yaml holds no keys and values"]),
        ("experiment=open", ["'${'"]),
        ("experiment=top_typo", ["unknown config key 'stps'", "5", "allowed: steps, name"]),
        ("experiment=wrong_type", ["'optimizer.rate'", "'fast'", "a number"]),
    ],
)
def test_what_does_not_fit_is_refused_on_the_command_line_and_in_an_experiment_file(run, args, parts):
    bad(run(*args.split()), *parts)
    assert run.config is None


@every_row("flag", ["--help", "-h"])
def test_help_shows_purpose_usage_choices_and_defaults(run, flag):
    code, out, err = run("steps=3", flag)
    assert (code, err, run.config) == (0, "", None)
    lines = out.splitlines()
    assert lines[:3] == ["Train a toy.", "", "The second paragraph says more."]
    assert f"  python -m {PACKAGE}.train [key=value ...]" in lines
    assert "  network=large | small" in lines
    assert any(line.startswith("  experiment=bomb | ") and " | quick | " in line for line in lines)
    assert "  steps: 10" in lines
    assert not any(line.startswith("  sampler=") for line in lines)  # a group of core that this entry has not


def test_a_value_that_was_not_given_is_one_line_and_help_shows_it(run, entry):
    bad(run("num=3", config_name="measure", schema=entry.Measure), "missing config key 'run'")
    code, out, err = run("--help", config_name="measure", schema=entry.Measure)
    assert (code, err) == (0, "")
    assert "  run: ???" in out.splitlines()


def test_a_key_of_the_file_that_has_the_name_of_a_group_takes_values(run, entry):
    for word, value in (("network=some/folder", "some/folder"), ('network="2024"', "2024"), ("network=null", None)):
        assert run("run=a", word, config_name="measure", schema=entry.Measure)[0] == 0
        assert run.config == entry.Measure("a", 4, value)
    bad(run("run=a", "network=2024", config_name="measure", schema=entry.Measure), "'network' is 2024", '"2024"')
    assert "network=" not in run("--help", config_name="measure", schema=entry.Measure)[1]


def test_print_config_shows_what_would_run_and_stops(run):
    code, out, err = run("--print-config", "experiment=quick", "seed=4")
    assert (code, err, run.config) == (0, "", None)
    assert {"steps: 2", "name: toy-4", "  width: 64"} <= set(out.splitlines())


@every_row(
    ("failure", "text"),
    [
        (ValueError("the rate is wrong"), "the rate is wrong"),
        (FileNotFoundError(2, "No such file", "a.pt"), "a.pt"),
        (FloatingPointError("the loss is nan at step 3"), "the loss is nan at step 3"),
        (ImportError("install the extra 'vae'"), "install the extra 'vae'"),
    ],
)
def test_what_main_refuses_is_one_line_and_exit_code_2(run, failure, text):
    bad(run(failure=failure), text)


@every_row(
    "failure",
    [MemoryError(), RuntimeError("[...] DefaultCPUAllocator: can't allocate memory: you tried 8 TB\nat alloc_cpu.cpp")],
)
def test_a_machine_without_memory_is_one_line_and_exit_code_1(run, failure):
    code, out, err = run(failure=failure)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("error: out of memory: ") and "turn down the sizes" in err


def test_the_traceback_is_shown_on_request(run, monkeypatch):
    code, _, err = run(failure=ValueError("first\nsecond"))
    assert code == 2 and err.startswith("error: first\nsecond") and "Traceback" not in err
    monkeypatch.setenv("LAYERSYNC_DEBUG", "1")
    code, _, err = run(failure=ValueError("wrong"))
    assert code == 2
    assert "Traceback" in err
    assert "error: wrong" in err


def test_an_interrupt_is_exit_code_130_without_a_traceback(run):
    code, out, err = run(failure=KeyboardInterrupt())
    assert (code, out, err) == (130, "", "interrupted\n")


def test_a_bug_is_not_dressed_up_as_bad_input(entry):
    entry.failure[:] = [RuntimeError("a bug")]
    with pytest.raises(RuntimeError, match="a bug"):
        run_entry(entry.main, config_module=MODULE, config_name="train", schema=entry.Config, argv=[])


def test_as_a_program(entry, tmp_path):
    """`python -m` from anywhere: it knows its own name, and writes nothing where it is started."""
    path = f"{entry.__file__.rsplit('/', 2)[0]}:{':'.join(sys.path)}"
    environment = {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", f"{PACKAGE}.train", "--help"]
    shown = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert shown.returncode == 0, shown.stderr
    assert f"python -m {PACKAGE}.train [key=value ...]" in shown.stdout
    assert list(tmp_path.iterdir()) == []
