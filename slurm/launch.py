"""`python slurm/launch.py sweep.yaml`: submit a sweep of runs to SLURM, or run it here; then watch and collect it."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence

from core.commands.entry import EXIT_BAD_INPUT, EXIT_FAILED, EXIT_INTERRUPTED
from slurm import status
from slurm.manifest import Manifest, locked
from slurm.submit import check_machine, check_scheduler, dry_run, run_here, submit
from slurm.sweep import Sweep, check_runs, load_sweep

ACTIONS = ("submit", "status", "resubmit", "cancel", "collect")
DESCRIPTION = """\
Submit the runs of a sweep file to SLURM as job arrays, and return at once. The same command again submits only what is
missing. Runs that are preempted or run out of time are queued again and continue exactly.

  python slurm/launch.py sweep.yaml              submit
  python slurm/launch.py sweep.yaml --dry-run    show every command, config and the batch script
  python slurm/launch.py sweep.yaml --local 2    run it on this machine, two runs at a time
  python slurm/launch.py status sweep.yaml       a table: state, step, loss, metric, time left
  python slurm/launch.py resubmit sweep.yaml     start again what failed or was stopped
  python slurm/launch.py cancel sweep.yaml       cancel what waits or runs
  python slurm/launch.py collect sweep.yaml      the runs' summaries as CSV and Markdown"""


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python slurm/launch.py",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("action", choices=ACTIONS, help="submit, if it is left out")
    parser.add_argument("sweep", help="the sweep file; see slurm/examples")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--dry-run", action="store_true", help="submit nothing")
    how.add_argument("--local", type=int, metavar="N", help="run on this machine, N runs at a time")
    return parser


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The options of a command line; it may leave out the action `submit`."""
    named = bool(argv) and argv[0] in (*ACTIONS, "-h", "--help")
    return make_parser().parse_args(argv if named else ["submit", *argv])


def main(argv: Sequence[str] | None = None) -> None:
    """The command; exits 2 with one line on bad input."""
    options = parse(sys.argv[1:] if argv is None else argv)
    try:
        run(options)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_BAD_INPUT)


def run(options: argparse.Namespace) -> None:
    """Do what the options ask for."""
    sweep = load_sweep(options.sweep)
    if (options.local is not None or options.dry_run) and options.action not in ("submit", "resubmit"):
        raise ValueError(f"--local and --dry-run go with submit and resubmit, not with {options.action}")
    if options.action in ("submit", "resubmit"):
        start(sweep, options)
        return
    manifest = Manifest.load(sweep)
    if not manifest.runs:
        raise ValueError(f"the sweep {sweep.folder} was never submitted")
    {"status": show, "cancel": cancel, "collect": collect}[options.action](sweep, manifest)


def start(sweep: Sweep, options: argparse.Namespace) -> None:
    """Submit the runs that are missing; with resubmit, those that stopped too."""
    cases = sweep.runs()
    check_runs(sweep, cases)
    if options.dry_run:
        print(dry_run(sweep, cases))
        return
    if options.local is None:
        check_scheduler(sweep)
    else:
        check_machine(sweep, options.local)
    stopped: list[str] = []
    with locked(sweep):
        manifest = Manifest.load(sweep)
        manifest.take(sweep, cases)
        states = {state.name: state for state in status.run_states(sweep, manifest)}
        again = options.action == "resubmit"
        wanted = [case for case in cases if wants(states[case.name], again)]
        manifest.save()
        tell_others(states, len(wanted), again)
        if options.local is not None:
            stopped = run_here(sweep, manifest, wanted, options.local, print)
        elif wanted:
            ids = submit(sweep, manifest, wanted)
            print(f"submitted {len(ids)} runs: {', '.join(ids)}")
    print(f"runs, logs and manifest: {sweep.folder}; `python slurm/launch.py status {options.sweep}` shows them")
    if stopped:
        print(f"error: {len(stopped)} of {len(wanted)} runs stopped: {', '.join(stopped)}", file=sys.stderr)
        sys.exit(EXIT_FAILED)


def wants(state: status.RunState, again: bool) -> bool:
    """Whether a run is to be started: one that is missing, and one that stopped if that is asked for."""
    if state.state == status.MISSING:
        return True
    return again and state.state != status.DONE and not state.active


def tell_others(states: dict[str, status.RunState], wanted: int, again: bool) -> None:
    """Say why not every run is started."""
    done = sum(state.state == status.DONE for state in states.values())
    active = sum(state.active for state in states.values())
    stopped = len(states) - done - active - wanted
    if done or active:
        print(f"{done} runs are done, {active} wait or run")
    if stopped > 0 and not again:
        print(f"{stopped} runs have stopped before their end; `resubmit` starts them again")


def show(sweep: Sweep, manifest: Manifest) -> None:
    """The table."""
    print(status.table(status.run_states(sweep, manifest), sweep.metric))


def cancel(sweep: Sweep, manifest: Manifest) -> None:
    """Cancel the jobs that wait or run."""
    with locked(sweep):
        ids = [state.job_id for state in status.run_states(sweep, manifest) if state.active and state.job_id]
        ids = [each for each in ids if manifest_kind(manifest, each) == "slurm"]
        if ids:
            scancel(ids)
    print(f"cancelled {len(ids)} jobs{': ' + ', '.join(ids) if ids else ''}; their state is saved, `resubmit` goes on")


def scancel(ids: Sequence[str]) -> None:
    """Cancel jobs; ValueError with SLURM's words where it does not."""
    try:
        subprocess.run(["scancel", *ids], check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise ValueError("there is no SLURM on this machine (no scancel), but the sweep was submitted to one") from None
    except subprocess.CalledProcessError as error:
        raise ValueError(f"scancel does not cancel {', '.join(ids)}: {error.stderr.strip()}") from error


def manifest_kind(manifest: Manifest, job_id: str) -> str | None:
    """The kind of place that a job was submitted to."""
    return next((r.last.kind for r in manifest.runs.values() if r.last is not None and r.last.job_id == job_id), None)


def collect(sweep: Sweep, manifest: Manifest) -> None:
    """The summaries as files, the means on the screen."""
    table, text = status.collect(sweep, manifest)
    print(text.read_text())
    print(f"written: {table}, {text}")


if __name__ == "__main__":
    main()
