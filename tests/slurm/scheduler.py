"""A scheduler that is faked: scripts in PATH that note how they are called and answer as SLURM does."""

import json
from pathlib import Path

TWO = {"name": "weights", "entry": "image.train", "grid": {"alignment.weight": [0.1, 0.3]}}
FIRST, SECOND = "weight0.1-seed0", "weight0.3-seed0"
FOLDER = Path("runs/sweeps/weights")
SBATCH = r"""#!/bin/sh
echo "sbatch $*" >> "$0.calls"
limited() {  # whether there are as many jobs as may be
  [ -e "$0.limit" ] || return 1
  read -r most words < "$0.limit"
  jobs=0
  for script in "$0".accepted.* "$1"; do
    [ -e "$script" ] || continue
    last=$(sed -n 's/^#SBATCH --array=0-\([0-9]*\)%.*/\1/p' "$script")
    jobs=$((jobs + ${last:-0} + 1))
  done
  [ "$jobs" -gt "$most" ] && echo "$words" >&2
}
if [ "$1" = --test-only ]; then
  limited "$2" && exit 1
  [ ! -e "$0.refusal" ] || { cat "$0.refusal" >&2; exit 1; }
  echo "sbatch: Job 1 to start at 2026-01-31T12:00:00 using 2 processors on nodes n1 in partition debug" >&2
  exit 0
fi
number=$(($(ls "$0".script.* 2>/dev/null | wc -l) + 1))
cp "$1" "$0.script.$number"
[ ! -e "$0.failure.$number" ] || { cat "$0.failure.$number" >&2; exit 1; }
limited "$1" && exit 1
cp "$1" "$0.accepted.$number"
echo "Submitted batch job ${number}00"
"""
OTHER = """#!/bin/sh
echo "${0##*/} $*" >> "${0%/*}/sbatch.calls"
[ ! -e "$0.failure" ] || { cat "$0.failure" >&2; exit 1; }
[ ! -e "$0.answer" ] || cat "$0.answer"
"""


class Scheduler:
    """SLURM's commands in a folder, first in PATH."""

    def __init__(self, folder):
        self.folder = folder
        for name in ("sbatch", "srun", "sacct", "scancel", "scontrol"):
            path = folder / name
            path.write_text(SBATCH if name == "sbatch" else OTHER)
            path.chmod(0o755)
        self.say({})

    def calls(self, command=""):
        """The command lines so far, those of one command."""
        file = self.folder / "sbatch.calls"
        return [line for line in (file.read_text().splitlines() if file.exists() else []) if line.startswith(command)]

    def submissions(self):
        """The batch scripts submitted, in their order."""
        return [path.read_text() for path in sorted(self.folder.glob("sbatch.script.*"))]

    def say(self, states):
        """Let sacct know jobs: id -> state."""
        lines = ["JobID|State", *(f"{job}|{state}" for job, state in states.items())]
        (self.folder / "sacct.answer").write_text("\n".join(lines) + "\n")

    def limit(self, jobs, words):
        """From now on no more jobs than these are taken, those submitted before among them."""
        (self.folder / "sbatch.limit").write_text(f"{jobs} {words}\n")

    def fail(self, command, words):
        """From now on a command (or "sbatch.2", the second submission) fails."""
        name, _, number = command.partition(".")
        (self.folder / f"{name}.failure{'.' + number if number else ''}").write_text(words + "\n")


def attempts():
    """The manifest's job ids by run."""
    runs = json.loads((FOLDER / "manifest.json").read_text())["runs"]
    return {name: [attempt["job_id"] for attempt in run["attempts"]] for name, run in runs.items()}


def finish(name):
    """Let a run be complete."""
    folder = FOLDER / "image" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").write_text(json.dumps({"steps": 9, "device": "cpu", "frechet_distance": 2.5}))
