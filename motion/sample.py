"""`python -m motion.sample run=<dir>`: motion of the lengths asked for, as joints, numbers, animations, film strips."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.commands.entry import Entry
from core.commands.requested import (
    check_requested,
    request_entries,
    request_name,
    requested_conditions,
    requested_texts,
    unnamed_classes,
)
from core.commands.sample import ModelParts, Sampling, SamplingOptions, in_a_name
from core.conditioning.labels import LabelConditioning, LabelConfig
from core.contracts import Condition, Requests
from core.generate import Generator
from core.latents.cache import LastAxisMasks
from core.latents.scaling import Scaling
from core.storage.atomic import reserve
from core.storage.checkpoint import State
from core.storage.coming import without_weights
from motion.backbone import MDMConfig
from motion.body.smpl import GENDERS
from motion.conditioning import Captions, TextConfig, build_conditioning
from motion.data import UNIT, lengths_of, motion_format, token_masks
from motion.pictures.files import CLIPS, ClipFiles, Extras, read_body
from motion.preview import MAX_CLIPS, MotionPreview
from motion.train import ENTRY as TRAIN
from motion.train import masks_of

JOINTS, CONDITIONS = "joints", "conditions.json"
ROWS_RULE = "float32 (n, F, C), rows of the run's representation"


@dataclass(frozen=True, kw_only=True)
class MotionSampleConfig(SamplingOptions):
    """What to sample, from a run or from published weights; see `core.commands.sample.SamplingOptions`.

    labels   an action, or a list to cycle through, by number or name; null for the config's own rule over all
    prompts  texts to cycle through; null for the prompts of the run
    seconds  length of the samples, or a list of lengths to cycle through; null: as long as the run's captions say, else
             as long as a clip can be
    bvh      whether there is a BVH file of each sample too
    gif      whether there is grid.gif too
    mesh     directory of body models, SMPL+H or SMPL: the first samples are shown as meshes too; null: no meshes
    gender   of the body model: neutral, male or female
    """

    labels: int | str | list[int | str] | None = None
    prompts: list[str] | None = None
    seconds: float | list[float] | None = None
    bvh: bool = False
    gif: bool = False
    mesh: str | None = None
    gender: str = "neutral"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prompts is not None and not (self.prompts and all(prompt.strip() for prompt in self.prompts)):
            raise ValueError(f"prompts is {self.prompts}; needed: one text or more, none of them empty, or null")
        check_requested(self)
        if self.gender not in GENDERS:
            raise ValueError(f"gender is {self.gender!r}; allowed: {', '.join(GENDERS)}")
        if self.seconds is not None and not (self.lengths and all(0 < each < float("inf") for each in self.lengths)):
            raise ValueError(f"seconds is {self.seconds}; allowed: above 0, one number or a list, or null")

    @property
    def lengths(self) -> list[float]:
        """Seconds of the samples, to be taken in turn."""
        return self.seconds if isinstance(self.seconds, list) else [self.seconds]


def main(config: MotionSampleConfig) -> None:
    """Sample motion from a run or from published weights: joints, rows of numbers, animations and a film strip.

    Sample i depends on (seed, i), its condition, its length and the weights only, never on num, batch_size or the
    device count.
    """
    MotionSampling(config).run(print)


class MotionSampling(Sampling):
    """Clips of the actions or texts that are asked for, as long as they are asked to be."""

    train, unit, files = TRAIN, UNIT, f"grid.png, grid.mp4, {CLIPS}/, {JOINTS}/, samples.npz"
    config: MotionSampleConfig
    masks: LastAxisMasks

    def run(self, show: Callable[[str], None]) -> None:
        """Sample, and tell how far bodies of constant bone lengths are from the samples, whose bones vary."""
        super().run(show)
        for folder, distances in self.distances.items():
            show(
                f"{folder}/ differs from the samples by {1000 * np.mean(distances):.1f} mm in the mean over joints "
                f"({1000 * max(distances):.1f} mm in the worst sample): bones of constant lengths"
            )

    def build_model(self, state: State, source: Path, device: torch.device) -> ModelParts:
        """The model for weights; a checkpoint of ours knows its actions and the scaling of its latents.

        Raises ValueError for a file without these, unless the config says them.
        """
        model = self.model_config
        body = read_body(self.config.mesh, self.config.gender, motion_format(model.data))
        self.distances: dict[str, list[float]] = {}
        self.extras = Extras(self.config.bvh, body)  # read now, so that one that is missing is told before sampling
        tokenizer, known = model.tokenizer.build(device)
        if "tokenizer" in self.notes:
            known = Scaling.kept(self.notes["tokenizer"])
        if known is None:
            raise ValueError(
                f"{source} does not say how its numbers are normalised; give the folder of Mean.npy and Std.npy: "
                "+overrides.tokenizer.statistics=..."
            )
        self.masks = masks_of(model, tokenizer)
        names = self.class_names or self.unnamed(state, str(source))
        conditioning = self.conditioning(names, device)
        latent_shape = tuple(tokenizer.latent_shape(motion_format(model.data).shape))
        with without_weights():
            backbone = model.backbone.build(latent_shape, conditioning)
        return ModelParts(tokenizer.scaled(known), backbone, conditioning, latent_shape)

    def unnamed(self, state: State, source: str) -> list[str]:
        """Numbers for the actions of saved weights that come without names."""
        conditioning, backbone = self.model_config.conditioning, self.model_config.backbone
        if isinstance(backbone, MDMConfig) and isinstance(conditioning, LabelConfig):
            return [str(number) for number in range(backbone.num_classes_in(state, source))]
        return unnamed_classes(conditioning, backbone.null_label, state, source)

    def conditioning(self, names: Sequence[str], device: torch.device) -> Any:
        """The conditioning; captions of the data are read only where no texts are asked for."""
        own, prompts = self.model_config.conditioning, self.config.prompts
        if isinstance(own, TextConfig) and prompts is not None:
            return own.asking(Captions(prompts), device)
        return build_conditioning(own, self.model_config.data, names, self.masks, device)

    def condition_name(self) -> str:
        """What is asked for, and the length where it is another: all, labels_walk-run_2s."""
        seconds = self.config.seconds
        length = "" if seconds is None else f"_{in_a_name([f'{each:g}s' for each in self.config.lengths])}"
        return f"{request_name(self.config, self.class_names)}{length}"

    def requests(self, conditioning: Any) -> Condition | Requests:
        """Conditions (num, ...) of the samples to make, with the masks of their lengths.

        Raises ValueError for a kind that the model does not take, and for longer samples than it makes.
        """
        requests = Requests.of(requested_conditions(self.config, conditioning))
        if self.config.seconds is None:
            return requests
        frames = [self.frames(each) for each in self.config.lengths]
        lengths = [frames[number % len(frames)] for number in range(len(requests))]
        return replace(requests, mask=token_masks(self.masks, lengths))

    def frames(self, seconds: float) -> int:
        """The frames of so many seconds; ValueError for less than a frame, or more than the training clips'."""
        clips = motion_format(self.model_config.data)
        frames = round(seconds * clips.fps)
        if not 1 <= frames <= clips.frames:
            raise ValueError(
                f"seconds is {seconds:g}; the model makes clips of {self.masks.patch / clips.fps:g} to "
                f"{clips.frames / clips.fps:g} s ({clips.frames} frames at {clips.fps:g} a second)"
            )
        return frames

    def protocol_entries(self) -> dict[str, Any]:
        """Which conditions, how long, and how numbers are stored."""
        own = {**self.asked_entries(), "seconds": self.config.seconds}
        return {**own, "representation": self.model_config.data.representation, "rows": ROWS_RULE}

    def asked_entries(self) -> dict[str, Any]:
        """The protocol's entry for conditions; of captions of the data whose they are."""
        own = self.model_config.conditioning
        if isinstance(own, TextConfig) and own.prompts is None and self.config.prompts is None:
            return {"prompts": "the first caption of each held-out clip, as long as that clip"}
        return request_entries(self.config, own, self.class_names)

    def write(
        self, generator: Generator, batches: Iterable[Tensor], requests: Condition | Requests, folder: Path
    ) -> None:
        """Write grid.png and grid.mp4 of the first, and of each mp4/000000.mp4 and joints/000000.npy (F, J, 3).

        And samples.npz; on request grid.gif, bvh/000000.bvh, and mesh/000000.mp4 and .png of the first. One batch is
        held in memory.

        The .npz has `arr_0` float32 (num, F, C), zeros behind a sample's length, `lengths` (num,), `captions` where
        texts were asked for, and the actions in `arr_1` where these were.
        """
        requests = Requests.of(requests)
        preview = MotionPreview.of(motion_format(self.model_config.data), generator.conditioning, self.config.gif)
        texts, titles = requested_texts(self.config, generator.conditioning), preview.titles(requests)
        labelled = isinstance(generator.conditioning, LabelConditioning)
        arrays = {"arr_1": requests.condition.numpy()} if labelled else {}
        arrays |= {"captions": np.array(texts)} if texts else {}
        files = ClipFiles(folder, preview.format, titles, self.extras)
        shown = write_clips(batches, requests, folder, files, arrays)
        self.distances.update(files.distances)
        preview.save_joints(shown, titles, folder / "grid")
        if texts or labelled:
            names = {f"{row:06d}": title for row, title in enumerate(titles)}
            (folder / JOINTS / CONDITIONS).write_text(json.dumps(names, indent=1, ensure_ascii=False) + "\n")


