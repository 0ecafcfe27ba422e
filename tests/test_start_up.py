"""Starting loads little: a command that prints its config, or refuses it, needs nothing that is for its run alone.

Told by what is loaded, not by a clock; `benchmarks.startup` measures the time.
"""

import json
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
FENCE = ("__init__", "contracts", "draws", "step", "precision", "flow/*", "alignment/*", "nets/*")  # files of core


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


def test_a_command_starts_without_what_only_its_run_needs():
    names, before, offences = commands(), set(), []
    assert len(names) >= 17
    show = "if hasattr(command, 'ENTRY'): command.ENTRY.run(['--print-config'])"
    after = modules_after(*(f"import {name} as command\n{show}" for name in names))
    for name, loaded in zip(names, after, strict=True):
        offences += [f"{name} loads {module}" for module in sorted(HEAVY & (loaded - before))]
        before = loaded
    assert not offences, offences


def test_layersync_and_the_fenced_core_load_nothing_of_ours_outside_it():
    files = [path.relative_to(ROOT) for name in FENCE for path in (ROOT / "core").glob(f"{name}.py")]
    fenced = {".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in files}
    (loaded,) = modules_after("\n".join(["from core import LayerSync", *(f"import {name}" for name in fenced)]))
    ours = {module for module in loaded if module.split(".")[0] in PACKAGES}
    assert ours == fenced, ours ^ fenced
