"""Pixels to the latents a backbone sees, and back: none, a pretrained AutoencoderKL, or our small ConvKL.

Each tokenizer owns its constants: latents = (z - shift) * scale, applied in `from_moments` and undone in `decode`, and
nowhere else. A posterior is sampled with noise drawn for the whole batch, so that cutting the batch into slices to save
memory changes nothing. With a latent cache, `FromMoments` goes on where the encoder ended.

Letters: B batch, C image channels, Z latent channels, H height, W width in pixels, f downsampling factor.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor, nn

from core.contracts import Tokenizer
from core.draws import Random
from image.autoencoder import KIND as CONV_KL
from image.autoencoder import MAKE_COMMAND, latent_grid, load_autoencoder

PIXELS, AUTOENCODER_KL = "pixels", "autoencoder_kl"
DIFFUSERS_CONFIG = "config.json"
DIFFUSERS_WEIGHTS = "diffusion_pytorch_model"
HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
PosteriorUse = Literal["sample", "mean"]
Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class PixelsConfig:
    """No tokenizer: the backbone sees pixels."""


@dataclass(frozen=True)
class _KLConfig:
    path: str
    posterior: PosteriorUse = "sample"
    dtype: Precision = "float32"
    encode_batch: int = 32
    decode_batch: int = 16

    def __post_init__(self):
        if not self.path:
            raise ValueError(f"tokenizer.path is {self.path!r}; needed: the directory of the autoencoder")
        for name, allowed in (("posterior", get_args(PosteriorUse)), ("dtype", get_args(Precision))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"tokenizer.{name} is {getattr(self, name)!r}; allowed: {list(allowed)}")
        for name in ("encode_batch", "decode_batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"tokenizer.{name} is {getattr(self, name)!r}; allowed: 1 image or more")


@dataclass(frozen=True)
class AutoencoderKLConfig(_KLConfig):
    """A pretrained diffusers AutoencoderKL, as SD, SDXL, SD3 and FLUX have; needs the extra `vae`.

    path          directory written by `save_pretrained` (never touches the network), or the id of a hub repository
    subfolder     where the autoencoder stands below `path`: "vae" in a whole pipeline
    posterior     "sample" draws z from N(mean, std^2), "mean" takes the mean
    dtype         of the network; latents and images stay float32. float16 is left out, as several
                  published decoders overflow in it
    encode_batch  images encoded at once
    decode_batch  images decoded at once
    """

    path: str = "stabilityai/sd-vae-ft-ema"
    subfolder: str = ""


@dataclass(frozen=True)
class ConvKLConfig(_KLConfig):
    """Our small autoencoder, made by `python -m image.train_tokenizer`.

    path  directory with `config.json` and `model.safetensors`; the other keys are those of `AutoencoderKLConfig`
    """

    path: str = "runs/tokenizer/digits"


TOKENIZERS: dict[str, type] = {PIXELS: PixelsConfig, AUTOENCODER_KL: AutoencoderKLConfig, CONV_KL: ConvKLConfig}
TokenizerConfig = PixelsConfig | AutoencoderKLConfig | ConvKLConfig


def build_tokenizer(config: TokenizerConfig, device: torch.device | str) -> Tokenizer:
    """The tokenizer that `config` describes, on `device`.

    Raises ValueError, naming the config key, for files that are missing, damaged or of another model; ImportError for
    an extra that is not installed.
    """
    builders: dict[type, Callable[[Any], Tokenizer]] = {
        PixelsConfig: lambda _: Pixels(),
        AutoencoderKLConfig: _build_autoencoder_kl,
        ConvKLConfig: _build_conv_kl,
    }
    if type(config) not in builders:
        raise ValueError(f"tokenizer is a {type(config).__name__}; allowed: {', '.join(TOKENIZERS)}")
    return builders[type(config)](config).to(device)


@dataclass(frozen=True)
class TokenizerConstants:
    """What must be known to read latents again.

    kind        key of `TOKENIZERS`
    path        name of the directory, or the hub id; None for pixels
    scale       latents = (z - shift) * scale
    shift       see scale
    downsample  f, image side over latent side
    sha256      of the weights, see `weights_sha256`; None for pixels
    """

    kind: str
    path: str | None
    scale: float
    shift: float
    downsample: int
    sha256: str | None


class Pixels:
    """The identity on [-1, 1]."""

    def latent_shape(self, media_shape: tuple[int, ...]) -> tuple[int, ...]:
        """(C, H, W), as it came."""
        return tuple(media_shape)

    def encode(self, media: Tensor, random: Random) -> Tensor:
        """(B, C, H, W), as it came; nothing is drawn."""
        return media

    def decode(self, latents: Tensor) -> Tensor:
        """(B, C, H, W), clamped to [-1, 1]: what a backbone generates may lie outside."""
        return latents.clamp(-1, 1)

    def constants(self) -> dict[str, Any]:
        """`TokenizerConstants` as a dict."""
        return asdict(TokenizerConstants(PIXELS, path=None, scale=1.0, shift=0.0, downsample=1, sha256=None))

    def to(self, device: torch.device | str) -> Pixels:
        """Itself: it holds no tensor."""
        return self


class KLNetwork(Protocol):
    """An `nn.Module` with a normal posterior over a latent grid; `image.autoencoder.ConvKL` is one."""

    def latent_shape(self, media_shape: tuple[int, ...]) -> tuple[int, ...]:
        """(C, H, W) -> (Z, H/f, W/f); ValueError for what does not fit."""
        ...

    def moments(self, media: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) -> mean and standard deviation, each (B, Z, H/f, W/f)."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """(B, Z, H/f, W/f) -> (B, C, H, W), about [-1, 1]."""
        ...


class KLTokenizer:
    """A frozen KL autoencoder with its scale and shift; autocast around it does not reach its arithmetic."""

    def __init__(self, network: nn.Module, constants: TokenizerConstants, config: _KLConfig):
        self._dtype = getattr(torch, config.dtype)
        self._network = network.eval().requires_grad_(False).to(self._dtype)
        self._constants, self._config = constants, config

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self._network.parameters()).device

    @property
    def precision(self) -> str:
        """Of the network: "float32" or "bfloat16"."""
        return self._config.dtype

    def latent_shape(self, media_shape: tuple[int, ...]) -> tuple[int, ...]:
        """(C, H, W) -> (Z, H/f, W/f); ValueError for other channels or a side that f does not divide."""
        return self._network.latent_shape(tuple(media_shape))

    def moments(self, media: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the posterior of z, before shift and scale.

        (B, C, H, W) in [-1, 1] -> two (B, Z, H/f, W/f) float32. ValueError for sizes that do not fit.
        """
        self.latent_shape(media.shape[1:])
        parts = self._sliced(self._network.moments, media, self._config.encode_batch)
        mean, std = (torch.cat(part).float() for part in zip(*parts, strict=True))
        return mean, std

    def from_moments(self, mean: Tensor, std: Tensor, random: Random) -> Tensor:
        """What `encode` gives, from moments, as a cache keeps them: two (B, Z, H/f, W/f) -> the same shape.

        z = mean + std * noise, noise from the stream "posterior" of `random`; with `posterior: mean`, z = mean.
        """
        z = mean
        if self._config.posterior == "sample":
            z = mean + std * random.normal("posterior", tuple(mean.shape)).to(mean)
        return (z - self._constants.shift) * self._constants.scale

    def encode(self, media: Tensor, random: Random) -> Tensor:
        """(B, C, H, W) in [-1, 1] -> (B, Z, H/f, W/f) float32; ValueError for sizes that do not fit."""
        return self.from_moments(*self.moments(media), random)

    def decode(self, latents: Tensor) -> Tensor:
        """(B, Z, H/f, W/f) -> (B, C, H, W) float32 in [-1, 1]."""
        z = latents / self._constants.scale + self._constants.shift
        return torch.cat(self._sliced(self._network.decode, z, self._config.decode_batch)).float().clamp(-1, 1)

    def constants(self) -> dict[str, Any]:
        """`TokenizerConstants` as a dict."""
        return asdict(self._constants)

    def to(self, device: torch.device | str) -> KLTokenizer:
        """Itself, moved."""
        self._network.to(device)
        return self

    @torch.no_grad()
    def _sliced(self, function: Callable[[Tensor], Any], x: Tensor, rows: int) -> list[Any]:
        """`function` of at most `rows` rows of `x` at a time, in the network's precision."""
        device = self.device
        with torch.autocast(device.type, enabled=False):
            return [function(part.to(device, self._dtype)) for part in x.split(rows)]


