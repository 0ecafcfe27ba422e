"""`python -m motion.prepare source.root=<AMASS> ...`: a folder in the format of HumanML3D, from AMASS or own joints."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from core.commands.cache import workers
from core.commands.entry import Entry
from core.data.stream import check_workers
from core.schema import choice
from core.storage.run_folder import RunDirectory
from core.train.progress import Progress
from motion.amass.source import AmassConfig
from motion.body.skeleton import SKELETONS
from motion.preparation.clips import Preparation, run
from motion.preparation.folder import PreparedFolder
from motion.preparation.own import JointsConfig
from motion.preparation.summary import summary

SOURCES: dict[str, type] = {"amass": AmassConfig, "joints": JointsConfig}


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """What `python -m motion.prepare` takes; the keys are explained in conf/prepare.yaml."""

    source: AmassConfig | JointsConfig = choice(SOURCES)
    out: str
    skeleton: Literal["t2m", "kit"] = "t2m"
    texts: str | None = None
    splits: str | None = None
    mirror: bool = True
    num_workers: int | None = None

    def __post_init__(self) -> None:
        if not self.out:
            raise ValueError(f"out is {self.out!r}; needed: the folder that is written")
        if self.num_workers is not None and self.num_workers < 0:
            raise ValueError(f"num_workers is {self.num_workers}; allowed: 0 or more, or null")
        check_workers("num_workers", self.num_workers)


def main(config: PrepareConfig) -> None:
    """Prepare motion for training: joints at 20 frames a second, cut, mirrored, of equal bones, as 263 numbers a frame.

    source=amass makes HumanML3D of AMASS's files, source=joints a folder of the same format of one's own. A command
    that was stopped goes on where it was when it is given again.
    """
    source = config.source.build(SKELETONS[config.skeleton])
    texts, splits = (Path(given).expanduser() if given else None for given in (config.texts, config.splits))
    with PreparedFolder(config.out, source, config.mirror, texts or source.texts, splits or source.splits) as folder:
        preparation = Preparation(source, folder.layout, folder.offsets, config.mirror)
        notes = make_clips(preparation, folder, min(workers(config.num_workers), len(preparation)))
        print("\n".join(summary(folder, folder.finish(), notes, RunDirectory(folder.layout.root).shown())))


def make_clips(preparation: Preparation, folder: PreparedFolder, num_workers: int) -> Counter[str]:
    """Make the clips that are not there yet, under a progress bar; the notes of their takes."""
    notes: Counter[str] = Counter()
    done = len(preparation.source.takes) - len(preparation)
    progress = Progress(len(preparation.source.takes), done, "prepare", "take")
    try:
        for outcomes in run(preparation, num_workers):
            folder.note(outcomes)
            notes.update({outcome.note for outcome in outcomes if outcome.note})
            progress.bar.update()
    finally:
        progress.bar.close()
    return notes


ENTRY = Entry(main, "motion.conf", "prepare", PrepareConfig)

if __name__ == "__main__":
    ENTRY.run()
