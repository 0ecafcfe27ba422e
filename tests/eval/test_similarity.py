"""The analyses of blocks against what is known of blocks made by hand, and the whole entry on a tiny run."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import image.train
from core.alignment.dual_timesteps import DualTimestepsConfig
from core.alignment.self_flow import SelfFlowConfig
from core.draws import SampleRandom
from eval.inside.analyses import (
    cosine_matrices,
    drop_effects,
    gradient_norms,
    noise_robustness,
    pooled_tokens,
    principal_colours,
)
from eval.inside.encoder import dino_features, encoder_features
from eval.inside.model import ForwardOptions, collect, open_run
from eval.similarity import ENTRY, frames_shown, on_grid
from layersync.tokens import token_cosine
from tests.eval.inside.toy_model import TOKENS, WIDTH, Backbone, Framed, Function, Residual, opened, residual
from tests.eval.test_probe import TINY

ROWS, READING = list(range(20)), ForwardOptions(batch_size=8)


class Led(Residual):
    """Gives a tuple led by its tokens."""

    def forward(self, x):
        return super().forward(x), "rest"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A tiny run on digits."""
    place = tmp_path_factory.mktemp("inside")
    image.train.ENTRY.run([*TINY, f"runs_dir={place}"])
    return place / "image" / "digits"


