"""What a clip is asked to be: sets of tags, texts, classes by name, nothing."""

import unicodedata
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from audio.conditioning import CONDITIONINGS, TextConfig
from core.conditioning.contract import assign_conditions
from core.conditioning.labels import LabelConditioning, LabelConfig
from core.conditioning.none import NoneConfig, Unconditional
from core.conditioning.tags import TagConditioning, TagsConfig
from core.conditioning.texts import TextConditioning, VectorEmbedder
from core.draws import StepRandom
from core.schema import plain, strict

NAMES = ["genre---jazz", "genre---rock", "instrument---piano", "mood/theme---calm"]


def tags(**options):
    return TagConditioning(TagsConfig(**options), NAMES)


def texts(**options):
    table = {"a piano": [1.0, 0.0, 2.0], "a drum": [0.0, 3.0, 0.0], "a flute": [0.5, 0.5, 0.5]}
    config = TextConfig(encoder="clap", path="somewhere", prompts=["a piano", "a drum"], **options)
    return TextConditioning(config, lambda wanted: torch.tensor([table[each] for each in wanted]))


@pytest.mark.parametrize("kind", [tags, texts])
def test_a_share_becomes_null_and_the_others_stay(kind):
    conditioning = kind(drop=0.3)
    rows = conditioning.requests(10_000, 0)
    dropped = conditioning.drop(rows, StepRandom(0, 0))
    gone = (dropped == 0).all(1)
    assert gone.double().mean().item() == pytest.approx(0.3, abs=0.02)
    assert torch.equal(dropped[~gone], rows[~gone])
    assert dropped.dtype == rows.dtype


@pytest.mark.parametrize("kind", [tags, texts])
def test_guidance_has_a_learned_vector_for_nothing(kind):
    conditioning = kind()
    embedder = conditioning.embedder(8, null=True)
    embedder.initialize()
    rows = conditioning.requests(4, 0)
    null = embedder(conditioning.null(rows))
    assert torch.equal(null, null[:1].expand_as(null)) and null.abs().sum() > 0
    assert not torch.isclose(embedder(rows), null).all(1).any()
    null.sum().backward()
    assert (embedder.null if isinstance(embedder, VectorEmbedder) else embedder.embedding_table.weight).grad is not None


def test_a_set_of_tags_is_the_sum_of_its_tags_over_the_root_of_their_number():
    embedder = tags().embedder(16, null=True)
    embedder.initialize()
    table = embedder.embedding_table.weight
    both = embedder(torch.tensor([[1, 0, 1, 0]], dtype=torch.uint8))
    torch.testing.assert_close(both[0], (table[0] + table[2]) / 2**0.5)
    torch.testing.assert_close(embedder(torch.tensor([[0, 1, 0, 0]]))[0], table[1])


def test_tags_are_asked_for_in_turn_or_drawn_by_seed_and_index():
    assert tags().requests(6, 0).argmax(1).tolist() == [0, 1, 2, 3, 0, 1]
    drawn = tags(requests="random").requests(400, 5)
    assert torch.equal(drawn[:7], tags(requests="random").requests(7, 5))
    assert drawn.sum(1).eq(1).all() and (drawn.sum(0) > 50).all()
    assert not torch.equal(drawn, tags(requests="random").requests(400, 6))


def test_named_tags_are_one_set_and_unknown_ones_name_their_neighbours():
    assert tags().named(["instrument---piano", "genre---rock"], 2).tolist() == [[0, 1, 1, 0]] * 2
    with pytest.raises(
        ValueError, match=r"tags has 'genre---rok', which the model does not know; of its 4: genre---rock"
    ):
        tags().named(["genre---rok"], 2)


def test_classes_are_named_or_numbered():
    labels = LabelConditioning(LabelConfig(), 3, ["piano", "flute", "bell"])
    assert labels.named(["bell", 0], 3).tolist() == [2, 0, 2]
    with pytest.raises(ValueError, match=r"labels has 'belle'.*: bell"):
        labels.named(["belle"], 1)
    with pytest.raises(ValueError, match=r"labels is \[3\]; allowed: 0 to 2"):
        labels.named([3], 1)


def test_a_name_is_the_same_in_every_unicode_form():
    """But for names that differ in it alone, which are taken to the letter."""
    composed, apart = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    assert TagConditioning(TagsConfig(), ["x", apart]).named([composed], 1).tolist() == [[0, 1]]
    both = TagConditioning(TagsConfig(), [composed, apart])
    assert both.named([apart], 1).tolist() == [[0, 1]]


def test_prompts_are_asked_for_in_turn():
    assert torch.equal(texts().requests(3, 0), texts().named(["a piano", "a drum", "a piano"], 3))


def test_nothing_is_asked_for():
    conditioning = Unconditional()
    rows = conditioning.requests(3, 0)
    embedder = conditioning.embedder(5, null=True)
    assert torch.equal(embedder(rows), torch.zeros(3, 5))
    assert torch.equal(conditioning.drop(rows, StepRandom(0, 0)), conditioning.null(rows))
    assert not list(embedder.parameters())


def data(**members):
    return SimpleNamespace(
        **{"labels": None, "tag_sets": None, "tag_names": [], "captions": None, "class_names": [], **members}
    )


def test_a_data_set_gets_the_conditions_that_are_asked_for():
    with_tags = data(tag_sets=np.eye(4, dtype=np.uint8)[:2], tag_names=NAMES)
    assign_conditions(with_tags, TagsConfig(), CONDITIONINGS, torch.device("cpu"))
    assert with_tags.conditions.dtype == torch.uint8 and with_tags.class_names == NAMES and with_tags.labels is None


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (LabelConfig(), "conditioning is 'labels' but the data has no classes"),
        (TagsConfig(), "conditioning is 'tags' but the data has no tags"),
        (TextConfig(encoder="t5", path="x", prompts=["y"]), "conditioning is 'text' but the data has no captions"),
    ],
)
def test_data_without_them_are_refused(config, words):
    with pytest.raises(ValueError, match=words):
        assign_conditions(data(), config, CONDITIONINGS, torch.device("cpu"))


@pytest.mark.parametrize(
    ("schema", "values", "words"),
    [
        (TagsConfig, {"drop": 1.0}, "conditioning.drop is 1.0"),
        (TextConfig, {"encoder": "clap", "path": "", "prompts": ["x"]}, "conditioning.path is ''"),
        (TextConfig, {"encoder": "clap", "path": "x", "prompts": []}, r"conditioning.prompts is \[\]"),
    ],
)
def test_bad_options_are_refused(schema, values, words):
    with pytest.raises(ValueError, match=words):
        schema(**values)


def test_a_config_comes_back_from_its_plain_form():
    assert strict(NoneConfig, plain(NoneConfig())) == NoneConfig()
    assert isinstance(NoneConfig().build([], torch.device("cpu")), Unconditional)
