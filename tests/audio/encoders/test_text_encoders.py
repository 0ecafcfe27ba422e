"""Texts as vectors: CLAP's text branch and T5's encoder from files, the mean over real tokens, and the cache."""

import shutil
import sys
import unicodedata

import pytest
import torch
import transformers

from audio.encoders.clap import ClapFeatures, ClapSource
from audio.encoders.text_encoders import embed_texts
from core.conditioning.encoders import masked_mean
from tests.audio.networks import TEXTS, save_clap, save_t5


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    folder = tmp_path_factory.mktemp("t5")
    save_t5(folder)
    return folder


@pytest.fixture(scope="module")
def clap(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clap")
    save_clap(folder)
    return folder


def test_t5_is_the_mean_of_the_encoder_over_real_tokens(t5, tmp_path):
    found = embed_texts("t5", str(t5), TEXTS, tmp_path)
    assert found.shape == (4, 24) and found.dtype == torch.float32
    tokenizer = transformers.AutoTokenizer.from_pretrained(t5)
    whole = transformers.T5ForConditionalGeneration.from_pretrained(t5).eval()
    for text, row in zip(TEXTS, found, strict=True):
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        assert ids[0, -1] == 1 and ids.shape[1] > 5  # </s>
        with torch.no_grad():
            expected = whole.encoder(input_ids=ids).last_hidden_state[0].mean(dim=0)
        torch.testing.assert_close(row, expected, rtol=0, atol=1e-5)
    assert torch.pdist(found).min() > 1e-3


def test_the_mean_leaves_out_padding():
    states = torch.tensor([[[1.0], [3.0], [100.0]], [[2.0], [4.0], [6.0]]])
    assert masked_mean(states, torch.tensor([[1, 1, 0], [1, 1, 1]])).tolist() == [[2.0], [4.0]]
    with pytest.raises(ValueError, match="no token"):
        masked_mean(states, torch.tensor([[1, 1, 0], [0, 0, 0]]))


def test_clap_is_its_text_branch(clap, tmp_path):
    found = embed_texts("clap", str(clap), TEXTS, tmp_path)
    assert found.shape == (4, 512) and found.dtype == torch.float32
    assert torch.equal(found, ClapFeatures(ClapSource("clap", clap)).text_embedding(TEXTS))


@pytest.mark.parametrize("kind", ["t5", "clap"])
def test_a_text_is_the_same_in_every_unicode_form(kind, t5, clap):
    folder = {"t5": t5, "clap": clap}[kind]
    composed, apart = (unicodedata.normalize(form, "café noir") for form in ("NFC", "NFD"))
    found = embed_texts(kind, str(folder), [composed, apart], None)
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-6)
    if kind == "clap":
        scored = ClapFeatures(ClapSource("clap", clap)).text_embedding([composed, apart])
        torch.testing.assert_close(scored, found, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["t5", "clap"])
def test_the_cache_gives_the_same_bits_without_the_network(kind, t5, clap, tmp_path, monkeypatch):
    folder = str({"t5": t5, "clap": clap}[kind])
    made = embed_texts(kind, folder, TEXTS, tmp_path / "new" / "cache")
    (file,) = (tmp_path / "new" / "cache").iterdir()
    assert file.name.startswith(f"{kind}-") and file.suffix == ".safetensors"
    monkeypatch.setitem(sys.modules, "transformers", None)  # nothing is computed any more
    assert torch.equal(embed_texts(kind, folder, TEXTS, tmp_path / "new" / "cache"), made)
    with pytest.raises(ImportError, match=r"needs the extra '(text|eval)': pip install 'layersync\[(text|eval)\]'$"):
        embed_texts(kind, folder, TEXTS[:2], tmp_path / "new" / "cache")