def test_the_cosine_matrix_is_that_of_tokens_one_by_one():
    model = opened(residual())
    matrix = cosine_matrices(model, ROWS, [0.5], READING)[0.5]
    tokens, _ = collect(model, ROWS, 0.5, READING, pooled=False)
    expected = torch.tensor([[float(token_cosine(a, b).mean()) for b in tokens] for a in tokens], dtype=torch.float64)
    torch.testing.assert_close(matrix, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(matrix, matrix.T)
    torch.testing.assert_close(matrix.diagonal(), torch.ones(4, dtype=torch.float64), atol=1e-5, rtol=0)
    assert matrix[0, 3] < 0.99


def test_padding_enters_no_cosine_and_no_mean():
    """The tokens of padding are NaN: were one read, the numbers would be too."""
    media = torch.randn(20, TOKENS, WIDTH)
    masks = torch.ones(20, TOKENS, dtype=torch.bool)
    masks[:, 4:] = False
    spoilt = torch.where(masks[..., None], media, torch.nan)
    short = opened(residual(), media, masks=masks)
    model = opened(residual(), spoilt, masks=masks)
    for study in (cosine_matrices, noise_robustness, pooled_tokens):
        for a, b in zip(study(model, ROWS, [0.5], READING)[0.5], study(short, ROWS, [0.5], READING)[0.5], strict=True):
            assert torch.isfinite(a).all()
            torch.testing.assert_close(a, b)


def test_blocks_that_hand_over_frames_are_read_as_those_that_hand_over_a_row():
    media = torch.randn(20, TOKENS, WIDTH, generator=torch.Generator().manual_seed(2))
    masks = (torch.arange(TOKENS) < 4).expand(20, TOKENS)
    rows, frames = (opened(residual(kind=kind), media, masks=masks, pairs=[(1, 3)]) for kind in (Backbone, Framed))
    for study in (cosine_matrices, noise_robustness, pooled_tokens):
        for a, b in zip(*(study(model, ROWS, [0.5], READING)[0.5] for model in (rows, frames)), strict=True):
            torch.testing.assert_close(a, b)
    for a, b in zip(*(collect(model, ROWS, 0.5, READING, pooled=False)[0] for model in (rows, frames)), strict=True):
        assert a.shape == (20, TOKENS, WIDTH)
        torch.testing.assert_close(a, b)
    for study in (
        lambda model: gradient_norms(model, ROWS, 0, READING),
        lambda model: drop_effects(model, ROWS, [0.5], READING),
    ):
        torch.testing.assert_close(study(frames), study(rows))


def test_blocks_of_different_shapes_are_named():
    model = opened(Backbone([Function(lambda x: x + 0), Function(lambda x: x[..., :2])]))
    with pytest.raises(ValueError, match=r"parts holds 'cosine'"):
        cosine_matrices(model, ROWS, [1.0], READING)
    wide = Backbone([Function(lambda x: x.repeat(1, 1, 2)), Function(lambda x: x[..., :WIDTH])])
    with pytest.raises(ValueError, match=r"parts holds 'drop', but block 1"):
        drop_effects(opened(wide), ROWS, [1.0], READING)


def test_tokens_of_the_clean_sample_agree_with_themselves_and_less_with_noise():
    found = noise_robustness(opened(residual()), ROWS, [0.0, 0.9, 1.0], READING)
    torch.testing.assert_close(found[1.0], torch.ones(4, dtype=torch.float64), atol=1e-5, rtol=0)
    assert (found[0.0].abs() < 0.4).all() and (found[0.9] > found[0.0]).all()


def test_gradient_norms_are_those_of_autograd():
    """The mean over rows of |blocks(x_t) - (data - noise)|^2, by hand, whatever the batches."""
    model = opened(residual(3), pairs=[(1, 3)])
    backbone, flow = model.domain.backbone, model.flow()
    found = gradient_norms(model, ROWS, 0, READING)
    random, data = SampleRandom(0, ROWS), model.domain.dataset.media[ROWS]
    noise = random.normal("noise", tuple(data.shape))
    t = flow.draw_time(random, (len(ROWS),))[:, None, None]
    tokens = [t * data + (1 - t) * noise]
    for block in backbone.blocks:
        tokens.append(block(tokens[-1]))
    loss = (tokens[-1] - (data - noise)).square().mean()
    sync = -0.5 * token_cosine(tokens[1], tokens[3].detach()).mean()
    for name, value in (("flow", loss), ("alignment", sync), ("total", loss + sync)):
        parameters = list(backbone.blocks.parameters())
        grads = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
        squares = [0.0 if grad is None else float(grad.square().sum()) for grad in grads]
        expected = torch.tensor(squares).reshape(3, 2).sum(1).sqrt()
        torch.testing.assert_close(found[name], expected, atol=2e-6, rtol=1e-4)
    assert found["alignment"][0] > 0 and (found["alignment"][1:] < 1e-5).all() and (found["cosine"][1:] == 0).all()
    assert all(parameter.grad is None for parameter in backbone.parameters())


def test_gradient_norms_of_tokens_at_two_times_are_of_one_and_the_same_input(run):
    """A term of next to no weight adds next to nothing: were the flow's gradient of other times, it would add a lot."""
    model = open_run(run, device="cpu")
    for config in (SelfFlowConfig([(1, 2)], 1e-9), DualTimestepsConfig([(1, 2)], 1e-9, separation=True)):
        heads = config.build(model.domain.backbone)
        heads.remove()
        study = replace(model, alignment=config, heads=heads.heads.state_dict())
        found = gradient_norms(study, list(range(8)), 0, READING)
        assert (found["alignment"] < 1e-3 * found["flow"]).all() and found["alignment"][0] > 0
        torch.testing.assert_close(found["total"], found["flow"], rtol=1e-3, atol=0)
    alone = replace(model, alignment=DualTimestepsConfig(None), heads={})
    assert list(gradient_norms(alone, list(range(8)), 0, READING)) == ["flow"]


def test_a_run_without_alignment_has_the_flow_gradient_only():
    assert list(gradient_norms(opened(residual()), ROWS, 0, READING)) == ["flow"]


def test_dropping_a_block_whose_gate_is_zero_changes_nothing_and_any_other_does():
    torch.manual_seed(0)
    found = drop_effects(opened(Backbone([Residual(), Residual(gate=0.0), Led()])), ROWS, [0.3, 1.0], READING)
    for t in (0.3, 1.0):
        assert found["loss_change"][t][1] == 0 == found["output"][t][1]
        assert (found["output"][t][[0, 2]] > 0.01).all() and (found["loss_change"][t][[0, 2]] != 0).all()


def test_the_effect_of_a_drop_is_what_the_model_without_the_block_does():
    blocks = [Residual(), Residual(), Residual()]
    whole, without = (
        drop_effects(opened(Backbone(part)), ROWS, [0.5], READING)["loss"][0.5] for part in (blocks, blocks[::2])
    )
    found = drop_effects(opened(Backbone(blocks)), ROWS, [0.5], READING)
    assert float(found["loss_change"][0.5][1]) == pytest.approx(without - whole, abs=1e-6)


def test_principal_colours_show_the_first_components_with_steady_signs():
    latent = torch.randn(4, 25, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([9.0, 3.0, 1.0])
    basis = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(1)))[0]
    colours, shares = principal_colours([latent @ basis[:3], -latent @ basis[3:6]])
    torch.testing.assert_close(colours[0], colours[1], atol=1e-4, rtol=0)
    assert all(float(each.min()) == 0 and float(each.max()) == 1 for each in colours)
    correlation = np.corrcoef(colours[0][..., 0].flatten(), latent[..., 0].flatten())[0, 1]
    assert abs(correlation) > 0.95
    assert shares.sum(1).tolist() == pytest.approx([1, 1]) and shares[0, 0] > 0.8
    narrow, _ = principal_colours([latent[..., :2]])
    assert narrow[0].shape == (4, 25, 3) and torch.isfinite(narrow[0]).all()


