"""Reading what `save_pretrained` of diffusers wrote: a directory without a look at the network, or a hub repository."""

from __future__ import annotations

import math
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from core.extras import extra
from core.storage.json_files import read_mapping
from core.storage.pretrained import check_config, check_loaded, check_safetensors, told_to
from core.storage.weights import check_finite_weights

CONFIG = "config.json"
WEIGHTS = "diffusion_pytorch_model"
HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


@dataclass(frozen=True)
class DiffusersModel:
    """Which model of diffusers is read, and from where; the extra `vae` has diffusers.

    model      name of its class
    choice     the tokenizer's name in the config, for errors
    path       a directory, or a hub id (owner/name)
    subfolder  where the model stands below it; "" for the top
    inside     the subfolder that whole pipelines have it in, for a hint
    """

    model: str
    choice: str
    path: str
    subfolder: str = ""
    inside: str = "vae"

    @property
    def directory(self) -> Path:
        """The path as a directory, there or not."""
        return Path(self.path).expanduser()

    @property
    def name(self) -> str:
        """The directory's own name, or the hub id, with the subfolder."""
        name = self.directory.resolve().name if self.directory.is_dir() else self.path
        return f"{name}/{self.subfolder}" if self.subfolder else name

    def load(self) -> nn.Module:
        """The network in float32; from a directory that exists without a look at the network.

        Raises ValueError, naming tokenizer.path, for files that are missing, damaged or of another model.
        """
        kind, local = self._class(), self.directory.is_dir()
        if local:
            self._check_directory(self.directory / self.subfolder)
        elif not HUB_ID.fullmatch(self.path):
            raise ValueError(f"tokenizer.path is '{self.path}': no such directory, and not a hub id (owner/name)")
        try:
            with warnings.catch_warnings(), told_to([], "diffusers"):
                warnings.simplefilter("ignore", FutureWarning)  # of torch, about what diffusers calls
                if local:
                    self._check_sizes(kind, self.directory / self.subfolder)
                model, report = kind.from_pretrained(
                    str(self.directory) if local else self.path,
                    subfolder=self.subfolder or None,
                    local_files_only=local,
                    low_cpu_mem_usage=False,  # else diffusers asks for accelerate
                    torch_dtype=torch.float32,
                    use_safetensors=True,
                    output_loading_info=True,
                )
        except Exception as error:  # a damaged file fails in ways that diffusers does not name
            raise ValueError(self._unreadable(local, error)) from error
        check_loaded(report, f"tokenizer.path '{self.path}'")  # diffusers leaves at random what is missing
        check_finite_weights(model, f"tokenizer.path '{self.path}'")
        return model

    def _class(self) -> Any:
        return getattr(extra("diffusers", f"tokenizer.name={self.choice}", "vae"), self.model)

    def _check_directory(self, directory: Path) -> None:
        missing = [] if (directory / CONFIG).is_file() else [CONFIG]
        weights = sorted(directory.glob(f"{WEIGHTS}*.safetensors"))
        if not weights:
            missing.append(f"{WEIGHTS}.safetensors")
        if missing:
            pickle = "; its .bin is a pickle, which is not read" if any(directory.glob(f"{WEIGHTS}*.bin")) else ""
            raise ValueError(
                f"tokenizer.path '{directory}' lacks {' and '.join(missing)}{pickle}; needed: a directory written by "
                f"diffusers' {self.model}.save_pretrained (in a whole pipeline: tokenizer.subfolder={self.inside})"
            )
        check_config(directory / CONFIG, "tokenizer.path")
        check_safetensors(weights, "tokenizer.path")

    def _check_sizes(self, kind: Any, directory: Path) -> None:
        """Raise ValueError for a config of far more numbers than the files hold, before memory is taken for them."""
        with torch.device("meta"):
            network = kind.from_config(read_mapping(directory / CONFIG))
        described, held = sum(weight.numel() for weight in network.parameters()), 0
        for file in directory.glob(f"{WEIGHTS}*.safetensors"):
            with safe_open(file, framework="pt") as opened:
                held += sum(math.prod(opened.get_slice(name).get_shape()) for name in opened.keys())  # noqa: SIM118
        if described > 2 * held:  # a few that are missing are told by their names
            raise ValueError(f"its {CONFIG} describes {described} weights, and {held} are there")

    def _unreadable(self, local: bool, error: Exception) -> str:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        if local:
            return f"tokenizer.path '{self.path}' holds no readable {self.model}: {reason}"
        return (
            f"tokenizer.path '{self.path}' is no directory here and could not be read from the hub ({reason}); "
            f"where there is network, `hf download {self.path} --local-dir DIR`, and set tokenizer.path=DIR"
        )
