"""The probes: a planted signal is found where it was planted and nowhere else; the label does not leak; a real run."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression

import image.train
from eval.inside.linear import ProbeOptions, enlarge, fit_classes, fit_segments, mean_iou, predict_segments
from eval.inside.masks import label_map, read_masks
from eval.inside.model import ForwardOptions, open_run
from eval.inside.splits import Part, split_rows
from eval.probe import ENTRY, candidate_pairs, linear_probe, segmentation_probe
from tests.eval.inside.toy_model import TOKENS, WIDTH, Backbone, Function, opened

TINY = [
    "trainer.steps=4",
    "trainer.batch_size=8",
    "trainer.preview_every=0",
    "backbone.depth=3",
    "backbone.hidden_size=16",
    "backbone.num_heads=2",
    "alignment.pairs=[[1,2]]",
    "evaluation=none",
    "sampler.num_steps=1",
    "trainer.num_previews=1",
    "tracking.tensorboard=off",
    "device=cpu",
]


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A tiny run on digits."""
    place = tmp_path_factory.mktemp("inside")
    image.train.ENTRY.run([*TINY, f"runs_dir={place}"])
    return place / "image" / "digits"


def planted(seed, rows=400):
    """Two signs in the first two channels of every token; the label says whether they agree, which no line can tell."""
    signs = torch.where(normal(rows, 2, seed=seed) > 0, 1.0, -1.0)
    media = 0.3 * normal(rows, TOKENS, WIDTH, seed=seed + 1)
    media[:, :, :2] += signs[:, None]
    return media, (signs.prod(1) > 0).long()


def revealed(x):
    return torch.cat([x[..., :3], x[..., :1] * x[..., 1:2]], dim=-1)


def hidden(x):
    return torch.cat([x[..., :3], 0 * x[..., 3:]], dim=-1)


def both_sides(backbone, times=(1.0,), forward=ForwardOptions()):  # noqa: B008, immutable
    sides = [Part(opened(backbone, *planted(seed)), list(range(400))) for seed in (0, 10)]
    return linear_probe(*sides, list(times), forward, ProbeOptions())


def test_a_planted_signal_is_found_in_its_block_and_nowhere_else():
    found = both_sides(Backbone([Function(hidden), Function(revealed), Function(hidden)]))
    first, second, third = found["accuracy"][1.0].tolist()
    assert second > 0.95
    assert 0.4 < first < 0.6 and 0.4 < third < 0.6
    assert 0.4 < found["chance"] < 0.6


def test_the_label_given_as_condition_leaks_and_the_null_condition_does_not():
    backbone = Backbone([Function(hidden)], label=3.0)
    assert both_sides(backbone, forward=ForwardOptions(condition="own"))["accuracy"][1.0].item() > 0.95
    for condition in ("unconditional", "requested"):
        assert both_sides(backbone, forward=ForwardOptions(condition=condition))["accuracy"][1.0].item() < 0.65


def test_pure_noise_tells_nothing():
    assert both_sides(Backbone([Function(revealed)]), times=[0.0])["accuracy"][0.0].item() < 0.6


def test_the_regression_is_that_of_scikit_learn():
    labels = torch.arange(150) % 3
    x = normal(150, 5) + normal(3, 5, seed=1)[labels]
    fitted = fit_classes(x.double(), labels, 3, ProbeOptions(l2=0.02))
    inputs = ((x - x.mean(0)) / x.std(0, correction=0)).numpy()
    other = LogisticRegression(C=1 / (0.02 * 150), tol=1e-8, max_iter=1000).fit(inputs, labels.numpy())
    ours = fitted.weight - fitted.weight.mean(0)  # a shift of all classes changes nothing
    theirs = other.coef_ - other.coef_.mean(0)
    np.testing.assert_allclose(ours.numpy(), theirs, atol=2e-3)


def test_a_feature_that_does_not_vary_counts_for_nothing():
    x = torch.cat([normal(40, 2), torch.full((40, 1), 5.0)], 1)
    fitted = fit_classes(x, (x[:, 0] > 0).long(), 2, ProbeOptions())
    moved = x + torch.tensor([0.0, 0.0, 100.0])
    torch.testing.assert_close(fitted(moved), fitted(x))