def test_tokens_are_laid_on_their_grid_or_in_a_strip():
    colours = torch.arange(2 * 12 * 3).reshape(2, 12, 3) / 72
    assert on_grid(colours, (3, 4)).shape == (2, 3, 4, 3)
    frames = on_grid(colours, (3, 2, 2))
    assert frames.shape == (6, 2, 2, 3)
    np.testing.assert_array_equal(frames.reshape(2, 12, 3), colours.numpy())
    many = torch.arange(40 * 3).reshape(1, 40, 3)
    np.testing.assert_array_equal(on_grid(many, (10, 2, 2))[:, 0, 0, 0] // 12, [0, 3, 6, 9])
    assert on_grid(colours, (12,)).shape == on_grid(colours, (5, 5)).shape == (2, 1, 12, 3)


def test_the_frames_that_went_in_are_those_of_the_tokens_below_them():
    assert frames_shown(10) == [0, 3, 6, 9] and frames_shown(2) == [0, 1] and frames_shown(1) == [0]
    assert frames_shown(4, of=16) == [2, 6, 10, 14] and frames_shown(5, of=17) == [1, 5, 11, 15]
    assert frames_shown(10, of=10) == [0, 3, 6, 9] and frames_shown(1, of=1) == [0]


def test_an_encoders_file_is_read_by_rows(tmp_path):
    model, features = opened(residual()), np.random.default_rng(0).normal(size=(64, 5))
    np.save(tmp_path / "f.npy", features)
    np.savez(tmp_path / "f.npz", features=features, other=features[:3])
    for name in ("f.npy", "f.npz"):
        read = encoder_features(model, [5, 1], str(tmp_path / name), READING)
        np.testing.assert_array_equal(read.numpy(), features[[5, 1]].astype(np.float32))
    np.save(tmp_path / "short.npy", features[:10])
    with pytest.raises(ValueError, match=r"needed: \(64, D\)"):
        encoder_features(model, [5], str(tmp_path / "short.npy"), READING)
    (tmp_path / "bad.npy").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="cannot be read"):
        encoder_features(model, [5], str(tmp_path / "bad.npy"), READING)
    with pytest.raises(ValueError, match="encoder is 'nowhere'; allowed"):
        encoder_features(model, [5], "nowhere", READING)


