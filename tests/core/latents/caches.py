"""Small caches of numbers in place of media, and what writes and reads them."""

import torch

from core.data.stream import fingerprint
from core.latents.cache import CacheSpec, LatentShards, array_facts
from core.latents.writer import LatentWriter, Source, encode_shards

ROWS, PER_SHARD, LATENT = 23, 5, (2, 3)
MAKE = "python -m make"


def moments(row, mirror):
    """(2, *LATENT) that tell row and mirror."""
    return torch.arange(12, dtype=torch.float32).reshape(2, *LATENT) / 8 + row + 100 * mirror


class Numbers:
    """The data set that is encoded: row i is a number, its mirror image is its negative."""

    media_shape = (1,)
    class_names = ("a", "b", "c")
    labels = torch.arange(ROWS) % 3

    def __len__(self):
        return ROWS

    def read(self, row):
        """Its number."""
        return torch.tensor([float(row)])

    def item(self, index, rng):
        """What a run that encodes by itself would get, as moments."""
        return {"media": moments(index, int(rng.random() < 0.5)), "condition": int(self.labels[index])}


def encode(media):
    """(B, 1) -> (B, 2, 2, *LATENT)."""
    rows = [torch.stack([moments(int(row), mirror) for mirror in (0, 1)]) for row in media[:, 0]]
    return torch.stack(rows)


SOURCE = Source(Numbers().read, encode, lambda row: f"number {row}")


def spec(**changes):
    """What a small cache is of."""
    values = {
        "kind": "number",
        "rows": ROWS,
        "rows_per_shard": PER_SHARD,
        "mirrors": 2,
        "latent_shape": LATENT,
        "media_shape": (1,),
        "dtype": "float32",
        "class_names": ["a", "b", "c"],
        "conditions": array_facts(Numbers.labels.numpy()),
        "data": fingerprint(Numbers()),
        "transform": {"size": 1},
        "tokenizer": {"scale": 0.5, "sha256": "abc"},
    }
    return CacheSpec(**{**values, **changes})


def writer(root, part=(0, 1), **changes):
    """The writer of a part of it."""
    return LatentWriter(root, spec(**changes), {"conditions": Numbers.labels.numpy()}, {"path": "x"}, part)


def make(root, part=(0, 1), source=SOURCE, stop_after=None, num_workers=0, **changes):
    """Write a cache, or the part of it, and give up after `stop_after` batches."""
    own = writer(root, part, **changes)
    for number, _ in enumerate(encode_shards(own, own.missing(), source, 2, num_workers), start=1):
        if number == stop_after:
            break
    return root


def read(root, flip=True):
    """The finished cache, opened."""
    return LatentShards(root, kind="number", flip=flip, make_command=MAKE)


def files(root):
    """The bytes of every file, by name."""
    return {file.name: file.read_bytes() for file in sorted(root.iterdir())}
