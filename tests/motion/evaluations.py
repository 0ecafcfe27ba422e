"""What the tests of `python -m motion.evaluate` share: a small folder of real motion, evaluators, the command."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from eval.measure.record import Record, read_records
from motion.evaluate import ENTRY as EVALUATE
from tests.motion.encoders.published import WORDS, write_evaluator, write_words
from tests.motion.motion_files import walking_rows, write_folder

VERBS = ("walks", "strolls", "kicks", "turns")


def real_folder(root: Path, count: int = 40, skeleton: str = "t2m", split: str = "test", first: int = 0) -> Path:
    """A folder in the format of HumanML3D, every motion with two captions of its own."""
    texts = [
        [
            f"a person {verb} {number}.#a/DET person/NOUN {verb}/VERB#0.0#0.0",
            f"someone {verb}#someone/PRON {verb}/VERB#0#0",
        ]
        for number in range(count)
        for verb in (VERBS[number % len(VERBS)],)
    ]
    write_folder(root, [40 + 4 * (number % 5) + number % 3 for number in range(count)], split, skeleton, texts, first)
    return root


def evaluators(root: Path, name: str = "t2m263", skeleton: str = "t2m") -> list[str]:
    """The command's keys for an evaluator with random weights below a folder."""
    rows = np.concatenate([walking_rows(60, seed, skeleton) for seed in range(3)])
    write_evaluator(root / name, rows, name)
    write_words(root / "glove", WORDS, 6)
    return [f"evaluator={root / name}", f"glove={root / 'glove'}", f"features={name}"]


def measured(*args: str, out: Path) -> dict[str, Record]:
    """The records, by metric, that the command leaves in the folder `out`."""
    EVALUATE.main(EVALUATE.config([*args, "device=cpu", f"out={out}", f"cache_dir={out.parent / 'cache'}"]))
    return {record.metric: record for record in read_records([out])}
