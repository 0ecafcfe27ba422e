"""KL autoencoders as tokenizers: media to normalised latents and back, for every domain.

A tokenizer owns its constants: latents = (z - shift) * scale, applied in `from_moments` and undone in `decode`, and
nowhere else. A posterior is sampled with noise drawn for the whole batch, so that cutting the batch into slices to save
memory changes nothing. With a latent cache, `FromMoments` goes on where the encoder ended.

Letters: B batch, Z latent channels; *media and *grid stand for a domain's own axes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self, get_args

import torch
from torch import Tensor, nn

from core.contracts import Tokenizer
from core.draws import Random
from core.schema import FREE

if TYPE_CHECKING:
    from core.latents.scaling import Scaling

PosteriorUse = Literal["sample", "mean"]
NetworkDtype = Literal["float32", "bfloat16"]
Normal = float | list[float]  # one number, or one for each latent channel


@dataclass(frozen=True)
class CodingOptions:
    """How a network codes media, whatever network it is.

    posterior     "sample" draws z from N(mean, std^2), "mean" takes the mean
    dtype         of the network; latents and media stay float32. float16 is left out, as several published decoders
                  overflow in it
    encode_batch  media encoded at once
    decode_batch  media decoded at once
    """

    posterior: PosteriorUse = "sample"
    dtype: NetworkDtype = "float32"
    encode_batch: int = field(default=32, metadata=FREE)
    decode_batch: int = field(default=16, metadata=FREE)

    def __post_init__(self):
        for name, allowed in (("posterior", get_args(PosteriorUse)), ("dtype", get_args(NetworkDtype))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"tokenizer.{name} is {getattr(self, name)!r}; allowed: {list(allowed)}")
        for name in ("encode_batch", "decode_batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"tokenizer.{name} is {getattr(self, name)!r}; allowed: 1 or more at once")


@dataclass(frozen=True, kw_only=True)
class KLOptions(CodingOptions):
    """A KL autoencoder whose files are at `path`."""

    path: str = field(metadata=FREE)

    def __post_init__(self):
        super().__post_init__()
        if not self.path:
            raise ValueError(f"tokenizer.path is {self.path!r}; needed: the directory of the autoencoder")


@dataclass(frozen=True)
class TokenizerConstants:
    """What must be known to read latents again.

    kind        which tokenizer, by the name in the config
    path        name of the directory, or the hub id; None where there is none
    scale       latents = (z - shift) * scale; a number, or one for each channel
    shift       see scale
    downsample  f, length of an axis of the media over that of the latents
    sha256      of the weights, see `weights_sha256`; None where there are none
    """

    kind: str
    path: str | None
    scale: Normal
    shift: Normal
    downsample: int
    sha256: str | None


class MediaError(ValueError):
    """Media that a tokenizer does not take; `row` of the batch is one of them, which who has the data set can name."""

    def __init__(self, message: str, row: int):
        super().__init__(message)
        self.row = row


class KLNetwork(Protocol):
    """An `nn.Module` with a normal posterior over a latent grid."""

    def latent_shape(self, media_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of one latent (Z, *grid) for one item of media; ValueError for what does not fit."""
        ...

    def moments(self, media: Tensor) -> tuple[Tensor, Tensor]:
        """(B, *media) -> mean and standard deviation, each (B, Z, *grid)."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """(B, Z, *grid) -> (B, *media), about [-1, 1]."""
        ...


class KLTokenizer:
    """A frozen KL autoencoder with its scale and shift; autocast around it does not reach its arithmetic.

    bounded  whether media lie in [-1, 1], to which decoded ones are then clamped
    """

    bounded: ClassVar[bool] = True

    def __init__(self, network: nn.Module, constants: TokenizerConstants, options: CodingOptions):
        self._dtype = getattr(torch, options.dtype)
        self._network = network.eval().requires_grad_(False).to(self._dtype)
        self._constants, self._options = constants, options
        self._device = torch.device("cpu")

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self._device

    @property
    def precision(self) -> str:
        """The network's: "float32" or "bfloat16"."""
        return self._options.dtype

    def latent_shape(self, media_shape: tuple[int, ...]) -> tuple[int, ...]:
        """(*media) -> (Z, *grid); ValueError for media that the network does not take."""
        return self._network.latent_shape(tuple(media_shape))

    def moments(self, media: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the posterior of z, before shift and scale.

        (B, *media) in [-1, 1] -> two (B, Z, *grid) float32. ValueError for sizes that do not fit.
        """
        self.latent_shape(media.shape[1:])
        parts = self._sliced(self._network.moments, media, self._options.encode_batch)
        mean, std = (torch.cat(part).float() for part in zip(*parts, strict=True))
        return mean, std

    def from_moments(self, mean: Tensor, std: Tensor, random: Random) -> Tensor:
        """What `encode` gives, from moments, as a cache keeps them: two (B, Z, *grid) -> the same shape.

        z = mean + std * noise, noise from the stream "posterior" of `random`; with `posterior: mean`, z = mean.
        """
        z = mean
        if self._options.posterior == "sample":
            z = mean + std * random.normal("posterior", tuple(mean.shape)).to(mean)
        return (z - over_channels(self._constants.shift, z)) * over_channels(self._constants.scale, z)

    def encode(self, media: Tensor, random: Random) -> Tensor:
        """(B, *media) in [-1, 1] -> (B, Z, *grid) float32; ValueError for sizes that do not fit."""
        return self.from_moments(*self.moments(media), random)

    def decode(self, latents: Tensor) -> Tensor:
        """(B, Z, *grid) -> (B, *media) float32, NaN where the network gives no finite number; see `bounded`."""
        z = latents / over_channels(self._constants.scale, latents) + over_channels(self._constants.shift, latents)
        media = torch.cat(self._sliced(self._network.decode, z, self._options.decode_batch)).float()
        media = media.where(media.isfinite(), torch.nan)  # clamping would make infinity a loud 1
        return media.clamp(-1, 1) if self.bounded else media

    def constants(self) -> dict[str, Any]:
        """The constants as a dict."""
        return asdict(self._constants)

    def scaled(self, scaling: Scaling) -> Self:
        """The same network under another scaling of its latents."""
        constants = replace(self._constants, shift=scaling.shift, scale=scaling.scale)
        return type(self)(self._network, constants, self._options).to(self.device)

    def to(self, device: torch.device | str) -> Self:
        """Itself, moved."""
        self._device = torch.device(device)
        self._network.to(device)
        return self

    @torch.no_grad()
    def _sliced(self, function: Callable[[Tensor], Any], x: Tensor, rows: int) -> list[Any]:
        """`function` of at most `rows` rows of `x` at a time, in the network's precision."""
        with torch.autocast(self._device.type, enabled=False):
            return [function(part.to(self._device, self._dtype)) for part in x.split(rows)]


def over_channels(value: Normal, latents: Tensor) -> Tensor | float:
    """A number as it is; one for each channel as (Z, 1, ...), to broadcast over latents (B, Z, *grid)."""
    if isinstance(value, float | int):
        return value
    values = torch.tensor(value, dtype=latents.dtype, pin_memory=latents.is_cuda)  # else the copy is waited for
    return values.to(latents.device, non_blocking=True).reshape(-1, *[1] * (latents.ndim - 2))


class FromMoments:
    """A KL tokenizer whose `encode` takes cached moments instead of media; the rest is the tokenizer's.

    recorded  what the cache says about the tokenizer that made it; `cache` is the folder, for the error

    Raises ValueError, naming what differs, for another tokenizer and for one without moments.
    """

    def __init__(self, tokenizer: Tokenizer, recorded: Mapping[str, Any], cache: Path | str):
        own = cache_constants(tokenizer.constants())
        differing = [f"{key} {recorded.get(key)}, here {own[key]}" for key in own if recorded.get(key) != own[key]]
        if differing:
            raise ValueError(
                f"the cache {cache} was made with another tokenizer than the run's: {'; '.join(differing)}"
            )
        self.tokenizer = tokenizer

    def latent_shape(self, media_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the media that were encoded -> (Z, *grid)."""
        return self.tokenizer.latent_shape(media_shape)

    def encode(self, media: Tensor, random: Random) -> Tensor:
        """Mean and standard deviation (B, 2, Z, *grid) of any float type -> latents (B, Z, *grid) float32."""
        mean, std = media.to(self.tokenizer.device, torch.float32).unbind(1)
        return self.tokenizer.from_moments(mean, std, random)

    def decode(self, latents: Tensor) -> Tensor:
        """(B, Z, *grid) -> (B, *media) float32 in [-1, 1]."""
        return self.tokenizer.decode(latents)

    def constants(self) -> dict[str, Any]:
        """Those of the tokenizer."""
        return self.tokenizer.constants()

    def to(self, device: torch.device | str) -> FromMoments:
        """Itself, moved."""
        self.tokenizer.to(device)
        return self


def cache_constants(constants: Mapping[str, Any]) -> dict[str, Any]:
    """The constants that decide the latents: all but the path, which a copy may have another of."""
    return {key: value for key, value in constants.items() if key != "path"}


def weights_sha256(network: nn.Module) -> str:
    """Hex SHA-256 over name, dtype, shape and bytes of every entry of the state dict, in the order of the names.

    Does not depend on the device, nor on the file format that the weights came in.
    """
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def kl_divergence(mean: Tensor, std: Tensor) -> Tensor:
    """KL(N(mean, std^2) || N(0, 1)) in nats, summed over one item's latents: two (B, ...) -> (B,)."""
    return 0.5 * (mean.square() + std.square() - 1 - 2 * std.log()).flatten(1).sum(1)
