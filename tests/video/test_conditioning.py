"""Text-to-video on real files: captions through a frozen text encoder train a run, and prompts ask for its samples."""

import contextlib
import json

import numpy as np
import pytest
import yaml

from core.storage.lines import read_lines
from tests.core.conditioning.networks import save_umt5
from tests.end_to_end.commands import call, one_line_error
from tests.end_to_end.toys.contract import SMALL
from tests.video.video_files import numbered_frames, write_video

CAPTIONS = {"a.mp4": "a red ball rolls", "deep/b.mp4": "two dogs run"}
WORDS = (*SMALL, "data=folder", "data.root=files", "data.clip.frames=4", "data.size=16", "data.captions=captions.csv")
WORDS += (
    "trainer.steps=2",
    "trainer.batch_size=2",
    "evaluation=none",
    "conditioning=text",
    "conditioning.encoder=umt5",
)
WORDS += ("conditioning.path=encoder", "conditioning.prompts=[a ball,two dogs]", "alignment.pairs=[[1,2]]")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with two clips, their captions, and a text encoder."""
    place = tmp_path_factory.mktemp("texts")
    for number, name in enumerate(CAPTIONS):
        write_video(place / "files" / name, numbered_frames(6, first=10 * number))
    rows = "".join(f"{path},{caption}\n" for path, caption in CAPTIONS.items())
    (place / "files" / "captions.csv").write_text("path,caption\n" + rows)
    save_umt5(place / "encoder")
    return place


def does(place, module, *words):
    with contextlib.chdir(place):
        outcome = call(module, *words)
    assert outcome.code == 0, outcome
    return outcome


def test_captions_train_and_prompts_sample(place):
    does(place, "video.train", *WORDS)
    run = place / "runs" / "video" / "digits"
    assert all(np.isfinite(line["flow_loss"]) for line in read_lines(run / "metrics.jsonl"))
    assert len(list((place / "runs" / "cache").glob("umt5-*.safetensors"))) == 2  # captions, and prompts
    for out, words in (("own", ()), ("asked", ("prompts=[a cat]",))):
        does(place, "video.sample", "run=runs/video/digits", "num=2", "device=cpu", f"out={out}", *words)
    titles = [json.loads((place / out / "mp4" / "conditions.json").read_text()) for out in ("own", "asked")]
    assert titles[0] == {"000000.mp4": "a ball", "000001.mp4": "two dogs"}
    assert set(titles[1].values()) == {"a cat"}
    protocols = [yaml.safe_load((place / out / "protocol.yaml").read_text())["protocol"] for out in ("own", "asked")]
    assert [each["prompts"] for each in protocols] == [["a ball", "two dogs"], ["a cat"]]
    assert np.load(place / "asked" / "samples.npz")["arr_0"].shape == (2, 4, 16, 16, 3)


def test_what_does_not_fit_is_told_by_its_key(place):
    with contextlib.chdir(place):
        wrong = [
            one_line_error(call("video.sample", "run=runs/video/digits", "labels=[1]"), "labels is [1]", "prompts")
        ]
        missing = call("video.train", *WORDS, "name=other", "conditioning.path=nowhere")
        wrong.append(one_line_error(missing, "text encoder umt5 is looked for at nowhere"))
        both = call("video.sample", "run=runs/video/digits", "labels=[1]", "prompts=[a cat]")
        wrong.append(one_line_error(both, "labels and prompts are given"))
    assert not any(wrong), [each for each in wrong if each]
