"""One run on one process and on several, in every way a network is run: the same losses, gradients and weights.

Real processes, joined by gloo, do all the runs of a number of processes at once; the tests look at what they left. The
measure is always the run of one process, eager, in fp32.
"""

import dataclasses
import itertools
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812, the customary name
from safetensors.torch import load_file

from core.data.stream import SampleStream
from core.draws import StepRandom
from core.flow.sampler import SamplerConfig
from core.processes.world import World
from core.storage.checkpoint import CheckpointStore, read_checkpoint
from core.train.ema import EMAConfig
from image.datasets.digits import DigitsConfig
from tests.core.processes import spread_runs
from tests.core.processes.spread_runs import BATCH, STEPS, STRONG, WEAK, WEIGHT, Case, fitted
from tests.core.processes.started import together
from tests.rows import every_row

PAIR = f"similarity/{WEAK}->{STRONG}"
PRECISIONS, ONCE_OR_AGAIN, PARTS = ("fp32", "bf16", "fp16"), (False, True), (1, 3)
PLACES = [(1, "ddp"), (2, "ddp"), (2, "fsdp2")]  # the strategy of one process is not looked at
# Largest difference to eager fp32 on one process: of the loss, relative; of the similarity; of a gradient or its norm,
# relative to the largest. Measured: fp32 2e-7, 2e-7, 2e-6; fp16 3e-4, 7e-4, 2e-3; bf16 7e-3, 5e-3, 4e-2.
TOLERANCES = {"fp32": (1e-6, 1e-6, 1e-5), "fp16": (1e-3, 2e-3, 5e-3), "bf16": (1e-2, 1e-2, 6e-2)}

# Of all combinations the half in which an even number of keys has its second value: whatever two keys have, is there.
EAGER = [
    (size, Case(strategy, precision, again, "none", parts))
    for (i, (size, strategy)), (j, precision), again, parts in itertools.product(
        enumerate(PLACES), enumerate(PRECISIONS), ONCE_OR_AGAIN, PARTS
    )
    if (i + j + again + (parts > 1)) % 2 == 0
]
COMPILED = [  # through PyTorch's own autograd of compiled code: by the model and by blocks
    (1, Case("ddp", "fp16", True, "model", 3, "aot_eager")),
    (2, Case("ddp", "bf16", True, "model", 1, "aot_eager")),
    (2, Case("ddp", "fp32", True, "blocks", 1, "aot_eager")),
    (2, Case("fsdp2", "fp32", False, "model", 1, "aot_eager")),
    (2, Case("fsdp2", "fp16", True, "blocks", 1, "aot_eager")),
]
INDUCTOR = [(2, Case("fsdp2", compile="blocks", backend="inductor"))]
ALONE = Case(aligned=False)


class Matrix:
    """Runs of many cases, those of one number of processes in the same processes."""

    def __init__(self, folder: Path):
        self.folder, self.done = folder, {}

    def __call__(self, size: int, case: Case, among: list[tuple[int, Case]]) -> dict:
        """What the run of `case` left, which is made together with all of its size `among` the cases."""
        if (size, case) not in self.done:
            cases = {each.name: each for number, each in among if number == size}
            self.done |= {(size, each): None for each in cases.values()}  # if they fail they are not made again
            runs = {name: (fitted, each, self.folder / str(size)) for name, each in cases.items()}
            made = together(size, runs, self.folder, timeout=900)[0]
            self.done |= {(size, each): made[name] for name, each in cases.items()}
        assert self.done[size, case] is not None, f"a run of {size} processes has failed before"
        return self.done[size, case]


@pytest.fixture(scope="module")
def matrix(tmp_path_factory):
    return Matrix(tmp_path_factory.mktemp("matrix"))


@pytest.fixture(scope="module")
def reference(matrix):
    """Eager, fp32, one process."""
    return matrix(1, Case(), [*EAGER, (1, ALONE)])


@pytest.fixture(scope="module")
def alone(matrix):
    """The same without LayerSync."""
    return matrix(1, ALONE, [*EAGER, (1, ALONE)])


