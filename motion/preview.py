"""What a person looks at: film strips of skeletons, left and right coloured.

Letters: n clips, C numbers of a frame, F frames, J joints.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from core.contracts import Condition, Requests
from core.titles import class_titles, numbered
from motion.data import MotionFormat, lengths_of

MAX_CLIPS = 12  # in a strip
FIGURES = 10  # of a clip
COLOURS = {"left": "tab:blue", "right": "tab:red", "middle": "0.3"}


class MotionPreview:
    """Film strips; fulfils `core.contracts.Preview`.

    format       what the numbers of the clips are
    texts        that the samples were asked for, in turn; empty where they are classes, or nothing
    class_names  of the actions
    """

    def __init__(self, format: MotionFormat, texts: Sequence[str] = (), class_names: Sequence[str] = ()):
        self.format, self.texts, self.class_names = format, list(texts), list(class_names)

    @classmethod
    def of(cls, format: MotionFormat, conditioning: Any) -> MotionPreview:
        """The preview of samples that a conditioning makes up."""
        texts = getattr(conditioning.config, "prompts", None) or ()
        return cls(format, texts, getattr(conditioning, "names", ()))

    def save(self, media: Tensor, condition: Condition | Requests, path: Path) -> Path:
        """Clips (n, C, F) as `path`.png."""
        lengths = lengths_of(media, condition)
        joints = [self.format.joints(clip[:, :length].cpu()) for clip, length in zip(media, lengths, strict=True)]
        return self.save_joints(joints, self.titles(condition), path)

    def titles(self, condition: Condition | Requests) -> list[str]:
        """What each of the samples was asked to be."""
        requests = Requests.of(condition)
        if self.texts:
            return [self.texts[number % len(self.texts)] for number in range(len(requests))]
        return class_titles(requests.condition, self.class_names) or numbered(len(requests))

    def save_joints(self, joints: Sequence[Tensor], titles: Sequence[str], path: Path) -> Path:
        """The first of clips (F, J, 3) in metres as strips of some of their frames, `path`.png."""
        from matplotlib.figure import Figure

        count = min(len(joints), MAX_CLIPS)
        figure = Figure(figsize=(14, 1.5 * count), layout="constrained")
        for axis, clip, title in zip(figure.subplots(count, squeeze=False)[:, 0], joints, titles, strict=False):
            self._draw(axis, clip)
            axis.set_title(title, fontsize=8, loc="left")
        file = path.with_name(f"{path.name}.png")
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, dpi=70, metadata={"Software": None})
        return file

    def _draw(self, axis: Any, clip: Tensor) -> None:
        """Frames of a clip (F, J, 3) side by side, seen from the front right."""
        skeleton, frames = self.format.skeleton, len(clip)
        for place in range(FIGURES):
            joints = clip[place * (frames - 1) // max(FIGURES - 1, 1)]
            x = 0.7 * joints[:, 0] + 0.7 * joints[:, 2] - (0.7 * joints[0, 0] + 0.7 * joints[0, 2]) + 1.2 * place
            for child, parent in enumerate(skeleton.parents):
                if parent >= 0:
                    side = "left" if child in skeleton.left else "right" if child in skeleton.right else "middle"
                    axis.plot(x[[parent, child]], joints[[parent, child], 1], color=COLOURS[side], linewidth=1.5)
        axis.set(aspect="equal", ylim=(-0.1, 2.3))
        axis.axis("off")
