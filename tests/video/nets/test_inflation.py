"""Image weights in a video network: its first forward on a still clip is the image model's, on real files."""

import pytest
import torch
from safetensors.torch import save_file

from core.conditioning.labels import LabelConditioning, LabelConfig
from core.conditioning.none import Unconditional
from core.draws import seeded_weights
from core.storage.checkpoint import CheckpointStore
from core.storage.run_folder import RunDirectory
from image import backbone as image
from tests.rows import every_row
from video.backbone import BACKBONES

CLASSES, FRAMES = 5, 4
SIZES = {"hidden_size": 24, "num_heads": 2}
KINDS = [("sit", [1, 2, 2]), ("sit", [2, 2, 2]), ("sit", [4, 2, 2]), ("latte", 2)]


def opened(model, seed=0):
    """Gates and output that are not zero, as after training."""
    torch.manual_seed(seed)
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return model.eval()


@pytest.fixture(scope="module")
def trained():
    """An image SiT of 2 blocks over 4 x 6 latents, that learns a variance too."""
    return opened(image.SiTConfig(depth=2, **SIZES, learn_sigma=True).build((3, 4, 6), CLASSES))


@pytest.fixture(scope="module")
def file(trained, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "image.safetensors"
    save_file(trained.state_dict(), path)
    return path


def video(kind, patch, file, shape=(3, FRAMES, 4, 6), classes=CLASSES, conditioning=None, run=None, **options):
    """A new video network, and the weights of the file in it."""
    sizes = {"depth": 4 if kind == "latte" else 2, **SIZES, "learn_sigma": True, **options}
    config = BACKBONES[kind](patch_size=patch, inflate_from=str(file), **sizes)
    with seeded_weights(0, "weights"):
        model = config.build(shape, conditioning or LabelConditioning(LabelConfig(), classes))
    config.begin(model, RunDirectory(file.parent / "new run") if run is None else run)
    return model.eval()


def begun(place):
    """A run that has a checkpoint."""
    run = RunDirectory(place / "begun")
    CheckpointStore(run.checkpoints).save(6, {"model": {"a": torch.zeros(1)}}, {})
    return run


def still(frames=FRAMES, seed=0):
    """One image, noise included, for all frames of a clip (B, 3, F, 4, 6); the image; times; labels."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 3, 4, 6, generator=generator)
    return x[:, :, None].expand(-1, -1, frames, -1, -1), x, torch.tensor([0.2, 0.7]), torch.tensor([1, CLASSES])


@every_row(("kind", "patch"), KINDS)
@torch.no_grad()
def test_the_first_forward_on_a_still_clip_is_the_image_models(kind, patch, trained, file):
    clip, x, t, y = still()
    expected = trained.all_channels(x, t, y)[:, :, None].expand(-1, -1, FRAMES, -1, -1)
    out = video(kind, patch, file).all_channels(clip, t, y)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)


@every_row(("kind", "patch"), KINDS)
def test_it_learns_the_order_of_frames_from_there(kind, patch, file):
    """The code of frames is trained; where clips are not still, gradients tell the frames apart."""
    model = video(kind, patch, file, shape=(3, 8, 4, 6)).train()
    assert (model.temp_embed == 0).all() and "temp_embed" in dict(model.named_parameters())
    if kind == "latte":
        gates = [block.adaLN_modulation[1] for block in model.blocks[1::2]]
        assert all((gate.weight == 0).all() for gate in gates)
        assert all(block.attn.qkv.weight.abs().max() > 0 for block in model.blocks[1::2])
    clip = torch.randn(2, 3, 8, 4, 6, generator=torch.Generator().manual_seed(3))
    model(clip, torch.rand(2), torch.tensor([0, 1])).square().mean().backward()
    gradient = model.temp_embed.grad[0]
    assert gradient.isfinite().all() and len({round(float(each), 9) for each in gradient.norm(dim=1)}) == len(gradient)


@torch.no_grad()
def test_rotary_positions_inside_a_frame_are_the_image_models_in_latte(tmp_path):
    model = opened(image.SiTConfig(depth=2, **SIZES, rope=True, learn_sigma=True).build((3, 4, 6), CLASSES))
    save_file(model.state_dict(), tmp_path / "rope.safetensors")
    clip, x, t, y = still()
    expected = model(x, t, y)[:, :, None].expand(-1, -1, FRAMES, -1, -1)
    made = video("latte", 2, tmp_path / "rope.safetensors", rope=True)
    torch.testing.assert_close(made(clip, t, y), expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(
        ValueError, match=r"^backbone\.rope is true, .* backbone\.inflate_from names; allowed with it: false"
    ):
        video("sit", 2, tmp_path / "rope.safetensors", rope=True)


@torch.no_grad()
def test_a_run_that_has_begun_does_not_read_the_weights_again(file, tmp_path):
    model = video("sit", 2, tmp_path / "no such file", run=begun(tmp_path))
    assert model.blocks[0].adaLN_modulation[1].weight.abs().max() == 0  # as it was built


@torch.no_grad()
def test_weights_come_from_a_checkpoint_of_a_run_averaged_ones_first(trained, file, tmp_path):
    ema = trained.state_dict()
    model = {name: value + 1 for name, value in ema.items()}
    CheckpointStore(tmp_path / "checkpoints").save(7, {"model": model, "ema": ema}, {})
    clip, x, t, y = still()
    made = video("sit", [1, 2, 2], tmp_path / "checkpoints" / "step_00000007", run=RunDirectory(tmp_path / "new"))
    expected = trained(x, t, y)[:, :, None].expand(-1, -1, FRAMES, -1, -1)
    torch.testing.assert_close(made(clip, t, y), expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_other_classes_begin_as_the_mean_of_the_image_models(trained, file, caplog):
    made = video("sit", 2, file, classes=3)
    table = trained.y_embedder.embedding_table.weight
    assert torch.equal(made.y_embedder.embedding_table.weight, table.mean(0).expand(4, -1))
    assert "it has 6 labels, the network 4: each begins as their mean" in caplog.text
    video("sit", 2, file, conditioning=Unconditional())
    assert "its conditions are others than the network" in caplog.text


@torch.no_grad()
def test_a_frame_of_another_size_has_its_own_positions(file, caplog):
    made = video("latte", 2, file, shape=(3, FRAMES, 8, 6))
    assert made.pos_embed.shape == (1, 12, 24)
    assert "it has 6 tokens, a frame of the network 12: their positions are made anew" in caplog.text


@every_row(
    ("kind", "change", "message"),
    [
        ("sit", {"depth": 3}, "is of another architecture than the configured backbone: missing blocks.2"),
        ("sit", {"depth": 1}, "unexpected blocks.1"),
        ("sit", {"hidden_size": 48}, r"blocks.0.attn.proj.bias is \(24,\), the model has \(48,\) and 27 more"),
        ("sit", {"learn_sigma": False}, r"final_layer.linear.bias is \(48,\), the model has \(24,\)"),
        ("sit", {"qk_norm": True}, "missing blocks.0.attn.k_norm"),
        ("sit", {"shape": (2, FRAMES, 4, 6)}, r"x_embedder.proj.weight is \(24, 3, 2, 2, 2\)"),
        ("latte", {"depth": 2}, "has 2 blocks, which are the space blocks of a latte of depth 4; backbone.depth is 2"),
    ],
)
def test_weights_that_do_not_fit_are_refused_in_one_line(kind, change, message, file):
    with pytest.raises(ValueError, match=rf"^backbone\.inflate_from: .*{message}") as caught:
        video(kind, 2, file, **change)
    assert "\n" not in str(caught.value) and str(file) in str(caught.value)


@torch.no_grad()
def test_files_that_are_no_weights_of_an_image_model_are_refused(trained, tmp_path):
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"no weights")
    save_file({"other.weight": torch.zeros(3), "b": torch.zeros(1)}, tmp_path / "other.safetensors")
    state = trained.state_dict()
    clips = video("sit", [1, 2, 2], tmp_path / "none", run=begun(tmp_path)).state_dict()
    save_file(clips, tmp_path / "clips.safetensors")
    save_file(
        {**state, "final_layer.linear.bias": state["final_layer.linear.bias"] * torch.nan}, tmp_path / "nan.safetensors"
    )
    messages = {
        "broken": "is damaged",
        "missing": "no checkpoint at",
        "other": "is of another architecture than the configured backbone: missing blocks",
        "clips": "is of a video network, it has a code of frames",
        "nan": "holds NaN or infinity in final_layer.linear.bias",
    }
    for name, message in messages.items():
        with pytest.raises(ValueError, match=rf"^backbone\.inflate_from: .*{message}"):
            video("sit", 2, tmp_path / f"{name}.safetensors")
