"""`python -m audio.evaluate`: from runs, samples and folders of files to numbers and their records."""

import json
from dataclasses import replace

import numpy as np
import pytest
from transformers import ClapModel

from audio.encoders.clap import HTSAT
from audio.encoders.protocols import FADTK, ONE_WINDOW
from audio.evaluate import ENTRY as EVALUATE
from audio.evaluate import AudioEvaluation
from audio.sounds.synthesis import TIMBRES
from audio.train import ENTRY as TRAIN
from core.storage.atomic import sha256_file
from eval.measure.media import PlannedSamples
from eval.measure.record import differences, table
from eval.measure.reference import MediaReference
from tests.audio.audio_files import music, write_sound
from tests.audio.evaluations import TOY, clips, measured, sample, train
from tests.audio.networks import (
    clap_config,
    random_network,
    save_clap,
    save_laion,
    save_ms_clap,
    save_t5,
    save_vggish,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train(tmp_path_factory.mktemp("user"))


@pytest.fixture(scope="module")
def clap(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clap")
    save_clap(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("clips")
    return clips(root / "real", 6), clips(root / "made", 5, seed=1)


def test_a_run_measured_again_gives_the_numbers_of_its_training(run, tmp_path):
    summary = json.loads((run / "summary.json").read_text())
    found = measured(f"run={run}", out=tmp_path / "again")
    for name in ("frechet_distance", "class_accuracy"):
        assert found[name].value == pytest.approx(summary[name], rel=1e-6)
    assert found["frechet_distance"].num_samples == summary["num_samples"] == 12
    floor = measured(f"run={run}", "real=notes_heldout", "metrics=[frechet_distance]", out=tmp_path / "heldout")
    assert floor["frechet_distance"].value != found["frechet_distance"].value


def test_written_samples_are_measured_under_the_protocol_that_made_them(run, clap, folders, tmp_path):
    """FAD of WAV files equals FAD of the run's own samples, which are kept as a file would hold them."""
    made = sample(run, tmp_path / "samples", "num=6")
    words = [f"real={folders[0]}", f"clap={clap}", "metrics=[fad]"]
    own = measured(f"run={run}", "num=6", "seed=0", *words, out=tmp_path / "own")["clap/fad"]
    written = measured(f"samples={made}", *words, out=tmp_path / "written")["clap/fad"]
    assert written.value == pytest.approx(own.value, rel=1e-9)
    assert differences(own, written) == {}
    assert written.step == own.step == 3 and "unknown" not in str(written.protocol)


def test_a_folder_against_a_folder_and_against_its_saved_statistics(clap, folders, tmp_path):
    real, made = folders
    words = [f"clap={clap}", f"samples={made}"]
    direct = measured(*words, f"real={real}", out=tmp_path / "direct")["clap/fad"]
    assert direct.value > 0 and direct.num_samples == 5
    measured_file = tmp_path / "real.npz"
    from audio.evaluate import ENTRY

    ENTRY.main(ENTRY.config([f"real={real}", f"clap={clap}", f"save_reference={measured_file}", "device=cpu"]))
    saved = measured(*words, f"real={measured_file}", out=tmp_path / "saved")["clap/fad"]
    assert saved.value == pytest.approx(direct.value, rel=1e-6)
    same = measured(f"clap={clap}", f"samples={real}", f"real={real}", out=tmp_path / "same")["clap/fad"]
    assert same.value == pytest.approx(0, abs=1e-9)


def test_a_record_says_the_protocol_and_counts_clips(clap, folders, tmp_path):
    real, made = folders
    words = [f"clap={clap}", f"samples={made}", f"real={real}", "metrics=[fad]"]
    one = measured(*words, out=tmp_path / "one")["clap/fad"]
    many = measured(*words, "protocol=fadtk", out=tmp_path / "many")["clap/fad"]
    assert ONE_WINDOW.windows_text in one.features["preprocessing"]
    assert FADTK.windows_text in many.features["preprocessing"]
    assert one.features != many.features and one.num_samples == many.num_samples == 5
    with pytest.raises(ValueError, match=r"fad: .*features\.preprocessing"):
        table([replace(one, protocol={}), replace(many, protocol={})])


@pytest.mark.parametrize("features", ["clap_music", "clap_audio"])
def test_the_registrys_names_take_laions_file(features, folders, tmp_path, monkeypatch):
    """A tiny network in LAION's format, let pass for the architecture of that name."""
    name = features.replace("_", "-")
    monkeypatch.setitem(HTSAT, name, (16, [2, 2]))
    file = save_laion(tmp_path / "laion.pt", random_network(ClapModel, clap_config()))
    words = [f"samples={folders[1]}", f"real={folders[0]}", f"features={features}", f"clap={file}"]
    found = measured(*words, out=tmp_path / "out")
    assert (
        set(found) == {f"{features}/fad"} and found[f"{features}/fad"].features["name"] == name
    )  # too few for FAD-infinity
    assert found[f"{features}/fad"].features["weights_sha256"] == sha256_file(file)


def test_several_claps_are_measured_in_one_call_and_other_real_clips_beside(clap, folders, tmp_path, monkeypatch):
    monkeypatch.setitem(HTSAT, "clap-audio", (16, [2, 2]))
    other = tmp_path / "audio"
    save_clap(other, seed=1)
    words = [f"samples={folders[1]}", f"real={folders[0]}", f"clap={clap}", f"clap_audio={other}"]
    floor = clips(tmp_path / "floor", 4, seed=2)
    names = "metrics=[fad,clap_audio/fad,kad_bandwidth_reference,kad_bandwidth_evaluated]"
    found = measured(*words, names, f"floor={floor}", out=tmp_path / "out")
    kads = {f"clap/{real}kad_bandwidth_{whose}" for real in ("", "real_") for whose in ("reference", "evaluated")}
    assert set(found) == kads | {f"{each}/{real}fad" for each in ("clap", "clap_audio") for real in ("", "real_")}
    assert len({record.value for record in found.values()}) == 8
    for each, name in (("clap", "clap"), ("clap_audio", "clap-audio")):
        assert found[f"{each}/fad"].features["name"] == name
    alone = measured(f"samples={floor}", f"real={folders[0]}", f"clap={clap}", "metrics=[fad]", out=tmp_path / "alone")
    assert found["clap/real_fad"].value == pytest.approx(alone["clap/fad"].value, rel=1e-9)


def test_a_papers_table_is_what_its_protocol_says():
    words = ["table=self_flow", "run=some", "real=there"]
    config = EVALUATE.config(words).completed()
    assert (config.num, config.metrics) == (20_000, ["ms_clap/fad", "clap_music/fad", "clap_audio/fad"])
    assert (config.sampler["num_steps"], config.sampler["guidance_scale"]) == (50, 1)
    assert config.completed() == config
    none = MediaReference(PlannedSamples(1, "clip", None), None)
    given = AudioEvaluation(EVALUATE.config(["table=self_flow", "samples=some", "real=there"]).completed())
    given.check_size((440_320, 44_100), none)
    with pytest.raises(ValueError, match="'self_flow', whose clips last 10 s; samples last 5 s"):
        given.check_size((5, 1), none)


def test_microsofts_clap_is_measured_beside_laions(clap, folders, tmp_path):
    words = [f"samples={folders[1]}", f"real={folders[0]}", f"clap={clap}", "metrics=[clap/fad,ms_clap/fad]"]
    file = save_ms_clap(tmp_path / "CLAP_weights_2023.pth")
    found = measured(*words, f"ms_clap={file}", out=tmp_path / "out")
    assert set(found) == {"clap/fad", "ms_clap/fad"} and found["ms_clap/fad"].value > 0
    assert found["ms_clap/fad"].features["weights_sha256"] == sha256_file(file)
    alone = measured(*words[:2], "features=ms_clap", f"ms_clap={file}", out=tmp_path / "alone")
    assert alone["ms_clap/fad"].value == pytest.approx(found["ms_clap/fad"].value, rel=1e-6)
    fadtk = measured(*words[:2], "features=ms_clap", f"ms_clap={file}", "protocol=fadtk", out=tmp_path / "fadtk")
    assert "windows of 7 s" in fadtk["ms_clap/fad"].features["preprocessing"]


def test_statistics_of_another_protocol_are_refused(clap, folders, tmp_path):
    from audio.evaluate import ENTRY

    file = tmp_path / "real.npz"
    ENTRY.main(ENTRY.config([f"real={folders[0]}", f"clap={clap}", f"save_reference={file}", "device=cpu"]))
    with pytest.raises(ValueError, match="a reference of another protocol"):
        measured(f"samples={folders[1]}", f"real={file}", f"clap={clap}", "protocol=fadtk", out=tmp_path / "out")


def test_vggish_takes_every_example_of_a_clip(folders, tmp_path):
    save_vggish(tmp_path / "vggish.pth")
    words = [f"samples={folders[1]}", f"real={folders[0]}", "features=vggish", f"vggish={tmp_path / 'vggish.pth'}"]
    assert measured(*words, out=tmp_path / "out")["vggish/fad"].value > 0


def test_pairs_of_notes_have_a_divergence(run, tmp_path):
    made = sample(run, tmp_path / "samples", "num=12")
    words = [f"samples={made}", "real=notes_heldout", "features=notes"]
    found = measured(*words, "metrics=[kl,kl_mean,class_accuracy]", out=tmp_path / "out")
    assert found["notes/kl"].value > 0 and np.isfinite(found["notes/kl_mean"].value)
    assert 0 <= found["class_accuracy"].value <= 1
    few = sample(run, tmp_path / "few", "num=5")
    with pytest.raises(ValueError, match=r"kl pairs each sample with a clip .* 5 samples and 12 clips"):
        measured(f"samples={few}", "real=notes_heldout", "features=notes", "metrics=[kl]", out=tmp_path / "out2")


def test_only_the_middle_of_a_long_file_is_decoded(clap, folders, tmp_path, monkeypatch):
    import audio.media

    long = tmp_path / "long"
    for number in range(3):
        write_sound(long / f"{number}.wav", music(25, 8000, 1, seed=number), 8000)
    asked = []
    read = audio.media.read
    told = lambda path, start, frames: asked.append(frames) or read(path, start, frames)  # noqa: E731
    monkeypatch.setattr(audio.media, "read", told)
    measured(f"samples={long}", f"real={folders[0]}", f"clap={clap}", "metrics=[fad]", out=tmp_path / "out")
    assert {count for count in asked if count > 80_000} == {84_000}  # 10.5 s of 25


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["samples={made}"], "real is null"),
        (["real={real}"], "run, architecture and samples are null"),
        (["samples={made}", "real={real}", "features=inception"], "features is 'inception'; allowed"),
        (["samples={made}", "real={real}", "clap={clap}", "metrics=[fid]"], "'metrics' has 'fid'; allowed"),
        (["samples={made}", "real={real}", "clap={clap}", "metrics=[clap_score]"], "clap_score"),
        (["samples={made}", "real=nowhere", "clap={clap}"], "real is 'nowhere'"),
        (["samples=nowhere", "real={real}", "clap={clap}"], "samples is 'nowhere'"),
        (["samples={made}", "real={real}", "weights_dir=nowhere"], "music_audioset_epoch_15_esc_90.14.pt"),
        (["samples={made}", "real={real}", "features=classifier"], "classifier=..."),
        (["samples={made}", "real={real}", "clap={clap}", "metrics=[fad_infinity]"], "fad_infinity"),
        (["samples={made}", "real={real}", "clap={clap}", "num=9"], "num is 9, but"),
    ],
)
def test_bad_input_is_one_clear_error(words, message, folders, clap, tmp_path):
    places = {"real": folders[0], "made": folders[1], "clap": clap}
    with pytest.raises(ValueError, match=message):
        measured(*[word.format(**places) for word in words], out=tmp_path / "out")


