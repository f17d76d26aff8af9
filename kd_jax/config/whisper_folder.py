"""teacher.path where the networks are Whisper's."""

from __future__ import annotations

from ml_collections import ConfigDict

from kd_jax.files import path_of
from kd_jax.models.speech.whisper import options_of

WHISPER, LOAD = "models.speech.whisper.whisper", "models.speech.whisper_folder.load"


def with_whisper(config: ConfigDict) -> None:
    """Writes teacher.path, the folder of a Whisper, out: its network and weights, tokens, and the student's sizes.

    ValueError for a folder that is not there or of another kind, and for a student that is said to be one.
    """
    teacher, student = config.teacher, config.student
    if student.path or student.layers:
        raise ValueError(
            "A student of Whisper is made of its teacher's layers: student.model.kwargs.decoder_depth says how many, "
            "and student.path and student.layers stay '' and 0."
        )
    folder = str(path_of(teacher.path, "teacher.path"))
    options_of(folder)
    depth = student.model.kwargs.decoder_depth
    with config.unlocked():
        teacher.path, config.data.tokenizer = folder, folder
        teacher.model.kwargs = ConfigDict({"folder": folder})
        teacher.initial = ConfigDict({"name": LOAD, "kwargs": {"folder": folder}})
        teacher.train.steps, teacher.train.epochs = 0, 0.0
        student.model.kwargs = ConfigDict({"folder": folder, "decoder_depth": depth})