def flat(gradients):
    """All gradients of the weak block as one vector."""
    return torch.cat([gradients[name].flatten() for name in sorted(gradients)])


def check(made, reference, alone, precision):
    """The run is that of the reference: records, weak gradients, and LayerSync's share of them."""
    loss, similarity, gradient = TOLERANCES[precision]
    assert len(made["lines"]) == len(made["gradients"]) == STEPS
    for ours, line in zip(made["lines"], reference["lines"], strict=True):
        assert ours["loss"] == pytest.approx(line["loss"], rel=loss)
        assert ours["flow_loss"] == pytest.approx(line["flow_loss"], rel=loss)
        assert ours[PAIR] == pytest.approx(line[PAIR], abs=similarity)
        assert ours["gradient_norm"] == pytest.approx(line["gradient_norm"], rel=gradient)
        assert ours["loss"] == pytest.approx(ours["flow_loss"] - WEIGHT * ours[PAIR], rel=1e-6)
    for ours, whole in zip(made["gradients"], reference["gradients"], strict=True):
        assert ours.keys() == whole.keys()
        torch.testing.assert_close(flat(ours), flat(whole), rtol=0, atol=gradient * float(flat(whole).abs().max()))
    # Only the first step has the weights of the run without LayerSync.
    ours, whole, without = (flat(each["gradients"][0]) for each in (made, reference, alone))
    share = whole - without
    assert float((ours - without) @ share / (share @ share)) == pytest.approx(1, abs=4 * gradient)


@every_row(("size", "case"), EAGER)
def test_a_run_is_that_of_one_process(matrix, reference, alone, size, case):
    check(matrix(size, case, EAGER), reference, alone, case.precision)


@pytest.mark.slow
@every_row(("size", "case"), COMPILED)
def test_a_compiled_run_is_that_of_one_eager_process(matrix, reference, alone, size, case):
    check(matrix(size, case, COMPILED), reference, alone, case.precision)


@pytest.mark.slow
@every_row(("size", "case"), INDUCTOR)
def test_a_run_compiled_by_inductor_is_that_of_one_eager_process(matrix, reference, alone, size, case):
    check(matrix(size, case, INDUCTOR), reference, alone, case.precision)


def test_the_measure_itself_has_the_weak_gradient_of_the_paper(reference, alone, tmp_path):
    """LayerSync's share of the weak gradient is that of -weight * mean cosine, from hooks of the test's own."""
    trainer, tokens = spread_runs.build(ALONE, World(), tmp_path), {}
    for number in (WEAK, STRONG):
        keep = lambda module, inputs, out, number=number: tokens.update({number: out})  # noqa: E731
        trainer.model.blocks[number - 1].register_forward_hook(keep)
    trainer.loss(next(trainer._batches()), StepRandom(0, 0, global_rows=BATCH), 0)
    cosine = F.cosine_similarity(tokens[WEAK], tokens[STRONG].detach(), dim=-1)
    (-WEIGHT * cosine.mean()).backward()
    block = f"blocks.{WEAK - 1}."
    expected = {name: each.grad for name, each in trainer.model.named_parameters() if name.startswith(block)}
    share = flat(reference["gradients"][0]) - flat(alone["gradients"][0])
    torch.testing.assert_close(share, flat(expected), rtol=0, atol=1e-6)
    assert reference["lines"][0][PAIR] == pytest.approx(float(cosine.detach().mean()), abs=1e-6)
    assert share.norm() > 0.05 * flat(alone["gradients"][0]).norm()  # so large that no tolerance above hides it


# --- stopped on two processes, continued on one and on three

AVERAGES = EMAConfig(decays=[0.5, 0.9], widths=[0.1, 0.2], device="cpu", snapshot_every=1)
LONGER = (
    ("trainer.steps", 4),
    ("optimizer.schedule", "constant"),
    ("optimizer.clip_norm", 0.5),
    ("optimizer.eps", 1e-3),  # the gradient of an attention's key bias is 0 but for rounding; Adam would blow it up
    ("ema", AVERAGES),
)
STRATEGIES, SIZES = ("ddp", "fsdp2"), (1, 2, 3)
LONG = {strategy: Case(strategy, changes=(*LONGER, ("name", "long"))) for strategy in STRATEGIES}
strategies = every_row("strategy", STRATEGIES)
every_size = every_row("size", SIZES)


