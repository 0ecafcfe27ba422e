"""What a person looks at: film strips of skeletons as one PNG, an MP4 in which they move, a GIF on request.

Letters: n clips, C numbers of a frame, F frames, J joints.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from core.contracts import Condition, Requests
from core.data.movies import QUICK, write_gif, write_mp4
from core.titles import class_titles, numbered, one_of_each_first
from motion.data import MotionFormat, lengths_of

MAX_CLIPS = 12  # shown at once


class MotionPreview:
    """Film strips and animations; fulfils `core.contracts.Preview`.

    clips        what the numbers of the clips are
    texts        that the samples were asked for, in turn; empty where they are classes, or nothing
    class_names  of the actions
    gif          whether a GIF is written too
    """

    def __init__(
        self, clips: MotionFormat, texts: Sequence[str] = (), class_names: Sequence[str] = (), gif: bool = False
    ):
        self.format, self.texts, self.class_names, self.gif = clips, list(texts), list(class_names), gif

    @classmethod
    def of(cls, clips: MotionFormat, conditioning: Any, gif: bool = False) -> MotionPreview:
        """The preview of samples that a conditioning makes up."""
        texts = getattr(conditioning.config, "prompts", None) or ()
        return cls(clips, texts, getattr(conditioning, "names", ()), gif)

    def save(self, media: Tensor, condition: Condition | Requests, path: Path) -> Path:
        """Clips (n, C, F), each as long as it was asked to be, as `path`.png, which is returned, and `path`.mp4.

        Of many samples as many of each title are shown as there is room for. Raises ValueError for numbers that are not
        finite.
        """
        titles, lengths = self.titles(condition), lengths_of(media, condition)
        shown = one_of_each_first(titles, MAX_CLIPS)
        joints = [self.format.joints(media[row][:, : lengths[row]].detach().cpu().float()) for row in shown]
        return self.save_joints(joints, [titles[row] for row in shown], path)

    def titles(self, condition: Condition | Requests) -> list[str]:
        """What each of the samples was asked to be."""
        requests = Requests.of(condition)
        if self.texts:
            return [self.texts[number % len(self.texts)] for number in range(len(requests))]
        return class_titles(requests.condition, self.class_names) or numbered(len(requests))

    def save_joints(self, joints: Sequence[Tensor], titles: Sequence[str], path: Path) -> Path:
        """The first of clips (F, J, 3) in metres in the same files, each under its title."""
        from motion.pictures.animation import grid
        from motion.pictures.strips import check_finite, save_png, sheet

        clips, titles = [clip.double().numpy() for clip in joints[:MAX_CLIPS]], list(titles[:MAX_CLIPS])
        check_finite(clips, titles)
        skeleton, fps = self.format.skeleton, self.format.fps
        playing = grid(clips, titles, skeleton, fps)
        write_mp4(playing, path.with_name(f"{path.name}.mp4"), fps, QUICK)
        if self.gif:
            write_gif(playing, path.with_name(f"{path.name}.gif"), fps)
        return save_png(sheet(clips, titles, skeleton, fps), path.with_name(f"{path.name}.png"))
