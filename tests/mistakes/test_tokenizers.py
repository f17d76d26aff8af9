"""Two tokenizers that do not go together, headlines in bytes where there are none, trackers that there are not."""

from language_folders import TALKS, jsonl, llama, qwen
from mistakes import Mistake, check, config, each, run

from kd_jax.data import load


def crossed(**fields):
    """Reads conversations for a student and a teacher of another tokenizer."""

    def do(folder):
        path, models = jsonl(folder / "data.jsonl", TALKS), (qwen(folder / "student"), llama(folder / "teacher"))
        asked = dict(name=load.CROSS, path=str(path), tokenizer=str(models[0]), teacher_tokenizer=str(models[1]))
        return load.load(asked | dict(length=96, packing="padded", cache=str(folder / "cache")) | fields)

    return do


SEVERAL = [
    Mistake(
        "packed rows of two tokenizers",
        "data.packing='packed': texts of two tokenizers do not end together: set data.packing='padded'",
        crossed(packing="packed"),
    ),
    Mistake(
        "two tokenizers, and one folder",
        "data.teacher_tokenizer is '': the folder of the teacher, with its tokenizer, is expected",
        crossed(teacher_tokenizer=""),
    ),
    Mistake(
        "another tokenizer where nobody reads it",
        "has no effect on data.text.conversations.load: it is of data.text.cross.load",
        crossed(name=load.CONVERSATIONS),
    ),
    Mistake(
        "a teacher without tokens of its own",
        "has no tokens of the teacher's: data.name='data.text.cross.load' has them",
        lambda folder: run(folder, config(scheme__name="schemes.cross_tokenizer.build")),
    ),
    Mistake(
        "bits per byte of data that have no bytes",
        "headline='bits_per_byte': arrays does not say how many bytes its labels spell",
        lambda folder: run(folder, config(task__name="tasks.tokens.task", task__kwargs={"headline": "bits_per_byte"})),
    ),
    Mistake(
        "a tracker that there is not",
        "config.tracker='tensorboard'. There is: mlflow, trackio, wandb",
        lambda folder: run(folder, config(tracker="tensorboard")),
    ),
]


@each(SEVERAL)
def test_tokenizers(mistake, tmp_path, capsys):
    check(mistake, tmp_path, capsys)
