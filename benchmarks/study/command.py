"""Makes a study: the pair first, then the runs seed by seed under the budget, and the record of what is complete."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.measure import shown, write
from benchmarks.study.networks import Network, find_networks
from benchmarks.study.plan import CHOICE, PILOT, TOKENIZER, RunConfigs, Study, StudyConfig
from benchmarks.study.record import THREADS, find_complete, record_file, study_record
from eval.methods.matched import MatchedRuns
from eval.methods.plan import RunPlan, sweep_content, write_sweep
from eval.methods.queue import QueuedRun, RunQueue


def say(text: str) -> None:
    """A line for the person, at once."""
    print(text, flush=True)


def make_studies(config: StudyConfig, argv: Sequence[str]) -> None:
    """Every network's study, as far as the time goes."""
    deadline = None if config.minutes is None else time.monotonic() + 60 * config.minutes
    threads = config.threads or max(1, (os.cpu_count() or 1) // config.parallel)
    os.environ.setdefault(THREADS, str(threads))
    for network in find_networks(config.domain, config.networks):
        if not network.is_there:
            say(f"{network.name}: experiment={network.experiment} is not in {config.domain}/conf/experiment: not run")
            continue
        study = Study(config, network)
        if config.sweep is not None:
            write_study_sweep(study)
        elif not make_study(study, argv, deadline):
            say("the time is over; the same command continues")
            return


def make_study(study: Study, argv: Sequence[str], deadline: float | None) -> bool:
    """Make what is left of a study, and its record; False when the time was over before all was done."""
    reading = study.config.runs is not None
    queue = RunQueue(study.folder / "logs", study.config.parallel, say, deadline, forgiving=True)
    left_out = study.left_out()  # what does not fit is told before anything is made
    done = reading or all(queue.make(jobs) for jobs in study.first_jobs())
    left_out = study.left_out() if study.needs_pair else left_out
    plan = study.plan(left_out)
    configs = plan.check(study.folder)
    for name, reason in left_out.items():
        say(f"{study.network.name}: no run of {name}, {reason}")
    try:
        if not reading and TOKENIZER not in queue.failed:
            done = done and queue.make(study.jobs(plan, configs)) and queue.make(questions(study, plan, configs))
    finally:
        reasons = {**left_out, **failures(study, queue.failed)}
        content = study_record(study, plan, configs, reasons, argv)
        file = record_file(Path(study.config.results), study.network, content)
        write(content, "study", str(file))
        say(progress(study.network, content["results"]["methods"]))
        say(f"record     {shown(file.absolute())}")
    return done


def questions(study: Study, plan: RunPlan, configs: RunConfigs) -> list[QueuedRun]:
    """What is left to ask of the baselines that are complete."""
    baseline = study.methods[0]
    runs = MatchedRuns(study.folder, plan.domain, [baseline], find_complete(study, plan, configs)[baseline])
    paths = [run.path for run in runs.runs(baseline)]
    return [*study.likeness_jobs(paths), *study.floor_jobs(paths)]


def failures(study: Study, failed: Mapping[str, str]) -> dict[str, str]:
    """The last words of runs that failed, by method.

    Without the tokenizer no method has any, without the pilot those of the measured pair have none.
    """
    if TOKENIZER in failed:
        return dict.fromkeys(study.methods, f"failed: {failed[TOKENIZER]}")
    found = {}
    for name, words in failed.items():
        own = [name.rpartition("-seed")[0]] if name != CHOICE else []
        methods = own if own != [PILOT] and own else [each for each in study.methods if study.takes_measured(each)]
        found |= {method: f"failed: {words}" for method in methods}
    return found


def progress(network: Network, methods: dict) -> str:
    """How far a study is, in one line."""
    seeds = ", ".join(f"{name} {len(each.get('seeds', []))}" for name, each in methods.items())
    return f"{network.name}: matched seeds so far: {seeds}"


def write_study_sweep(study: Study) -> None:
    """The runs of a study as a sweep file; a measured pair is one only where the pilot was made here before."""
    left_out = study.left_out()
    plan, file = study.plan(left_out), Path(study.config.sweep)
    plan.check(study.folder)
    write_sweep(file, sweep_content(plan, study.label, study.config.runs_dir, None))
    for name, reason in left_out.items():
        say(f"{study.network.name}: no run of {name}, {reason}")
    if study.tokenizer_words():
        say(f"first      python {shlex.join(study.tokenizer_words())}")
    say(f"written    {file}; its resources are yours to set")
    say(f"start      python slurm/launch.py {file}")
    place = Path(study.config.runs_dir) / "sweeps" / study.label
    own = study.network.name.partition("-")[2]
    say(f"then       python -m benchmarks.study {study.network.domain} networks=[{own}] runs={place}")
