"""From the command line to a checked dataclass, and from an exception to one clear line.

Every entry (`python -m image.train`, ...) is `run_entry(main, ...)`: hydra composes the YAML files and the overrides,
`core.schema.strict` turns the result into the entry's dataclass, `main(config)` does the work. Nothing is written and
the working directory does not change.
"""

from __future__ import annotations

import inspect
import logging
import os
import sys
import textwrap
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, NoReturn

from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from tqdm import tqdm
from yaml import YAMLError

from core.commands.config_files import check_chosen, default_groups, key_of, own_values
from core.commands.overrides import check_words, read_overrides
from core.processes.failures import RunError, is_out_of_memory
from core.processes.signals import ended_by_signals
from core.processes.world import PeerError, Place
from core.schema import strict

EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130
DEBUG_VARIABLE = "LAYERSYNC_DEBUG"


def compose_config(
    config_module: str, config_name: str, overrides: Sequence[str] = (), *, complete: bool = True
) -> dict[str, Any]:
    """The merged config as nested dicts, interpolations resolved; with complete=False, "???" may stand in it.

    Raises ValueError naming the key, its value and the allowed set for an override that does not fit.
    """
    GlobalHydra.instance().clear()
    with initialize_config_module(config_module=config_module, version_base="1.3"):
        try:
            check_words(overrides)
            names = own_values(config_module, config_name)
            own = [word for word in overrides if key_of(word) in names]
            words = [word for word in overrides if word not in own]
            check_chosen(config_module, words)
            config = compose(config_name=config_name, overrides=words)
            for key, value in read_overrides(own).items():
                OmegaConf.update(config, key.lstrip("+"), value)
            values = OmegaConf.to_container(config, resolve=True, throw_on_missing=complete)
        except (HydraException, OmegaConfBaseException) as error:
            raise ValueError(_explain(error)) from error
        except YAMLError as error:  # of a file that another one names
            raise ValueError(f"a config file is no YAML: {' '.join(str(error).split())}") from error
        except RecursionError as error:
            raise ValueError("a config file or an override is nested too deeply") from error
    return values


def run_entry(
    main: Callable[[Any], Any],
    *,
    config_module: str,
    config_name: str,
    schema: type,
    argv: Sequence[str] | None = None,
    rewrite: Callable[[Sequence[str]], Sequence[str]] = list,
) -> None:
    """Run `main(config)` with the config of the command line.

    Exits 2 with one line on bad input or what cannot be written, 1 with one line when a run failed in its middle, 130
    on Ctrl-C; what `main` exits with stays. Of several processes the one that fails says so.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        if {"-h", "--help"} & set(args):
            return _print(help_text(main, config_module, config_name))
        printing = "--print-config" in args
        overrides = rewrite([arg for arg in args if arg != "--print-config"])
        values = compose_config(config_module, config_name, overrides)
        config = strict(schema, values)
        if printing:
            return _print(OmegaConf.to_yaml(values))
        show_log("layersync", "core", "eval", config_module.partition(".")[0])
        with ended_by_signals():
            main(config)
    except KeyboardInterrupt:
        _print("interrupted", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    except PeerError:
        sys.exit(EXIT_FAILED)  # the process that failed says why
    except (ValueError, OSError, ArithmeticError, ImportError, RunError) as error:
        _end(str(error), EXIT_FAILED if isinstance(error, RunError) else EXIT_BAD_INPUT)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        _end(f"out of memory: {said}; turn down the sizes of batches, of the model or of what is asked", EXIT_FAILED)


def _end(message: str, code: int) -> NoReturn:
    """Say in one line on stderr why the command ends, and exit with `code`."""
    if os.environ.get(DEBUG_VARIABLE):
        traceback.print_exc()
    place = Place.from_environment()
    name = "error" if place.size == 1 else f"error in process {place.rank}"
    _print(f"{name}: {message} ({DEBUG_VARIABLE}=1 shows where)", file=sys.stderr)
    sys.exit(code)


@dataclass(frozen=True)
class Entry:
    """A command as other code sees it: `python -m <module>` is the ENTRY of that module, run.

    main           what it does with its config
    config_module  package of its YAML files
    config_name    the YAML file it begins with
    schema         dataclass of its config
    rewrite        the words of a command line as overrides, where they are not all key=value
    """

    main: Callable[[Any], Any]
    config_module: str
    config_name: str
    schema: type
    rewrite: Callable[[Sequence[str]], Sequence[str]] = list

    def run(self, argv: Sequence[str] | None = None) -> None:
        """The command with `argv`, by default the command line's; see `run_entry`."""
        names = {"config_module": self.config_module, "config_name": self.config_name}
        run_entry(self.main, **names, schema=self.schema, argv=argv, rewrite=self.rewrite)

    def config(self, overrides: Sequence[str]) -> Any:
        """The checked config of a command line; ValueError for one that does not fit."""
        return strict(self.schema, compose_config(self.config_module, self.config_name, self.rewrite(overrides)))


