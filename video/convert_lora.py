"""`python -m video.convert_lora source=<run or file> format=kohya`: a LoRA of Wan in another key format."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from core.commands.entry import Entry
from core.storage.run_folder import RunDirectory
from video.wan.files import Expert, WanFiles
from video.wan.lora import check_fits
from video.wan.lora_keys import Format, LoRA, read_lora, write_lora
from video.wan.sample import checkpoint_of, trained_adapters
from video.wan.written import FOLDER, matched_by_diffusers


@dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """What is written in which format.

    source      a LoRA file of any format, or the folder of a run of `video.finetune`
    format      diffusers, original (ComfyUI) or kohya
    checkpoint  of a run: a checkpoint's folder; null: the newest
    weights     of a run: ema or model
    model       directory of a Wan pipeline that the LoRA has to fit; null: it is not compared
    expert      which transformer of that directory: only (Wan 2.1), high_noise or low_noise
    out         the file; null: <run>/lora/<checkpoint>_<format>.safetensors, or beside the source
    """

    source: str
    format: Format
    checkpoint: str | None = None
    weights: str = "ema"
    model: str | None = None
    expert: Expert = "only"
    out: str | None = None

    def __post_init__(self) -> None:
        if self.out is not None and Path(self.out).suffix != ".safetensors":
            raise ValueError(f"out is {self.out!r}; it must be a file named *.safetensors")


def main(config: ConvertConfig) -> None:
    """Write a LoRA of Wan in another key format: of a file, or of a run's checkpoint while it trains.

    The file is read again by diffusers' own reader, and how many maps it finds is printed.
    """
    lora, out = read_source(config)
    if config.model is not None:
        check_fits(lora, WanFiles(config.model).transformer(config.expert, "bfloat16"), f"source {config.source!r}")
    if out.exists():
        raise ValueError(f"out is {str(out)!r}, which exists; out=... names another file")
    write_lora(out, lora, config.format)
    matched = matched_by_diffusers(out, lora)
    print(f"written           {RunDirectory(out).shown()} (format {config.format})")
    print(f"matched           {matched} of {len(lora)} maps, as diffusers reads them")


def read_source(config: ConvertConfig) -> tuple[LoRA, Path]:
    """The LoRA, and the file to write."""
    source = Path(config.source).expanduser()
    if not source.is_dir():
        lora, _ = read_lora(source)
        return lora, Path(config.out or source.with_name(f"{source.stem}_{config.format}.safetensors"))
    from video.finetune import FinetuneConfig

    run = RunDirectory.find(source, "source")
    trained = run.checked_config(FinetuneConfig)
    checkpoint = checkpoint_of(run, config.checkpoint)
    lora = trained_adapters(checkpoint, trained.backbone.lora.alpha, config.weights)
    return lora, Path(config.out or run.path / FOLDER / f"{checkpoint.name}_{config.format}.safetensors")


ENTRY = Entry(main, "video.conf", "convert_lora", ConvertConfig)

if __name__ == "__main__":
    ENTRY.run()
