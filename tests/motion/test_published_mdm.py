"""`python -m motion.sample architecture=humanml3d_mdm checkpoint=...`: published weights give recorded motion.

The weights are recorded ones in a file of the published form, in which the motion of a text is recorded without a text:
its map is zero. Frames behind the recorded ten are padding, which the network does not look at.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import core.generate
from core.conditioning.labels import LabelConfig
from core.storage.weights import load_weights
from motion import sample
from motion.backbone import MDMConfig
from tests.core.conditioning.networks import save_clip
from tests.core.flow.numerics import close, one_thread  # noqa: F401, a fixture
from tests.golden_files import load_golden, with_prefix

pytestmark = pytest.mark.usefixtures("one_thread")
GOLDEN, FACTS = load_golden("mdm_diffusion")
SIZES = FACTS["model"]
WIDTH, FRAMES, RECORDED, TEXT = SIZES["latent_dim"], 12, GOLDEN["sample.init"].shape[-1], 12


def published_file(path, average=True):
    """A file as MDM's program writes it: with tables of positions, some of CLIP and, if asked for, an average."""
    state = with_prefix(load_golden("mdm_no_cond")[0], "state.")
    state |= {"embed_text.weight": torch.zeros(WIDTH, TEXT), "embed_text.bias": torch.zeros(WIDTH)}
    state |= {name: torch.zeros(50, 1, WIDTH) for name in ("sequence_pos_encoder.pe",)}
    state |= {"embed_timestep.sequence_pos_encoder.pe": torch.zeros(50, 1, WIDTH)}
    state |= {"clip_model.visual.proj": torch.ones(3, 3), "clip_model.logit_scale": torch.ones(())}
    wrong = {name: value + 1 for name, value in state.items()}
    torch.save({"model": wrong, "model_avg": state} if average else state, path)
    return path


class Recorded:
    """The recorded start and noise of every step, with more frames behind them."""

    def __init__(self, seed, indices, device="cpu"):
        self.indices, self.draws = indices, iter(GOLDEN["sample.noise"])

    def normal(self, stream, shape):
        drawn = GOLDEN["sample.init"] if stream == "start" else next(self.draws)
        padding = torch.ones(*shape[:2], FRAMES - RECORDED)
        return torch.cat([drawn[:, :, 0], padding], dim=-1)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a published file, statistics and a CLIP."""
    folder = tmp_path_factory.mktemp("published")
    save_clip(folder / "clip")
    rng = np.random.default_rng(0)
    np.save(folder / "Mean.npy", rng.normal(size=263).astype(np.float32))
    np.save(folder / "Std.npy", rng.uniform(0.5, 2, size=263).astype(np.float32))
    published_file(folder / "model000475000.pt")
    return folder


COMMAND = [
    "architecture=humanml3d_mdm",
    "checkpoint=model000475000.pt",
    "prompts=[a person walks]",
    "num=2",
    "seconds=[0.5,0.35]",
    "device=cpu",
    "overwrite=true",
    "out=samples",
]
KEYS = {
    "tokenizer.statistics": ".",
    "conditioning.path": "clip",
    "data.frames": FRAMES,
    "backbone.depth": SIZES["num_layers"],
    "backbone.hidden_size": WIDTH,
    "backbone.num_heads": SIZES["num_heads"],
    "backbone.feedforward": SIZES["ff_size"],
}


def command(*more, without=(), **levels):
    """The command line for ten levels of noise, as recorded."""
    keys = {**KEYS, "objective.path.steps": 10, **levels}
    return [*COMMAND, *(f"+overrides.{key}={value}" for key, value in keys.items() if key not in without), *more]


@pytest.mark.parametrize(
    ("key", "more", "levels"),
    [
        ("ancestral.clip_False", ["sampler.num_steps=10"], 10),
        ("ddim_eta0.respaced50_ddim10", ["sampler.num_steps=10", "sampler.solver={name:ancestral,eta:0.0}"], 50),
    ],
)
def test_published_weights_sample_the_recorded_motion(key, more, levels, place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setattr(core.generate, "SampleRandom", Recorded)
    sample.ENTRY.run(command(*more, **{"objective.path.steps": levels}))
    with np.load("samples/samples.npz") as saved:
        rows, lengths = torch.from_numpy(saved["arr_0"]), saved["lengths"].tolist()
    assert lengths == GOLDEN["sample.mask"].sum(-1).flatten().tolist() and rows.shape == (2, FRAMES, 263)
    wanted = GOLDEN[f"sample.{key}"][:, :, 0].mT
    mean, std = (torch.from_numpy(np.load(f"{name}.npy")) for name in ("Mean", "Std"))
    for row, motion, length in zip(rows, wanted, lengths, strict=True):
        close(((row - mean) / std)[:length], motion[:length], 1e-4)


def test_the_average_is_taken_before_the_weights_and_a_single_set_as_it_is(tmp_path):
    both, single = published_file(tmp_path / "both.pt"), published_file(tmp_path / "single.pt", average=False)
    average, weights = load_weights(both, "ema"), load_weights(both, "model")
    name = "output_process.poseFinal.weight"
    assert torch.equal(average[name] + 1, weights[name]) and torch.equal(load_weights(single)[name], average[name])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tokenizer.statistics": "nowhere"}, "tokenizer.statistics is 'nowhere'"),
        (
            {"backbone.depth": 3},
            "of another architecture than the configured backbone: missing seqTransEncoder.layers.2",
        ),
        ({"backbone.num_heads": 5}, "backbone.hidden_size 48 does not divide by backbone.num_heads 5"),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(change, words, place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    with pytest.raises(SystemExit) as stop:
        sample.ENTRY.run(command("sampler.num_steps=10", **change))
    assert stop.value.code == 2
    assert words in capsys.readouterr().err


def test_statistics_are_asked_for_by_their_key(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    with pytest.raises(SystemExit):
        sample.ENTRY.run(command("sampler.num_steps=10", without=["tokenizer.statistics"]))
    assert "the folder of Mean.npy and Std.npy: +overrides.tokenizer.statistics=..." in capsys.readouterr().err


def test_actions_of_published_weights_are_numbers():
    sampling = sample.MotionSampling(SimpleNamespace())
    sampling.model_config = SimpleNamespace(conditioning=LabelConfig(), backbone=MDMConfig())
    state = with_prefix(load_golden("mdm_action")[0], "state.")
    assert sampling.unnamed(state, "file") == [str(number) for number in range(SIZES["num_actions"])]
