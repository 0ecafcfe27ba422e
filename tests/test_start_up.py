"""Starting loads little: a command that prints its config, or refuses it, needs nothing that is for its run alone.

Told by what is loaded, not by a clock; `benchmarks.startup` measures the time.
"""

import json
import re
import subprocess
import sys

from benchmarks.startup import PACKAGES, commands
from core.storage.provenance import ROOT

HEAVY = {
    *("scipy.linalg", "scipy.signal", "scipy.special", "scipy.stats", "sklearn", "matplotlib", "librosa", "av"),
    *("torchvision", "transformers", "diffusers", "peft", "torch_fidelity", "datasets", "pandas", "pyarrow"),
    *("torch._dynamo", "torch._inductor", "torch.distributed.tensor", "torch.distributed.fsdp", "sympy", "triton"),
    *("torch.utils.flop_counter", "torch.utils.tensorboard", "tensorboard", "wandb"),
}
FENCE = re.compile(r"layersync(\.\w+)?|core(\.(contracts|draws|step|precision|(flow|alignment|nets)(\.\w+)?))?")


def modules_after(*statements: str) -> list[set[str]]:
    """The modules that are loaded after each of the statements, which one new process executes in turn."""
    code = (
        "import contextlib, importlib, io, json, sys\nfound = []\n"
        f"for statement in {statements!r}:\n"
        "    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):\n"
        "        exec(statement)\n"
        "    found.append(sorted(sys.modules))\n"
        "print(json.dumps(found))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return [set(names) for names in json.loads(done.stdout)]


def test_nothing_is_loaded_that_is_for_a_run_or_lies_outside_the_fence():
    """First for a user's own model, then by each command: it prints its config, or refuses one that lacks a run."""
    names = commands()
    assert len(names) >= 17
    show = "if hasattr(command, 'ENTRY'): command.ENTRY.run(['--print-config'])"
    method, *after = modules_after("from core import LayerSync", *(f"import {n} as command\n{show}" for n in names))
    ours = {module for module in method if module.split(".")[0] in PACKAGES}
    offences = [f"LayerSync loads {module}" for module in sorted(ours) if not FENCE.fullmatch(module)]
    before = set()
    for name, loaded in zip(["core", *names], [method, *after], strict=True):
        offences += [f"{name} loads {module}" for module in sorted(HEAVY & (loaded - before))]
        before = loaded
    assert not offences, offences
