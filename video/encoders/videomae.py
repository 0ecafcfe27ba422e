"""VideoMAE (Tong et al. 2022) as an extractor: the mean of its last tokens, after the norm before the classifier.

cd-fvd takes ViT-g of VideoMAE v2, fine-tuned on Something-Something v2: one published .pth file. Any other fine-tuned
VideoMAE in transformers' directory (config.json, model.safetensors) is taken too; numbers of different networks are
never compared.

Letters: B clips, C channels, F frames, H W pixels, D features (1408 of ViT-g).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from core.extras import extra
from core.storage.checkpoint import State
from core.storage.json_files import read_mapping
from core.storage.pretrained import files_sha256, read_pretrained
from core.storage.weights import check_finite_weights, load_weights
from eval.measure.extractor import Extractor
from eval.weights import locate_file
from video.encoders.frames import as_rgb_clips, check_frames, resized

NAME, WEIGHTS = "videomae", "videomae-g-ssv2"  # of `features`, of the registry
PREPROCESSOR = "preprocessor_config.json"
PUBLISHED_FRAMES, PUBLISHED_SIDE = 16, 224  # of every published file; the positions, which would tell, are not in it
PUBLISHED_EPS = 1e-6  # of every norm
HEAD_WIDTH, MOST_HEADS = 64, 16  # ViT-S and B have heads 64 wide, larger ones 16 heads
# Published names -> transformers'; the joint weights of queries, keys and values are cut beforehand.
NAMES = (
    (re.compile(r"^patch_embed\.proj\."), "videomae.embeddings.patch_embeddings.projection."),
    (re.compile(r"^blocks\."), "videomae.encoder.layer."),
    (re.compile(r"\.norm1\."), ".layernorm_before."),
    (re.compile(r"\.norm2\."), ".layernorm_after."),
    (re.compile(r"\.attn\.proj\."), ".attention.output.dense."),
    (re.compile(r"\.attn\."), ".attention.attention."),
    (re.compile(r"\.mlp\.fc1\."), ".intermediate.dense."),
    (re.compile(r"\.mlp\.fc2\."), ".output.dense."),
    (re.compile(r"^head\."), "classifier."),
)


class VideoMaeFeatures(Extractor):
    """VideoMAE's features (B, D) of clips with as many frames as the network takes, 16 of the published ones."""

    name, main = NAME, "features"

    def __init__(self, path: Path | None, root: Path | None, device: torch.device):
        """path: a published .pth or a directory, to take instead of the registry's file under `root`.

        Raises ValueError where there is none, or another network; ImportError without the extra `eval`.
        """
        self.device = device
        transformers = extra("transformers", f"features={NAME}", "eval")
        self.scaling: tuple[list[float], list[float]] | None = None
        if path is not None and path.is_dir():
            network = read_pretrained(transformers.VideoMAEForVideoClassification, path, NAME)
            self.weights_sha256 = files_sha256(path, NAME)
            self.scaling = read_scaling(path)
        else:
            file, self.weights_sha256 = locate_file(WEIGHTS, path, root, key=NAME)
            network = read_published(file, transformers)
        if network.fc_norm is None:
            raise ValueError(f"{NAME}: {path} pools no tokens (use_mean_pooling); needed: a fine-tuned classifier")
        self.network = network.float().eval().requires_grad_(False).to(device)

    @property
    def preprocessing(self) -> str:
        """What is done to a clip before the network."""
        scaled = "in [0, 1]" if self.scaling is None else f"in [0, 1], mean {self.scaling[0]}, std {self.scaling[1]}"
        side = self.network.config.image_size
        return f"bilinear to {side} a frame without antialiasing, {scaled}; mean of the tokens, norm"

    @torch.no_grad()
    def __call__(self, rows: Tensor) -> dict[str, Tensor]:
        """uint8 clips (B, F, H, W, C) -> features (B, D); ValueError for another number of frames."""
        clips, config = as_rgb_clips(rows), self.network.config
        check_frames(clips.shape[1], NAME, config.num_frames, config.num_frames)
        media = resized(clips.to(self.device), config.image_size) / 255
        if self.scaling is not None:
            mean, std = (torch.tensor(values, device=self.device)[:, None, None, None] for values in self.scaling)
            media = (media - mean) / std
        tokens = self.network.videomae(rearrange(media, "b c f h w -> b f c h w")).last_hidden_state
        return {"features": self.network.fc_norm(tokens.mean(1)).cpu()}


