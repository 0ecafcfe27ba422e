"""Which code made a file: asked of git without getting in the way of who works in the same tree."""

import os
import subprocess

from core.storage import provenance


def test_a_look_at_the_tree_writes_nothing_into_it(tmp_path, monkeypatch):
    """`git status` would renew the index, under a lock that a commit of the user would find taken."""
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    file = tmp_path / "code.py"
    file.write_text("answer = 42\n")
    names = ("-c", "user.name=a", "-c", "user.email=a@b")
    for words in (["init", "-q"], ["add", "."], [*names, "commit", "-qm", "first"]):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    os.utime(file, (1, 1))  # the index no longer knows that the content is the same
    before = (tmp_path / ".git" / "index").read_bytes()
    version = provenance.code_version.__wrapped__()
    assert len(version["commit"]) == 40 and version["dirty"] is False
    assert (tmp_path / ".git" / "index").read_bytes() == before
    file.write_text("answer = 43\n")
    assert provenance.code_version.__wrapped__()["dirty"] is True
