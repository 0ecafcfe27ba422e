"""The files of a tokenizer that a domain trained itself: `config.json`, which describes it, and `model.safetensors`."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import torch
from safetensors.torch import save
from torch import nn

from core.schema import plain, strict
from core.storage.json_files import read_json
from core.storage.weights import check_finite_weights, load_safetensors

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
Saved = TypeVar("Saved", bound="Description")


class Description(Protocol):
    """What `config.json` says of a network: a dataclass with the field `kind`."""

    kind: str

    def build(self) -> nn.Module:
        """A network of the described size, its weights to be loaded."""
        ...

    def fault(self) -> str | None:
        """What is wrong with its numbers, in words; None: nothing."""
        ...


def channels_fault(channels: int, means: Sequence[float], stds: Sequence[float]) -> str | None:
    """What is wrong with the statistics of latents, one of each channel, in words; None: nothing."""
    fits = len(means) == len(stds) == channels
    if fits and all(map(math.isfinite, means)) and all(0 < std < math.inf for std in stds):
        return None
    return f"needed is for each of the {channels} latent channels a finite latent_mean and a latent_std above 0"


@dataclass(frozen=True)
class TokenizerFiles(Generic[Saved]):
    """The files of one kind of network.

    kind          as its description says it
    schema        dataclass of the description
    make_command  what makes such files
    """

    kind: str
    schema: type[Saved]
    make_command: str

    def write(self, directory: Path, network: nn.Module, saved: Saved) -> None:
        """Write both files into an existing directory."""
        (directory / CONFIG_FILE).write_text(json.dumps(plain(saved), indent=2) + "\n")
        state = {name: value.detach().contiguous().cpu() for name, value in network.state_dict().items()}
        (directory / WEIGHTS_FILE).write_bytes(save(state))  # save_file would make it unreadable for the group

    def read(self, directory: Path) -> tuple[nn.Module, Saved]:
        """The network, on the CPU, and its description.

        Raises ValueError, naming the file, for one that is missing, damaged or of another kind of network.
        """
        missing = [name for name in (CONFIG_FILE, WEIGHTS_FILE) if not (directory / name).is_file()]
        if missing:
            raise ValueError(
                f"tokenizer.path '{directory}' lacks {' and '.join(missing)}; `{self.make_command}` makes them"
            )
        saved = self._describe(directory / CONFIG_FILE)
        file = directory / WEIGHTS_FILE
        try:
            state = load_safetensors(file)
            with torch.device("meta"):  # which takes no memory for the sizes that the config speaks of
                saved.build().load_state_dict(state, assign=True)
            network = saved.build()
            network.load_state_dict(state)
        except (ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{file} is damaged or does not fit {CONFIG_FILE}: {reason:.300}") from error
        check_finite_weights(network, str(file))
        return network, saved

    def _describe(self, file: Path) -> Saved:
        content = read_json(file)
        if not isinstance(content, dict) or content.get("kind") != self.kind:
            raise ValueError(f"{file} does not describe a '{self.kind}' autoencoder; `{self.make_command}` makes one")
        saved = strict(self.schema, content, str(file))
        fault = saved.fault()
        if fault is not None:
            raise ValueError(f"{file} is damaged: {fault}")
        return saved
