"""The synthesised notes: functions of (split, row), balanced, disjoint, told apart by sound, not by loudness."""

from collections import Counter

import librosa
import numpy as np
import pytest
import torch

from audio.datasets.notes import HIGHEST, LOWEST, NoteFacts, NotesConfig, NotesDataset, draw_note, play
from audio.sounds.sound import ClipFormat
from audio.sounds.synthesis import TIMBRES
from core.draws import numpy_rng
from tests.audio.sounds.pitch import pitch_of

CLIP = ClipFormat.of(16000, 2, 1.024, 1024)
NUM = len(TIMBRES)


@pytest.fixture(scope="module")
def train():
    return NotesDataset(NotesConfig(num_notes=70 * NUM), CLIP)


@pytest.fixture(scope="module")
def heldout():
    return NotesDataset(NotesConfig(num_notes=70 * NUM, split="heldout"), CLIP)


def test_shape_range_and_labels(train):
    assert len(train) == 70 * NUM and train.media_shape == (2, 16384)
    assert train.media.shape == (70 * NUM, 2, 16384) and train.media.dtype == torch.float32
    assert train.media.abs().max() < 1
    assert train.labels.dtype == torch.int64 and torch.equal(train.labels, torch.arange(70 * NUM) % NUM)
    assert train.class_names == list(TIMBRES) and len(train.class_names) >= 10
    assert (train.tag_names, train.tag_sets, train.captions, train.lengths) == ([], None, None, None)
    assert torch.equal(train.conditions, train.labels)


def test_items_are_copies_without_augmentation(train):
    first, second = train.item(17, numpy_rng(1)), train.item(17, numpy_rng(2))
    assert torch.equal(first["condition"], train.labels[17]) and int(train.labels[17]) == 17 % NUM
    assert torch.equal(first["media"], second["media"]) and torch.equal(first["media"], train.clip_at(17))
    before = train.media[17].clone()
    first["media"].zero_()
    train.clip_at(17).zero_()
    assert torch.equal(train.media[17], before)


def test_a_note_depends_on_its_split_and_row_only(train):
    few = NotesDataset(NotesConfig(num_notes=2 * NUM), CLIP)
    assert torch.equal(few.media, train.media[: 2 * NUM])
    assert np.array_equal(torch.from_numpy(play("train", 5, CLIP)).float(), train.media[5])


def test_splits_are_disjoint_and_all_is_both():
    splits = ("train", "heldout", "all")
    train, heldout, both = (NotesDataset(NotesConfig(split=split, num_notes=60), CLIP) for split in splits)
    assert (len(train), len(heldout), len(both)) == (60, 12, 72)
    assert torch.equal(both.media, torch.cat([train.media, heldout.media]))
    assert torch.equal(both.labels, torch.cat([train.labels, heldout.labels]))
    assert len({note.numpy().tobytes() for note in both.media}) == 72
    assert both.name(60) == heldout.name(0) and both.describe(60).split == "heldout"


def test_facts_are_what_is_played(train):
    for index in range(0, 5 * NUM):
        facts = train.describe(index)
        left, right = train.media[index].double().pow(2).sum(1).tolist()
        angle = (facts.pan + 1) * np.pi / 4
        assert left / (left + right) == pytest.approx(np.cos(angle) ** 2, abs=1e-5)
        timbre = TIMBRES[facts.timbre]
        if timbre.octave:
            sound = train.media[index].sum(0).numpy()[1600:9600]
            assert pitch_of(sound, 16000, high=900) == pytest.approx(facts.f0 * timbre.octave, rel=0.03), train.name(
                index
            )


def test_rows_cover_keys_velocities_and_places(train):
    facts = [train.describe(index) for index in range(len(train))]
    assert set(Counter(each.key for each in facts)) == set(range(LOWEST, HIGHEST + 1))
    for values, low, high in (([f.velocity for f in facts], 0.3, 1.0), ([f.pan for f in facts], -0.8, 0.8)):
        assert low <= min(values) < low + 0.05 and high - 0.05 < max(values) <= high


