"""`python -m audio.evaluate` with bad input: one clear error each, before anything is written."""

import numpy as np
import pytest

from audio.evaluate import ENTRY
from audio.train import ENTRY as TRAIN
from tests.audio.audio_files import music, write_sound
from tests.audio.evaluations import TOY, clips, measured
from tests.audio.networks import save_clap, save_laion


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A user's folder: clips, a CLAP in both formats, statistics of real clips."""
    root = tmp_path_factory.mktemp("user")
    clips(root / "real", 4)
    clips(root / "made", 3, seed=1)
    save_laion(root / "laion" / "music.pt", save_clap(root / "clap"))
    save_clap(root / "fused", fusion=True)
    (root / "empty").mkdir()
    save = [f"real={root / 'real'}", f"clap={root / 'clap'}", f"save_reference={root / 'stats.npz'}", "device=cpu"]
    ENTRY.main(ENTRY.config(save))
    with np.load(root / "stats.npz") as arrays:
        held = dict(arrays)
    np.savez(root / "damaged.npz", **{**held, "facts": np.array('{"size": null}')})
    np.savez(root / "foreign.npz", mu=held["mu"], sigma=held["sigma"])
    (root / "cut.npz").write_bytes((root / "stats.npz").read_bytes()[:2000])
    return root


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    place, words = tmp_path_factory.mktemp("run"), [word for word in TOY if not word.startswith("evaluation")]
    TRAIN.main(TRAIN.config([*words, "evaluation=none", "trainer.preview_every=0", f"runs_dir={place / 'runs'}"]))
    return place / "runs" / "audio" / "notes"


def refused(out, message, *words):
    """The command raises ValueError with `message`, and leaves nothing."""
    with pytest.raises(ValueError, match=message):
        measured(*words, out=out)
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("samples={0}/empty", r"empty holds no audio file \(\.flac, \.mp3"),
        ("real={0}/empty", r"empty holds no audio file"),
        ("real={0}/cut.npz", r"cut\.npz is truncated or damaged"),
        ("real={0}/damaged.npz", r"real is .*damaged\.npz', whose 'facts' are damaged"),
        ("real={0}/foreign.npz", r"foreign\.npz', which does not say which features it was measured in"),
        ("real={0}/clap/config.json", r"real is .*config\.json', which is a file; allowed: a folder"),
        (
            "real={0}/stats.npz metrics=[precision]",
            r"real .*stats\.npz holds statistics only; clap/precision need the clips",
        ),
        (
            "real={0}/stats.npz protocol=fadtk",
            r"stats\.npz is a reference of another protocol: features' preprocessing",
        ),
        ("real={0}/stats.npz clap={0}/laion/music.pt", r"reference of another protocol: features' weights_sha256"),
        ("protocol=fadtk metrics=[clap_score] prompts=[rain]", "clap_score needs one_window"),
        ("protocol=fadtk features=classifier classifier={0}/clap", "protocol is 'fadtk' but features is 'classifier'"),
        ("protocol=ten_windows", "protocol"),
        ("features=clap_music", r"is not clap-music: HTSAT of width 16 and depths \[2, 2\], needed 128"),
        ("clap={0}/fused", "is a fused CLAP"),
        ("clap={0}/nowhere", "no file or directory .*nowhere"),
        ("clap={0}/empty", r"empty lacks config\.json and model\.safetensors"),
        ("features=vggish vggish={0}/nowhere.pth", r"vggish': there is no file .*nowhere\.pth"),
        (
            "features=vggish weights_dir={0}/none",
            r"'vggish' are missing: .* belongs at .*vggish-10086976\.pth; `python",
        ),
        ("features=clap_audio clap=null weights_dir={0}/none", r"'clap-audio' are missing: 630k-audioset-best\.pt"),
        ("features=classifier classifier={0}/empty", r"lacks config\.json, preprocessor_config\.json, weights"),
        ("metrics=[clap_score] prompts=[rain] clap={0}/laion/music.pt", r"texts need RoBERTa's tokenizer\.json .* in"),
        ("metrics=[kid]", "kid with features=clap needs at least 1000 samples, there are 3"),
        ("metrics=[fad,fid]", "'metrics' has 'fid'; allowed: fad, "),
        ("metrics=[ms_clap/fad] weights_dir={0}/none", r"'ms-clap' are missing: CLAP_weights_2023\.pth"),
        (
            "metrics=[ms_clap/fad] ms_clap={0}/laion/music.pt",
            r"music\.pt is refused, it holds more than tensors",
        ),
        ("metrics=[ms_clap/fad] ms_clap={0}/nowhere.pth", r"there is no file .*nowhere\.pth"),
        ("metrics=[ms_clap/clap_score]", "'metrics' has 'ms_clap/clap_score'; allowed: fad, "),
        ("metrics=[fad,classifier/kl]", "features is 'classifier' and classifier is null"),
        ("table=self_flow num=5", "table is 'self_flow', which decides num; allowed there: null"),
        ("table=self_flow sampler.num_steps=250", "table is 'self_flow', which decides sampler.num_steps"),
        ("table=self_flow metrics=[fad]", "table is 'self_flow', which decides metrics"),
        ("floor={0}/empty", "empty holds no audio file"),
        ("labels=3", "labels is 3, which asks for samples of a run; none are made"),
        ("prompts=[]", r"prompts is \[\]; needed: one text or more"),
        ("prompts=[' ']", r"prompts is \[' '\]; needed: one text or more"),
        ("save_reference={0}/x.npz", "give one of them"),
        ("num=0", "num is 0; it must be at least 1"),
    ],
)
def test_what_does_not_fit_together_is_refused(place, tmp_path, words, message):
    ours = [f"samples={place / 'made'}", f"real={place / 'real'}", f"clap={place / 'clap'}"]
    given = [word.format(place) for word in words.replace("' '", "'\0'").split()]
    given = [word.replace("\0", " ") for word in given]
    kept = [word for word in ours if word.split("=")[0] not in {word.split("=")[0] for word in given}]
    refused(tmp_path / "out", message, *kept, *given)


