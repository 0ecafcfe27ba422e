"""`python -m video.show data=folder data.root=<dir>`: a contact sheet of what a run would be trained on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from core.commands.entry import Entry
from core.schema import choice
from core.storage.run_folder import RunDirectory
from video.data import CLIP_DATASETS, ClipsConfig
from video.datasets.digits import DigitsConfig
from video.datasets.sheet import write_data_sheet


@dataclass(frozen=True, kw_only=True)
class ShowConfig:
    """What `python -m video.show` takes; the keys are explained in conf/show.yaml."""

    data: ClipsConfig = choice(CLIP_DATASETS, default_factory=DigitsConfig)
    out: str
    items: int = 8
    frames: int = 8

    def __post_init__(self) -> None:
        if Path(self.out).suffix.lower() != ".png":
            raise ValueError(f"out is {self.out!r}; needed: a file that ends in .png")
        for key in ("items", "frames"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key} is {getattr(self, key)}; allowed: 1 or more")


def main(config: ShowConfig) -> None:
    """Show what a run with this data would be trained on: clips cut, cropped and resampled as in training.

    Opens and indexes the files as a run does, so that a broken one, a wrong rate or a wrong crop is seen before a long
    job is queued. Every run writes the same sheet into its folder before its first step.
    """
    dataset = config.data.build()
    channels, frames, height, width = dataset.media_shape
    file = write_data_sheet(dataset, Path(config.out), config.items, config.frames)
    classes = f", {len(dataset.class_names)} classes" if dataset.class_names else ""
    lines = [
        f"clips             {len(dataset)}{classes}: {channels} x {frames} x {height} x {width} "
        f"(channels, frames, height, width), {dataset.fps:.4g} frames/s",
        f"contact sheet     {RunDirectory(file).shown()}",
    ]
    left = {"broken": dataset.num_broken, "shorter than a clip": getattr(dataset, "num_short", 0)}
    told = ", ".join(f"{count} {what}" for what, count in left.items() if count)
    print("\n".join([*lines, *([f"left out          {told}"] if told else [])]))


ENTRY = Entry(main, "video.conf", "show", ShowConfig)

if __name__ == "__main__":
    ENTRY.run()
