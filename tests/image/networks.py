"""Random networks in the file formats that extractors read."""

from pathlib import Path
from unittest import mock

import torch


def save_inception(path: Path, seed: int = 0) -> Path:
    """A state dict of torch-fidelity's Inception-v3, random, with spread in every layer."""
    from torch_fidelity import feature_extractor_inceptionv3 as module

    kind = module.FeatureExtractorInceptionV3
    with (
        mock.patch.object(module, "load_state_dict_from_url", return_value={}),
        mock.patch.object(kind, "load_state_dict"),
        torch.random.fork_rng(devices=[]),
    ):
        torch.manual_seed(seed)
        state = kind("inception", ["2048"]).state_dict()
        for name, value in state.items():
            if name.endswith("conv.weight"):
                value.normal_(std=(2 / value[0].numel()) ** 0.5)
            elif name.endswith("bn.bias"):
                value.normal_(std=0.2)
    torch.save(state, path)
    return path


def save_dinov2(folder: Path, seed: int = 0) -> Path:
    """A tiny DINOv2 with the position table of the real ones, 37 x 37."""
    import transformers

    config = transformers.Dinov2Config(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=518)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = transformers.Dinov2Model(config)
        with torch.no_grad():
            for value in network.parameters():
                value.add_(0.1 * torch.randn_like(value))
    network.save_pretrained(folder)
    return folder
