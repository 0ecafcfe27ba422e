"""The command that fills a latent cache: a row goes the whole way first, and what is refused has a name."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from core.commands.cache import CacheOptions, Caching, run_cache
from core.latents.cache import LatentShards
from core.latents.tokenizer import CodingOptions, KLTokenizer, MediaError, TokenizerConstants
from core.latents.writer import LatentWriter

ROWS, BROKEN = 5, 3


class Halves(nn.Module):
    """A network of pairs of numbers that can be told to fail."""

    def __init__(self, decoded: float = 1.0, refused: int | None = None):
        super().__init__()
        self.decoded, self.refused = decoded, refused

    def latent_shape(self, media_shape):
        return 1, media_shape[-1] // 2

    def moments(self, media):
        bad = [row for row, numbers in enumerate(media) if numbers.max() == self.refused]
        if bad:
            raise MediaError("it is no pair", bad[0])
        mean = media.reshape(len(media), 1, -1, 2).mean(-1)
        return mean, torch.full_like(mean, 0.1)

    def decode(self, latents):
        return self.decoded * latents.repeat_interleave(2, dim=-1)


class Pairs:
    media_shape, class_names = (1, 4), []
    labels = torch.arange(ROWS)

    def __len__(self):
        return ROWS

    def name(self, index):
        return f"pair {index}"


@dataclass(frozen=True, kw_only=True)
class Options(CacheOptions):
    rows_per_shard: int = 2
    batch_size: int = 2
    num_workers: int | None = 0
    device: str = "cpu"


class PairsCaching(Caching):
    kind, unit = "pairs", "pair"

    def __init__(self, config, device, network):
        constants = TokenizerConstants("halves", None, scale=1.0, shift=0.0, downsample=2, sha256=None)
        tokenizer = KLTokenizer(network, constants, CodingOptions())
        super().__init__(config, Pairs(), tokenizer, np.arange(ROWS), {})

    def read(self, row):
        return torch.full((1, 4), float(row))

    def use_command(self, root):
        return "python -m pairs.train"


def cache(root, network=None, **options):
    """Fill a cache at `root`; what was shown."""
    shown = []
    run_cache(
        Options(out=str(root), **options),
        lambda config, device: PairsCaching(config, device, network or Halves()),
        shown.append,
    )
    return shown


def test_a_row_goes_the_whole_way_first(tmp_path):
    shown = cache(tmp_path / "c")
    assert shown[0].startswith("tried             1 pair in ") and "decoded" in shown[0]
    assert len(LatentShards(tmp_path / "c", kind="pairs", make_command="make")) == ROWS
    assert len(cache(tmp_path / "c")) == 1  # nothing is missing, so nothing is tried


def test_a_tokenizer_that_cannot_decode_is_found_out_before_anything_is_encoded(tmp_path):
    with pytest.raises(ValueError, match=r"pair 0 \(row 0\): the tokenizer decodes it to numbers that are not finite"):
        cache(tmp_path / "c", Halves(decoded=float("nan")))
    assert not [file for file in (tmp_path / "c").iterdir() if "shard" in file.name]


def test_a_disk_that_reads_back_otherwise_is_found_out_first(tmp_path, monkeypatch):
    def other(root, name=None):
        return np.zeros((1, 1, 2, 1, 2), np.float16)

    monkeypatch.setattr("core.latents.writer.map_array", other)
    monkeypatch.setattr(LatentWriter, "write", None)  # which is not come to
    with pytest.raises(OSError, match="reads back differently from what was written"):
        cache(tmp_path / "c")
    assert not [file for file in (tmp_path / "c").iterdir() if "shard" in file.name]


def test_media_that_the_tokenizer_refuses_are_named(tmp_path):
    with pytest.raises(ValueError, match=rf"pair {BROKEN} \(row {BROKEN}\): it is no pair"):
        cache(tmp_path / "c", Halves(refused=BROKEN))
