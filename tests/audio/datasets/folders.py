"""What the tests of folders of audio share: the clips they ask for, sounds to make them of."""

from audio.datasets.folder import FolderConfig, FolderDataset
from audio.sounds.sound import ClipFormat
from core.draws import numpy_rng
from tests.audio.audio_files import music, write_sound

RATE, TOKEN = 8000, 500
CLIP = ClipFormat.of(RATE, 2, 0.5, TOKEN)
L = CLIP.num_samples


def config_of(root, **options):
    """Half a second of stereo at 8 kHz."""
    common = {"seconds": 0.5, "sample_rate": RATE, "min_seconds": 0.1, "cache_dir": None}
    return FolderConfig(root=str(root), **common | options)


def folder(root, clip=CLIP, **options):
    """The opened data set of `config_of`."""
    return FolderDataset(config_of(root, **options), clip)


def write(root, name, seconds, seed=0, channels=2):
    """A sound of `seconds` at 8 kHz, 32-bit."""
    return write_sound(root / name, music(seconds, RATE, channels, seed), RATE, subtype="FLOAT")


def item(data, index, seed=0):
    """An item as the loader draws it."""
    return data.item(index, numpy_rng(seed, "augment", index))