def test_a_broken_file_is_named(clap, folders, tmp_path):
    clips(tmp_path / "made", 3)
    (tmp_path / "made" / "text.mp3").write_text("not a sound")
    with pytest.raises(ValueError, match=r"text\.mp3"):
        measured(f"samples={tmp_path / 'made'}", f"real={folders[0]}", f"clap={clap}", out=tmp_path / "out")


def test_published_weights_are_measured_by_their_experiment_file(run, tmp_path):
    """As the run itself, whose config the overrides repeat."""
    (checkpoint,) = (run / "checkpoints").glob("step_*3")
    words = [
        word
        for word in TOY
        if word.split(".")[0] in ("data", "backbone", "alignment", "sampler", "evaluation", "tokenizer")
    ]
    given = ["architecture=notes", f"checkpoint={checkpoint}", *[f"+overrides.{word}" for word in words]]
    found = measured(*given, f"cache_dir={tmp_path / 'cache'}", out=tmp_path / "out")
    summary = json.loads((run / "summary.json").read_text())
    assert found["frechet_distance"].value == pytest.approx(summary["frechet_distance"], rel=1e-6)
    assert found["class_accuracy"].value == summary["class_accuracy"]


def test_classes_are_asked_for_by_name_and_number(run, tmp_path):
    own = [f"run={run}", "num=4", "metrics=[frechet_distance,class_accuracy]"]
    number = list(TIMBRES).index("flute")
    by_number, by_name, balanced = (
        measured(*own, *label, out=tmp_path / str(place))
        for place, label in enumerate(([f"labels={number}"], ["labels=flute"], []))
    )
    for metric, record in by_number.items():
        assert record.value == by_name[metric].value
    keys = set(differences(by_name["class_accuracy"], balanced["class_accuracy"]))
    assert keys == {"protocol.labels"} and by_name["class_accuracy"].protocol["labels"] == "flute"
    with pytest.raises(ValueError, match="labels has 'kazoo', which the model does not know"):
        measured(*own, "labels=kazoo", out=tmp_path / "none")


