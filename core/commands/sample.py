"""The command that samples, for every domain: which weights, under which config, into which folder.

A domain's `Sampling` says how its model is built without training data, what it can be asked for, and how its samples
are written. B batch.
"""

from __future__ import annotations

import collections
import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
import yaml
from torch import Tensor, nn
from tqdm import tqdm

from core.commands.entry import Entry, compose_config
from core.commands.overrides import override
from core.commands.second_output import load_second_output
from core.contracts import Condition, Conditioning, Requests, Tokenizer
from core.flow.sampler import SamplerConfig
from core.generate import Generator, make_generator
from core.latents.tokenizer import cache_constants
from core.precision import Precision, allow_tf32
from core.processes.spread import Compile, ParallelConfig, spread
from core.processes.world import World, joined
from core.schema import plain, strict
from core.storage.atomic import atomic_dir, writing
from core.storage.checkpoint import CheckpointStore, State, follow_latest, read_checkpoint
from core.storage.coming import give_memory
from core.storage.run_folder import RunDirectory
from core.storage.weights import check_finite_weights, load_into, load_weights

LONGEST_NAME = 60  # letters that what is asked for may take in the name of a folder


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """What to sample, from a run or from published weights; a domain adds what its samples can be asked for.

    run           the run's folder: its config says what the model is
    architecture  instead of a run: the experiment file that says what the model is; needs a checkpoint
    overrides     keys of that experiment to change: +overrides.tokenizer.path=vae
    checkpoint    weights to use instead of the run's newest: a checkpoint folder, .safetensors, or a published .pt
    weights       ema, model, or another average that a checkpoint folder holds: ema_decay0.999
    sampler       keys of the sampler to change; null leaves the config's own
    precision     fp32, or autocast to bf16 or fp16 for the backbone; the solver's arithmetic stays fp32
    compile       none, model or blocks
    tf32          fp32 products on a GPU may use TF32
    out           output folder; null: <run>/samples/<weights>_<what was asked>_seed<seed>, samples/<architecture>/...
    """

    run: str | None = None
    architecture: str | None = None
    overrides: dict
    checkpoint: str | None = None
    weights: str = "ema"
    num: int = 64
    seed: int = 0
    batch_size: int = 256
    device: str = "auto"
    precision: Precision = "fp32"
    compile: Compile = "none"
    tf32: bool = False
    sampler: dict
    out: str | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        if (self.run is None) == (self.architecture is None):
            raise ValueError(f"run is {self.run!r} and architecture {self.architecture!r}; give one of them")
        if self.architecture is not None and self.checkpoint is None:
            raise ValueError(
                f"architecture is {self.architecture!r} but checkpoint is null: there are no weights to sample"
            )
        if self.run is not None and self.overrides:
            raise ValueError(f"overrides is {self.overrides}; a run's config is what it was trained with")
        check_sampler(self.sampler)
        if self.num < 1 or self.batch_size < 1:
            raise ValueError(f"num is {self.num} and batch_size {self.batch_size}; both must be at least 1")


@dataclass(frozen=True)
class ModelParts:
    """What a config and saved weights say of a model: all that sampling needs, without the training data."""

    tokenizer: Tokenizer
    backbone: nn.Module
    conditioning: Conditioning
    latent_shape: tuple[int, ...]


