"""CLAP's features along time: which part of a clip a place stands for."""

import pytest
import torch

from audio.encoders.clap_places import FINER, ClapPlaces
from tests.audio.networks import clip, save_clap
from tests.core.alignment.parts import rows

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clap")
    save_clap(folder)
    return folder


def test_places_are_those_of_the_clip_in_order_window_after_window(folder):
    encoder = ClapPlaces(f"clap:{folder}", CPU, (1, 960), 48_000)
    whole = torch.cat([clip(10, seed=0).samples, clip(10, seed=1).samples], dim=1)
    first, second, both = (encoder(rows(each[None]))[0] for each in (whole[:, :480_000], whole[:, 480_000:], whole))
    assert torch.equal(both, torch.cat([first, second], dim=1))
    assert first.shape[0] == encoder.width and first.shape[1] % FINER == 0
    longer = encoder(rows(whole[None, :, : 480_000 + 120_000]))[0]
    assert longer.shape[1] == first.shape[1] * 5 // 4
    torch.testing.assert_close(longer[:, : first.shape[1]], first)
    stereo = encoder(rows(whole[None, :, :96_000].expand(-1, 2, -1)))
    torch.testing.assert_close(stereo, encoder(rows(whole[None, :, :96_000])))
    assert encoder.flops > 0 and not any(each.requires_grad for each in encoder.audio.parameters())


def test_what_changes_late_in_a_clip_changes_late_places_most(folder):
    encoder = ClapPlaces(f"clap:{folder}", CPU, (1, 480_000), 48_000)
    before = clip(10).samples
    after = before.clone()
    after[:, 430_000:] = 0
    change = (encoder(rows(before[None])) - encoder(rows(after[None])))[0].abs().mean(0)
    assert change[-len(change) // 10 :].mean() > 2 * change[: len(change) // 2].mean()


def test_a_folder_without_clap_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"config\.json"):
        ClapPlaces(f"clap:{tmp_path}", CPU, (1, 960), 48_000)
