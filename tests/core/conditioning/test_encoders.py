"""Text encoders of transformers as vectors: UMT5's mean and CLIP's projection, from the files of the whole models."""

import pytest
import torch
import transformers

from core.conditioning.encoders import ClipTextEncoder, T5Encoder, UMT5Encoder, embed_texts, encoder_named, of_names
from tests.core.conditioning.networks import save_clip, save_umt5

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


def test_what_is_no_encoder_is_refused(clip, tmp_path):
    encoders = of_names(T5Encoder(), UMT5Encoder())
    assert list(encoders) == ["t5", "umt5"]
    with pytest.raises(ValueError, match="the text encoder is 'bert'; allowed: t5, umt5"):
        encoder_named("bert", encoders)
    with pytest.raises(ValueError, match=r"the text encoder umt5 is looked for at .*nowhere; needed: a directory"):
        embed_texts(UMT5Encoder(), str(tmp_path / "nowhere"), TEXTS, None)
    with pytest.raises(ValueError, match=r"umt5: "):
        embed_texts(UMT5Encoder(), str(clip), TEXTS, None)