def test_a_file_that_breaks_off_is_named(place, tmp_path):
    folder = clips(tmp_path / "clips", 3)
    file = folder / "01.flac"
    file.write_bytes(file.read_bytes()[:-2000])
    ours = [f"real={place / 'real'}", f"clap={place / 'clap'}"]
    refused(tmp_path / "out", r"audio file .*01\.flac", f"samples={folder}", *ours)
    refused(tmp_path / "out", r"audio file .*01\.flac", f"samples={place / 'made'}", f"real={folder}", ours[1])


def test_equal_clips_are_nothing_to_measure(place, tmp_path):
    for number in range(3):
        write_sound(tmp_path / "same" / f"{number}.wav", music(0.3, 16_000, 1), 16_000)
    with pytest.raises(ValueError, match="all 3 clips of same are equal"):
        measured(f"samples={tmp_path / 'same'}", f"real={place / 'real'}", f"clap={place / 'clap'}", out=tmp_path / "x")


def test_other_clips_than_notes_are_refused_before_the_classifier_is_trained(place, run, tmp_path):
    made = clips(tmp_path / "made", 3)
    (made / "protocol.yaml").write_text(f"run: {run}\nprotocol: {{}}\n")
    message = r"00\.wav is a clip of \(1, 16000, 16000\) .*; features=notes takes those of \(2, 16384, 16000\)"
    refused(tmp_path / "out", message, f"samples={made}", "real=notes")
    refused(tmp_path / "out", message, f"run={run}", f"real={place / 'real'}", "features=notes", "num=2")
    assert not list((run.parents[1] / "cache").glob("timbre*"))


def test_a_damaged_protocol_is_named(place, tmp_path):
    made = clips(tmp_path / "made", 3)
    message = r"protocol\.yaml is damaged: no mapping"
    for content in (
        b"- nothing\n",
        b"protocol: 3\n",
        b"protocol: {\n",
        b"protocol:\n\ta: 1\n",
        b"\xe4: 1\n",
        b"[" * 20_000,
    ):
        (made / "protocol.yaml").write_bytes(content)
        refused(tmp_path / "out", message, f"samples={made}", f"real={place / 'real'}", f"clap={place / 'clap'}")


def test_a_run_is_asked_for_what_it_knows(place, run, tmp_path):
    ours = [f"run={run}", f"real={place / 'real'}", f"clap={place / 'clap'}", "num=3"]
    knows = "but the model knows other conditions; it takes: labels"
    refused(tmp_path / "out", rf"prompts is \['rain'\], {knows}", *ours, "prompts=[rain]")
    refused(tmp_path / "out", rf"tags is \['rock'\], {knows}", *ours, "tags=[rock]")
    refused(tmp_path / "out", "clap_score needs to know what each sample", *ours, "metrics=[clap_score]")
    refused(tmp_path / "out", "protocol is 'fadtk' but features is 'notes'", f"run={run}", "protocol=fadtk")
    refused(tmp_path / "out", "labels and prompts are given", *ours, "labels=3", "prompts=[rain]")
    refused(tmp_path / "out", "kl pairs each sample", f"run={run}", "num=5", "features=notes", "metrics=[kl]")
