"""What image samples are asked for, by number and name, in the folder's name and in the protocol."""

from types import SimpleNamespace

from image.conditioning import LabelConditioning, LabelConfig
from image.evaluate import ENTRY as EVALUATE
from image.sample import ENTRY as SAMPLE
from image.sample import ImageSampling
from tests.rows import every_row

NAMES = ["0", "1", "10", "2", "sea snail"]


@every_row(
    ("labels", "folder", "entry", "numbers"),
    [
        ("null", "all", "balanced", [0, 1, 2]),
        ("1", "label1", 1, [1, 1, 1]),
        ("4", "labelsea-snail", "sea snail", [4, 4, 4]),
        ('"10"', "label10", "10", [2, 2, 2]),
        ('[0,"2","sea snail"]', "label0-2-sea-snail", [0, "2", "sea snail"], [0, 3, 4]),
    ],
)
def test_folder_and_protocol_say_the_names_of_classes(labels, folder, entry, numbers):
    arguments = ["run=somewhere", "num=3", f"labels={labels}"]
    sampling = ImageSampling(SAMPLE.config(arguments))
    sampling.notes = {"class_names": NAMES}
    sampling.model_config = SimpleNamespace(conditioning=LabelConfig())
    assert sampling.condition_name() == folder
    assert sampling.protocol_entries()["labels"] == entry
    classes = LabelConditioning(LabelConfig(), len(NAMES), NAMES)
    assert sampling.requests(classes).tolist() == numbers
    assert EVALUATE.config(arguments).labels == sampling.config.labels


def test_weights_without_names_are_asked_by_number():
    sampling = ImageSampling(SAMPLE.config(["run=somewhere", "labels=[207,3]"]))
    assert sampling.condition_name() == "label207-3"
