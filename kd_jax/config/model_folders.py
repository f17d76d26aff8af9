"""teacher.path, student.path and student.layers: folders of published models, written out where they are read.

There are three kinds: decoders (here), encoders (encoder_folders.py) and Whisper (whisper_folder.py).

The models, their starts and the data name the folders then, so that a config says all that is read: `fields.settled`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from kd_jax.config.encoder_folders import ENCODER, with_encoders
from kd_jax.config.whisper_folder import WHISPER, with_whisper
from kd_jax.files import path_of
from kd_jax.models.language.pretrained_decoders import read_family
from kd_jax.models.language.published import positions_of

DECODER, LOAD = "models.language.published.decoder", "models.language.pretrained_decoders.load"
LORA, LAYERS, BASE = "models.lora.lora", "models.from_teacher.layers", "base"
KINDS = {ENCODER: with_encoders, WHISPER: with_whisper}  # beside decoders
WHICH = (
    "Which models? --config.teacher.path=FOLDER and --config.student.path=FOLDER are published models, folders as "
    "transformers writes them; --config.student.layers=N in place of the second makes a student of layers of the first."
)
LENGTH = 512  # tokens of a row where nothing says how many, and positions reach so far


def with_folders(config: ConfigDict) -> None:
    """Writes the folders of a config out into its other fields.

    ValueError, in one line, for a path that no model of the config reads, a folder that is missing or of another kind,
    and a student of whose start nothing is said, or two things.
    """
    student = config.student
    teachers = {name: fields for name, fields in {"teacher": config.teacher, **config.teachers}.items() if fields.path}
    if not (student.path or student.layers or teachers):
        return
    if (kind := _other_kind(config)) is not None:
        KINDS[kind](config)
        return
    with config.unlocked():
        folders = _located({"student": student, **teachers})
        ours = _ours(config)
        if ours is not None:
            config.data.tokenizer = config.data.tokenizer or _source(config)
        if config.data.length is None:
            config.data.length = min([LENGTH, *filter(None, map(positions_of, folders))])
        read = {"tokenizer": config.data.tokenizer, "length": config.data.length}
        for role, fields in teachers.items():
            model = _decoder(fields.model, role)
            tokenizer = fields.data.tokenizer or read["tokenizer"]  # not the student's, where the data have both
            model.kwargs.update({"folder": fields.path, **read, "tokenizer": tokenizer})
            fields.initial = ConfigDict({"name": LOAD, "kwargs": {"folder": fields.path}})
        if ours is not None:
            ours.kwargs.update({"folder": _source(config), "layers": student.layers, **read})
            _start(config, ours)


def _other_kind(config: ConfigDict) -> str | None:
    """The kind of the networks whose folders a config names, where they are no decoders."""
    student = config.student
    model = config.teacher.model if config.teacher.path or student.layers else student.model
    return model.name if model.name in KINDS else None


def _located(roles: Mapping[str, ConfigDict]) -> list[str]:
    """Writes the paths of networks out in full and returns them; ValueError for one that is no folder of a model."""
    folders = []
    for role, fields in roles.items():
        if fields.path:
            fields.path = str(path_of(fields.path, f"{role}.path"))
            read_family(fields.path)
            folders.append(fields.path)
    return folders


def check_folders(config: ConfigDict) -> None:
    """Raises ValueError where a model of the config is that of a folder, and no folder is named."""
    if _other_kind(config) is not None:
        return
    ours = _ours(config)
    models = {"student": ours, **{name: fields.model for name, fields in [("teacher", config.teacher)]}}
    if any(m is not None and m.name == DECODER and not m.kwargs.get("folder") for m in models.values()):
        raise ValueError(WHICH)


def _ours(config: ConfigDict) -> ConfigDict | None:
    """The fields of the student's decoder, that of the base of adapters; None where the student is another network."""
    model = config.student.model
    inside = model.kwargs.get("module") if model.name == LORA else model
    if isinstance(inside, ConfigDict) and inside.name == DECODER:
        return inside
    if config.student.path or config.student.layers:
        _decoder(model, "student")
    return None


def _decoder(model: ConfigDict, role: str) -> ConfigDict:
    """The fields of a decoder of a folder; ValueError where the model of the config is another one."""
    if model.name != DECODER:
        raise ValueError(
            f"config.{role}.path is read by the model {DECODER!r}, and config.{role}.model.name is {model.name!r}: "
            "configs/llm.py has all that goes with it."
        )
    return model


def _source(config: ConfigDict) -> str:
    """The folder that the student is made of: its own, or its teacher's."""
    student, teacher = config.student, config.teacher
    if student.path and student.layers:
        raise ValueError(
            f"student.layers={student.layers} makes a student of layers of the teacher, and student.path="
            f"{student.path!r} is one of its own: give one of the two."
        )
    if not student.path and not (student.layers and teacher.path):
        raise ValueError(WHICH)
    return student.path or teacher.path


def _start(config: ConfigDict, ours: ConfigDict) -> None:
    """Where the student starts: at its folder, or at layers of its teacher; of adapters it is their base that does."""
    student = config.student
    kwargs: dict[str, Any] = {"folder": student.path} if student.path else {}
    initial = ConfigDict({"name": LOAD if student.path else LAYERS, "kwargs": kwargs})
    if student.model.name != LORA:
        student.initial = initial
        return
    config.teachers[BASE].model, config.teachers[BASE].initial = ours.copy_and_resolve_references(), initial