def test_a_linear_signal_in_tokens_is_segmented():
    """The sign of a channel at each token is the class of its patch of 2 x 2 pixels; nothing else is."""
    tokens = normal(80, 12, 5)
    patches = (tokens[..., 2] > 0).long().reshape(80, 3, 4)
    masks = patches.repeat_interleave(2, 1).repeat_interleave(2, 2)
    masks[:, 0, 0] = 255
    fitted = fit_segments(tokens[:60], (3, 4), masks[:60], 2, ProbeOptions())
    predicted = predict_segments(fitted, tokens[60:], (3, 4), (6, 8))
    assert mean_iou(predicted, masks[60:], 2) > 0.75  # bilinear logits blur the border of random patches
    blind = fit_segments(tokens[:60, :, :2], (3, 4), masks[:60], 2, ProbeOptions())
    assert mean_iou(predict_segments(blind, tokens[60:, :, :2], (3, 4), (6, 8)), masks[60:], 2) < 0.5
    assert enlarge(torch.zeros(1, 12, 3), (3, 4), (6, 8)).shape == (1, 3, 6, 8)


def test_mean_iou_counts_classes_that_occur_and_pixels_that_count():
    wanted = torch.tensor([[[0, 0, 1, 255]]])
    assert mean_iou(torch.tensor([[[0, 1, 1, 0]]]), wanted, 3) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="all are 255"):
        mean_iou(wanted, torch.full_like(wanted, 255), 3)


def test_candidate_pairs_keep_the_rules():
    """SiT-XL's depth: at least 8 apart, the strong block not in the last fifth, the weak one in the first half."""
    pairs = candidate_pairs([block / 28 for block in range(28)], count=28)
    assert pairs[0] == {"weak": 1, "strong": 22, "gain": pytest.approx(21 / 28)}
    assert all(pair["strong"] - pair["weak"] >= 8 and pair["strong"] <= 22 and pair["weak"] <= 14 for pair in pairs)
    assert candidate_pairs([0.5] * 12) == [] == candidate_pairs([0.5])


def test_masks_are_the_foreground_or_label_maps_cut_like_the_images(run, tmp_path):
    model = open_run(run)
    images = model.domain.dataset.images[[4, 9]]
    masks = read_masks(model, [4, 9], "foreground", 0.2, ForwardOptions())
    torch.testing.assert_close(masks, (images[:, 0] > 0.2).long())
    labels = np.zeros((4, 8), np.uint8)
    labels[:, 2:4], labels[:, 4:6], labels[0, 2] = 1, 2, 255
    (tmp_path / "cat").mkdir()
    Image.fromarray(labels).save(tmp_path / "cat" / "a.png")

    class Named:
        def name(self, row):
            return f"/images/cat/{'ab'[row]}.jpeg"

    expected = torch.tensor([[1, 1, 2, 2]] * 4)
    expected[0, 0] = 255
    torch.testing.assert_close(label_map(tmp_path, Named(), 0, 4), expected)
    assert label_map(tmp_path, Named(), 0, 2).tolist() in ([[1, 2], [1, 2]], [[255, 2], [1, 2]])
    with pytest.raises(ValueError, match=r"holds no label map of /images/cat/b.jpeg"):
        label_map(tmp_path, Named(), 1, 4)


def test_a_linear_signal_in_the_tokens_of_clips_is_segmented():
    """Also along frames, of which a token has three."""
    tokens = normal(80, 24, 5)
    masks = (tokens[..., 2] > 0).long().reshape(80, 2, 3, 4)
    for axis, times in enumerate((3, 2, 2), start=1):
        masks = masks.repeat_interleave(times, axis)
    fitted = fit_segments(tokens[:60], (2, 3, 4), masks[:60], 2, ProbeOptions())
    assert mean_iou(predict_segments(fitted, tokens[60:], (2, 3, 4), (6, 6, 8)), masks[60:], 2) > 0.7
    assert enlarge(torch.zeros(1, 24, 3), (2, 3, 4), (6, 6, 8)).shape == (1, 3, 6, 6, 8)
    with pytest.raises(ValueError, match="a block gave 24 tokens for a grid of 2 x 3 x 3"):
        fit_segments(tokens, (2, 3, 3), masks, 2, ProbeOptions())


