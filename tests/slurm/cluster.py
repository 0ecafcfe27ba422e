"""A real SLURM of one node for tests: controller, node, accounting and its database, all below one folder.

It needs Debian's packages, root, and nothing of the system's own: no systemd, no running munge or MySQL, no resolvable
host name. Key, sockets, ports and files are its own, so that several may run side by side.

    with Cluster() as cluster:
        cluster.run("sbatch", "--output=hello.txt", stdin="#!/bin/sh\\necho hello\\n")
        cluster.wait_for(Path("hello.txt").exists, "output")

What submitit 1.5.4 does on SLURM (files below submitit/):

- slurm/slurm.py:482-538 writes `#SBATCH --signal=USR2@<signal_delay_s>` (90 s before the end by default; without "B:",
  so the steps get it and the batch script does not), `--open-mode=append`, `--wckey=submitit`, `--array=0-<n-1>%<k>`,
  and runs `srun --unbuffered --output <folder>/%j_%t_log.out --error ... python -u -m submitit.core._submit <folder>`.
  It writes no --requeue: a job can be requeued because the cluster says so (JobRequeue=1) or with
  slurm_additional_parameters={"requeue": True}.
- core/job_environment.py:146-158: every task takes USR2 (or SUBMITIT_PREEMPT_SIGNAL, read when submitit is imported);
  SIGTERM and SIGCONT are logged and ignored. They are set before the function runs, which may set its own over them.
- 177-193: "timed out" is a run time of at least min(0.8 T, T - 10 min) for T = timeout_min, so always when T <= 10 min,
  or else "preempted". Only a time-out takes one of max_num_timeout (3 by default).
- 200-230: rank 0 alone calls `checkpoint(*args)`, pickles what it returns over <id>_submitted.pkl, runs
  `scontrol requeue <id>` and leaves by sys.exit(-1); the others only return from the handler, and SLURM ends them. A
  function without `checkpoint` is requeued as it was after a preemption, and fails after a time-out.
- core/core.py:394-439: `job.done()` looks for the result file each time, and asks sacct 2 s after the submission and
  then ever more rarely (half of the time since, up to 600 s). A task's result file says when it is done: poll that.
- core/submission.py:54-69: an Exception in a task writes a result file, too, ("error", traceback); the SystemExit of a
  requeue writes none. So a rank whose peer left for a requeue may leave an error, which its next run replaces.
- local/local.py:80-83: the local executor's `_interrupt` signals its controller, which takes SIGTERM alone (298) and
  dies of USR2 while its tasks go on, unsignalled. A task that gets USR2 itself leaves with 144 (119-122), and the
  controller starts all of them again when the last one has ended (369-380).
"""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

PACKAGES = ("slurm-wlm", "slurmdbd", "munge", "mariadb-server")  # of Debian 12: SLURM 22.05, MariaDB 10.11
COMMANDS = ("munged", "mariadbd", "mariadb-install-db", "slurmdbd", "slurmctld", "slurmd", "sbatch", "srun", "setpriv")
SYSTEM_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
PREFIX = "slurm-test"  # of the folders in the temporary directory
MAX_ARRAY = 5  # jobs of an array
POLL = 0.2  # seconds between two questions
PATIENCE = 60  # seconds for a daemon or a command to answer
TAIL = 40  # lines of each log in a message
Answer = TypeVar("Answer")

