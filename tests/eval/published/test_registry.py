"""The registry of published weights: complete, unique, and what the page shows."""

import re
from pathlib import Path

from eval.published.registry import REGISTRY
from tests.eval.published.weights_server import run
from tests.rows import every_row

ROOT = Path(__file__).resolve().parents[3]


@every_row("entry", REGISTRY)
def test_every_entry_is_complete(entry):
    for text in (entry.title, entry.licence, entry.used_by):
        assert text.strip() and "|" not in text
    assert re.fullmatch("[a-z0-9-]+", entry.name) and entry.origin.startswith("https://")
    assert entry.files and (entry.kind == "directory") == (len(entry.files) > 1)
    assert (entry.repository is None) == (entry.revision is None)
    for file in entry.files:
        assert file.url.startswith("https://")
        assert file.sha256 is None or re.fullmatch("[0-9a-f]{8,64}", file.sha256)
        assert file.size is None or file.size > 0
        assert not Path(file.path).is_absolute() and ".." not in Path(file.path).parts
        if entry.repository:
            assert re.fullmatch("[0-9a-f]{40}", entry.revision)
            assert file.url.startswith(f"https://huggingface.co/{entry.repository}/resolve/{entry.revision}/")
            assert entry.remote_path(file).endswith(file.path)
    if any(file.by_hand for file in entry.files):
        assert "unpack" in entry.notes


def test_names_and_places_are_unique():
    names = [entry.name for entry in REGISTRY]
    places = [f"{entry.name}/{file.path}" for entry in REGISTRY for file in entry.files]
    assert len(set(names)) == len(names) and len(set(places)) == len(places)
    hashes = [
        file.sha256 for entry in REGISTRY for file in entry.files if file.known and not entry.name.startswith("wan")
    ]
    assert len(set(hashes)) == len(hashes)


def test_what_the_papers_need_is_there():
    needed = {"inception", "dinov2", "clap-music", "clap-audio", "vggish", "i3d", "t2m-evaluators", "sd-vae-ema"}
    assert needed | {"stable-audio-vae", "wan", "wan-vae"} <= {entry.name for entry in REGISTRY}


def test_the_page_is_the_registry(root, capsys):
    assert run("table") == 0
    table = capsys.readouterr().out
    page = (ROOT / "docs" / "weights.md").read_text()
    assert table in page, "python -m eval.weights table prints what docs/weights.md holds"
    told = page.split("## Licences")[1]
    for entry in REGISTRY:
        assert f"`{entry.name}`" in told, f"the licence of {entry.name} has no sentence"
