"""The file of a comparison: read as it was written, or refused by its name."""

import json

import pytest

from eval.methods.result import KIND, read_comparison
from tests.rows import every_row

CONTENT = {"schema_version": 1, "kind": KIND, "domain": "image", "metric": "fid", "methods": ["a"], "seeds": [0]}
CONTENT |= {"steps": [1], "values": {"a": [[1.0]]}, "mean": {"a": []}}
BAD = ["[]", "null", "{", "[" * 100_000, '{"kind": "comparison"}', json.dumps(CONTENT | {"values": [1]})]
BAD += [json.dumps({key: value for key, value in CONTENT.items() if key != "methods"})]


@every_row("text", BAD)
def test_another_file_is_refused_by_its_name(tmp_path, text):
    file = tmp_path / "comparison_fid.json"
    file.write_text(json.dumps(CONTENT))
    assert read_comparison(file) == CONTENT
    file.write_text(text)
    with pytest.raises(ValueError, match=r"comparison_fid\.json is (no comparison|damaged)"):
        read_comparison(file)
