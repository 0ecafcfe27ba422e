"""The data sets by name, and the values that their configs refuse."""

import dataclasses

import pytest

from core.schema import choice, plain, strict
from image.data import DATASETS, LatentsConfig
from image.datasets.digits import DigitsConfig
from image.datasets.files import FolderConfig, ParquetConfig


@pytest.mark.parametrize(
    ("schema", "values", "message"),
    [
        (DigitsConfig, {"split": "test"}, r"data\.split.*'test'.*train.*heldout.*all"),
        (FolderConfig, {"root": ""}, r"data\.root is ''"),
        (FolderConfig, {"root": "x", "size": 0}, r"data\.size is 0"),
        (FolderConfig, {"root": "x", "channels": 4}, r"data\.channels.*4.*1.*3"),
        (LatentsConfig, {"root": ""}, r"data\.root is ''; needed: the folder of a latent cache"),
        (LatentsConfig, {"root": "x", "channels": 4}, r"data\.channels.*4.*1.*3"),
        (ParquetConfig, {"root": "x", "max_broken": -1}, r"data\.max_broken is -1"),
        (ParquetConfig, {"root": "x", "split": "data/train"}, r"data\.split is 'data/train'"),
    ],
)
def test_configs_refuse_values(schema, values, message):
    with pytest.raises(ValueError, match=message):
        schema(**values)
    with pytest.raises(ValueError, match=message):
        strict(schema, values, "data")


@pytest.mark.parametrize("name", DATASETS)
def test_configs_refuse_unknown_and_missing_keys(name):
    with pytest.raises(ValueError, match=r"unknown config key 'data\.sise'.*allowed: .*split|root"):
        strict(DATASETS[name], {"root": "x", "sise": 32}, "data")
    if name not in ("digits", "scenes"):  # which come without files
        with pytest.raises(ValueError, match=r"missing config key 'data\.root'"):
            strict(DATASETS[name], {}, "data")


def test_config_is_chosen_by_name_and_written_back():
    schema = dataclasses.make_dataclass("Run", [("data", object, choice(DATASETS))])
    node = {"data": {"name": "parquet", "root": "/data", "size": 64, "split": "validation"}}
    config = strict(schema, node)
    assert config.data == ParquetConfig(root="/data", size=64, split="validation")
    assert strict(schema, plain(config)) == config
