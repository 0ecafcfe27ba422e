"""Numbers on the command lines of all commands: refused by key when the config is read, before anything is opened."""

import importlib

import pytest

from tests.rows import every_row

SAMPLER = [
    ("guidance_scale=nan", "guidance_scale"),
    ("num_steps=-1", "num_steps is -1"),
    ("solver=rk5", "solver"),
    ("guidance_interval=[0,inf]", "guidance_interval[1]"),
    ("atol=0", "atol"),
]
COMMANDS = {
    "image.sample": ["run=x"],
    "audio.sample": ["run=x"],
    "image.evaluate": ["run=x"],
    "audio.evaluate": ["run=x"],
    "eval.probe": ["run=x"],
    "eval.similarity": ["run=x"],
    "eval.compare": ["image"],
    "core.reconstruct_ema": ["run=x", "width=0.1"],
    "image.train": [],
    "audio.train": [],
}


def refusal(module, *words):
    """What a command says of a command line that it must refuse."""
    with pytest.raises(ValueError, match=r".") as caught:
        importlib.import_module(module).ENTRY.config([*COMMANDS[module], *words])
    return str(caught.value)


@every_row("module", ["image.sample", "audio.evaluate"])
@every_row(("word", "part"), [*SAMPLER, ("solver={name:ancestral,eta:2}", "eta is 2")])
def test_a_sampler_that_no_run_can_have_is_told_before_the_run_is_read(module, word, part):
    assert part in refusal(module, f"sampler.{word}")


def test_a_sampler_whose_keys_fit_only_together_is_the_runs_to_judge():
    words = ["sampler.solver=euler_maruyama", "sampler.num_steps=1", "sampler.last_step=none", "sampler.margin=null"]
    for module in ("image.sample", "image.evaluate"):
        importlib.import_module(module).ENTRY.config([*COMMANDS[module], *words])


@every_row(
    ("module", "word", "part"),
    [
        ("image.sample", "num=0", "num is 0"),
        ("audio.sample", "seconds=inf", "'seconds' is inf"),
        ("image.evaluate", "feature_batch_size=-1", "feature_batch_size is -1"),
        ("eval.probe", "batch_size=0", "batch_size is 0"),
        ("eval.probe", "t=[0.5,nan]", "'t[1]' is nan"),
        ("eval.probe", "probe.l2=nan", "'probe.l2' is nan"),
        ("eval.probe", "masks.threshold=2", "masks.threshold is 2"),
        ("eval.similarity", "batch_size=-1", "batch_size is -1"),
        ("eval.compare", "seeds=100000000000000000", "seeds is 1000"),
        ("eval.compare", "replicates=1e400", "'replicates' is inf"),
        ("core.reconstruct_ema", "step=0", "step is 0"),
        ("core.reconstruct_ema", "width=nan", "'width' is nan"),
        ("image.train", "sample_batch_size=0", "sample_batch_size is 0"),
        ("image.train", "backbone.mlp_ratio=-1", "backbone.mlp_ratio is -1"),
        ("image.train", "backbone.mlp_ratio=1e30", "backbone.mlp_ratio is 1e+30"),
        ("image.train", "backbone.num_heads=3", "num_heads 3"),
        ("image.train", "objective={path:{name:cosine,steps:10000000000000}}", "objective.path.steps is 1000"),
        ("image.train", "trainer.steps=99999999999999999999", "'trainer.steps' is 9999"),
        ("audio.train", "data.seconds=1e30", "data.seconds is 1e+30"),
        ("audio.train", "data.sample_rate=2147483647", "data.sample_rate is 2147483647"),
    ],
)
def test_a_number_that_is_absurd_is_told(module, word, part):
    assert part in refusal(module, word)


def test_the_tokenizer_of_clap_is_a_folder_and_no_choice_of_a_run():
    entry = importlib.import_module("audio.evaluate").ENTRY
    assert entry.config(["samples=a", "real=b", "tokenizer=some/folder"]).tokenizer == "some/folder"
