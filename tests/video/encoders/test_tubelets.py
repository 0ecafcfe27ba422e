"""VideoMAE's tokens as a target: what it is shown of a clip, in which order its places are, whose folders are read."""

import json

import pytest
import torch
import transformers

from tests.core.alignment.parts import rows
from tests.image.networks import save_dinov2
from tests.video.encoders.networks import save_videomae, videomae_config
from video.encoder import encoder_sha256, make_encoder
from video.encoders.tubelets import VideoMaeTubelets, even_frames

CPU = torch.device("cpu")
CLIPS = torch.rand(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(5)) * 2 - 1


def test_it_gives_the_networks_tokens_on_their_grid_after_the_folders_normalisation(tmp_path):
    network, folder = save_videomae(tmp_path / "mae"), tmp_path / "mae"
    for said in (None, ([0.5] * 3, [0.25, 0.5, 1.0])):
        if said is not None:
            own = {"image_mean": said[0], "image_std": said[1]}
            (folder / "preprocessor_config.json").write_text(json.dumps(own))
        mean, std = said or ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        mean, std = (torch.tensor(values)[:, None, None, None] for values in (mean, std))
        pixels = (((CLIPS + 1) / 2 - mean) / std).transpose(1, 2)
        with torch.no_grad():
            tokens = network.videomae(pixels).last_hidden_state
        encoder = make_encoder(f"videomae:{folder}", CPU, frames=4)
        found = encoder(rows(CLIPS))
        assert found.shape == (2, encoder.width, 2, 2, 2) and encoder.flops > 0
        torch.testing.assert_close(found.flatten(2).mT, tokens)
    assert not any(each.requires_grad for each in encoder.network.parameters())


def test_it_sees_frames_at_even_distances_and_clips_of_any_size_and_colour(tmp_path):
    save_videomae(tmp_path)
    encoder = VideoMaeTubelets(f"videomae:{tmp_path}", CPU)
    assert even_frames(4, 4) == [0, 1, 2, 3] and even_frames(2, 4) == [0, 0, 1, 1]
    assert even_frames(9, 4) == [1, 3, 5, 7] and even_frames(8, 16) == [frame // 2 for frame in range(16)]
    longer = CLIPS.repeat_interleave(3, dim=2)
    assert torch.equal(encoder(rows(longer)), encoder(rows(CLIPS)))
    larger = CLIPS.repeat_interleave(2, dim=3).repeat_interleave(4, dim=4)
    assert encoder(rows(larger)).shape == encoder(rows(CLIPS)).shape
    grey = CLIPS[:, :1]
    assert torch.equal(encoder(rows(grey)), encoder(rows(grey.expand(-1, 3, -1, -1, -1))))


def test_networks_of_every_head_are_read_without_it_and_others_refused(tmp_path):
    for kind, changes in (("VideoMAEModel", {}), ("VideoMAEForPreTraining", {"decoder_num_hidden_layers": 1})):
        network = getattr(transformers, kind)(videomae_config(use_mean_pooling=False, **changes))
        network.save_pretrained(tmp_path / kind)
        encoder = VideoMaeTubelets(f"videomae:{tmp_path / kind}", CPU)
        weights = encoder.network.state_dict()
        assert torch.equal(weights["layernorm.weight"], getattr(network, "videomae", network).layernorm.weight)
    name = f"videomae:{tmp_path / kind}"
    before = encoder_sha256(name)
    (tmp_path / kind / "preprocessor_config.json").write_text("{}")
    assert encoder_sha256(name) != before
    save_dinov2(tmp_path / "dino")
    with pytest.raises(ValueError, match=r"of the kind 'dinov2'; needed: VideoMAE"):
        VideoMaeTubelets(f"videomae:{tmp_path / 'dino'}", CPU)
    with pytest.raises(ValueError, match=r"encoder is 'videomae:.*nowhere', which holds no config\.json"):
        VideoMaeTubelets(f"videomae:{tmp_path / 'nowhere'}", CPU)
