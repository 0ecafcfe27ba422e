"""Texts through UMT5: the tokens of diffusers' pipeline, encoded once, kept in files that are checked."""

import shutil

import pytest
import torch

from core.conditioning.embeddings import SequenceFiles
from core.draws import StepRandom
from video.wan.files import WanFiles
from video.wan.texts import UMT5, WanTextConfig, cleaned, text_number

CPU = torch.device("cpu")
CAPTIONS = ["a blue square moves slowly", "a red ball  moves &amp; left"]


def texts(root, cache, captions=CAPTIONS, **options):
    """The texts of a run with one prompt."""
    config = WanTextConfig(prompts=["a red ball"], max_tokens=12, dtype="float32", cache_dir=str(cache), **options)
    return config.build(WanFiles(str(root)), captions, CPU)


def test_tokens_are_those_of_diffusers_pipeline(wan, tmp_path):
    """Cleaned, cut and padded as there; a text's number is that of what is left after cleaning."""
    from diffusers import WanPipeline

    own = texts(wan, tmp_path)
    pipeline = WanPipeline.from_pretrained(wan, use_safetensors=True)
    long = " ".join(["a red ball moves left over sand"] * 3)
    wanted = [*CAPTIONS, "", long]
    with torch.no_grad():
        expected, _ = pipeline.encode_prompt(wanted, do_classifier_free_guidance=False, max_sequence_length=12)
    numbers = own.numbers(wanted, CPU)
    torch.testing.assert_close(own.table()(numbers), expected, atol=1e-5, rtol=1e-5)
    assert text_number("a red\nball") == text_number(" a  red ball ") and cleaned("&lt;b&gt;") == "<b>"


def test_a_text_is_encoded_once_and_then_read(wan, tmp_path, monkeypatch):
    """The second run reads no encoder; another encoder, length or type has files of its own."""
    first = texts(wan, tmp_path)
    expected = first.table()(first.numbers(CAPTIONS, CPU))
    files = sorted(tmp_path.rglob("*.safetensors"))
    assert len(files) == len(CAPTIONS) + 2  # the empty text and the prompt

    def fail(*arguments):
        raise AssertionError("the encoder is read again")

    with monkeypatch.context() as patched:
        patched.setattr(UMT5, "_tokens", fail)
        again = texts(wan, tmp_path)
        assert torch.equal(again.table()(again.numbers(CAPTIONS, CPU)), expected)
        with pytest.raises(AssertionError, match="read again"):
            texts(wan, tmp_path, [*CAPTIONS, "over sand"])
    other = shutil.copytree(wan, tmp_path / "other")
    weights = other / "text_encoder" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-3] ^= 1
    weights.write_bytes(content)
    texts(other, tmp_path / "cache")
    texts(wan, tmp_path / "cache")
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == 2 * len(files)


def test_a_batch_drops_captions_for_the_empty_text_and_prompts_come_in_turn(wan, tmp_path):
    own = texts(wan, tmp_path, drop=0.5)
    condition = own.numbers(CAPTIONS, CPU).repeat(50)
    dropped = own.drop(condition, StepRandom(0, 0))
    empty = dropped == text_number("")
    assert 30 < int(empty.sum()) < 70 and torch.equal(dropped[~empty], condition[~empty])
    assert own.titles(own.requests(2, 0)) == ["a red ball", "a red ball"]
    assert set(own.null(condition).tolist()) == {text_number("")}


def test_damaged_tokens_and_a_missing_encoder_are_one_error(wan, tmp_path):
    own = texts(wan, tmp_path / "cache")
    for file in (tmp_path / "cache").rglob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(ValueError, match=r"cached embeddings .* are damaged"):
        own.table()(own.requests(1, 0))
    for part in ("text_encoder", "tokenizer"):
        root = shutil.copytree(wan, tmp_path / f"without_{part}")
        shutil.rmtree(root / part)
        with pytest.raises(ValueError, match=rf"model is '.*': the folder .*{part} is missing"):
            texts(root, tmp_path / "new")
    root = shutil.copytree(wan, tmp_path / "empty_encoder")
    (root / "text_encoder" / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="is no UMT5EncoderModel that transformers reads"):
        texts(root, tmp_path / "new")


def test_tokens_that_are_not_finite_are_named_and_not_kept(tmp_path):
    files = SequenceFiles("encoder", {"recipe": 1}, tmp_path)
    with pytest.raises(ValueError, match="gives NaN or infinity for 'a red ball'"):
        files.write("a red ball", torch.full((2, 3), torch.nan))
    assert files.missing(["a red ball", "a red ball", "sand"]) == ["a red ball", "sand"]
    files.write("sand", torch.ones(2, 3, dtype=torch.bfloat16))
    assert files.read("sand").dtype == torch.bfloat16 and files.missing(["sand"]) == []
