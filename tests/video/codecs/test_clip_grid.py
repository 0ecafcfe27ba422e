"""Which clips fit an autoencoder, and the pixels that it takes."""

from types import SimpleNamespace

import pytest
import torch

from core.latents.tokenizer import MediaError
from tests.rows import every_row
from video.codecs.clip_grid import check_range, clip_grid, latent_frames

SIZES = SimpleNamespace(in_channels=3, latent_channels=16, downsample=8, frame_stride=4)


@every_row(("frames", "stride", "expected"), [(1, 4, 1), (5, 4, 2), (81, 4, 21), (17, 8, 3), (16, 1, 16), (1, 1, 1)])
def test_the_first_latent_frame_is_one_frame_and_each_other_a_group(frames, stride, expected):
    assert latent_frames(frames, stride) == expected


@every_row(
    ("shape", "words"),
    [
        (
            (3, 16, 32, 32),
            r"data.clip.frames is 16; the tokenizer takes 1 frame and then groups of 4 \(4n\+1\), so 13 or 17",
        ),
        ((3, 2, 32, 32), "data.clip.frames is 2; .* so 1 or 5"),
        ((3, 17, 30, 32), r"clips \(data.size\) of 30x32 pixels; .* multiples of 8"),
        ((3, 17, 32, 36), r"clips \(data.size\) of 32x36 pixels; .* multiples of 8"),
        ((1, 17, 32, 32), "of 1 channels; the tokenizer takes 3"),
        ((3, 32, 32), r"clips of shape \(3, 32, 32\); the tokenizer takes \(channels, frames, height, width\)"),
    ],
)
def test_clips_that_do_not_fit_are_refused_with_what_would(shape, words):
    with pytest.raises(ValueError, match=words):
        clip_grid(shape, SIZES)


def test_a_clip_that_fits():
    assert clip_grid((3, 17, 32, 48), SIZES) == (16, 5, 4, 6)


@every_row(
    ("change", "words"),
    [
        (lambda clip: 127.5 * (clip + 1), r"its pixels lie in \[.*, 255\]; needed: finite numbers in \[-1, 1\]"),
        (lambda clip: clip - 0.01, r"its pixels lie in \[-1.01, 0.99\]"),
        (lambda clip: clip.clone().fill_(float("nan")), r"its pixels lie in \[nan, nan\]"),
        (lambda clip: clip / 0, r"its pixels lie in \[-inf, inf\]"),
    ],
)
def test_pixels_outside_the_range_are_refused_with_the_row(change, words):
    media = torch.linspace(-1, 1, 16).reshape(1, 1, 2, 4, 2).repeat(3, 1, 1, 1, 1)
    assert check_range(media) is media
    assert check_range(media[:0]).numel() == 0
    media[2] = change(media[2])
    with pytest.raises(MediaError, match=words) as refused:
        check_range(media)
    assert refused.value.row == 2
