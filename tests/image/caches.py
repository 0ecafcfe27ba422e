"""What the tests of `python -m image.cache` share: its config, what it writes, a small tokenizer."""

import torch

from image.cache import ImageCacheConfig
from image.codecs.autoencoder import AutoencoderConfig, ConvKL, save_autoencoder
from image.data import LatentsConfig
from image.datasets.files import FolderConfig
from image.tokenizer import ConvKLConfig

SIZE, IMAGES, PER_SHARD = 16, 11, 4


def save_conv_kl(path, channels=3, seed=0, latent_std=1.3):
    path.mkdir(exist_ok=True)
    torch.manual_seed(seed)
    save_autoencoder(path, ConvKL(AutoencoderConfig(width=8), channels), latent_mean=0.1, latent_std=latent_std)
    return path


def config(pictures, tokenizer_path, out, **changes):
    values = {
        "data": FolderConfig(root=str(pictures), size=SIZE),
        "tokenizer": ConvKLConfig(path=str(tokenizer_path)),
        "out": str(out),
        "rows_per_shard": PER_SHARD,
        "dtype": "float32",
        "batch_size": 3,
        "num_workers": 0,
        "device": "cpu",
    }
    return ImageCacheConfig(**{**values, **changes})


def latents(root, **changes):
    return LatentsConfig(root=str(root), **{"size": SIZE, **changes})


def files(root):
    return {file.name: file.read_bytes() for file in sorted(root.iterdir())}
