"""`python -m video.finetune` on a tiny random Wan in the real layout: encode, train, stop, go on, sample; bad input."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from core.storage.checkpoint import read_checkpoint
from core.storage.lines import read_lines
from eval.measure.record import differences, read_records
from tests.end_to_end.commands import call, one_line_error, told_to_stop
from tests.rows import every_row
from tests.video.encoders.networks import save_videomae
from tests.video.video_files import numbered_frames, write_video
from video.finetune import ENTRY
from video.wan.lora import LoRAConfig
from video.wan.lora_keys import FORMATS, read_lora, write_lora

STEPS = 3
SMALL = [
    "alignment.pairs=[[1,3]]",
    f"trainer.steps={STEPS}",
    "trainer.batch_size=2",
    "trainer.accumulate=2",
    "trainer.num_workers=0",
    "trainer.num_previews=1",
    "trainer.log_every=1",
    "tracking.loss_by_time={bins: 2, every: 2, samples: 2}",
    "trainer.checkpoint_blocks=true",
    "data.clip.frames=5",
    "data.clip.fps=8",
    "data.size=[32,32]",
    "sampler.num_steps=1",
    "conditioning.max_tokens=12",
    "latents.num_workers=0",
    "tokenizer.allow_untrained=true",
    "backbone.lora.rank=2",
    "optimizer.lr=0.01",
    "tracking.tensorboard=off",
    "device=cpu",
]


def write_clips(root: Path, count: int = 3) -> Path:
    """A folder of MP4 files of 9 frames, and their captions."""
    rows = ["path,caption"]
    for number in range(count):
        write_video(root / f"clip{number}.mp4", numbered_frames(9, (32, 32), first=5 * number), fps=8)
        rows.append(f'clip{number}.mp4,"a red ball moves {("left", "right")[number % 2]}"')
    (root / "captions.csv").write_text("\n".join(rows) + "\n")
    return root


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Three clips with captions."""
    return write_clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def words(wan, clips, tmp_path_factory):
    """The words of a tiny run, but for its name."""
    runs = tmp_path_factory.mktemp("runs")
    return [f"model={wan}", f"data.root={clips}", f"runs_dir={runs}", *SMALL]


@pytest.fixture(scope="module")
def finished(words):
    """A complete run: its folder, and what it said."""
    outcome = call("video.finetune", *words, "name=whole")
    assert outcome.code == 0, outcome
    return runs_of(words) / "video" / "whole", outcome


def runs_of(words):
    """The folder of the runs."""
    return Path(next(word for word in words if word.startswith("runs_dir=")).removeprefix("runs_dir="))


