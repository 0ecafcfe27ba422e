"""The toys of all domains that there are."""

import importlib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
DOMAINS = [name for name in ("image", "audio", "video", "motion") if (ROOT / name).is_dir()]
TOYS = {name: importlib.import_module(f"tests.end_to_end.toys.{name}").TOY for name in DOMAINS}