def test_dinov2_is_read_from_a_folder(run, tmp_path):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 224, "patch_size": 56}
    torch.manual_seed(0)
    network = transformers.Dinov2Model(transformers.Dinov2Config(**sizes)).eval()
    network.save_pretrained(tmp_path)
    model = open_run(run)
    features = encoder_features(model, [3, 8], f"dinov2:{tmp_path}", READING)
    assert features.shape == (2, 16) and not torch.allclose(features[0], features[1])
    with pytest.raises(ValueError, match=r"holds no config.json"):
        dino_features(model, [3], str(tmp_path / "no"), READING)
    save_file({"empty": torch.zeros(1)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks the weights embeddings"):  # never a network of random weights
        dino_features(model, [3], str(tmp_path), READING)
    network.save_pretrained(tmp_path)
    with torch.no_grad():
        network.layernorm.weight.mul_(3e38)
    network.save_pretrained(tmp_path / "loud")
    with pytest.raises(ValueError, match="which gives NaN or infinity"):
        dino_features(model, [3], str(tmp_path / "loud"), READING)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="a network of the kind 'bert'; needed: DINOv2"):
        dino_features(model, [3], str(tmp_path / "other"), READING)
    with pytest.raises(ValueError, match="this is for images"):
        dino_features(opened(residual()), [3], str(tmp_path), READING)


def test_the_entry_leaves_all_parts(run, tmp_path, capsys):
    np.save(tmp_path / "f.npy", np.random.default_rng(0).normal(size=(1438, 6)))
    parts = "parts=[cosine,cka,neighbours,encoder,gradients,drop,noise,pca]"
    ENTRY.run([f"run={run}", parts, f"encoder={tmp_path / 'f.npy'}", "num=40", "shown=2", "t=[0.5,1.0]", "device=cpu"])
    assert "numbers" in capsys.readouterr().out
    found = json.loads((run / "inside" / "similarity.json").read_text())
    assert found["kind"] == "similarity" and found["step"] == 4 and found["settings"]["num"] == 40
    results = found["results"]
    assert set(results) == {"num", *parts[7:-1].split(",")}
    for matrix in (
        results["cosine"]["cosine"]["0.5"],
        results["cka"]["cka"]["1.0"],
        results["neighbours"]["cknna"]["0.5"],
    ):
        torch.testing.assert_close(torch.tensor(matrix), torch.tensor(matrix).T)
        assert [matrix[i][i] for i in range(3)] == pytest.approx([1, 1, 1], abs=1e-5)
    assert set(results["encoder"]) == {"cka", "mutual_knn", "cknna"} and len(results["encoder"]["cka"]["0.5"]) == 3
    assert set(results["gradients"]) == {"flow", "alignment", "total", "cosine"}
    names = {"cosine", "cka", "mutual_knn", "cknna", "gradients", "drop_loss", "drop_output", "noise"}
    names |= {"encoder_cka", "encoder_mutual_knn", "encoder_cknna", "pca_t0.50", "pca_t1.00"}
    pictures = list((run / "inside").glob("*.png"))
    assert {file.stem for file in pictures} == names
    assert all(min(Image.open(file).size) > 150 for file in pictures)
    assert not list((run / "inside").glob(".*"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["parts=[cosine,colour]"], "'colour'; allowed"),
        (["parts=[]"], "it must name each part once"),
        (["parts=[encoder]"], "parts holds 'encoder' but encoder is null"),
        (["parts=[cka,neighbours]", "num=5"], "compare at least 11 rows"),
        (["checkpoint=nowhere"], "no checkpoint at nowhere"),
    ],
)
def test_bad_input_is_one_line(run, tmp_path, capsys, arguments, words):
    with pytest.raises(SystemExit) as stopped:
        ENTRY.run([f"run={run}", f"out={tmp_path}", *arguments])
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert stopped.value.code == 2 and len(lines) == 1 and words in lines[0], lines
