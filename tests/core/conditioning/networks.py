"""Random text encoders of transformers in their directories: UMT5, CLIP and BERT as a whole, with tokenizers."""

from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors


def save_tokenizer(folder, ends):
    """Words of letters under `ends`, the last of which is the end token, as transformers saves it."""
    specials = ["<pad>", *ends, "<unk>"]
    letters = [(letter, -3.0) for letter in "▁abcdefghijklmnopqrstuvwxyz"]
    unigram = Tokenizer(models.Unigram([*((name, 0.0) for name in specials), *letters], unk_id=len(specials) - 1))
    unigram.pre_tokenizer = pre_tokenizers.Metaspace()
    pair = [(name, specials.index(name)) for name in ends]
    unigram.post_processor = processors.TemplateProcessing(
        single=" ".join([*ends[:-1], "$A", ends[-1]]), special_tokens=pair
    )
    special = {"pad_token": "<pad>", "eos_token": ends[-1], "unk_token": "<unk>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=unigram, **special).save_pretrained(folder)


def save(kind, config, folder):
    """A random network in a directory."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        kind(config).eval().save_pretrained(folder)


def save_umt5(folder: Path) -> Path:
    """A tiny UMT5, encoder and decoder as published."""
    config = transformers.UMT5Config(vocab_size=64, d_model=24, d_kv=8, d_ff=32, num_layers=2, num_heads=3)
    save(transformers.UMT5ForConditionalGeneration, config, folder)
    save_tokenizer(folder, ["</s>"])
    return folder


def save_clip(folder: Path) -> Path:
    """A tiny CLIP, both branches."""
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**sizes, "vocab_size": 64, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "projection_dim": 12}
    vision = {**sizes, "image_size": 16, "patch_size": 8}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)
    save(transformers.CLIPModel, config, folder)
    save_tokenizer(folder, ["<s>", "</s>"])
    return folder


def save_bert(folder: Path) -> Path:
    """A tiny BERT of MiniLM's kind."""
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    save(transformers.BertModel, transformers.BertConfig(vocab_size=64, max_position_embeddings=300, **sizes), folder)
    save_tokenizer(folder, ["[CLS]", "[SEP]"])
    return folder
