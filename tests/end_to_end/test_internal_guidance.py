"""Internal guidance from a run to its samples: the averaged second layer is saved, loaded, and asked for."""

import numpy as np
import pytest
from safetensors.torch import load_file

from tests.end_to_end.commands import one_line_error
from tests.end_to_end.toys.contract import User
from tests.end_to_end.toys.every import TOYS


@pytest.mark.parametrize("name", ["image", "video"])
def test_samples_are_guided_by_the_second_output_layer(name, tmp_path):
    user = User(TOYS[name], tmp_path)
    words = ["trainer.steps=2", "trainer.num_previews=2", "sampler.internal_scale=1.4"]
    guided = ["alignment=internal_guidance", "alignment.layer=1", "optimizer.lr=0.05"]
    user.does("train", *user.on_stand_in(*guided, *words))

    def sampled(out, *words):
        user.does("sample", f"run={user.run()}", "num=2", "device=cpu", f"out={out}", *words)
        return user.toy.media(user.place / out).astype(np.float64)

    usual = sampled("usual")
    off = sampled("off", "sampler.internal_scale=1")
    assert np.abs(usual - off).max() > 0
    assert np.array_equal(sampled("never", "sampler.internal_interval=[0.98,0.99]"), off)
    (saved,) = user.run().glob("checkpoints/step_*")
    heads, averages = load_file(saved / "alignment.safetensors"), load_file(saved / "alignment_ema.safetensors")
    assert heads.keys() == averages.keys()
    assert any((heads[key] - averages[key]).abs().max() > 1e-4 for key in heads)
    (saved / "alignment_ema.safetensors").write_bytes((saved / "alignment.safetensors").read_bytes())
    assert not one_line_error(user("sample", f"run={user.run()}", f"checkpoint={saved}"), "alignment_ema")
    if name != "image":  # the others' files of weights lack what their tokenizers need
        return
    without = user("sample", f"run={user.run()}", f"checkpoint={saved / 'ema.safetensors'}", "num=1", "out=alone")
    assert not one_line_error(without, "sampler.internal_scale is 1.4", "second output layer")
    other = user("train", *user.on_stand_in("alignment=none", "sampler.internal_scale=1.4", "name=none"))
    assert not one_line_error(other, "sampler.internal_scale is 1.4", "alignment 'none'")
