"""`python -m image.evaluate` with bad input: one clear error each, before anything is written."""

import os

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.image.evaluations import adm_reference, measured, pictures, save_folder, save_npz
from tests.image.networks import save_dinov2


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory):
    return save_dinov2(tmp_path_factory.mktemp("dinov2"))


def broken_png(tmp_path):
    folder = save_folder(tmp_path / "folder", pictures(6))
    file = folder / "003.png"
    file.write_bytes(file.read_bytes()[:-60])
    return [f"samples={folder}"], r"broken image .*003\.png"


def mixed_sizes(tmp_path):
    folder = save_folder(tmp_path / "folder", pictures(6))
    Image.fromarray(pictures(1, side=20)[0]).save(folder / "004.png")
    return [f"samples={folder}"], r"004\.png is 20x20 pixels, 000\.png is 16x16"


def other_size_than_the_reference(tmp_path):
    return [f"samples={save_npz(tmp_path / 's.npz', pictures(6, side=20))}"], "samples are 20x20 pixels, the reference"


def all_equal(tmp_path):
    rows = np.repeat(pictures(1), 6, axis=0)
    return [f"samples={save_npz(tmp_path / 's.npz', rows)}"], "all 6 images of s.npz are equal"


def too_few(tmp_path):
    path = save_npz(tmp_path / "s.npz", pictures(3))
    return [f"samples={path}", "metrics=[recall]"], "recall with features=dinov2 needs at least 4 samples, there are 3"


def too_few_for_kid(tmp_path):
    path = save_npz(tmp_path / "s.npz", pictures(6))
    return [f"samples={path}", "metrics=[kid]"], "kid with features=dinov2 needs at least 1000 samples, there are 6"


def more_than_there_are(tmp_path):
    return [f"samples={save_npz(tmp_path / 's.npz', pictures(6))}", "num=7"], "num is 7, but s.npz holds 6 images"


def truncated_npz(tmp_path):
    path = save_npz(tmp_path / "s.npz", pictures(6))
    path.write_bytes(path.read_bytes()[:-100])
    return [f"samples={path}"], r"s\.npz is truncated or damaged"


def truncated_reference(tmp_path):
    reference, _ = adm_reference(tmp_path / "adm.npz", pictures(6))
    os.truncate(reference, reference.stat().st_size // 2)
    path = save_npz(tmp_path / "s.npz", pictures(6))
    return [f"samples={path}", f"reference={reference}"], r"adm\.npz is truncated or damaged"


def flipped_bit(tmp_path):
    rows = pictures(6)
    path = save_npz(tmp_path / "s.npz", rows)
    content = bytearray(path.read_bytes())
    content[content.index(rows[3].tobytes())] ^= 1
    path.write_bytes(content)
    return [f"samples={path}"], r"s\.npz is truncated or damaged: Bad CRC"


def damaged_inside(tmp_path):
    path = tmp_path / "s.npz"
    np.savez_compressed(path, arr_0=pictures(6))
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 9] = bytes(9)
    path.write_bytes(content)
    return [f"samples={path}"], r"s\.npz is truncated or damaged"


def labels_of_other_images(tmp_path):
    path = save_npz(tmp_path / "s.npz", pictures(6), arr_1=np.arange(5))
    return [f"samples={path}"], r"arr_1 of .*s\.npz is int64 \(5,\); needed: classes from 0, \(6,\)"


def labels_that_are_none(tmp_path):
    path = save_npz(tmp_path / "s.npz", pictures(6), arr_1=np.arange(6) / 2)
    return [f"samples={path}"], r"arr_1 of .*s\.npz is float64 \(6,\); needed: classes"


def negative_labels(tmp_path):
    path = save_npz(tmp_path / "s.npz", pictures(6), arr_1=np.arange(6) - 1)
    return [f"samples={path}"], r"arr_1 of .*s\.npz .*needed: classes from 0"


