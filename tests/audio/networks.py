"""Random networks, tokenizers and clips in the formats that audio extractors read."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import librosa
import numpy as np
import torch
import transformers
from tokenizers import ByteLevelBPETokenizer, Tokenizer, decoders, models, pre_tokenizers, processors

from audio.encoders.clap import LAION_PREPROCESSOR
from audio.encoders.vggish import VggishNetwork
from audio.sounds.sound import Sound
from tests.golden_files import load_golden, with_prefix

TEXTS = ["a dog barks twice", "slow piano with rain", "a very fast drum solo", "birds"]
ROBERTA_SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def clip(seconds: float, rate: int = 48_000, channels: int = 1, seed: int = 0) -> Sound:
    """Noise under a slow swell."""
    samples = round(seconds * rate)
    generator = torch.Generator().manual_seed(seed)
    swell = torch.linspace(0.1, 0.8, samples)
    return Sound(swell * torch.randn(channels, samples, generator=generator).clamp(-1, 1), rate)


def clap_config(fusion: bool = False, width: int = 16, depths: tuple[int, ...] = (2, 2)) -> transformers.ClapConfig:
    """HTSAT of few channels on the real spectrogram, RoBERTa with one head of 64."""
    audio = {
        "patch_embeds_hidden_size": width,
        "depths": list(depths),
        "num_attention_heads": [2 * 2**stage for stage in range(len(depths))],
        "num_hidden_layers": len(depths),
        "hidden_size": width * 2 ** (len(depths) - 1),
        "enable_fusion": fusion,
        "fusion_type": "aff_2d" if fusion else None,
    }
    text = {
        "vocab_size": 320,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 1,
        "intermediate_size": 96,
        "max_position_embeddings": 90,
        "layer_norm_eps": 1e-5,
    }
    return transformers.ClapConfig(audio_config=audio, text_config=text)


def random_network(kind: type, config, seed: int = 0) -> torch.nn.Module:
    """A network of transformers with spread in every weight, bias and running mean."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = kind(config)
        with torch.no_grad():
            for value in network.parameters():
                value.add_(0.1 * torch.randn_like(value))
            for name, value in network.named_buffers():
                if name.endswith("running_mean"):
                    value.fill_(-60).add_(torch.randn_like(value))
                elif name.endswith("running_var"):
                    value.fill_(400).add_(100 * torch.rand_like(value))
    return network.eval()


def save_clap(folder: Path, fusion: bool = False, seed: int = 0) -> transformers.ClapModel:
    """A tiny CLAP as save_pretrained writes it, with preprocessor and tokenizer."""
    network = random_network(transformers.ClapModel, clap_config(fusion), seed)
    network.save_pretrained(folder)
    truncation = {"truncation": "fusion" if fusion else "rand_trunc"}
    transformers.ClapFeatureExtractor(**{**LAION_PREPROCESSOR, **truncation}).save_pretrained(folder)
    save_roberta_tokenizer(folder)
    return network


def laion_state(network: transformers.ClapModel) -> dict[str, torch.Tensor]:
    """The tensors of a ClapModel as LAION's CLAP names them, with those that only LAION's has."""
    found = {name: getattr(network, name).detach() for name in ("logit_scale_a", "logit_scale_t")}
    for branch in ("text", "audio"):
        projection = getattr(network, f"{branch}_projection")
        for index, layer in ((0, projection.linear1), (2, projection.linear2)):
            found |= own(f"{branch}_projection.{index}", layer)
        found |= {f"{branch}_transform.sequential.0.weight": torch.zeros(4, 4)}
    found |= {f"text_branch.{name}": value for name, value in network.text_model.state_dict().items()}
    htsat, root = network.audio_model.audio_encoder, "audio_branch"
    found |= own(f"{root}.bn0", htsat.batch_norm) | own(f"{root}.norm", htsat.norm)
    found |= own(f"{root}.patch_embed.proj", htsat.patch_embed.proj)
    found |= own(f"{root}.patch_embed.norm", htsat.patch_embed.norm)
    for i, stage in enumerate(htsat.layers):
        for j, block in enumerate(stage.blocks):
            found |= _block(f"{root}.layers.{i}.blocks.{j}", block)
        if stage.downsample is not None:
            found |= own(f"{root}.layers.{i}.downsample.reduction", stage.downsample.reduction)
            found |= own(f"{root}.layers.{i}.downsample.norm", stage.downsample.norm)
    filters = librosa.filters.mel(sr=48_000, n_fft=1024, n_mels=64, fmin=50, fmax=14_000)
    only_laion = {
        "tscam_conv.weight": torch.zeros(5, 4, 2, 3),
        "head.weight": torch.zeros(5, 5),
        "spectrogram_extractor.stft.conv_real.weight": torch.zeros(513, 1, 1024),
        "logmel_extractor.melW": torch.from_numpy(filters.T.copy()),
        "layers.0.blocks.1.attn_mask": torch.zeros(64, 64, 64),
    }
    return found | {f"{root}.{name}": value for name, value in only_laion.items()}


