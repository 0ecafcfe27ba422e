"""Numbers of how near decoded clips are, against their definitions written out."""

import math

import numpy as np
import torch

from video.codecs.fidelity import explained_variance, psnr_db, ssim


def pair(frames=2, side=9):
    generator = torch.Generator().manual_seed(0)
    media = torch.rand(3, 2, frames, side, side, generator=generator) * 2 - 1
    return media, (media + 0.2 * torch.randn(media.shape, generator=generator)).clamp(-1, 1)


def ssim_of(x, y, side=7):
    """Wang's formula in every window of two images (H, W), with variances of samples."""
    c1, c2, values = 0.02**2, 0.06**2, []
    for row in range(x.shape[0] - side + 1):
        for column in range(x.shape[1] - side + 1):
            a, b = (each[row : row + side, column : column + side].ravel() for each in (x, y))
            (va, cov), (_, vb) = np.cov(a, b)
            top = (2 * a.mean() * b.mean() + c1) * (2 * cov + c2)
            values.append(top / ((a.mean() ** 2 + b.mean() ** 2 + c1) * (va + vb + c2)))
    return np.mean(values)


def test_psnr_is_of_all_numbers_of_a_clip():
    media, _ = pair()
    torch.testing.assert_close(psnr_db(media, media + 0.2), torch.full((3,), 20.0).double(), atol=1e-4, rtol=0)
    assert (psnr_db(media, media) > 100).all()


def test_ssim_is_the_mean_of_its_windows():
    media, decoded = pair()
    found = ssim(media, decoded)
    for row in range(3):
        frames = [
            ssim_of(media[row, c, f].double().numpy(), decoded[row, c, f].double().numpy())
            for c in range(2)
            for f in range(2)
        ]
        assert math.isclose(found[row].item(), np.mean(frames), abs_tol=1e-6)
    assert torch.allclose(ssim(media, media), torch.ones(3).double())
    assert ssim(media[..., :4, :5], decoded[..., :4, :5]).isfinite().all()  # smaller than a window


def test_explained_variance_is_1_for_the_clip_and_0_for_its_mean():
    media, decoded = pair()
    mean = media.mean((2, 3, 4), keepdim=True).expand_as(media)
    torch.testing.assert_close(explained_variance(media, mean), torch.zeros(3).double(), atol=1e-6, rtol=0)
    assert torch.equal(explained_variance(media, media), torch.ones(3).double())
    assert (explained_variance(media, decoded) > 0.8).all()
    assert (explained_variance(torch.zeros(1, 1, 1, 4, 4), torch.ones(1, 1, 1, 4, 4)) == -1).all()