class FromMoments:
    """A KL tokenizer whose `encode` takes cached moments instead of images; the rest is the tokenizer's.

    recorded  what the cache says about the tokenizer that made it; `cache` is the folder, for the error

    Raises ValueError, naming what differs, for another tokenizer and for pixels.
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
        """(C, H, W) of the images that were encoded -> (Z, H/f, W/f)."""
        return self.tokenizer.latent_shape(media_shape)

    def encode(self, media: Tensor, random: Random) -> Tensor:
        """Mean and standard deviation (B, 2, Z, H/f, W/f) of any float type -> latents (B, Z, H/f, W/f) float32."""
        mean, std = media.to(self.tokenizer.device, torch.float32).unbind(1)
        return self.tokenizer.from_moments(mean, std, random)

    def decode(self, latents: Tensor) -> Tensor:
        """(B, Z, H/f, W/f) -> (B, C, H, W) float32 in [-1, 1]."""
        return self.tokenizer.decode(latents)

    def constants(self) -> dict[str, Any]:
        """Those of the tokenizer."""
        return self.tokenizer.constants()

    def to(self, device: torch.device | str) -> FromMoments:
        """Itself, moved."""
        self.tokenizer.to(device)
        return self


def cache_constants(constants: Mapping[str, Any]) -> dict[str, Any]:
    """Of a tokenizer's constants those that decide the latents: all but the path, which a copy may have another of."""
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


