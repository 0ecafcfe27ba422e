"""What a domain adds to `test_every_domain`, and the words that make a run of any domain small."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.end_to_end.commands import Outcome, call

SMALL = (
    "trainer.batch_size=4",
    "trainer.log_every=1",
    "trainer.preview_every=0",
    "trainer.num_previews=1",
    "trainer.checkpoint_every=100",
    "backbone.depth=3",
    "backbone.hidden_size=16",
    "backbone.num_heads=2",
    "optimizer.schedule=constant",
    "optimizer.warmup_steps=0",
    "ema.decays=[0.9]",
    "sampler.num_steps=2",
    "tracking.tensorboard=off",
    "device=cpu",
)
# Keys of alignment methods that name blocks, as they fit three of them: those that a method has are set.
BLOCKS = {
    "pairs": "[[1,2]]",
    "layer": "1",
    "encoder": "dinov2:encoder",
    "width": "8",
    "of": "{layersync: {pairs: [[1,2]]}, sra: {pairs: [[1,3]]}, near: {name: sra2, layer: 1}}",
}
Bad = tuple[tuple[str, ...], tuple[str, ...]]  # words of a command line, and words of its error


@dataclass(frozen=True)
class Toy:
    """One domain, as small as its commands take it; words are those of command lines.

    domain      the package
    name        of its default run
    stand_in    words that make the default's data small
    measured    words that make its evaluation small
    request     words of `sample` that ask for samples other than the usual
    media       (folder that `sample` wrote) -> what a file holds of the samples, integers (n, ...)
    sight       what the report shows of samples: how its HTML begins
    codec       words of `train_tokenizer` that make it small
    untrained   words that let a run take the tokenizer which that leaves
    files       writes real files of data into a folder
    weights     writes a tokenizer with random weights in the real format into a folder
    on_files    (folder of files, folder of weights) -> words of `train` and `cache`
    bad         of the stand-in's run; the first is refused when the config is read
    bad_files   of a run on files, its words behind those of `on_files`
    damage      each spoils a folder of files, and gives words of the error
    leaves      files in the folder of a run that other domains' runs do not have
    unmeasured  words of runs on the stand-in that measure nothing
    num_samples of the evaluation that `measured` makes small
    numbers     a distance and a share, by name, that training and `evaluate` measure
    of_real     the same of real media, in the summary of a run
    encoder     for `alignment=external`: its kind, and what writes a tiny one into a folder
    """

    domain: str
    name: str
    stand_in: tuple[str, ...]
    measured: tuple[str, ...]
    request: tuple[str, ...]
    media: Callable[[Path], np.ndarray]
    sight: str
    codec: tuple[str, ...]
    untrained: tuple[str, ...]
    files: Callable[[Path], None]
    weights: Callable[[Path], None]
    on_files: Callable[[Path, Path], tuple[str, ...]]
    encoder: tuple[str, Callable[[Path], object]]
    bad: tuple[Bad, ...]
    bad_files: tuple[Bad, ...]
    damage: tuple[Callable[[Path], tuple[str, ...]], ...]
    leaves: frozenset[str] = frozenset()
    unmeasured: tuple[str, ...] = ()
    num_samples: int = 24
    numbers: tuple[str, str] = ("frechet_distance", "class_accuracy")
    of_real: tuple[str, str] = ("frechet_floor", "classifier_accuracy")


def changed(words: Sequence[str], changes: Sequence[str]) -> tuple[str, ...]:
    """Words and then changes, without the words that are changed: keys, and choices with all their keys."""
    keys = tuple(change.partition("=")[0] for change in changes)
    groups = tuple(f"{key}." for key in keys if "." not in key)
    kept = [word for word in words if word.partition("=")[0] not in keys and not word.startswith(groups or ("=",))]
    return (*kept, *changes)


@dataclass(frozen=True)
class User:
    """Somebody in the folder `place` who calls the commands of a domain."""

    toy: Toy
    place: Path

    def __call__(self, command: str, *words: str) -> Outcome:
        """`python -m <domain>.<command> words`, or of another package that is named."""
        module = command if "." in command else f"{self.toy.domain}.{command}"
        with contextlib.chdir(self.place):
            return call(module, *words)

    def does(self, command: str, *words: str) -> str:
        """The same where it ends well: what it printed."""
        outcome = self(command, *words)
        assert outcome.code == 0, f"{command} {words}: {outcome}"
        return outcome.out

    def on_stand_in(self, *words: str) -> tuple[str, ...]:
        """Words of a small run on the stand-in that measures nothing."""
        return changed((*SMALL, *self.toy.stand_in, *self.toy.unmeasured, "evaluation=none"), words)

    def on_files(self, *words: str) -> tuple[str, ...]:
        """Words of a small run on the files in `files` with the tokenizer in `weights`."""
        usual = (*SMALL, *self.toy.on_files(Path("files"), Path("weights")), "evaluation=none")
        return changed(usual, words)

    def run(self, name: str | None = None) -> Path:
        """The folder of a run."""
        return self.place / "runs" / self.toy.domain / (name or self.toy.name)