def test_segmentation_is_for_images_and_clips():
    part = Part(opened(Backbone([Function(hidden)])), [0, 1])
    with pytest.raises(ValueError, match=r"this is for images and clips: the run's domain is 'toy'"):
        read_masks(part.model, part.rows, "foreground", 0.0, ForwardOptions())
    masks = torch.arange(2)[:, None, None].expand(2, 4, 4)
    with pytest.raises(ValueError, match="a segmentation probe is for images and clips"):
        segmentation_probe(part, part, (masks, masks), [1.0], ForwardOptions(), ProbeOptions())


def test_the_digits_have_splits_of_their_own(run):
    model = open_run(run)
    sides = split_rows(model, None, seed=0)
    assert sides.kind == "named"
    assert (len(sides.train.rows), len(sides.heldout.rows)) == (1438, 359)
    assert sides.heldout.model.domain.backbone is model.domain.backbone
    with pytest.raises(ValueError, match=r"heldout.root is no key of the run's data; allowed: name, split"):
        split_rows(model, {"root": "elsewhere"}, seed=0)


def test_the_entry_leaves_numbers_and_figures(run, capsys):
    options = ["t=[0.5,1.0]", "num_train=120", "num_heldout=60", "masks.source=foreground"]
    ENTRY.run(
        [f"run={run}", *options, "masks.num_train=40", "masks.num_heldout=20", "probe.iterations=20", "device=cpu"]
    )
    folder = run / "inside"
    assert "numbers" in capsys.readouterr().out
    found = json.loads((folder / "probe.json").read_text())
    facts = {"schema_version": 1, "kind": "probe", "domain": "image", "weights": "ema", "step": 4, "depth": 3}
    assert {key: found[key] for key in facts} == facts
    results = found["results"]
    assert list(results["linear"]["accuracy"]) == ["0.5", "1.0"]
    assert all(len(values) == 3 for values in results["linear"]["accuracy"].values())
    assert results["linear"]["num_train"] == 120 and results["segmentation"]["num_heldout"] == 20
    assert {file.name for file in folder.iterdir()} == {"probe.json", "probe_accuracy.png", "probe_segmentation.png"}
    with pytest.raises(SystemExit) as stopped:
        ENTRY.run([f"run={run}", *options])
    assert stopped.value.code == 2 and "overwrite=true replaces it" in capsys.readouterr().err


def test_masks_that_are_not_there_are_told_before_the_linear_probe(run, tmp_path, monkeypatch):
    monkeypatch.setattr("eval.probe.linear_probe", lambda *sides: pytest.fail("the linear probe was computed first"))
    with pytest.raises(ValueError, match="masks is 'nowhere'; allowed: foreground"):
        ENTRY.main(ENTRY.config([f"run={run}", "masks.source=nowhere", f"out={tmp_path}", "device=cpu"]))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run=nowhere"], "it must be the folder of a run"),
        (["weights=best"], "best"),
        (["condition=own"], "'condition' is 'own'; allowed: ['unconditional', 'requested']"),
        (["t=[2.0]"], "distinct times in [0, 1]"),
        (["+data.place=x"], "data.place is no key of the run's data"),
    ],
)
def test_bad_input_is_one_line(run, tmp_path, capsys, arguments, words):
    small = ["t=[1.0]", "num_train=30", "num_heldout=30", "probe.iterations=2", f"out={tmp_path}"]
    with pytest.raises(SystemExit) as stopped:
        ENTRY.run([f"run={run}", *small, *arguments])
    lines = [line for line in capsys.readouterr().err.replace("\r", "\n").splitlines() if line.startswith("error")]
    assert stopped.value.code == 2 and len(lines) == 1 and words in lines[0], lines
    assert not (tmp_path / "probe.json").exists()