@pytest.fixture(scope="module")
def stops(tmp_path_factory):
    """A folder with runs of two processes, the second of which was asked to stop after two of four steps; the answers.

    The runs of a strategy are in the folder of its name.
    """
    folder = tmp_path_factory.mktemp("stopped")
    calls = {strategy: (spread_runs.stopped, LONG[strategy], folder / strategy, 1) for strategy in STRATEGIES}
    return folder, together(2, calls, folder)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The same in one go on one process: what it left, its runs."""
    folder = tmp_path_factory.mktemp("one")
    return together(1, {"one": (spread_runs.resumed, LONG["ddp"], folder)}, folder)[0]["one"], folder


@pytest.fixture(scope="module")
def rest(stops, tmp_path_factory):
    """What became of the stopped runs on 1, 2 and 3 processes, and their runs, by (strategy, size)."""
    folder, made = tmp_path_factory.mktemp("rest"), {}
    for size in SIZES:
        places = {strategy: folder / f"{strategy}{size}" for strategy in STRATEGIES}
        for strategy, place in places.items():
            shutil.copytree(stops[0] / strategy, place)
        calls = {strategy: (spread_runs.resumed, LONG[strategy], place) for strategy, place in places.items()}
        left = together(size, calls, folder)[0]
        made |= {(strategy, size): (left[strategy], place) for strategy, place in places.items()}
    return made


def newest(runs_dir, name="long"):
    return read_checkpoint(CheckpointStore(runs_dir / "image" / name / "checkpoints").latest())


@strategies
def test_a_stop_that_one_process_hears_stops_all_at_one_step_and_saves(stops, strategy):
    folder, answers = stops
    assert [answer[strategy] for answer in answers] == [{"complete": False, "step": 2}] * 2
    assert newest(folder / strategy).step == 2


@strategies
@every_size
def test_another_number_of_processes_goes_on_as_one_would_have(one, rest, strategy, size):
    other = rest[strategy, size][0]
    assert other["step"] == 4
    assert [line["step"] for line in other["lines"]] == [1, 2, 3, 4]
    for ours, line in zip(other["lines"], one[0]["lines"], strict=True):
        assert ours == pytest.approx(line, rel=2e-6)


@strategies
@every_size
def test_a_checkpoint_of_several_processes_is_that_of_one(one, rest, strategy, size):
    whole, other = newest(one[1]), newest(rest[strategy, size][1])
    assert set(whole.groups) == {"model", "optimizer", "ema", "ema_decay0.9", "ema_width0.1", "ema_width0.2"}
    assert other.groups.keys() == whole.groups.keys()
    assert (other.notes["processes"], whole.notes["processes"]) == (size, 1)
    for name, group in whole.groups.items():
        assert other.groups[name].keys() == group.keys()
        torch.testing.assert_close(other.groups[name], group, rtol=1e-5, atol=1e-6)


@strategies
def test_snapshots_of_several_processes_are_those_of_one(one, rest, strategy):
    ours, whole = (place / "image" / "long" / "ema_snapshots" for place in (rest[strategy, 3][1], one[1]))
    names = sorted(path.name for path in whole.iterdir())
    assert len(names) == 2 * 4
    assert sorted(path.name for path in ours.iterdir()) == names
    for name in names:
        torch.testing.assert_close(load_file(ours / name), load_file(whole / name), rtol=1e-5, atol=1e-6)


@strategies
@every_size
def test_samples_right_after_a_resume_are_those_of_one_process(rest, strategy, size):
    """Without a forward pass before, which for FSDP2 is a case of its own."""
    left, place = rest[strategy, size]
    alone = spread_runs.sampled(World(), LONG[strategy], place)
    assert torch.equal(left["samples"], alone)
    assert alone.std() > 0.1


# --- in the middle of a run

DOPRI5 = SamplerConfig(solver="dopri5", guidance_scale=1.5)
SCENES = {
    "preview": (spread_runs.previewed, "fp32", ("trainer.steps", 3)),
    "own time": (spread_runs.sampled_in_own_time, "fp32", ("sampler", DOPRI5)),
    "pass": (spread_runs.overflowing, "fp16", ("trainer.steps", 3), "pass"),
    "part": (spread_runs.overflowing, "fp16", ("trainer.steps", 3), "part"),
    "broken": (spread_runs.broken, "fp32", ("name", "broken")),
    "exchanged": (spread_runs.exchanged, "fp32", ("trainer.accumulate", 3)),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of the runs of the scenes, a folder for each scene and strategy."""
    return tmp_path_factory.mktemp("scenes")