def test_other_texts_order_weights_and_tokenizers_are_other_files(t5, tmp_path):
    first = embed_texts("t5", str(t5), TEXTS, tmp_path / "cache")
    turned = embed_texts("t5", str(t5), TEXTS[::-1], tmp_path / "cache")
    torch.testing.assert_close(turned, first.flip(0), rtol=0, atol=1e-5)
    assert not torch.equal(turned, first)
    save_t5(tmp_path / "other", seed=1)
    assert not torch.allclose(embed_texts("t5", str(tmp_path / "other"), TEXTS, tmp_path / "cache"), first)
    relettered = shutil.copytree(t5, tmp_path / "letters")
    tokens = relettered / "tokenizer.json"
    tokens.write_text(tokens.read_text().replace('"a"', '"A"'))
    assert not torch.allclose(embed_texts("t5", str(relettered), TEXTS, tmp_path / "cache"), first)
    assert len(list((tmp_path / "cache").iterdir())) == 4
    moved = shutil.copytree(t5, tmp_path / "moved")  # the same files elsewhere are the same encoder
    assert torch.equal(embed_texts("t5", str(moved), TEXTS, tmp_path / "cache"), first)
    assert len(list((tmp_path / "cache").iterdir())) == 4


def test_no_cache_writes_nothing(t5, tmp_path):
    assert embed_texts("t5", str(t5), TEXTS, None).shape == (4, 24)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "swapped"])
def test_a_damaged_cache_is_an_error_that_names_the_file(damage, t5, tmp_path):
    embed_texts("t5", str(t5), TEXTS, tmp_path)
    (file,) = tmp_path.iterdir()
    data = bytearray(file.read_bytes())
    if damage == "cut":
        data = data[:-8]
    elif damage == "flipped":
        data[-3] ^= 1
    elif damage == "empty":
        data = b""
    else:
        embed_texts("t5", str(t5), TEXTS[::-1], tmp_path / "other")
        data = next((tmp_path / "other").iterdir()).read_bytes()
    file.write_bytes(data)
    with pytest.raises(ValueError, match=r"the cached embeddings .*t5-\w+\.safetensors are .*; remove it"):
        embed_texts("t5", str(t5), TEXTS, tmp_path)


def test_long_texts_are_reported(t5, caplog):
    embed_texts("t5", str(t5), ["a" * 300, "a"], None)
    assert "1 of 2 texts are longer than 128 tokens" in caplog.text


def test_bad_input_is_refused(t5, clap, tmp_path):
    with pytest.raises(ValueError, match="the text encoder is 'bert'; allowed: clap, t5"):
        embed_texts("bert", str(t5), TEXTS, None)
    for texts in ([], [1], ["a", None]):
        with pytest.raises(ValueError, match="needs a list of texts, at least one"):
            embed_texts("t5", str(t5), texts, None)
    with pytest.raises(ValueError, match=r"the text encoder t5 is looked for at .*nowhere; needed: a directory"):
        embed_texts("t5", str(tmp_path / "nowhere"), TEXTS, None)
    with pytest.raises(ValueError, match=r"the text encoder clap is looked for at .*nowhere; .* or LAION's \.pt"):
        embed_texts("clap", str(tmp_path / "nowhere"), TEXTS, None)


def test_damaged_and_incomplete_encoders_are_refused(t5, tmp_path):
    from safetensors.torch import load_file, save_file

    cut = shutil.copytree(t5, tmp_path / "cut")
    weights = cut / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"t5: .*model\.safetensors is damaged"):
        embed_texts("t5", str(cut), TEXTS, None)
    lacking = shutil.copytree(t5, tmp_path / "lacking")
    state = load_file(lacking / "model.safetensors")
    del state["encoder.final_layer_norm.weight"]
    save_file(state, lacking / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks the weights encoder\.final_layer_norm\.weight"):
        embed_texts("t5", str(lacking), TEXTS, None)
    state = load_file(t5 / "model.safetensors")
    more = {"decoder.norm.weight": torch.ones(2), "lm_head.weight": torch.ones(2)}  # of the whole T5
    save_file(state | more, lacking / "model.safetensors", metadata={"format": "pt"})
    assert torch.equal(embed_texts("t5", str(lacking), TEXTS, None), embed_texts("t5", str(t5), TEXTS, None))
    save_file(state | {"head.weight": torch.ones(2)}, lacking / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"t5: .*lacking has the unknown weights head\.weight"):
        embed_texts("t5", str(lacking), TEXTS, None)
    mute = shutil.copytree(t5, tmp_path / "mute")
    (mute / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"t5: there is no tokenizer in .*mute"):
        embed_texts("t5", str(mute), TEXTS, None)
