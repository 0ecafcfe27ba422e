"""Directories of transformers: all weights in their places, no code of theirs, or one error that names the file."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from core.storage.pretrained import read_pretrained
from tests.image.networks import save_dinov2
from tests.rows import every_row

transformers = pytest.importorskip("transformers")
NORM = "layernorm.weight"


@pytest.fixture
def folder(tmp_path):
    return save_dinov2(tmp_path)


def read(folder, kind=transformers.Dinov2Model):
    return read_pretrained(kind, folder, "encoder")


def write(folder, state, name="model.safetensors"):
    save_file({key: value.contiguous() for key, value in state.items()}, folder / name, metadata={"format": "pt"})


def test_the_network_is_what_was_saved(folder):
    saved = transformers.Dinov2Model.from_pretrained(folder).state_dict()
    for network in (read(folder), read(folder, transformers.AutoModel)):
        state = network.state_dict()
        assert state.keys() == saved.keys() and all(torch.equal(state[name], saved[name]) for name in saved)


CHANGES = {
    "lacks the weights embeddings.cls_token": lambda state: {},
    f"lacks the weights {NORM}": lambda state: {key: value for key, value in state.items() if key != NORM},
    "has the unknown weights head.weight": lambda state: {**state, "head.weight": torch.ones(2)},
    f"holds NaN or infinity in {NORM}": lambda state: {**state, NORM: state[NORM] * torch.inf},
    f"{NORM} . MISMATCH .*3": lambda state: {**state, NORM: torch.ones(3)},
    "lacks the weights": lambda state: {"of": torch.ones(2), "another": torch.ones(2)},
}


@every_row(("message", "change"), list(CHANGES.items()))
def test_weights_that_are_not_all_there_are_no_network(tmp_path, message, change):
    folder = save_dinov2(tmp_path)
    write(folder, change(load_file(folder / "model.safetensors")))
    with pytest.raises(ValueError, match=rf"^encoder: {folder} .*{message}"):
        read(folder)


FILES = {
    "config.json": ["[]", "{", "null", "[" * 100_000, None],
    "model.safetensors": ["", "PK\x03\x04", "\x80\x00\x00\x00\x00\x00\x00\x00{}"],
    "model.safetensors.index.json": [
        "[]",
        json.dumps({"weight_map": {NORM: "../model.safetensors"}}),
        json.dumps({"weight_map": {NORM: "pytorch_model.bin"}}),
        json.dumps({"weight_map": [1]}),
    ],
}


@every_row(("name", "content"), [(name, content) for name, contents in FILES.items() for content in contents])
def test_a_file_that_is_none_is_named(tmp_path, name, content):
    folder = save_dinov2(tmp_path)
    (folder / name).unlink(missing_ok=True)
    if content is not None:
        (folder / name).write_text(content)
    with pytest.raises(ValueError, match=rf"^encoder: .*{name}"):
        read(folder)


FOREIGN = [
    {"auto_map": {"AutoModel": "code.Model"}},
    {"quantization_config": {"quant_method": "bitsandbytes"}},
    {"attn_implementation": "someone/kernel"},
    {"text_config": {"_attn_implementation": "someone/kernel"}},
    {"transformers_weights": "others.safetensors"},
]


@every_row("entries", FOREIGN)
def test_a_config_that_names_code_or_other_files_is_refused_and_the_code_not_run(tmp_path, entries):
    folder = save_dinov2(tmp_path)
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))
    (folder / "code.py").write_text(f"open({str(folder / 'made')!r}, 'w')\nModel = None\n")
    for kind in (transformers.Dinov2Model, transformers.AutoModel):
        with pytest.raises(ValueError, match=r"^encoder: .*config\.json has the key '\w+', which names other code"):
            read(folder, kind)
    assert not (folder / "made").exists()


def test_pickles_and_adapters_are_not_read(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "elsewhere"}')
    with pytest.raises(ValueError, match=r"adapter_config\.json names a network elsewhere"):
        read(folder)
    (folder / "adapter_config.json").unlink()
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"is no Dinov2Model that transformers reads: .*model\.safetensors"):
        read(folder)