def _block(root: str, block: torch.nn.Module) -> dict[str, torch.Tensor]:
    heard, attention = block.attention.self, {}
    for kind in ("weight", "bias"):
        rows = [getattr(layer, kind) for layer in (heard.query, heard.key, heard.value)]
        attention[f"{root}.attn.qkv.{kind}"] = torch.cat(rows).detach()
    attention[f"{root}.attn.relative_position_bias_table"] = heard.relative_position_bias_table.detach()
    attention[f"{root}.attn.relative_position_index"] = heard.relative_position_index
    layers = {
        "norm1": block.layernorm_before,
        "norm2": block.layernorm_after,
        "attn.proj": block.attention.output.dense,
        "mlp.fc1": block.intermediate.dense,
        "mlp.fc2": block.output.dense,
    }
    for name, layer in layers.items():
        attention |= own(f"{root}.{name}", layer)
    return attention


def own(root: str, layer: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A layer's tensors under another name."""
    return {f"{root}.{name}": value for name, value in layer.state_dict().items()}


def save_laion(
    path: Path, network: transformers.ClapModel, drop: Sequence[str] = (), add: Mapping | None = None
) -> Path:
    """LAION's checkpoint: a state dict under `module.`, and an optimizer whose rate NumPy computed."""
    state = {f"module.{name}": value for name, value in laion_state(network).items() if name not in drop}
    state |= {f"module.{name}": value for name, value in (add or {}).items()}
    optimizer = {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": np.float64(1e-4), "params": [0]}]}
    path.parent.mkdir(exist_ok=True, parents=True)
    torch.save({"epoch": 15, "name": "music", "state_dict": state, "optimizer": optimizer}, path)
    return path


def save_roberta_tokenizer(folder: Path) -> None:
    """A byte-level BPE tokenizer with RoBERTa's special tokens, tokenizer.json among its files."""
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(TEXTS * 3, vocab_size=300, special_tokens=ROBERTA_SPECIAL, show_progress=False)
    folder.mkdir(parents=True, exist_ok=True)
    vocab, merges = bpe.save_model(str(folder))
    transformers.RobertaTokenizer.from_pretrained(str(folder), local_files_only=True).save_pretrained(folder)
    Path(vocab).unlink(missing_ok=True)
    Path(merges).unlink(missing_ok=True)


def save_t5(folder: Path, seed: int = 0) -> transformers.T5ForConditionalGeneration:
    """A tiny T5, encoder and decoder as published, with a unigram tokenizer."""
    config = transformers.T5Config(
        vocab_size=64, d_model=24, d_kv=8, d_ff=32, num_layers=2, num_heads=3, decoder_start_token_id=0
    )
    network = random_network(transformers.T5ForConditionalGeneration, config, seed)
    network.save_pretrained(folder)
    letters = [(letter, -3.0) for letter in "▁abcdefghijklmnopqrstuvwxyz"]
    unigram = Tokenizer(models.Unigram([("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *letters], unk_id=2))
    unigram.pre_tokenizer = pre_tokenizers.Metaspace()
    unigram.decoder = decoders.Metaspace()
    unigram.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=unigram, **special).save_pretrained(folder)
    return network


def save_vggish(path: Path, seed: int = 0) -> dict[str, torch.Tensor]:
    """torchvggish's file in its real size, the PCA of its module among the tensors."""
    generator = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in VggishNetwork().state_dict().items()}
    state = {}
    for name, shape in shapes.items():
        scale = 0.1 if name.endswith("bias") else (2 / shape[1:].numel()) ** 0.5
        state[name] = torch.empty(shape).normal_(0, scale, generator=generator)
    state["pproc.pca_eigen_vectors"], state["pproc.pca_means"] = torch.eye(128), torch.zeros(128, 1)
    torch.save(state, path)
    return state


def rename_in_pickle(path: Path, old: bytes, new: bytes) -> None:
    """Replace a module's name in the pickle of a .pt file, as another version of NumPy would have written it."""
    with zipfile.ZipFile(path) as archive:
        content = {entry: archive.read(entry) for entry in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for entry, data in content.items():
            archive.writestr(entry, data.replace(old, new) if entry.endswith("data.pkl") else data)


class Other:
    """An object that no weights file should hold."""

    def __reduce__(self):
        return exec, ("raise SystemExit('executed')",)


def ms_clap_state() -> dict[str, torch.Tensor]:
    """The recorded small network of Microsoft's CLAP as its file has it, with what is not read of it."""
    tensors, _ = load_golden("ms_clap")
    state = {name: value.float() if value.is_floating_point() else value for name, value in tensors.items()}
    unread = {"logit_scale": torch.zeros(()), "caption_encoder.base.wte.weight": torch.zeros(3, 2)}
    unread["audio_encoder.base.htsat.spectrogram_extractor.stft.conv_real.weight"] = torch.zeros(513, 1, 1024)
    return {**with_prefix(state, "state."), **unread}


def save_ms_clap(path: Path, **changes: torch.Tensor | None) -> Path:
    """It in a file as published; `changes` are other tensors under a name, None for none."""
    state = {name: value for name, value in {**ms_clap_state(), **changes}.items() if value is not None}
    torch.save({"model": state}, path)
    return path
