"""What the tests of `python -m audio.evaluate` share: the command, a run on notes, folders of real files."""

from pathlib import Path

from audio.evaluate import ENTRY as EVALUATE
from audio.sample import ENTRY as SAMPLE
from audio.train import ENTRY as TRAIN
from eval.measure.record import read_records
from tests.audio.audio_files import music, write_sound

TOY = [
    "data.num_notes=60",
    "backbone.depth=2",
    "backbone.hidden_size=16",
    "backbone.num_heads=2",
    "alignment.pairs=[[1,2]]",
    "trainer.steps=3",
    "trainer.batch_size=4",
    "trainer.num_previews=2",
    "sampler.num_steps=2",
    "evaluation.classifier_steps=20",
    "tokenizer.griffin_lim_iterations=2",
    "tracking.tensorboard=off",
    "device=cpu",
]


def train(place: Path, *overrides: str) -> Path:
    """A finished tiny run on notes in `place`/runs; its folder."""
    TRAIN.main(TRAIN.config([*TOY, f"runs_dir={place / 'runs'}", *overrides]))
    return place / "runs" / "audio" / "notes"


def sample(run: Path, out: Path, *overrides: str) -> Path:
    """A folder that `audio.sample` wrote."""
    SAMPLE.main(SAMPLE.config([f"run={run}", f"out={out}", "device=cpu", *overrides]))
    return out


def measured(*args: str, out: Path):
    """The records, by metric, that the command leaves in the folder `out`."""
    EVALUATE.main(EVALUATE.config([*args, "device=cpu", f"out={out}"]))
    return {record.metric: record for record in read_records([out])}


def clips(folder: Path, count: int, seed: int = 0, seconds: float = 1.0) -> Path:
    """Files of several formats, rates and lengths; the folder."""
    for number in range(count):
        suffix = (".wav", ".flac", ".ogg", ".mp3", ".m4a")[number % 5]
        rate = (16000, 44100, 48000)[number % 3]
        long = seconds * (1 + 0.1 * (number % 4))
        write_sound(folder / f"{number:02d}{suffix}", music(long, rate, 1 + number % 2, seed=100 * seed + number), rate)
    return folder
