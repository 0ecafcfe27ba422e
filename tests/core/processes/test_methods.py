"""Alignment methods of each kind in whole runs: on processes, compiled, checkpointed, stopped and continued."""

import dataclasses

import pytest
import torch

from core.alignment.dispersive import DispersiveConfig
from core.alignment.dual_timesteps import DualTimestepsConfig
from core.alignment.external import ExternalConfig
from core.alignment.internal_guidance import InternalGuidanceConfig
from core.alignment.self_flow import SelfFlowConfig
from core.alignment.sra import SRAConfig
from core.alignment.sra2 import SRA2Config
from core.processes.world import World
from core.storage.checkpoint import CheckpointStore, read_checkpoint
from tests.core.processes import spread_runs
from tests.core.processes.spread_runs import AskedOf, Case, build, fit, fitted
from tests.core.processes.started import together

METHODS = {
    "dispersive": DispersiveConfig(layer=1, weight=0.5),
    "sra": SRAConfig(pairs=[(1, 2)], weight=0.5),
    "sra2": SRA2Config(layer=1),
    "internal_guidance": InternalGuidanceConfig(layer=1),
    "external": ExternalConfig(1, "dinov2:x", "conv", normalise=0.6),
    "self_flow": SelfFlowConfig(pairs=[(1, 2)], weight=0.5),
    "dual_timesteps": DualTimestepsConfig(pairs=[(1, 2)], separation=True),
}
RECORDED = {"dispersive": "dispersive/1", "sra": "similarity/1->2", "sra2": "clean_latent/1"}
RECORDED |= {"internal_guidance": "early_loss/1", "external": "similarity/1->dinov2"}
RECORDED |= {"self_flow": "similarity/1->2", "dual_timesteps": "similarity/1->2"}
VARIANTS = {
    1: {"eager": Case(), "compiled again": Case(compile="blocks", checkpoint_blocks=True)},
    2: {
        "ddp": Case(),
        "fsdp2": Case("fsdp2"),
        "fsdp2 compiled again": Case("fsdp2", compile="blocks", checkpoint_blocks=True),
    },
}


def case_of(method: str, case: Case) -> Case:
    """The case with another alignment."""
    return dataclasses.replace(case, changes=(("alignment", METHODS[method]),))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(method, processes, variant) -> what its run left."""
    folder, found = tmp_path_factory.mktemp("methods"), {}
    for size, variants in VARIANTS.items():
        keys = {f"{method} {variant}": (method, variant) for method in METHODS for variant in variants}
        calls = {
            name: (fitted, case_of(method, variants[variant]), folder / str(size) / name)
            for name, (method, variant) in keys.items()
        }
        runs = together(size, calls, folder, timeout=600)[0]
        found |= {(method, size, variant): runs[name] for name, (method, variant) in keys.items()}
    return found


def test_a_run_is_that_of_one_eager_process(made):
    """Losses, the gradients of the first step, and the heads': over unequal parts of the batch too, 7 rows on 2."""
    for (method, size, variant), run in made.items():
        reference = made[method, 1, "eager"]
        for ours, line in zip(run["lines"], reference["lines"], strict=True):
            assert ours.keys() == line.keys() and RECORDED[method] in line
            assert ours == pytest.approx(line, rel=2e-5, abs=1e-6), (method, size, variant)
        first, wanted = run["gradients"][0], reference["gradients"][0]
        assert any(name.startswith("alignment.") for name in wanted) == (method != "dispersive")
        for name, gradient in wanted.items():
            scale = gradient.abs().max()
            torch.testing.assert_close(
                first[name], gradient, atol=2e-5 * scale.item(), rtol=1e-4, msg=f"{method} {name}"
            )


def test_a_run_that_was_stopped_goes_on_to_the_bit(tmp_path):
    for method in METHODS:
        case = Case(changes=(("alignment", METHODS[method]), ("trainer.steps", 4)))
        checkpoints = []
        for name, stops in (("whole", []), ("parts", [1])):
            for step in stops:
                trainer = build(case, World(), tmp_path / name, method)
                assert not fit(trainer, AskedOf(trainer, 0, step)) and trainer.step == step + 1
            trainer = build(case, World(), tmp_path / name, method)
            assert fit(trainer)
            checkpoints.append(read_checkpoint(CheckpointStore(trainer.run.checkpoints).latest()))
            checkpoints[-1].notes["lines"] = spread_runs.lines_of(trainer)
        whole, parts = checkpoints
        assert whole.groups.keys() == parts.groups.keys()
        assert ("alignment" in whole.groups) == (method != "dispersive"), method
        assert all(spread_runs.same(whole.groups[name], parts.groups[name]) for name in whole.groups), method
        assert whole.notes["lines"] == parts.notes["lines"], method


def test_the_teacher_is_the_average_itself(tmp_path):
    trainer = build(case_of("sra", Case()), World(), tmp_path)
    before = {name: each.clone() for name, each in trainer.teacher.model.named_parameters()}
    trainer.update(next(trainer._batches()))
    average = trainer.ema.state_dicts()["ema"]
    for name, each in trainer.teacher.model.named_parameters():
        assert torch.equal(each, average[name]) and each.data_ptr() == average[name].data_ptr(), name
    assert any(not torch.equal(each, before[name]) for name, each in trainer.teacher.model.named_parameters())
    assert not trainer.teacher.model.training


def test_frozen_weights_are_neither_averaged_nor_saved_and_known_by_their_hash(tmp_path):
    """As a base under LoRA is: the optimizer, the averages and the checkpoint are over what is trained."""

    def frozen(scale=1.0):
        with pytest.MonkeyPatch.context() as patch:
            original = spread_runs.build_domain

            def built(*args, **kwargs):
                domain = original(*args, **kwargs)
                for parameter in domain.backbone.blocks[0].parameters():
                    parameter.requires_grad_(False)
                return domain

            patch.setattr(spread_runs, "build_domain", built)
            trainer = build(Case(aligned=False), World(), tmp_path, "frozen")
        with torch.no_grad():
            trainer.model.blocks[0].mlp.fc1.weight.mul_(scale)
        trainer.notes.frozen = spread_runs.core.train.notes.frozen_sha256(trainer.model)
        return trainer

    trainer = frozen()
    assert fit(trainer)
    saved = read_checkpoint(CheckpointStore(trainer.run.checkpoints).latest())
    for name, group in saved.groups.items():
        assert not [key for key in group if "blocks.0." in key], name
    assert len(saved.notes["frozen_sha256"]) == 64
    frozen().restore()
    with pytest.raises(ValueError, match="was made on other frozen weights"):
        frozen(scale=2.0).restore()