class _BesideTheBar(logging.Handler):
    """Writes a record on stderr without tearing a progress bar apart."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


def show_log(*packages: str) -> None:
    """Show what our own packages have to say (which layers are aligned, what was left out), a line each, on stderr.

    Of several processes only the first says it all, the others warn.
    """
    for package in packages:
        logger = logging.getLogger(package)
        logger.setLevel(logging.INFO if Place.from_environment().rank == 0 else logging.WARNING)
        if not logger.handlers:
            logger.addHandler(_BesideTheBar())


def help_text(main: Callable, config_module: str, config_name: str) -> str:
    """What `--help` prints: purpose, usage, the groups with their choices, the default config."""
    entry = main.__module__ if main.__module__ != "__main__" else f"{config_module.split('.')[0]}.{config_name}"
    own = own_values(config_module, config_name)
    groups = {name: names for name, names in config_groups(config_module).items() if name not in own}
    values = compose_config(config_module, config_name, complete=False)
    lines = [inspect.cleandoc(main.__doc__ or ""), "", "usage:", f"  python -m {entry} [key=value ...]", ""]
    chosen = default_groups(config_module, config_name)
    whole = chosen & {"experiment", "recipe"} or {"experiment"}  # whole configs: no key is called as they are
    used = {name: names for name, names in groups.items() if name in {*values, *whole}}
    if used:
        lines += ["choices (group=name):"]
        lines += [f"  {name}={' | '.join(names)}" for name, names in used.items()] + [""]
    lines += ["--print-config shows the resolved config and stops. Keys and their defaults:", ""]
    return "\n".join(lines) + "\n" + textwrap.indent(OmegaConf.to_yaml(values), "  ")


def config_groups(config_module: str) -> dict[str, list[str]]:
    """Config groups of a domain and of core, with the names in each."""
    groups: dict[str, list[str]] = {}
    for module in ("core.conf", config_module):
        for folder in resources.files(module).iterdir():
            if folder.is_dir() and not folder.name.startswith("_"):
                names = sorted(entry.name[:-5] for entry in folder.iterdir() if entry.name.endswith(".yaml"))
                if names:
                    groups.setdefault(folder.name, []).extend(names)
    return dict(sorted(groups.items()))


def _explain(error: BaseException) -> str:
    """One line for a hydra or omegaconf error, with the allowed keys where the error knows them."""
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    key, parent = getattr(cause, "full_key", None), getattr(cause, "parent_node", None)
    if isinstance(cause, MissingMandatoryValue):
        return f"missing config key '{key}'; it has no default, give it as {key}=..."
    known = isinstance(parent, DictConfig) and not parent._is_none()  # none is what could not be read
    if key and known and getattr(cause, "key", None) not in parent:
        names = sorted(str(name) for name in parent if name != "hydra")  # where its own files lie: nobody's key
        return f"unknown config key '{key}'; allowed: {', '.join(names) or 'nothing below it'}"
    lines = [line.strip() for line in (str(error) or str(cause)).splitlines() if line.strip()]
    noise = ("object_type", "Set the environment", "full_key", "Config search path", "provider=")
    return "; ".join(line for line in lines if not line.startswith(noise)).replace(":; ", ": ")


def _print(text: str, file=None) -> None:
    (file or sys.stdout).write(text.rstrip("\n") + "\n")