def test_a_run_leaves_what_it_promises(finished):
    """Samples before and after, LoRA in three formats, its change in each block, tokens and memory of a batch."""
    run, outcome = finished
    assert {file.stem for file in (run / "previews").glob("*.mp4")} == {"step_00000000", f"step_{STEPS:08d}"}
    assert json.loads((run / "previews" / "step_00000000.json").read_text())["0"].startswith("A cat walks")
    assert (run / "data.png").is_file()
    lines = read_lines(run / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    for name in ("similarity/1->3", "lora_delta/block_01", "lora_delta/block_03"):
        assert all(line[name] != 0 for line in lines), name
    assert "tried one batch: 2 clips, latents (4, 2, 4, 4), 8 tokens a clip" in outcome.err
    assert "GB of memory" in outcome.err
    for form in FORMATS:
        lora, found = read_lora(run / "lora" / f"whole_{form}.safetensors")
        assert found == form and len(lora) == 30
        assert f"whole_{form}.safetensors: 30 of 30 maps matched, as diffusers reads them" in outcome.err
    assert "samples before" in outcome.out and "LoRA              " in outcome.out


def test_a_checkpoint_holds_adapters_and_names_the_frozen_base(finished):
    saved = read_checkpoint(finished[0] / "checkpoints" / f"step_{STEPS:08d}")
    assert saved.notes["frozen_sha256"] and len(saved.groups["model"]) == 60
    assert all(".lora_" in name and value.dtype == torch.float32 for name, value in saved.groups["model"].items())


def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(words, finished):
    """Adapters, optimizer, records and samples; and nothing is encoded again."""
    run = runs_of(words) / "video" / "parts"
    with told_to_stop(2):
        stopped = call("video.finetune", *words, "name=parts")
    assert stopped.code == 143 and (run / "checkpoints" / "step_00000002").is_dir()
    outcome = call("video.finetune", *words, "name=parts")
    assert outcome.code == 0 and "encoding" not in outcome.err, outcome
    for name in ("model", "ema", "optimizer"):
        file = f"checkpoints/step_{STEPS:08d}/{name}.safetensors"
        assert (run / file).read_bytes() == (finished[0] / file).read_bytes(), name
    for file in ("metrics.jsonl", f"previews/step_{STEPS:08d}.png"):
        assert (run / file).read_bytes() == (finished[0] / file).read_bytes(), file


def test_a_checkpoint_or_a_file_is_converted(finished, wan, tmp_path):
    """A run's newest checkpoint gives its own file; from format to format the change stays what it was."""
    out = tmp_path / "kohya.safetensors"
    outcome = call("video.convert_lora", f"source={finished[0]}", "format=kohya", f"out={out}", f"model={wan}")
    assert outcome.code == 0 and "30 of 30 maps" in outcome.out, outcome
    outcome = call("video.convert_lora", f"source={out}", "format=diffusers")
    assert outcome.code == 0, outcome
    expected, _ = read_lora(finished[0] / "lora" / "whole_original.safetensors")
    for file in (out, tmp_path / "kohya_diffusers.safetensors"):
        found, _ = read_lora(file)
        assert all(torch.equal(found[module].delta(), adapter.delta()) for module, adapter in expected.items())
    again = one_line_error(call("video.convert_lora", f"source={out}", "format=diffusers"), "which exists")
    assert not again, again


def samples_of(folder):
    """The frames of samples, uint8."""
    with np.load(folder / "samples.npz") as file:
        return file["arr_0"]


def test_samples_are_made_with_the_lora_of_a_run_of_a_file_or_without_it(words, wan, finished, tmp_path):
    """Through diffusers' pipeline: a run and its file give the same frames, scale 0 those of the model."""
    short = ["num=1", "wan.num_steps=2", "wan.dtype=float32", "device=cpu"]
    prompts = "prompts=['a red ball moves left']"
    own = ["frames=5", "wan.size=[32,32]", f"wan.model={wan}", prompts, *short]
    asked = {
        "run": [f"run={finished[0]}", prompts, *short],
        "kohya": [f"wan.lora={finished[0]}/lora/whole_kohya.safetensors", *own],
        "scale0": [f"wan.lora={finished[0]}/lora/whole_original.safetensors", "wan.scale=0", *own],
        "without": own,
    }
    for name, given in asked.items():
        outcome = call("video.sample", *given, f"out={tmp_path / name}")
        assert outcome.code == 0, outcome
        assert {"grid.png", "grid.mp4", "mp4", "samples.npz", "protocol.yaml"} <= {
            file.name for file in (tmp_path / name).iterdir()
        }
    frames = {name: samples_of(tmp_path / name) for name in asked}
    assert frames["run"].shape == (1, 5, 32, 32, 3)
    assert np.array_equal(frames["run"], frames["kohya"]) and np.array_equal(frames["scale0"], frames["without"])
    assert not np.array_equal(frames["run"], frames["without"])


def test_keys_that_do_not_go_with_wan_are_refused(finished, wan, tmp_path):
    """Nothing that is asked for is passed over in silence."""
    run, model = f"run={finished[0]}", f"wan.model={wan}"
    rows = [
        ([run, "sampler.num_steps=3"], ["sampler.num_steps is given", "wan"]),
        ([run, "labels=[1]"], ["labels is given"]),
        ([run, "frames=6"], ["frames is 6", "4n+1"]),
        ([run, "wan.lora=some.safetensors"], ["wan.lora is 'some.safetensors'", "run is given"]),
        ([run, "weights=ema_decay0.5"], ["weights", "ema"]),
        ([model], ["prompts is null"]),
        ([model, "prompts=[a]", "wan.lora_low_noise=some.safetensors"], ["wan.lora_low_noise", "one transformer"]),
        ([model, "prompts=[a]", "wan.size=[32,40]"], ["wan.size is [32, 40]", "multiples of 16"]),
    ]
    failed = [one_line_error(call("video.sample", *given, f"out={tmp_path / 'out'}"), *parts) for given, parts in rows]
    assert not any(failed), failed


def test_samples_are_measured_against_the_clips_of_the_run(words, finished, tmp_path):
    """With a LoRA and without it: the same protocol, so that both numbers stand in one table; the run itself is not."""
    save_videomae(tmp_path / "videomae", num_frames=5, tubelet_size=1)
    how = ["features=videomae", f"videomae={tmp_path / 'videomae'}", "real=data", "device=cpu"]
    how.append(f"out={tmp_path / 'out'}")
    made = ["num=2", "wan.num_steps=1", "wan.dtype=float32", "device=cpu"]
    for name in ("with", "without"):
        scale = [f"wan.scale={1 if name == 'with' else 0}"]
        sampled = call("video.sample", f"run={finished[0]}", *made, *scale, f"out={tmp_path / name}")
        assert sampled.code == 0, sampled
        outcome = call("video.evaluate", f"samples={tmp_path / name}", *how)
        assert outcome.code == 0, outcome
    one, other = read_records([tmp_path / "out"])
    assert differences(one, other) == {} and one.value != other.value
    assert one.protocol["num_steps"] == 1 and one.protocol["clip"]["model_fps"] == 8.0
    assert [one.reference[key] for key in ("frames", "fps", "size")] == [5, 8.0, [32, 32]]
    refused = call("video.evaluate", f"run={finished[0]}", *how)
    problem = one_line_error(refused, "a fine-tuning of Wan, which diffusers samples", "samples=... measures")
    assert not problem, problem


def test_an_expert_is_trained_and_sampled_in_its_own_place(words, two_experts):
    """The low-noise expert of Wan 2.2: samples in training use both, its LoRA goes into `transformer_2`."""
    given = [word for word in words if not word.startswith("model=")]
    outcome = call(
        "video.finetune", *given, f"model={two_experts}", "name=low", "backbone.expert=low_noise", "trainer.steps=1"
    )
    assert outcome.code == 0, outcome
    run = runs_of(words) / "video" / "low"
    with (run / "lora" / "low_kohya.safetensors").open("rb") as file:
        assert b"low_noise" in file.read(4096)
    sampled = call("video.sample", f"run={run}", "num=1", "wan.num_steps=2", "wan.dtype=float32", "device=cpu")
    assert sampled.code == 0 and "low: 30 of 30 maps matched" in sampled.err, sampled


def test_a_loss_that_is_not_finite_names_the_clip(words, monkeypatch):
    """Before the first step: nothing is trained on it."""
    from video.wan.latents import CachedClips

    def broken(self, indices, rngs):
        found = super(CachedClips, self).items(indices, rngs)
        return {**found, "media": torch.full_like(found["media"], torch.nan)}

    monkeypatch.setattr(CachedClips, "items", broken, raising=False)
    outcome = call("video.finetune", *words, "name=broken")
    problem = one_line_error(outcome, "step 1: loss nan", "nonfinite_step_00000001.json", code=1)
    assert not problem, problem
    listed = json.loads((runs_of(words) / "video" / "broken" / "nonfinite_step_00000001.json").read_text())
    assert listed["samples"][0]["name"].endswith(".mp4")


@every_row(
    ("given", "parts"),
    [
        (["data.clip.frames=6"], ["data.clip.frames is 6", "4n+1", "so 5 or 9", "off_frames=cut"]),
        (["data.short=pad"], ["data.short is 'pad'", "allowed: drop"]),
        (["data.flip=true"], ["data.flip is True", "each clip is encoded once"]),
        (["alignment.pairs=[[1,4]]"], ["alignment.pairs names block 4", "blocks 1 to 3"]),
        (["alignment=wan_layersync", "alignment.pairs=[[9,17]]"], ["alignment.pairs names block 9", "blocks 1 to 3"]),
        (
            ["alignment=dual_timesteps", "alignment.pairs=null", "alignment.separation=true"],
            ["alignment.separation is true", "allowed with this backbone: false"],
        ),
        (["data.size=[32,40]"], ["do not fit Wan's transformer", "data.size"]),
        (["data.size=[32,36]"], ["data.size"]),
        (["data.captions=null"], ["no captions", "data.captions"]),
        (["backbone.expert=low_noise"], ["backbone.expert is 'low_noise'", "one transformer"]),
        (["model=nowhere"], ["model is 'nowhere'", "model_index.json"]),
        (["backbone.lora.start=nowhere.safetensors"], ["there is no LoRA file nowhere.safetensors"]),
        (["backbone.lora.targets=[q,patch]"], ["backbone.lora.targets", "'q', 'k', 'v', 'o', 'ffn.0', 'ffn.2'"]),
        (["objective.prediction=noise"], ["objective.prediction is 'noise'", "Wan is trained with"]),
    ],
)
def test_bad_input_is_one_line_that_names_the_key(given, parts, words):
    problem = one_line_error(call("video.finetune", *words, "name=bad", *given), *parts)
    assert not problem, problem


def test_files_that_lack_a_part_are_one_line(words, wan, clips, tmp_path):
    """No text encoder, a clip without a caption, a LoRA for another model; a caption without a clip is told."""
    for part in ("text_encoder", "vae", "transformer"):
        root = shutil.copytree(wan, tmp_path / f"without_{part}")
        shutil.rmtree(root / part)
        problem = one_line_error(call("video.finetune", *words, "name=bad", f"model={root}"), part)
        assert not problem, problem
    root = write_clips(tmp_path / "clips")
    table = (root / "captions.csv").read_text()
    (root / "captions.csv").write_text("\n".join(table.splitlines()[:-1]) + "\n")
    problem = one_line_error(
        call("video.finetune", *words, "name=bad", f"data.root={root}"), "1 of 3 files have no caption", "clip2.mp4"
    )
    assert not problem, problem
    (root / "captions.csv").write_text(table + "gone.mp4,a blue square\n")
    outcome = call("video.finetune", *words, "name=bad", f"data.root={root}", "latents.only=true")
    assert outcome.code == 0 and "1 rows are of no file, such as ['gone.mp4']" in outcome.err, outcome
    wide = {name: torch.ones(2, 8) for name in LoRAConfig(targets=["q"]).modules(1)}
    from video.wan.lora_keys import Adapter

    file = write_lora(
        tmp_path / "wide.safetensors", {name: Adapter(each, each.T, 2.0) for name, each in wide.items()}, "original"
    )
    for command, given in (
        ("video.finetune", [*words, "name=bad", f"backbone.lora.start={file}"]),
        (
            "video.sample",
            [f"wan.model={wan}", f"wan.lora={file}", "prompts=[a]", f"out={tmp_path / 'out'}", "device=cpu"],
        ),
    ):
        problem = one_line_error(call(command, *given), "LoRA for another model: 0 of 2 maps fit")
        assert not problem, problem


def test_frames_may_be_cut_which_is_told(words):
    outcome = call("video.finetune", *words, "name=cut", "data.clip.frames=8", "off_frames=cut", "trainer.steps=1")
    assert outcome.code == 0 and "latents (4, 2, 4, 4)" in outcome.err
    assert "data.clip.frames is 8: clips are cut to 5 frames" in outcome.err


@every_row(
    ("preset", "stop_gradient"),
    [("wan_layersync", True), ("wan_reference", False)],
)
def test_presets_are_the_papers_blocks_and_weight(preset, stop_gradient):
    config = ENTRY.config([f"alignment={preset}", "model=some-folder", "data.root=some-folder"])
    alignment = config.alignment
    assert (alignment.pairs, alignment.weight, alignment.stop_gradient) == ([(9, 17)], 0.002, stop_gradient)
    assert (config.objective.time, config.objective.time_shift, config.backbone.lora.rank) == ("shifted", 3.0, 32)


def test_recipes_say_row_command_hardware_and_expected_number():
    folder = Path(ENTRY.main.__code__.co_filename).parent / "conf" / "recipe"
    for name, expected in (("wan_mixkit", "FVD 321.84"), ("wan_mixkit_layersync", "FVD 304.68")):
        text = (folder / f"{name}.yaml").read_text()
        for word in (
            "# paper ",
            f"# command    python -m video.finetune recipe={name}",
            "# hardware",
            f"# expected   {expected}",
        ):
            assert word in text, (name, word)
        config = ENTRY.config([f"recipe={name}", "model=some-folder", "data.root=some-folder"])
        assert config.name == name and hasattr(config.alignment, "pairs") == (name != "wan_mixkit")


def test_help_needs_no_model_and_shows_the_recipes():
    outcome = call("video.finetune", "--help")
    assert outcome.code == 0 and "recipe=wan_mixkit | wan_mixkit_layersync" in outcome.out, outcome
    assert not one_line_error(call("video.finetune", "data.root=some-folder"), "missing config key 'model'")
