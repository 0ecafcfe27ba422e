"""What the tests of `python -m image.evaluate` share: the command, and images and references in real formats."""

import numpy as np
from PIL import Image

import image.evaluate
from eval.measure.record import read_records


def measured(*args, out):
    """The records, by metric, that the command leaves in the folder `out`."""
    image.evaluate.ENTRY.main(image.evaluate.ENTRY.config([*args, "device=cpu", f"out={out}"]))
    return {record.metric: record for record in read_records([out])}


def pictures(count, side=16, seed=0, low=0):
    """(n, H, W, 3) uint8."""
    return np.random.default_rng(seed).integers(low, 256, (count, side, side, 3), dtype=np.uint8)


def save_folder(folder, rows):
    folder.mkdir()
    for number, row in enumerate(rows):
        Image.fromarray(row).save(folder / f"{number:03d}.png")
    return folder


def save_npz(path, rows, **arrays):
    np.savez(path, arr_0=rows, **arrays)
    return path


def adm_reference(path, rows):
    """A file in the layout of ADM's reference batches, of any statistics."""
    rng = np.random.default_rng(0)
    arrays = {}
    for mean, covariance, width in (("mu", "sigma", 2048), ("mu_s", "sigma_s", 2023)):
        arrays |= {mean: rng.random(width), covariance: np.diag(rng.random(width) + 0.5)}
    return save_npz(path, rows, **arrays), arrays