def labels_beyond_all_classes(tmp_path):
    path = save_npz(tmp_path / "s.npz", pictures(6), arr_1=np.full(6, 2**63, np.uint64))
    return [f"samples={path}"], r"arr_1 of .*s\.npz is uint64 .*needed: classes from 0"


def images_without_pixels(tmp_path):
    return [f"samples={save_npz(tmp_path / 's.npz', pictures(6)[:, :0])}"], r"arr_0 of .*s\.npz holds no image"


def facts_of_nothing(tmp_path):
    reference = tmp_path / "stats.npz"
    np.savez(reference, facts=np.array("[]"), mu=np.zeros(2), sigma=np.eye(2))
    path = save_npz(tmp_path / "s.npz", pictures(6))
    return [f"samples={path}", f"reference={reference}"], r"stats\.npz', whose 'facts' are damaged: they are \[\]"


def covariance_that_is_none(tmp_path):
    reference = tmp_path / "adm.npz"
    np.savez(reference, mu=np.zeros(2), sigma=-np.eye(2))
    path = save_npz(tmp_path / "s.npz", pictures(6))
    return [f"samples={path}", f"reference={reference}"], r"adm\.npz holds no statistics: .*negative variance"


def floats(tmp_path):
    return [f"samples={save_npz(tmp_path / 's.npz', pictures(6) / 255)}"], r"float64 .* needed: uint8"


def no_images(tmp_path):
    np.savez(tmp_path / "s.npz", images=pictures(6))
    return [f"samples={tmp_path / 's.npz'}"], "has no arr_0; it holds: images"


def nowhere(tmp_path):
    return [f"samples={tmp_path / 'nowhere'}"], "samples is .*nowhere', which is not there"


def reference_nowhere(tmp_path):
    path = save_npz(tmp_path / "s.npz", pictures(6))
    return [f"samples={path}", "reference=nowhere"], "reference is 'nowhere', which is not there.*digits"


def nan_weights(tmp_path):
    folder = save_dinov2(tmp_path / "nan")
    state = load_file(folder / "model.safetensors")
    state["layernorm.weight"][0] = float("nan")
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    path = save_npz(tmp_path / "s.npz", pictures(6))
    return [f"samples={path}", f"dinov2={folder}"], r"nan holds NaN or infinity in layernorm\.weight"


def unknown_metric(tmp_path):
    return ["samples=x", "metrics=[fld]"], "config key 'metrics' has 'fld'; allowed: fid, sfid"


def unknown_features(tmp_path):
    return ["samples=x", "features=vgg"], "features is 'vgg'; allowed: inception_adm"


BAD = [
    broken_png,
    mixed_sizes,
    other_size_than_the_reference,
    all_equal,
    too_few,
    too_few_for_kid,
    more_than_there_are,
    truncated_npz,
    truncated_reference,
    flipped_bit,
    damaged_inside,
    labels_of_other_images,
    labels_that_are_none,
    negative_labels,
    labels_beyond_all_classes,
    images_without_pixels,
    facts_of_nothing,
    covariance_that_is_none,
    floats,
    no_images,
    nowhere,
    reference_nowhere,
    nan_weights,
    unknown_metric,
    unknown_features,
]


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.__name__)
def test_bad_input_is_refused_before_anything_is_written(tmp_path, dinov2, case):
    reference = save_npz(tmp_path / "reference.npz", pictures(8, seed=9))
    args, message = case(tmp_path)
    with pytest.raises(ValueError, match=message):
        measured("features=dinov2", f"dinov2={dinov2}", f"reference={reference}", *args, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "reference is null"),
        (["reference=digits"], "run, architecture and samples are null"),
        (["run=a", "samples=b"], "give one of them"),
        (["samples=b"], "reference is null"),
        (["samples=b", "num=0"], "num is 0"),
        (["run=nowhere"], "run is 'nowhere'; it must be the folder of a run"),
    ],
)
def test_a_command_that_says_too_little_or_too_much_is_refused(tmp_path, args, message):
    with pytest.raises(ValueError, match=message):
        measured(*args, out=tmp_path)