def write_clips(
    batches: Iterable[Tensor], requests: Requests, folder: Path, files: ClipFiles, arrays: dict[str, np.ndarray]
) -> list[Tensor]:
    """Write what `MotionSampling.write` says of batches (B, C, F) but for the grid; the joints of the first clips.

    files: of each clip; arrays: what the .npz is to hold beside rows and lengths.
    """
    (folder / JOINTS).mkdir()
    numbers, frames = files.format.shape
    rows_file, lengths, shown = folder / "rows.npy", [], []
    rows = np.lib.format.open_memmap(rows_file, "w+", dtype=np.float32, shape=(len(requests), frames, numbers))
    reserve(rows_file)
    for media in batches:
        first = len(lengths)
        own = lengths_of(media, requests[first : first + len(media)])
        for place, (clip, length) in enumerate(zip(media, own, strict=True), start=first):
            rows[place, :length] = clip[:, :length].T
            joints = files.format.joints(clip[:, :length])
            np.save(folder / JOINTS / f"{place:06d}.npy", joints.numpy())
            files.write(place, joints.numpy())
            shown += [joints] if place < MAX_CLIPS else []
        lengths += own
    np.savez(folder / "samples.npz", arr_0=rows, lengths=np.array(lengths), **arrays)
    rows_file.unlink()
    return shown


ENTRY = Entry(main, "motion.conf", "sample", MotionSampleConfig)

if __name__ == "__main__":
    ENTRY.run()
