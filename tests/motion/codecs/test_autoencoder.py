"""The small VAE of motion: shapes, padding that reaches nothing, its loss, its files."""

import pytest
import torch

from core.draws import StepRandom
from motion.codecs.autoencoder import (
    MotionAutoencoder,
    MotionAutoencoderConfig,
    held,
    load_autoencoder,
    real_frames,
    save_autoencoder,
)
from motion.codecs.fidelity import every_nth, explained_variance, joint_errors_mm
from tests.rows import every_row

SIZE = 67


def network(**keys):
    torch.manual_seed(0)
    statistics = torch.randn(SIZE), torch.rand(SIZE) + 0.5
    config = MotionAutoencoderConfig(**{"width": 8, "latent_channels": 3, "blocks": 1} | keys)
    made = MotionAutoencoder(config, statistics, ("t2m", "positions"))
    made.padding.normal_()
    return made


def clips_of(made, frames, padding=0):
    """Clips (2, C, frames + padding), padded with the mean."""
    clips = torch.randn(2, SIZE, frames, generator=torch.Generator().manual_seed(1)) * made.std + made.mean
    return torch.cat([clips, made.mean.expand(2, SIZE, padding)], dim=-1)


@every_row(("stride", "frames"), [(1, 5), (2, 6), (4, 20), (8, 16)])
def test_shapes(stride, frames):
    made = network(stride=stride)
    mean, std = made.moments(clips_of(made, frames))
    assert made.latent_shape((SIZE, frames)) == mean.shape[1:] == (3, frames // stride)
    assert (std > 0).all() and made.decode(mean).shape == (2, SIZE, frames)


@every_row("frames", [20, 18])
def test_padding_reaches_neither_latents_nor_frames(frames):
    made = network()
    alone = made.moments(clips_of(made, frames, 20 - frames))
    padded = made.moments(clips_of(made, frames, 40 - frames))
    for one, other in zip(alone, padded, strict=True):
        assert torch.equal(one, other[..., :5])
    assert torch.equal(padded[0][..., 5:], made.padding.expand(2, 3, 5)) and not padded[1][..., 5:].any()
    decoded = made.decode(padded[0])
    assert torch.allclose(made.decode(alone[0]), decoded[..., :20], atol=1e-6)
    assert torch.equal(decoded[..., 20:], made.mean.expand(2, SIZE, 20))


def test_padding_does_not_count_in_the_loss():
    made = network(kl_weight=0.0)
    made.encoder.last.bias.data[3:] = -30.0  # a posterior without deviation: the loss draws nothing
    made.encoder.last.weight.data[3:] = 0.0
    random = StepRandom(0, 0)
    alone, padded = (made.loss(clips_of(made, 20, padding), random) for padding in (0, 12))
    assert alone.total.item() == pytest.approx(padded.total.item(), rel=1e-5)
    assert alone.velocity > 0 and padded.kl.item() == pytest.approx(alone.kl.item(), rel=1e-5)


def test_a_loss_falls_and_reaches_every_weight():
    made = network()
    clips, optimizer = clips_of(made, 16, 4), torch.optim.Adam(made.parameters(), lr=1e-2)
    losses = []
    for step in range(40):
        optimizer.zero_grad()
        made.loss(clips, StepRandom(0, step)).total.backward()
        assert step == 0 or all(weight.grad.any() for weight in made.parameters())  # residual branches begin at 0
        optimizer.step()
        losses.append(float(made.loss(clips, StepRandom(0, 0)).total.detach()))
    assert losses[-1] < 0.7 * losses[0]


def test_the_root_weighs_more_where_there_is_one():
    made = network(root_weight=10.0)
    assert torch.allclose(made.loss_weight[0] / made.loss_weight[4], torch.tensor(10.0))
    assert made.loss_weight.mean() == pytest.approx(1.0)
    joints = MotionAutoencoder(made.config, (torch.zeros(66), torch.ones(66)), ("t2m", "joints"))
    assert torch.equal(joints.loss_weight, torch.ones(66, 1))


def test_real_frames_end_where_only_zeros_follow():
    x = torch.tensor([[[1.0, 0.0, 2.0, 0.0, 0.0]], [[0.0, 0.0, 0.0, 0.0, 0.0]]])
    assert real_frames(x).tolist() == [[[True, True, True, False, False]], [[False] * 5]]
    assert held(x, real_frames(x))[0].tolist() == [[1.0, 0.0, 2.0, 2.0, 2.0]]


def test_files_are_read_back_and_name_what_is_wrong(tmp_path):
    made = network()
    save_autoencoder(tmp_path, made, [0.5, 1.5, -2.0], [1.0, 2.0, 3.0])
    read, saved = load_autoencoder(tmp_path)
    assert saved.latent_std == [1.0, 2.0, 3.0] and read.origin == ("t2m", "positions")
    assert read.padding[:, 0].tolist() == [0.5, 1.5, -2.0]
    for name, value in made.state_dict().items():
        assert torch.equal(value, read.state_dict()[name]), name
    file = tmp_path / "config.json"
    file.write_text(file.read_text().replace("-2.0", "NaN"))
    with pytest.raises(ValueError, match=r"config.json"):
        load_autoencoder(tmp_path)


@every_row(
    ("keys", "words"),
    [
        ({"stride": 3}, "autoencoder.stride is 3; allowed: a power of two"),
        ({"width": 0}, "autoencoder.width is 0; allowed: 1 or more"),
        ({"kl_weight": -1.0}, "autoencoder.kl_weight is -1.0"),
    ],
)
def test_sizes_that_there_are_not(keys, words):
    with pytest.raises(ValueError, match=words):
        MotionAutoencoderConfig(**keys)


def test_media_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"takes clips of \(67, frames\) numbers, got \(263, 20\)"):
        network().latent_shape((263, 20))
    with pytest.raises(ValueError, match=r"data\.frames is 18; needed: a multiple of the autoencoder's stride, 4"):
        network().latent_shape((SIZE, 18))


def test_distances_of_joints_are_in_millimetres():
    joints = torch.randn(5, 22, 3)
    moved = joints + torch.tensor([0.003, 0.0, 0.004])
    in_space, of_pose = joint_errors_mm(joints, moved)
    assert float(in_space) == pytest.approx(5.0, rel=1e-3) and float(of_pose) < 1e-3


def test_lines_between_every_fourth_frame():
    clip = torch.arange(11.0)[None].square()
    kept = every_nth(clip, 4)[0]
    assert kept[[0, 4, 8, 10]].tolist() == [0.0, 16.0, 64.0, 100.0]
    assert kept[2] == 8.0 and kept[9] == 82.0
    straight = torch.arange(10.0)[None]
    assert torch.allclose(every_nth(straight, 4), straight)


def test_explained_variance_counts_real_frames_alone():
    x, real = torch.randn(2, 3, 8), torch.ones(2, 1, 8, dtype=torch.bool)
    real[..., 6:] = False
    decoded = x.clone()
    decoded[..., 6:] = 100.0
    assert explained_variance(x, decoded, real).tolist() == [1.0, 1.0]
    assert explained_variance(x, torch.zeros_like(x), real).tolist() == [0.0, 0.0]
