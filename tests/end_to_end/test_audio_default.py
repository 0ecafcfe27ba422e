"""`python -m audio.train` as it comes, at toy size; and what looks into and beside its runs."""

import importlib
import json

import pytest

from eval.compare import ENTRY as COMPARE
from eval.probe import ENTRY as PROBE
from eval.report import ENTRY as REPORT
from eval.similarity import ENTRY as SIMILARITY
from tests.audio.evaluations import TOY, sample, train
from tests.end_to_end.audio_runs import heard_alike, read_wav


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train(tmp_path_factory.mktemp("user"))


def test_it_leaves_sounds_a_picture_and_numbers(run):
    summary = json.loads((run / "summary.json").read_text())
    numbers = ("frechet_distance", "frechet_floor", "class_accuracy", "classifier_accuracy", "clips_per_second")
    assert all(summary[name] >= 0 for name in numbers)
    assert (run / "previews" / "step_00000003.png").read_bytes().startswith(b"\x89PNG")
    sounds = sorted((run / "previews").glob("step_00000003_*.wav"))
    assert [file.name for file in sounds] == ["step_00000003_00_piano.wav", "step_00000003_01_electric-piano.wav"]
    for file in sounds:
        samples, rate = read_wav(file)
        assert (samples.shape, rate) == ((2, 16384), 16000)


def test_the_same_command_says_that_it_is_complete(run, capsys):
    train(run.parents[2])
    out = capsys.readouterr().out
    assert "is complete after 3 steps" in out
    assert "FAD (timbres)" in out and "class accuracy" in out
    assert "python -m audio.sample run=" in out


def test_a_sample_depends_on_its_seed_and_number_only(run, tmp_path):
    all_at_once = sample(run, tmp_path / "a", "num=3", "labels=[piano,3]")
    alone = sample(run, tmp_path / "b", "num=2", "batch_size=1", "labels=[piano,3]")
    for number in range(2):
        assert heard_alike(*(out / "wav" / f"{number:06d}.wav" for out in (all_at_once, alone)))
    asked = json.loads((all_at_once / "wav" / "conditions.json").read_text())
    assert list(asked.values()) == ["piano", "clarinet", "piano"]
    other = sample(run, tmp_path / "c", "num=1", "seed=1", "labels=[piano]")
    assert not heard_alike(other / "wav" / "000000.wav", alone / "wav" / "000000.wav")


def test_the_blocks_can_be_probed_and_compared(run):
    PROBE.main(PROBE.config([f"run={run}", "t=[1.0]", "num_train=48", "num_heldout=12", "device=cpu"]))
    probe = json.loads((run / "inside" / "probe.json").read_text())
    assert probe["results"]["split"] == "named"
    words = ["num=24", "shown=2", "t=[0.5]", "measures.neighbours=4", "parts=[cosine,cka,gradients,drop,noise,pca]"]
    SIMILARITY.main(SIMILARITY.config([f"run={run}", *words, "device=cpu"]))
    assert (run / "inside" / "pca_t0.50.png").exists()


def test_a_segmentation_is_refused_by_name_and_at_once(run, tmp_path, monkeypatch):
    monkeypatch.setattr("eval.probe.linear_probe", lambda *sides: pytest.fail("the linear probe was computed first"))
    with pytest.raises(ValueError, match="this is for images: the run's domain is 'audio'"):
        words = ["t=[1.0]", "num_train=12", "num_heldout=12", "masks.source=foreground", f"out={tmp_path}"]
        PROBE.main(PROBE.config([f"run={run}", *words, "device=cpu"]))


def test_the_report_plays_its_sounds(run, tmp_path):
    REPORT.main(REPORT.config([f"runs=[{run}]", f"out={tmp_path / 'report'}"]))
    page = (tmp_path / "report" / "index.html").read_text()
    assert page.count("<audio") == 2 and "data:audio/wav;base64," in page


@pytest.mark.slow
def test_methods_are_compared_on_matched_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    toy = [word for word in TOY if word.partition("=")[0] not in ("trainer.steps", "device")]
    words = ["methods=[baseline,layersync]", "seeds=1", "steps=4", "every=2", "name=toy", "device=cpu", "log_every=1"]
    COMPARE.run(["audio", *words, *toy])
    assert "frechet_distance (lower is better), audio, 1 seed" in capsys.readouterr().out


def test_every_command_explains_itself(capsys):
    for name in ("train", "sample", "cache", "evaluate", "train_tokenizer"):
        importlib.import_module(f"audio.{name}").ENTRY.run(["--help"])
        assert f"python -m audio.{name}" in capsys.readouterr().out
