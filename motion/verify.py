"""`python -m motion.verify root=<folder>`: whether a data set in the format of HumanML3D is whole."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Literal

from core.commands.entry import EXIT_FAILED, Entry
from core.data.files import existing_folder
from core.storage.run_folder import RunDirectory
from motion.body.skeleton import SKELETONS
from motion.datasets.splits import APART, PUBLISHED
from motion.preparation.checks import Clip, Finding, check_folder
from motion.preparation.layout import Layout, read_names

SHOWN = 10  # names in a line


@dataclass(frozen=True, kw_only=True)
class VerifyConfig:
    """What `python -m motion.verify` takes.

    root      folder with new_joint_vecs, texts, Mean.npy, Std.npy and the lists train.txt, val.txt, test.txt
    skeleton  t2m: 263 numbers a row; kit: 251
    against   published: its counts have to be those of HumanML3D; none: a data set of one's own
    """

    root: str
    skeleton: Literal["t2m", "kit"] = "t2m"
    against: Literal["published", "none"] = "published"


def main(config: VerifyConfig) -> None:
    """Read a whole data set in the format of HumanML3D, and tell what is wrong with it, a line for each kind of fault.

    NaN, other shapes, files that are missing or damaged, clips without captions, lists that overlap, mean and deviation
    of other data or of the evaluators, and counts that are not the published ones. Exits 1 where something is.
    """
    layout = Layout(existing_folder(config.root, "root"))
    clips, findings = check_folder(layout, SKELETONS[config.skeleton], config.against == "published")
    broken = [finding for finding in findings if finding.broken]
    print("\n".join([*found(layout, config, clips), *map(line, [*broken, *(f for f in findings if not f.broken)])]))
    if broken:
        print(f"broken            {len(broken)} kinds of fault")
        sys.exit(EXIT_FAILED)
    print("whole             nothing is wrong")


def found(layout: Layout, config: VerifyConfig, clips: dict[str, Clip]) -> list[str]:
    """What the folder holds, beside what is published."""
    hours = sum(clip.frames for clip in clips.values()) / SKELETONS[config.skeleton].fps / 3600
    published = PUBLISHED[config.skeleton] if config.against == "published" else {}
    counts = {name: len(read_names(layout.split(name))) for name in APART if layout.split(name).is_file()}
    told = [
        f"{name} {count}" + (f" of {published[name]}" if name in published else "") for name, count in counts.items()
    ]
    all_of = f" of {published['all']}" if "all" in published else ""
    where = RunDirectory(layout.root).shown()
    return [
        f"found             {where}: {len(clips)}{all_of} clips, {hours:.2f} hours",
        f"lists             {', '.join(told) or 'none'}",
    ]


def line(finding: Finding) -> str:
    """A finding as a line: how many clips, what, and the names of the first."""
    mark = "fault" if finding.broken else "note"
    if not finding.names:
        return f"{mark:<18}{finding.what}"
    more = f" and {len(finding.names) - SHOWN} more" if len(finding.names) > SHOWN else ""
    return f"{mark:<18}{len(finding.names)} clips: {finding.what}: {' '.join(finding.names[:SHOWN])}{more}"


ENTRY = Entry(main, "motion.conf", "verify", VerifyConfig)

if __name__ == "__main__":
    ENTRY.run()