class Sampling(ABC):
    """Samples from a run or from published weights; a domain says what its model is, and asks and writes.

    train   the training command, whose schema and YAML files the model's config has
    unit    what a sample is called
    files   what `write` writes, for the last line on the screen
    config  what the command line says
    notes   of the checkpoint that the weights come from, once that is known; {} for a file without any
    """

    train: ClassVar[Entry]
    unit: ClassVar[str]
    files: ClassVar[str]

    def __init__(self, config: SamplingOptions):
        self.config = config
        self.notes: Mapping[str, Any] = {}

    @property
    def class_names(self) -> list[str]:
        """What the checkpoint says of its classes or tags; [] where it says nothing."""
        return list(self.notes.get("class_names") or [])

    @abstractmethod
    def build_model(self, state: State, source: Path, device: torch.device) -> ModelParts:
        """The model of `model_config` for the weights `state`, which were read from `source`."""

    @abstractmethod
    def condition_name(self) -> str:
        """What is asked for in a word, a part of the folder's name; see `in_a_name`."""

    @abstractmethod
    def requests(self, conditioning: Any) -> Condition | Requests:
        """What the `num` samples are asked to be, with masks where they are of a given length.

        Raises ValueError for what the model does not know.
        """

    @abstractmethod
    def protocol_entries(self) -> dict[str, Any]:
        """What the protocol says of conditions and of how media are stored."""

    @abstractmethod
    def write(
        self, generator: Generator, batches: Iterable[Tensor], requests: Condition | Requests, folder: Path
    ) -> None:
        """Write the samples into `folder`, holding one batch in memory."""

    @cached_property
    def model_config(self) -> Any:
        """The training config that says what the model is, with the keys of its sampler changed that are not null."""
        config = self.config
        if config.run is not None:
            run = RunDirectory.find(config.run)
            run.checked_config(self.train.schema)
            values = run.config()
        else:  # what samples do not need, such as the data's folder, may stay open
            overrides = [f"experiment={config.architecture}", *dotted(config.overrides)]
            values = compose_config(self.train.config_module, self.train.config_name, overrides, complete=False)
        values["sampler"] |= {key: value for key, value in config.sampler.items() if value is not None}
        return strict(self.train.schema, values)

    def weights_file(self) -> Path:
        """The checkpoint asked for, or the run's newest whose weights are not damaged."""
        if self.config.checkpoint is not None:
            return follow_latest(Path(self.config.checkpoint))
        run = RunDirectory.find(self.config.run)
        newest = CheckpointStore(run.checkpoints).newest_intact(only=(self.config.weights,))
        if newest is None:
            raise ValueError(f"the run {run.path} has no checkpoint yet; checkpoint=... takes one from elsewhere")
        return newest

    def output_folder(self) -> Path:
        """Where the samples go; an existing folder is kept unless overwrite=true."""
        config = self.config
        parent = Path(config.run) / "samples" if config.run is not None else Path("samples") / config.architecture
        name = f"{config.weights}_{self.condition_name()}_seed{in_a_name([config.seed])}"
        out = Path(config.out) if config.out else parent / name
        if out.exists() and not config.overwrite:
            raise ValueError(f"{out} exists; out=... names another folder, overwrite=true replaces it")
        return out

    def read_notes(self, source: Path) -> None:
        """Take over what the checkpoint `source` remembers of its run."""
        self.notes = read_checkpoint(source, only=()).notes if source.is_dir() else {}

    def load_generator(self, source: Path, world: World) -> Generator:
        """The model with the weights in `source`: the training data is not needed."""
        config = self.config
        self.read_notes(source)
        check_weights(source, config.weights)
        state = load_weights(source, prefer=config.weights)
        parts = self.build_model(state, source, world.device)
        give_memory(parts.backbone, world.device)
        load_into(parts.backbone, state, str(source))
        check_finite_weights(parts.backbone, str(source))
        allow_tf32(config.tf32)
        own = (parts.tokenizer, parts.backbone, parts.conditioning, parts.latent_shape)
        generator = make_generator(self.model_config, *own, world)
        # Hooks come before compile.
        second = load_second_output(self.model_config, parts.backbone, source, config.weights)
        network = spread(parts.backbone, ParallelConfig(), config.compile, World())  # each process has all of it
        return replace(generator, network=network, precision=config.precision, second=second)

    def protocol(self, tokenizer: Tokenizer) -> dict[str, Any]:
        """How samples are made, all that must be equal for the numbers of two models to be comparable."""
        return {
            "sampler": plain(self.model_config.sampler),
            "weights": self.config.weights,
            "precision": self.config.precision,
            "tf32": self.config.tf32,
            "num": self.config.num,
            "seed": self.config.seed,
            "decoder": cache_constants(tokenizer.constants()),
            **self.protocol_entries(),
        }

    def run(self, show: Callable[[str], None]) -> None:
        """Sample, and write the samples with the protocol that made them; `show` takes what a person is to read.

        Sample i depends on (seed, i), its condition and the weights only, never on num, batch_size or the device count.
        """
        config = self.config
        with joined(config.device) as world:
            world.first_on_main(lambda: self.model_config)
            source = world.on_main(self.weights_file)
            world.on_main(lambda: check_weights(source, config.weights))
            world.first_on_main(lambda: self.read_notes(source))
            out = world.on_main(self.output_folder)
            generator = self.load_generator(source, world)
            requests = self.requests(generator.conditioning)
            batches = generator.batches(requests, config.seed, config.batch_size)
            if not world.is_main:
                collections.deque(batches, maxlen=0)  # takes its turns; what it makes goes to the main process
                return
            protocol = self.protocol(generator.tokenizer)
            made_from = {"checkpoint": str(source), "sampler": plain(self.model_config.sampler), "protocol": protocol}
            with writing(out), atomic_dir(out) as folder:  # which appears when all is there
                self.write(generator, _counted(batches, config.num, self.unit), requests, folder)
                text = yaml.safe_dump({**plain(config), **made_from}, sort_keys=False)
                (folder / "protocol.yaml").write_text(text)
            show(f"{config.num} {self.unit}s: {RunDirectory(out).shown()} ({self.files}, protocol.yaml)")


def check_sampler(values: dict) -> None:
    """Raises ValueError for a key of the sampler that no run can take, each by itself; null is no change."""
    known = [each.name for each in fields(SamplerConfig)]
    for name, value in values.items():
        if value is not None or name not in known:
            strict(SamplerConfig, {name: value}, "sampler")


def in_a_name(words: Iterable[int | str]) -> str:
    """Words as a part of a file's name: letters and digits, the rest as -; a long one is cut, and ends in a hash."""
    text = "-".join(map(str, words))
    name = "".join(letter if letter.isalnum() else "-" for letter in text)
    if len(name) <= LONGEST_NAME and len(name.encode()) <= 2 * LONGEST_NAME:
        return name
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
    return f"{name[: LONGEST_NAME - 9].encode()[: 2 * LONGEST_NAME].decode(errors='ignore')}-{digest[:8]}"


def dotted(values: dict, key: str = "") -> list[str]:
    """Nested values as overrides of a command line, key.key=value."""
    parts = []
    for name, value in values.items():
        parts += dotted(value, f"{key}{name}.") if isinstance(value, dict) else [override(f"{key}{name}", value)]
    return parts


def check_weights(source: Path, weights: str) -> None:
    """Raises ValueError for weights that the checkpoint does not hold; a single file is asked for ema or model only."""
    held = ["ema", "model"]
    if source.is_dir():
        held = sorted(file.stem for file in source.glob("*.safetensors") if re.fullmatch("ema.*|model", file.stem))
    if held and weights not in held:
        raise ValueError(f"config key 'weights' is {weights!r}; {source} holds: {', '.join(held)}")


def _counted(batches: Iterable[Tensor], total: int, unit: str) -> Iterator[Tensor]:
    """The batches, each counted on a bar."""
    with tqdm(total=total, desc="sampling", unit=unit) as bar:
        for media in batches:
            yield media
            bar.update(len(media))
