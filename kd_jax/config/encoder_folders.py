"""teacher.path, student.path and student.layers where the networks are published language encoders."""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

from kd_jax.files import path_of
from kd_jax.models.hub import find_model
from kd_jax.models.language.folders import TOKENIZER, read_tokenizer, require_alike
from kd_jax.models.language.pretrained import encoder_of

ENCODER, LOAD, LAYERS = (
    "models.language.pretrained.encoder_of",
    "models.language.pretrained.load",
    "models.from_teacher.layers",
)
MASKING, MASKS = "data.text.texts.mask_tokens", ("[MASK]", "<mask>")
DEPTH = "depth"
# Fields that a whole network of a folder takes from its user: what it answers, and how it is computed.
ASKED = ("folder", "head", "probe", "num_classes", "dtype")
FRESH: dict[str, tuple[str, ...]] = {
    "classes": ("pooler", "head/"),
    "sentence": ("head/",),
    "tokens": ("transform", "token_bias"),
}


def with_encoders(config: ConfigDict) -> None:
    """Writes the folders of encoders out: networks, where they start, and the tokenizer where it was a folder's.

    A teacher is read with a new head, which it learns. Without a path of its own the student has the sizes that the
    config says, or so many `layers`, and begins with what it can take of its teacher; with one it is that folder,
    whole. ValueError, in one line, for folders that are not there, of another kind or of another tokenizer, more
    layers than there are, and sizes beside student.path.
    """
    teacher, student = config.teacher, config.student
    before = {role.model.kwargs.get("folder") for role in (teacher, student) if role.model.name == ENCODER}
    with config.unlocked():
        for role, fields in {"teacher": teacher, **config.teachers}.items():
            if fields.path:
                _teacher(fields, role)
        if student.path:
            _whole_student(student)
        elif student.model.name == ENCODER and teacher.path:
            student.model.kwargs.folder = teacher.path
        if student.layers:
            _layers_of_teacher(config)
        if config.data.tokenizer in before:
            config.data.tokenizer = student.path or teacher.path or config.data.tokenizer
    read_tokenizer(config.data.tokenizer)
    for fields in (fields for fields in (teacher, *config.teachers.values()) if fields.model.name == ENCODER):
        require_alike(config.data.tokenizer, fields.model.kwargs.folder)
    _check_masks(config)


def _teacher(fields: ConfigDict, role: str) -> None:
    fields.path = _located(fields, role)
    fields.model.kwargs.folder = fields.path
    if fields.initial.name != LOAD:
        fields.initial = _read(fields.path, fields.model.kwargs)
    fields.initial.kwargs.folder = fields.path


def _located(fields: ConfigDict, role: str) -> str:
    """The folder of a role, written out; ValueError where it is none, or the model of the config reads none."""
    if fields.model.name != ENCODER:
        raise ValueError(
            f"config.{role}.path is read by {ENCODER!r}, and config.{role}.model.name is {fields.model.name!r}."
        )
    place = str(path_of(fields.path, f"{role}.path"))
    encoder_of(place, head=fields.model.kwargs.get("head", "classes"))
    return place


def _read(folder: str, kwargs: ConfigDict) -> ConfigDict:
    """Where a network of a folder starts: what its head needs and the folder lacks is drawn."""
    fresh = FRESH.get(str(kwargs.get("head", "classes")), ())
    return ConfigDict({"name": LOAD, "kwargs": {"folder": folder, "fresh": fresh}})


def _whole_student(student: ConfigDict) -> None:
    if student.layers:
        raise ValueError(
            f"student.layers={student.layers} makes a student of layers of the teacher, and student.path="
            f"{student.path!r} is one of its own: give one of the two."
        )
    student.path, kwargs = _located(student, "student"), student.model.kwargs
    if sizes := [name for name in kwargs if name not in (*ASKED, DEPTH)]:
        told = ", ".join(f"{name}={kwargs[name]}" for name in sizes)
        raise ValueError(
            f"student.path={student.path!r} is a network of its own sizes, and student.model.kwargs has {told}: leave "
            "one of the two out."
        )
    asked: dict[str, Any] = {name: value for name, value in kwargs.items() if name in ASKED}
    student.model.kwargs = ConfigDict(asked | {"folder": student.path})
    student.initial = _read(student.path, student.model.kwargs)


def _layers_of_teacher(config: ConfigDict) -> None:
    teacher, student = config.teacher, config.student
    if student.model.name != ENCODER or teacher.model.name != ENCODER:
        raise ValueError(f"student.layers={student.layers} are those of a teacher that {ENCODER!r} reads.")
    folder = teacher.model.kwargs.folder
    deep = encoder_of(folder, head=teacher.model.kwargs.get("head", "classes")).depth
    if student.layers > deep:
        raise ValueError(f"student.layers={student.layers}: {folder} has {deep} layers.")
    student.model.kwargs[DEPTH] = student.layers
    student.initial = ConfigDict({"name": LAYERS, "kwargs": {}})


def _check_masks(config: ConfigDict) -> None:
    """Raises ValueError where what hides a token is another token in the tokenizer of the data."""
    if config.prepare.name != MASKING:
        return
    tokenizer, place = read_tokenizer(config.data.tokenizer), find_model(config.data.tokenizer)
    masks = [tokenizer.token_to_id(token) for token in MASKS if tokenizer.token_to_id(token) is not None]
    number = config.prepare.kwargs.mask_id
    if number not in masks:
        there = f"it is {masks[0]}" if masks else f"it has none of {', '.join(MASKS)}"
        raise ValueError(
            f"prepare.kwargs.mask_id={number} is no mask in {place / TOKENIZER}: {there}. prepare.kwargs.vocabulary "
            "and first, the words that may stand in its place, are the tokenizer's too."
        )