# cred_expire: a step's credential lives so many seconds, and a requeued job waits as long and one second more before it
# may start again. 120 is SLURM's own choice, 5 the least it takes.
# KillWait: besides the time from SIGTERM to SIGKILL, a preempting job looks again KillWait + 10 s after its first try,
# so that a preempted job has about 13 s from its signal on (GraceTime, 10 s, where the check of all time limits, every
# 30 s, falls between). preempt_send_user_signal: this signal is the job's --signal, and SIGTERM where it has none.
# A job that ends by itself in this time has ended: SLURM requeues only what it must kill.
# NodeName=localhost: the first of SLURM_JOB_NODELIST is where tasks meet (MASTER_ADDR), and this resolves everywhere.
# cgroup.conf names a version, for slurmd wants to find out where it is not told, and fails where no cgroup is mounted.
# CR_CPU counts no memory, and config_overrides believes this file about the node: every machine has two CPUs here.
SLURM_CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/logs/slurmctld.log
SlurmdLogFile={folder}/logs/slurmd.log
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={accounting_port}
AccountingStoragePass={folder}/munge.socket
JobAcctGatherType=jobacct_gather/none
MailProg=/bin/true
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,sched_min_interval=0,batch_sched_delay=0,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
JobRequeue=1
MaxArraySize={max_array}
KillWait=3
MinJobAge=10
NodeName=localhost NodeHostname={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory={memory} State=UNKNOWN
PartitionName=DEFAULT Nodes=localhost State=UP MaxTime=INFINITE
PartitionName=debug Default=YES OverSubscribe=FORCE:4 PriorityTier=1 GraceTime=10
PartitionName=urgent PriorityTier=10
"""
SLURMDBD_CONF = """
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={accounting_port}
SlurmUser=root
PidFile={folder}/slurmdbd.pid
LogFile={folder}/logs/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm
"""
# The data need not outlive a crash, and nobody connects but slurmdbd, over the socket.
MARIADB_OPTIONS = (
    "--no-defaults",
    "--user=root",
    "--datadir={folder}/database",
    "--skip-networking",
    "--skip-name-resolve",
    "--debug-no-sync",
    "--innodb-flush-log-at-trx-commit=0",
    "--innodb-doublewrite=0",
    "--innodb-use-native-aio=0",
    "--innodb-log-file-size=16M",
    "--innodb-buffer-pool-size=32M",
    "--innodb-lock-wait-timeout=900",
)


class Cluster:
    """A running cluster of one node with two CPUs, two partitions and accounting; `stop` ends all of it.

    `debug` (the default) takes up to four jobs a CPU, and `urgent` preempts its jobs. Raises RuntimeError with the ends
    of all logs when a daemon does not start.
    """

    def __init__(self) -> None:
        end_abandoned()
        self.folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}-{os.getpid()}-{_birth(os.getpid())}-"))
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        atexit.register(self.stop)
        try:
            self._configure()
            self._start()
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    @property
    def environment(self) -> dict[str, str]:
        """What SLURM's commands need in their environment to reach this cluster."""
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def run(self, *command: str, stdin: str = "") -> str:
        """The standard output of one of SLURM's commands; RuntimeError with its standard error when it fails."""
        environment = {**os.environ, **self.environment}
        answer = subprocess.run(
            command, input=stdin, capture_output=True, text=True, env=environment, timeout=PATIENCE, check=False
        )
        if answer.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {answer.returncode}: {answer.stderr.strip()}")
        return answer.stdout

    def wait_for(self, question: Callable[[], Answer], what: str, timeout: float = 30) -> Answer:
        """The first answer that is true; AssertionError with all logs when there is none within `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while not (answer := question()):
            if time.monotonic() > deadline:
                raise AssertionError(f"no {what} within {timeout} s\n{self.logs()}")
            time.sleep(POLL)
        return answer

    def logs(self) -> str:
        """The ends of all daemons' logs."""
        parts = []
        for output in sorted((self.folder / "logs").glob("*.out")):
            log = output.with_suffix(".log")  # says the same and more, once it is there
            lines = (log if log.exists() else output).read_text(errors="replace").splitlines()
            parts += [f"--- {output.stem}", *lines[-TAIL:]]
        return "\n".join(parts)

    def stop(self) -> None:
        """End every daemon, job and command of this cluster and remove its folder; a second time it does nothing."""
        atexit.unregister(self.stop)
        for daemon in self._daemons.values():
            daemon.kill()
        for daemon in self._daemons.values():
            daemon.wait()
        self._daemons.clear()
        _remove(self.folder)

    def _configure(self) -> None:
        for name in ("database", "logs", "spool", "state"):
            (self.folder / name).mkdir()
        _write_private(self.folder / "munge.key", secrets.token_bytes(128))
        ports = dict(zip(("controller_port", "node_port", "accounting_port"), _free_ports(3), strict=True))
        host = socket.gethostname().split(".")[0]
        memory = int(0.8 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**20)
        values = {"folder": self.folder, "host": host, "memory": memory, "max_array": MAX_ARRAY, **ports}
        _write_private(self.folder / "slurm.conf", SLURM_CONF.format(**values).encode())
        _write_private(self.folder / "slurmdbd.conf", SLURMDBD_CONF.format(**values).encode())
        _write_private(self.folder / "cgroup.conf", b"CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n")
        self._accounting_port = ports["accounting_port"]

    def _start(self) -> None:
        """Start the daemons one after another, each when the one it asks answers."""
        folder = self.folder
        munge = [f"--{name}={folder}/munge.{name.split('-')[0]}" for name in ("key-file", "pid-file", "seed-file")]
        self._daemon("munged", "--foreground", "--force", "--num-threads=10", f"--socket={folder}/munge.socket", *munge)
        options = [option.format(folder=folder) for option in MARIADB_OPTIONS]
        self._once("mariadb-install-db", *options, "--skip-test-db", "--auth-root-authentication-method=normal")
        self._daemon("mariadbd", *options, f"--socket={folder}/mariadb.socket", f"--pid-file={folder}/mariadbd.pid")
        self._until("munged", lambda: _answers(f"{folder}/munge.socket"))
        self._until("mariadbd", lambda: _answers(f"{folder}/mariadb.socket"))
        self._daemon("slurmdbd", "-D")
        self._until("slurmdbd", lambda: _answers(("127.0.0.1", self._accounting_port)))
        self._daemon("slurmctld", "-D", "-c")
        self._daemon("slurmd", "-D")
        self._until("slurmd", self._node_is_idle)

    def _node_is_idle(self) -> bool:
        with contextlib.suppress(RuntimeError):  # as long as the controller does not answer
            return "idle" in self.run("sinfo", "--noheader", "--partition=debug", "--format=%T").split()
        return False

    @property
    def _daemon_environment(self) -> dict[str, str]:
        """Ours alone: slurmdbd finds its own conf beside slurm.conf, and the database's socket by MYSQL_UNIX_PORT."""
        return {"PATH": SYSTEM_PATH, "MYSQL_UNIX_PORT": f"{self.folder}/mariadb.socket", **self.environment}

    def _daemon(self, *command: str) -> None:
        """Start a daemon in the foreground; the kernel kills it when this process dies."""
        with (self.folder / "logs" / f"{command[0]}.out").open("ab") as log:
            self._daemons[command[0]] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._daemon_environment,
                cwd=self.folder,
                start_new_session=True,  # Ctrl-C is for the tests
            )

    def _once(self, *command: str) -> None:
        answer = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self._daemon_environment,
            cwd=self.folder,
            timeout=PATIENCE,
            check=False,
        )
        if answer.returncode:
            raise RuntimeError(f"{command[0]} ended with {answer.returncode}\n{answer.stdout}\n{self.logs()}")

    def _until(self, daemon: str, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not ready():
            for name, process in self._daemons.items():
                if process.poll() is not None:
                    raise RuntimeError(f"{name} ended with {process.returncode}\n{self.logs()}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"{daemon} does not answer within {PATIENCE} s\n{self.logs()}")
            time.sleep(0.05)


def missing() -> list[str]:
    """What this machine lacks for a cluster: commands, or being root; empty when nothing."""
    lacks = [command for command in COMMANDS if shutil.which(command, path=SYSTEM_PATH) is None]
    return lacks + ([] if os.geteuid() == 0 else ["the rights of root"])


def end_abandoned() -> None:
    """End what a killed test session has left behind: folders are named after the process that made them."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}-*"):
        name = re.fullmatch(rf"{PREFIX}-(\d+)-(\d+)-\w+", folder.name)
        if name and _birth(int(name[1])) != name[2]:
            _remove(folder)


def _remove(folder: Path) -> None:
    """Kill every process that was started with this cluster's conf (jobs, too), then remove its folder."""
    while members := list(_members(folder / "slurm.conf")):
        for process in members:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.01)
    with contextlib.suppress(FileNotFoundError):  # another session removes it, too
        shutil.rmtree(folder)


def _members(conf: Path) -> Iterator[int]:
    """Processes with this SLURM_CONF in the environment that they were started with."""
    for directory in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):  # ended, or not ours
            if f"SLURM_CONF={conf}".encode() in (directory / "environ").read_bytes().split(b"\0"):
                yield int(directory.name)


def _birth(process: int) -> str:
    """When a process was started, in ticks since boot: with its id, a name given once. "" if it is gone."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _answers(address: str | tuple[str, int]) -> bool:
    """Whether somebody accepts connections at a port or at a Unix socket."""
    with socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET) as client:
        return client.connect_ex(address) == 0


def _write_private(path: Path, content: bytes) -> None:
    """A file that its owner alone may read: munge and slurmdbd insist."""
    path.touch(mode=0o600)
    path.write_bytes(content)
