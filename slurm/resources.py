"""What a run needs of a cluster, every word of it fit for a batch script."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

UNITS = {"m": 1, "min": 1, "h": 60, "d": 24 * 60}
ARRAY_SIZE = 500  # jobs of one array; SLURM's own limit is 1001 where nobody changed it
# sbatch's options that the launcher or submitit sets itself, and those with which sbatch does not say what it submitted
TAKEN = {"array", "cpus-per-task", "error", "gpus-per-node", "job-name", "mem", "nodes", "ntasks-per-node", "open-mode"}
TAKEN |= {"account", "constraint", "ntasks", "output", "partition", "qos", "signal", "time"}
TAKEN |= {"parsable", "quiet", "wait", "wrap", "test-only", "help", "usage", "version"}
LEAST_MEMORY = 0.001  # gibibytes: a mebibyte
OPTION = re.compile(r"[a-z][a-z0-9]*([_-][a-z0-9]+)*")
TEXTS = ("profile", "partition", "account", "qos", "constraint", "python")


@dataclass(frozen=True, kw_only=True)
class Resources:
    """The needs of one run; null leaves it to the cluster's defaults.

    profile         a file of slurm/profiles (without .yaml), or a path: its keys are the defaults of these
    nodes, gpus_per_node, tasks_per_node   a task for each GPU; without GPUs, tasks_per_node processes (1)
    cpus_per_task, memory_gb   cores of a task, memory of a node
    time            minutes, or "90m", "12h", "2d", "1-12:00:00", "12:00:00"
    signal_seconds  the warning before the time is over: a step and a save have to fit
    max_timeouts    so many times a run that ran out of time is queued again
    array_limit     runs of the sweep at the same time
    array_size      jobs of one array; a longer sweep is several
    setup           lines of the batch script before the run: module load ...
    python          path of the interpreter; null is the one that submits
    extra           further options of sbatch, by name
    """

    profile: str | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    nodes: int = 1
    gpus_per_node: int = 0
    tasks_per_node: int | None = None
    cpus_per_task: int | None = None
    memory_gb: float | None = None
    time: int | str = 60
    signal_seconds: int = 120
    max_timeouts: int = 100
    array_limit: int = 256
    array_size: int = ARRAY_SIZE
    setup: list[str] = field(default_factory=list)
    python: str | None = None
    extra: dict = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._check_texts()
        self._check_numbers()
        _check_extra(self.extra)
        if 60 * self.minutes <= self.signal_seconds:
            raise ValueError(
                f"resources.signal_seconds is {self.signal_seconds}, but resources.time is {self.time!r}, "
                f"{60 * self.minutes} s; the warning must come before the end"
            )

    def _check_texts(self) -> None:
        for name in TEXTS:
            check_text(f"resources.{name}", getattr(self, name))
        if self.python is not None and ("$" in self.python or self.python.startswith("-")):
            raise ValueError(f"resources.python is {self.python!r}; needed: a path, no option, which no shell expands")
        for number, line in enumerate(self.setup):
            check_line(f"resources.setup[{number}]", line)

    def _check_numbers(self) -> None:
        for name in ("nodes", "array_limit", "array_size", "signal_seconds"):
            if getattr(self, name) < 1:
                raise ValueError(f"resources.{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("gpus_per_node", "max_timeouts"):
            if getattr(self, name) < 0:
                raise ValueError(f"resources.{name} is {getattr(self, name)}; it must not be negative")
        if self.memory_gb is not None and 0 < self.memory_gb < LEAST_MEMORY:  # 0 MB are all of a node to SLURM
            raise ValueError(f"resources.memory_gb is {self.memory_gb}; it must be at least {LEAST_MEMORY}, or null")
        for name in ("tasks_per_node", "cpus_per_task", "memory_gb"):
            if getattr(self, name) is not None and getattr(self, name) <= 0:
                raise ValueError(f"resources.{name} is {getattr(self, name)}; it must be positive, or null")
        if self.gpus_per_node and self.tasks_per_node not in (None, self.gpus_per_node):
            raise ValueError(
                f"resources.tasks_per_node is {self.tasks_per_node}, but resources.gpus_per_node {self.gpus_per_node}; "
                "a task has one GPU: leave it null"
            )

    @property
    def interpreter(self) -> str | None:
        """`python` as a word of a shell's command line."""
        return None if self.python is None else shlex.quote(str(Path(self.python).expanduser()))

    @property
    def tasks(self) -> int:
        """Processes of a node."""
        return self.tasks_per_node or self.gpus_per_node or 1

    @property
    def processes(self) -> int:
        """Processes of a run."""
        return self.nodes * self.tasks

    @property
    def minutes(self) -> int:
        """`time` in whole minutes."""
        return parse_minutes(self.time)


def _check_extra(extra: dict) -> None:
    for name, value in extra.items():
        if not isinstance(name, str) or not OPTION.fullmatch(name):
            raise ValueError(
                f"resources.extra holds {name!r}; needed: the long name of an option of sbatch, such as gres"
            )
        option = name.replace("_", "-")
        taken = [each for each in TAKEN if each == option or (each.startswith(option) and option != "gpus")]
        if taken:  # sbatch takes the beginning of a name for the name
            raise ValueError(f"resources.extra holds {name}; the launcher sets it, or resources has a key for it")
        if value is not True and (isinstance(value, bool) or not isinstance(value, str | int | float)):
            raise ValueError(f"resources.extra.{name} is {value!r}; allowed: text, a number, or true for a flag")
        if isinstance(value, str):
            check_text(f"resources.extra.{name}", value)


def check_text(key: str, text: str | None) -> None:
    """Raises ValueError for a text that is empty, has spaces around it, or that sbatch would read otherwise."""
    check_line(key, text or "")
    if text is not None and (not text or text != text.strip() or "\\" in text or "\t" in text):
        raise ValueError(f"{key} is {text!r}; needed: a text without backslashes and without spaces around it, or null")


def check_line(key: str, line: str) -> None:
    """Raises ValueError for what would not be one line of a batch script: line ends and other control characters."""
    if not line.replace("\t", " ").isprintable():
        raise ValueError(f"{key} is {line!r}; needed: one line, without line ends or other control characters")


def parse_minutes(time: int | str) -> int:
    """Whole minutes of 90, "90m", "12h", "2d", "12:00:00" (hours first) or "1-12:00:00" (days first)."""
    text = str(time).strip()
    if match := re.fullmatch(r"(\d{1,9})\s*(m|min|h|d)?", text):
        minutes = int(match[1]) * UNITS[match[2] or "m"]
    elif match := re.fullmatch(r"(?:(\d{1,6})-)?(\d{1,2}):(\d{2}):(\d{2})", text):
        days, hours, rest, seconds = (int(part or 0) for part in match.groups())
        minutes = (days * 24 + hours) * 60 + rest + (seconds > 0)
    else:
        raise ValueError(f"resources.time is {time!r}; allowed: minutes, or such as 90m, 12h, 2d, 1-12:00:00, 12:00:00")
    if minutes < 1:
        raise ValueError(f"resources.time is {time!r}; it must be at least a minute")
    return minutes
