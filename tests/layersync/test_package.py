"""The package by itself: it needs torch and nothing else, from any folder, and is what core has too."""

import shutil
import subprocess
import sys
from pathlib import Path

import core
import layersync

ALONE = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"einops", "safetensors", "hydra", "omegaconf"}:
            raise ImportError(f"{name} is not there")

sys.meta_path.insert(0, Refuse())
from layersync import LayerSync
import torch

model = torch.nn.TransformerEncoder(torch.nn.TransformerEncoderLayer(8, 2, 16), 3, enable_nested_tensor=False)
sync = LayerSync(model, pairs=[(1, 3)])
model(torch.randn(5, 2, 8))
sync().backward()
print("aligned", sys.modules["layersync"].__file__)
"""


def test_it_works_from_a_folder_that_has_files_of_our_names(tmp_path):
    site, folder = tmp_path / "site", tmp_path / "work"
    shutil.copytree(Path(layersync.__file__).parent, site / "layersync", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("core", "eval", "image"):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text("raise RuntimeError('somebody else')")
    for name in ("hooks", "tokens", "sync", "schedule", "blocks", "outputs", "compiler"):
        (folder / f"{name}.py").write_text("raise RuntimeError('somebody else')")
    (folder / "layersync").mkdir()  # a clone of the repository, as it is named by default
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(1, {str(site)!r})\n{ALONE}"],
        capture_output=True,
        text=True,
        cwd=folder,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"aligned {site / 'layersync' / '__init__.py'}"


def test_core_has_the_same_class():
    assert core.LayerSync is layersync.LayerSync and core.WeightSchedule is layersync.WeightSchedule