@pytest.fixture(scope="module")
def told(folder):
    """Of each of two processes, what happened in a scene under a strategy."""
    calls = {}
    for scene, strategy in itertools.product(SCENES, STRATEGIES):
        function, precision, change, *args = SCENES[scene]
        case, place = Case(strategy, precision, changes=(change,)), folder / f"{scene} {strategy}"
        calls[scene, strategy] = (function, case, place, *args)
    del calls["part", "ddp"]  # after DDP's exchange an overflow is in all processes
    del calls["exchanged", "fsdp2"]  # it exchanges after each micro-batch
    return together(2, calls, folder)


@strategies
def test_a_preview_leaves_training_as_it_was(told, strategy):
    for each in (process["preview", strategy] for process in told):
        assert len(each["losses"]) == 3
        assert all(plain == showing for plain, showing in each["losses"])
        assert each["moved"] == []
        assert each["training"]


@strategies
def test_processes_may_take_their_own_number_of_passes_to_sample(told, strategy, tmp_path):
    scene = [process["own time", strategy] for process in told]
    assert scene[0]["calls"] > scene[1]["calls"] > 0
    assert scene[1]["samples"] is None
    alone = spread_runs.sampled_in_own_time(World(), Case(changes=(("sampler", DOPRI5),)), tmp_path)
    assert torch.equal(scene[0]["samples"], alone["samples"])


def test_ddp_exchanges_the_gradients_of_all_micro_batches_once(told):
    assert [process["exchanged", "ddp"] for process in told] == [1, 1]


@every_row("scene", [("pass", "ddp"), ("pass", "fsdp2"), ("part", "fsdp2")])
def test_a_gradient_that_overflows_in_one_process_is_dropped_by_all(told, scene):
    first = spread_runs.SCALE
    for process in told:
        assert process[scene] == {
            "skipped": 1,
            "steps": [
                {"finite": True, "moved": True, "scale": first},
                {"finite": False, "moved": False, "scale": first / 2},
                {"finite": True, "moved": True, "scale": first / 2},
            ],
        }


@strategies
def test_a_loss_that_is_not_finite_in_one_process_stops_all_with_one_message(told, folder, strategy):
    run = folder / f"broken {strategy}" / "image" / "broken"
    scenes = [process["broken", strategy] for process in told]
    assert [(each["error"], each["step"]) for each in scenes] == [("NonFiniteError", 1), ("PeerError", 1)]
    assert scenes[0]["message"] == scenes[1]["message"]
    assert re.match(r"step 2: loss (inf|nan), gradient norm .* Nothing was updated", scenes[0]["message"])
    assert newest(run.parents[1], "broken").step == 1
    facts = json.loads((run / "nonfinite_step_00000002.json").read_text())
    stream = SampleStream(DigitsConfig().build(), seed=0)
    assert [sample["index"] for sample in facts["samples"]] == [stream.index(BATCH + row) for row in range(BATCH)]
    assert [sample["flow_loss"] in ("inf", "nan") for sample in facts["samples"]] == [False] * (BATCH - 1) + [True]
    assert facts["loss"] in ("inf", "nan")


# --- batches and options


def test_a_batch_gives_every_process_and_micro_batch_a_sample(tmp_path):
    few = dataclasses.replace(spread_runs.tiny().trainer, batch_size=5, accumulate=3)
    few.check_parts(1)
    with pytest.raises(ValueError, match=r"trainer\.batch_size is 5; 2 processes .*accumulate 3 need at least 6"):
        few.check_parts(2)