def test_names(train):
    facts = NoteFacts("train", 0, "piano", 69, 0.5, 0.0)
    assert (facts.f0, facts.pitch_name) == (440, "A4")
    assert NoteFacts("train", 0, "piano", 48, 0.5, 0.0).pitch_name == "C3"
    assert train.name(17) == "note 17 of train: plucked string, D5, velocity 0.5"
    assert draw_note("train", 17)[0] == train.describe(17)


def test_mono_is_the_sound_before_it_is_placed():
    stereo = NotesDataset(NotesConfig(num_notes=NUM), CLIP)
    mono = NotesDataset(NotesConfig(num_notes=NUM, channels=1), ClipFormat.of(16000, 1, 1.024, 1024))
    assert mono.media.shape == (NUM, 1, 16384)
    assert torch.allclose(mono.media.pow(2).sum((1, 2)), stereo.media.pow(2).sum((1, 2)), rtol=1e-4)


def test_a_shorter_clip_is_a_whole_note():
    data = NotesDataset(NotesConfig(num_notes=NUM, seconds=0.25), ClipFormat.of(16000, 2, 0.25, 1000))
    assert data.media_shape == (2, 4000)
    assert (data.media[..., -1].abs() < 1e-9).all() and (data.media.abs().amax((1, 2)) > 0.01).all()


def test_timbres_are_told_apart_by_nearest_centroid(train, heldout):
    """One centroid for each timbre and third of the keyboard, of log-mels relative to their loudest point."""
    keys = torch.tensor([(train.describe(index).key - LOWEST) // 10 for index in range(len(train))])
    groups = train.labels * 3 + keys
    features, unseen = log_mels(train.media), log_mels(heldout.media)
    centroids = torch.stack([features[groups == group].mean(0) for group in range(3 * NUM)])
    nearest = torch.cdist(unseen, centroids).argmin(1) // 3
    assert (nearest == heldout.labels).float().mean() > 0.95


def test_loudness_does_not_name_the_timbre(train, heldout):
    levels, unseen = (data.media.pow(2).mean((1, 2)).log() for data in (train, heldout))
    centroids = torch.stack([levels[train.labels == label].mean() for label in range(NUM)])
    nearest = (unseen[:, None] - centroids).abs().argmin(1)
    assert (nearest == heldout.labels).float().mean() < 0.25


def log_mels(media):
    """(n, C, L) -> (n, features), dB relative to the loudest point, at least -80."""
    power = librosa.feature.melspectrogram(y=media.mean(1).numpy(), sr=16000, n_fft=1024, hop_length=256, n_mels=64)
    levels = 10 * torch.from_numpy(power).clamp(min=1e-10).log10()
    return (levels - levels.amax((1, 2), keepdim=True)).clamp(min=-80).flatten(1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "test"}, r"data\.split is 'test'; allowed: \['train', 'heldout', 'all'\]"),
        ({"num_notes": 4}, r"data\.num_notes is 4; allowed: 5"),
        ({"sample_rate": 4000}, r"data\.sample_rate is 4000; allowed: 8000 Hz"),
        ({"seconds": 0.01}, r"data\.seconds is 0\.01; allowed: 0\.1 s"),
        ({"seconds": float("nan")}, r"data\.seconds is nan"),
        ({"channels": 3}, r"data\.channels is 3; allowed: 1 \(mono\) or 2"),
    ],
)
def test_bad_configs_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        NotesConfig(**change)


def test_clips_of_another_format_are_refused():
    with pytest.raises(ValueError, match=r"data\.sample_rate is 22050, but clips of 16000"):
        NotesDataset(NotesConfig(sample_rate=22050), CLIP)
    with pytest.raises(ValueError, match=r"data\.channels is 1, but clips of 2"):
        NotesDataset(NotesConfig(channels=1), CLIP)
