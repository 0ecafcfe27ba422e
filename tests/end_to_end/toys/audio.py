"""Sound at toy size: a few notes, music in files of five kinds, a random AutoencoderOobleck."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import soundfile

from tests.audio.audio_files import music, write_mp3, write_sound
from tests.audio.codecs.tiny_oobleck import tiny_oobleck
from tests.audio.networks import save_clap
from tests.end_to_end.toys.contract import Toy

RATE, HOP = 8000, 32  # of the tokenizer for files
SECONDS = 32 * HOP / RATE  # of a clip of them: 32 latent frames


def write_music(root: Path) -> None:
    """Two classes of files of five kinds, 8 to 48 kHz, mono, stereo and 5.1, one shorter than a clip, and a TSV."""
    write_sound(root / "calm" / "long.wav", music(0.6, RATE, 2, seed=0), RATE)
    write_sound(root / "calm" / "mono.flac", music(0.4, 44100, 1, seed=1), 44100)
    write_sound(root / "calm" / "short.wav", music(0.05, RATE, 2, seed=2), RATE)  # 13 of the clip's 32 frames
    write_sound(root / "loud" / "deep" / "vorbis.ogg", music(0.5, 16000, 2, seed=3), 16000)
    write_mp3(root / "loud" / "lame.MP3", music(0.5, 44100, 2, seed=4), 44100)
    write_sound(root / "loud" / "apple.m4a", music(0.5, 44100, 2, seed=5), 44100)
    write_sound(root / "loud" / "surround.wav", music(0.3, 48000, 6, seed=6), 48000)
    lines = ["TRACK_ID\tARTIST_ID\tALBUM_ID\tPATH\tDURATION\tTAGS"]
    for number, path in enumerate(("calm/long.wav", "calm/short.wav", "loud/lame.MP3")):
        genre = "genre---rock" if number % 2 else "genre---jazz"
        lines.append(f"track_{number}\tartist\talbum_{number}\t{path}\t0.5\t{genre}\tinstrument---piano")
    (root / "split.tsv").write_text("\n".join(lines) + "\n")


def save_vae(path: Path, seed: int = 0, sample_rate: int = RATE) -> Path:
    """A random AutoencoderOobleck of a few thousand weights, as `save_pretrained` writes it."""
    tiny_oobleck(seed, (4, 8), decoder_channels=4, sampling_rate=sample_rate).save_pretrained(path)
    return path


def on_files(root: Path, weights: Path) -> tuple[str, ...]:
    clip = ("data=folder", f"data.root={root}", f"data.sample_rate={RATE}", f"data.seconds={SECONDS}")
    own = ("data.channels=2", "data.min_seconds=0.01", "data.window=tiled")  # as a cache cuts files
    vae = ("tokenizer=stable_audio", f"tokenizer.path={weights}", "tokenizer.subfolder=''")
    return (*clip, *own, *vae, "tokenizer.allow_untrained=true", "backbone.patch_size=1", *UNCONDITIONAL)


def read_wavs(folder: Path) -> np.ndarray:
    files = sorted((folder / "wav").glob("*.wav"))
    return np.stack([soundfile.read(file, dtype="int16")[0] for file in files]).astype(int)


def text(root: Path) -> tuple[str, ...]:
    (root / "song.mp3").write_text("these are the lyrics")
    return "song.mp3", "cannot decode"


def empty(root: Path) -> tuple[str, ...]:
    (root / "song.flac").touch()
    return "song.flac", "it is empty (0 bytes)"


def cut_off(root: Path) -> tuple[str, ...]:
    path = write_mp3(root / "song.mp3", music(3, 44100, 2), 44100)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    return "song.mp3", "it is cut off"


def not_finite(root: Path) -> tuple[str, ...]:
    no_sound(root)
    samples = music(0.5, RATE, 2)
    samples[1, 1600:1700] = np.nan
    soundfile.write(root / "nan.wav", samples.T, RATE, subtype="FLOAT")
    return "nan.wav", "sample 1600 is not a finite number"


def three_channels(root: Path) -> tuple[str, ...]:
    write_sound(root / "lcr.wav", music(0.5, RATE, 3), RATE)
    return "lcr.wav", "3 channels into 2", "6 (5.1)"


def no_sound(root: Path) -> tuple[str, ...]:
    shutil.rmtree(root)
    root.mkdir()
    (root / "notes.txt").write_text("later")
    return "data.root", "no audio file there", ".flac"


UNCONDITIONAL = ("conditioning=none", "sampler.guidance_scale=1")
TEXT = ("conditioning=text", "conditioning.encoder=t5", "conditioning.path=x", "conditioning.prompts=[y]")
TOY = Toy(
    domain="audio",
    name="notes",
    encoder=("clap", save_clap),
    stand_in=("data.num_notes=60", "tokenizer.griffin_lim_iterations=2"),
    measured=("evaluation.classifier_steps=5", "evaluation.num_samples=24"),
    request=("labels=[piano,3]",),
    media=read_wavs,
    sight='src="data:audio/wav;base64,',
    codec=("data.num_notes=24", "autoencoder.width=2", "autoencoder.latent_channels=4", "steps=2", "heldout_clips=6"),
    untrained=("tokenizer.allow_untrained=true",),
    files=write_music,
    weights=save_vae,
    on_files=on_files,
    bad=(
        (("data.split=test",), ("data.split", "'test'", "heldout")),
        (("data.sample_rate=100",), ("data.sample_rate is 100", "8000")),
        (("data.num_notes=2",), ("data.num_notes is 2", "5")),
        (("tokenizer.bands=2000",), ("tokenizer.bands is 2000",)),
        (("tokenizer=oobleck",), ("tokenizer", "oobleck", "stable_audio")),
        (("tokenizer=conv_oobleck",), ("tokenizer.path", "runs/tokenizer/notes", "audio.train_tokenizer")),
        (("evaluation=notes", *UNCONDITIONAL), ("conditioning=labels",)),
        (("evaluation=notes", "evaluation.num_samples=1"), ("evaluation.num_samples is 1", "2")),
        (("data=latents", "data.root=nowhere"), ("data.root is 'nowhere'", "python -m audio.cache")),
        (("data=jamendo", "data.root=."), ("data.tsv",)),
        (("data=folder",), ("data.root",)),
    ),
    bad_files=(
        (("data.root=nowhere",), ("data.root is 'nowhere', which is not there",)),
        (("conditioning=tags",), ("conditioning is 'tags'", "no tags", "data=jamendo")),
        (("conditioning=labels",), ("conditioning is 'labels'", "no classes")),
        (TEXT, ("captions",)),
        (("data.classes=folders", "data.root=files/loud/deep"), ("data.classes 'folders'", "no folders")),
        (("data.captions=missing.csv",), ("data.captions is 'missing.csv'", "no file")),
        (("data.loudness=-14",), ("data.loudness is -14.0", "data.seconds")),
        (("data.split=heldout", "data.heldout_share=1e-9"), ("data.split is 'heldout'", "data.heldout_share")),
        (("data.channels=3",), ("data.channels",)),
        (("data.sample_rate=16000",), ("data.sample_rate is 16000", f"{RATE} Hz")),
        (("data.seconds=0.0001",), ("data.seconds is 0.0001; it must hold a token",)),
        (("data.seconds=1", "data.min_seconds=1"), ("data.min_seconds is 1.0, the longest file lasts 0.6 s",)),
        (("evaluation=notes",), ("evaluation is 'notes' but data is 'folder'; allowed there: none",)),
        (("tokenizer.chunk_seconds=0",), ("tokenizer.chunk_seconds is 0.0", "null")),
        (("tokenizer.latent_mean=0",), ("give both or none",)),
        (("tokenizer.latent_mean=0", "tokenizer.latent_std=0"), ("tokenizer.latent_std is 0.0; allowed",)),
        (("tokenizer.path=nowhere",), ("tokenizer.path is 'nowhere': no such directory, and not a hub id",)),
        (("tokenizer.allow_untrained=false",), ("log-mel correlation of", "Are its weights random")),
        (("sampler.guidance_scale=2",), ("sampler.guidance_scale is not 1 but conditioning.drop is 0",)),
    ),
    damage=(text, empty, cut_off, not_finite, three_channels, no_sound),
)