def _build_conv_kl(config: ConvKLConfig) -> KLTokenizer:
    directory = Path(config.path).expanduser()
    if not directory.is_dir():
        raise ValueError(f"tokenizer.path is '{config.path}', which is no directory; `{MAKE_COMMAND}` makes one")
    network, saved = load_autoencoder(directory)
    constants = TokenizerConstants(
        CONV_KL,
        path=directory.resolve().name,
        scale=1 / saved.latent_std,
        shift=saved.latent_mean,
        downsample=saved.autoencoder.downsample,
        sha256=weights_sha256(network),
    )
    return KLTokenizer(network, constants, config)


class _DiffusersKL(nn.Module):
    """A diffusers AutoencoderKL as a `KLNetwork`."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.downsample = 2 ** (len(model.config.block_out_channels) - 1)

    def latent_shape(self, media_shape: tuple[int, ...]) -> tuple[int, int, int]:
        config = self.model.config
        return latent_grid(media_shape, config.in_channels, config.latent_channels, self.downsample)

    def moments(self, media: Tensor) -> tuple[Tensor, Tensor]:
        posterior = self.model.encode(media).latent_dist
        return posterior.mean, posterior.std

    def decode(self, latents: Tensor) -> Tensor:
        return self.model.decode(latents).sample


def _build_autoencoder_kl(config: AutoencoderKLConfig) -> KLTokenizer:
    network = _DiffusersKL(_load_autoencoder_kl(config))
    scale, shift = _scale_and_shift(network.model.config, config.path)
    directory = Path(config.path).expanduser()
    name = directory.resolve().name if directory.is_dir() else config.path
    constants = TokenizerConstants(
        AUTOENCODER_KL,
        path=f"{name}/{config.subfolder}" if config.subfolder else name,
        scale=scale,
        shift=shift,
        downsample=network.downsample,
        sha256=weights_sha256(network.model),
    )
    return KLTokenizer(network, constants, config)


def _scale_and_shift(model_config: Any, path: str) -> tuple[float, float]:
    """From the model's own config.json; ValueError where it normalises its latents in another way."""
    if model_config.latents_mean is not None or model_config.latents_std is not None:
        raise ValueError(
            f"tokenizer.path '{path}': its config.json normalises each channel (latents_mean, latents_std); "
            "supported are one scaling_factor and one shift_factor for all"
        )
    if not model_config.scaling_factor:
        raise ValueError(f"tokenizer.path '{path}': its config.json has scaling_factor {model_config.scaling_factor!r}")
    return float(model_config.scaling_factor), float(model_config.shift_factor or 0.0)


def _load_autoencoder_kl(config: AutoencoderKLConfig) -> nn.Module:
    """The pretrained network in float32; from a directory that exists without a look at the network."""
    autoencoder_kl = _import_autoencoder_kl()
    directory = Path(config.path).expanduser()
    local = directory.is_dir()
    if local:
        _check_directory(directory / config.subfolder)
    elif not HUB_ID.fullmatch(config.path):
        raise ValueError(f"tokenizer.path is '{config.path}': no such directory, and not a hub id (owner/name)")
    try:
        model, report = autoencoder_kl.from_pretrained(
            str(directory) if local else config.path,
            subfolder=config.subfolder or None,
            local_files_only=local,
            low_cpu_mem_usage=False,  # else diffusers asks for accelerate
            torch_dtype=torch.float32,
            output_loading_info=True,
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(_unreadable(config, local, error)) from error
    if report["missing_keys"]:  # diffusers leaves these at random
        raise ValueError(f"tokenizer.path '{config.path}': the weights lack {', '.join(report['missing_keys'][:3])}")
    return model


def _check_directory(directory: Path) -> None:
    missing = [] if (directory / DIFFUSERS_CONFIG).is_file() else [DIFFUSERS_CONFIG]
    if not any(directory.glob(f"{DIFFUSERS_WEIGHTS}*")):
        missing.append(f"{DIFFUSERS_WEIGHTS}.safetensors")
    if missing:
        raise ValueError(
            f"tokenizer.path '{directory}' lacks {' and '.join(missing)}; needed: a directory written by diffusers' "
            "AutoencoderKL.save_pretrained (in a whole pipeline: tokenizer.subfolder=vae)"
        )


def _unreadable(config: AutoencoderKLConfig, local: bool, error: Exception) -> str:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if local:
        return f"tokenizer.path '{config.path}' holds no readable AutoencoderKL: {reason}"
    return (
        f"tokenizer.path '{config.path}' is no directory here and could not be read from the hub ({reason}); "
        f"where there is network, `hf download {config.path} --local-dir DIR`, and set tokenizer.path=DIR"
    )


def _import_autoencoder_kl() -> Any:
    try:
        from diffusers import AutoencoderKL
    except ModuleNotFoundError:
        raise ImportError("tokenizer.name=autoencoder_kl needs the extra 'vae': pip install 'layersync[vae]'") from None
    return AutoencoderKL
