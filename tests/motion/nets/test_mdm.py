"""MDM against recorded outputs of the published program, and as a backbone: prefix, masks, dropout, conditions."""

import pytest
import torch

from core.draws import StepRandom
from core.flow.sampler import guide
from motion.nets.mdm import MDM, Recipe, sines
from tests.core.flow.mdm_network import recorded_network
from tests.core.flow.numerics import close, one_thread  # noqa: F401, a fixture
from tests.golden_files import load_golden
from tests.rows import every_row

pytestmark = pytest.mark.usefixtures("one_thread")
NAMES = ("mdm_no_cond", "mdm_text", "mdm_action")
CHANNELS, FRAMES = 5, 8


def conditions(golden, name):
    """The recorded conditions and those of the unconditional pass."""
    if name == "mdm_text":
        return golden["text_embed"][0], torch.zeros_like(golden["text_embed"][0])
    if name == "mdm_action":
        action = golden["action"][:, 0]
        return action, torch.full_like(action, 12)
    return torch.zeros(3), None


@every_row("name", NAMES)
@torch.no_grad()
def test_recorded_outputs(name):
    golden, _ = load_golden(name)
    condition, null = conditions(golden, name)
    x, mask, steps = golden["x"][:, :, 0], golden["mask"][:, 0, 0], golden["timesteps"]
    hiding, showing = recorded_network(name), recorded_network(name, mask_frames=False)
    close(sines(torch.arange(12), hiding.width), golden["pe_head"])
    close(hiding.embed_timestep(steps), golden["time_emb"])
    close(hiding(x, steps, condition, mask), golden["out_masked"][:, :, 0], 1e-4)
    close(showing(x, steps, condition, mask), golden["out_unmasked"][:, :, 0], 1e-4)
    close(hiding(x, steps, condition, mask | True), golden["out_full_length"][:, :, 0], 1e-4)
    if null is not None:
        close(hiding(x, steps, null, mask), golden["out_uncond"][:, :, 0], 1e-4)
    if "guided_2.5" in golden:
        guided = guide(lambda x, t, rows: hiding(x, t, rows, mask.repeat(2, 1)), condition, null, 2.5)
        close(guided(x, steps), golden["guided_2.5"][:, :, 0], 1e-4)


def network(seed=0, **options):
    """A small network in training mode, and its inputs of four rows."""
    torch.manual_seed(seed)
    recipe = Recipe(**{"depth": 2, "width": 16, "num_heads": 2, "feedforward": 32, "dropout": 0.3, **options})
    inputs = torch.randn(4, CHANNELS, FRAMES), torch.arange(4), torch.randn(4, 6)
    return MDM((CHANNELS, FRAMES), recipe, texts=6).train(), inputs


def test_a_token_is_a_frame():
    model, (x, _, _) = network()
    assert (model.num_tokens, model.width, model.token_size, len(model.blocks)) == (FRAMES, 16, CHANNELS, 2)
    assert torch.equal(model.patches(x), x.transpose(1, 2)) and model.patches(x).shape == (4, FRAMES, CHANNELS)
    values = torch.arange(4 * FRAMES).reshape(4, FRAMES)
    assert torch.equal(model.expand(values, x), values[:, None]) and model.expand(values[:, 0], x).shape == (4, 1, 1)


def test_published_names_are_the_state():
    """Tables of positions and the frozen CLIP of some files are left out when they are read."""
    model, _ = network()
    held = model.state_dict()
    beside = {"sequence_pos_encoder.pe": torch.zeros(3), "embed_timestep.sequence_pos_encoder.pe": torch.zeros(3)}
    fitted = model.fitted_state({**held, **beside, "clip_model.visual.proj": torch.zeros(2)}, "file")
    assert fitted.keys() == held.keys()
    for block in model.blocks:
        assert all(torch.equal(value, model.blocks[0].state_dict()[name]) for name, value in block.state_dict().items())


def test_shorter_motions_are_the_first_frames():
    model, (x, t, condition) = network()
    model.eval()
    shorter = model(x[:, :, :5], t, condition)
    assert shorter.shape == (4, CHANNELS, 5) and not torch.allclose(shorter, model(x, t, condition)[:, :, :5])
    mask = (torch.arange(FRAMES) < 5).expand(4, -1)
    hiding, _ = network(mask_frames=True)
    close(hiding.eval()(x, t, condition, mask)[:, :, :5], shorter)


def test_what_is_dropped_is_a_function_of_seed_step_and_row():
    model, (x, t, condition) = network()

    def run(step, rows=slice(None), **split):
        model.draw(StepRandom(7, step, **split), len(x[rows]))
        return model(x[rows], t[rows], condition[rows])

    whole = run(3)
    assert torch.equal(run(3), whole) and not torch.allclose(run(4), whole)
    halves = [run(3, slice(first, first + 2), global_rows=4, first_row=first) for first in (0, 2)]
    close(torch.cat(halves), whole)
    model.eval()
    assert not torch.allclose(run(3), whole) and torch.equal(run(3), run(4))


def test_dropout_without_a_step_is_torchs_own_chance():
    model, inputs = network()
    assert not torch.allclose(model(*inputs), model(*inputs))
    sure, _ = network(dropout=0.0)
    assert torch.equal(sure(*inputs), sure.eval()(*inputs))


def test_blocks_that_are_recomputed_have_the_same_gradients():
    model, inputs = network()
    found = []
    for recompute in (False, True):
        model.checkpoint_blocks = recompute
        model.zero_grad()
        model.draw(StepRandom(0, 0), 4)
        model(*inputs).square().mean().backward()
        found.append([each.grad.clone() for each in model.parameters()])
    for one, other in zip(*found, strict=True):
        close(one, other)


def test_blocks_are_compiled_once_for_all():
    model, inputs = network(depth=4)
    model.draw(StepRandom(0, 0), 4)
    plain, graphs = model(*inputs), []

    def backend(graph, examples):
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    for part in model.parts():
        part.compile(backend=backend, fullgraph=True)
    close(model(*inputs), plain)
    assert len(graphs) == 2  # of a block, and of the map back to frames
    torch.compiler.reset()


def test_attention_by_hand_is_the_fused_one():
    """In training the weights of attention are dropped; of a share next to nothing both ways are the same."""
    model, (x, t, condition) = network(dropout=1e-9, mask_frames=True)
    mask = torch.arange(FRAMES) < torch.tensor([8, 3, 5, 1])[:, None]
    close(model(x, t, condition, mask), model.eval()(x, t, condition, mask))


@every_row(
    ("shapes", "words"),
    [
        (((4, CHANNELS + 1, FRAMES), (4,)), r"built for latents \(5, 8\), got \(6, 8\)"),
        (((4, CHANNELS, FRAMES + 1), (4,)), r"built for latents \(5, 8\), got \(5, 9\)"),
        (((4, CHANNELS, FRAMES), (4, FRAMES)), "one token of time for a sample; allowed: objective.time_per=sample"),
    ],
)
def test_other_inputs_are_refused(shapes, words):
    model, (_, _, condition) = network()
    with pytest.raises(ValueError, match=words):
        model(torch.zeros(shapes[0]), torch.zeros(shapes[1]), condition)