@pytest.fixture(scope="module")
def captioned(tmp_path_factory):
    """The run of a tiny model of texts, and its clips."""
    place = tmp_path_factory.mktemp("captioned")
    for number in range(5):
        write_sound(place / "clips" / f"{number}.wav", music(0.6, 16_000, 2, seed=number), 16_000)
        (place / "clips" / f"{number}.txt").write_text("birds in rain")
    save_t5(place / "t5")
    data = ["data=folder", f"data.root={place / 'clips'}", "data.captions=txt", "data.sample_rate=16000"]
    data += ["data.seconds=0.512", "data.min_seconds=0.1", f"data.cache_dir={place / 'cache'}"]
    text = ["conditioning=text", "conditioning.encoder=t5", f"conditioning.path={place / 't5'}"]
    text += ["conditioning.prompts=[birds,rain]", f"conditioning.cache_dir={place / 'cache'}"]
    words = [word for word in TOY if not word.startswith(("evaluation", "data.num_notes"))]
    end = ["evaluation=none", "name=text", f"runs_dir={place / 'runs'}", "trainer.preview_every=0"]
    TRAIN.main(TRAIN.config([*words, *data, *text, *end]))
    return place / "runs" / "audio" / "text", place / "clips"


def test_samples_of_texts_are_scored_against_what_they_were_asked_to_be(captioned, clap, tmp_path):
    """Of a run: its own prompts, or those of the command; of written samples: those that made them."""
    run, real = captioned
    words = [f"real={real}", f"clap={clap}", "metrics=[fad,clap_score]"]
    own = measured(f"run={run}", "num=4", *words, out=tmp_path / "own")
    written = measured(f"samples={sample(run, tmp_path / 's', 'num=4')}", *words, out=tmp_path / "written")
    asked = measured(f"run={run}", "num=4", "prompts=[dog,cat]", *words, out=tmp_path / "asked")
    other = sample(run, tmp_path / "s2", "num=4", "prompts=[dog,cat]")
    again = measured(f"samples={other / 'wav'}", *words, out=tmp_path / "again")
    for made, read in ((own, written), (asked, again)):
        for name in ("clap/fad", "clap/clap_score"):
            assert read[name].value == pytest.approx(made[name].value, rel=1e-9)
            assert differences(made[name], read[name]) == {}
    assert own["clap/clap_score"].value != asked["clap/clap_score"].value
    assert set(differences(own["clap/fad"], asked["clap/fad"])) == {"protocol.prompts"}
    with pytest.raises(ValueError, match="real is null; needed: a folder of audio files"):
        measured(f"run={run}", out=tmp_path / "none")