def read_scaling(folder: Path) -> tuple[list[float], list[float]] | None:
    """Mean and deviation of a directory's preprocessor; None where it has none; ValueError for a damaged one."""
    file = folder / PREPROCESSOR
    if not file.is_file():
        return None
    said = read_mapping(file)
    mean, std = said.get("image_mean"), said.get("image_std")
    if not (_three_numbers(mean) and _three_numbers(std) and all(std)):
        raise ValueError(f"{NAME}: {file} has image_mean {mean!r:.60} and image_std {std!r:.60}; needed: 3 numbers")
    return mean, std


def _three_numbers(values: Any) -> bool:
    return isinstance(values, list) and len(values) == 3 and all(isinstance(each, int | float) for each in values)


# The published file


def read_published(path: Path, transformers: Any) -> nn.Module:
    """A published, fine-tuned VideoMAE as transformers' network; its sizes are those of its tensors.

    Raises ValueError for a damaged file, one with foreign objects, or one of another network.
    """
    state = load_weights(path, prefer=None)
    sizes = published_sizes(state, path)
    state = transformers_state(state)
    config = transformers.VideoMAEConfig(
        **sizes,
        image_size=PUBLISHED_SIDE,
        num_frames=PUBLISHED_FRAMES,
        layer_norm_eps=PUBLISHED_EPS,
        use_mean_pooling=True,
    )
    with torch.device("meta"):
        network = transformers.VideoMAEForVideoClassification(config)
    network.videomae.embeddings = type(network.videomae.embeddings)(config)  # its table of positions is in no file
    network.fc_norm.eps = PUBLISHED_EPS  # transformers takes PyTorch's default here
    shapes = {name: value.shape for name, value in network.state_dict().items()}
    wrong = sorted(shapes.keys() ^ state.keys())
    wrong += [name for name in shapes if name in state and state[name].shape != shapes[name]]
    if wrong:
        raise ValueError(f"{path} is no VideoMAE: {', '.join(wrong[:3])} are missing, unknown or of another shape")
    network.load_state_dict(state, assign=True)
    check_finite_weights(network, str(path))
    return network


def published_sizes(state: State, path: Path) -> dict[str, int]:
    """What a published file's tensors say of its network; ValueError for a file without them."""
    needed = ("patch_embed.proj.weight", "blocks.0.mlp.fc1.weight", "fc_norm.weight", "head.weight")
    lacking = [name for name in needed if name not in state]
    if lacking or state[needed[0]].ndim != 5:
        raise ValueError(f"{path} is no fine-tuned VideoMAE: it lacks {', '.join(lacking) or 'patches of clips'}")
    width, channels, tubelet, patch, _ = state["patch_embed.proj.weight"].shape
    return {
        "hidden_size": width,
        "num_channels": channels,
        "tubelet_size": tubelet,
        "patch_size": patch,
        "num_hidden_layers": len({name.split(".")[1] for name in state if name.startswith("blocks.")}),
        "num_attention_heads": max(1, min(width // HEAD_WIDTH, MOST_HEADS)),
        "intermediate_size": len(state["blocks.0.mlp.fc1.weight"]),
        "num_labels": len(state["head.weight"]),
    }


def transformers_state(state: State) -> State:
    """The tensors of a published file under transformers' names; queries, keys and values apart."""
    found: State = {}
    for name, value in state.items():
        stem = name.removesuffix(".qkv.weight")
        if stem != name:
            parts = zip(("query", "key", "value"), value.chunk(3), strict=True)
            found |= {f"{stem}.{part}.weight": weight for part, weight in parts}
        else:
            found[name.replace(".q_bias", ".query.bias").replace(".v_bias", ".value.bias")] = value
    return {_renamed(name): value for name, value in found.items()}


def _renamed(name: str) -> str:
    for pattern, replacement in NAMES:
        name = pattern.sub(replacement, name)
    return name
