"""What can be known without labels is reported, the rest is "-", never 0; teachers that answer something else teach."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kd_jax
from kd_jax.config import compose, training
from kd_jax.data.arrays import from_arrays
from kd_jax.losses import response
from kd_jax.models.mlp import mlp
from kd_jax.report import results_table


class Encoder(nn.Module):
    """No classes: an embedding is all that it answers."""

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(8, name="embedding")(x.reshape(x.shape[0], -1))
        return {"embedding": x}


def blobs(count, seed, classes=3):
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    centres = np.random.default_rng(7).normal(size=(classes, 6)) * 2
    return (centres[labels] + rng.normal(size=(count, 6))).astype(np.float32), labels


def small(terms, steps=20):
    config = kd_jax.base()
    config.terms = terms
    config.train = training(batch_size=16, steps=steps)
    config.teacher.train = training(batch_size=16, steps=steps)
    config.eval_every, config.log_every, config.report = 10, 10, False
    return config


def variables_of(model, seed=0):
    variables = model.init(jax.random.key(seed), jnp.zeros((1, 6)), **({"train": False} if "MLP" in str(model) else {}))
    return variables["params"], {}


def test_a_transfer_set_alone_trains_and_fidelity_is_all_that_is_said(tmp_path, capsys):
    (x, _), (test, _) = blobs(96, 0), blobs(40, 1)
    data = from_arrays(train=(x, None), test=(test, None), names=3)
    teacher = mlp(3, widths=(16,))
    config = small(compose("response"), steps=200)
    results = kd_jax.run(
        config,
        tmp_path,
        student=mlp(3, widths=(4,)),
        teacher=teacher,
        teacher_variables=variables_of(teacher),
        data=data,
    )
    scores = results["models"]["student"]["last"]["test"]
    assert scores["accuracy"] is None and scores["nll"] is None and scores["ece"] is None
    assert scores["agreement"] > 0.5 and scores["kl"] < 0.5
    assert set(results["models"]) == {"teacher", "student"} and results["verdict"]["answer"] == "unknown"
    text = results_table(results)
    assert "agrees with teacher" in text and "accuracy, ±" not in text and "no image" not in text
    out = capsys.readouterr().out
    assert "baseline: no training example has a label" in out
    assert "teacher: not scored: no example of the test split has a label" in out
    assert '"accuracy": null' in (tmp_path / "results.json").read_text().replace("NaN", "bad")


def test_a_validation_split_without_labels_is_held_out_and_chooses_nothing(tmp_path):
    (x, _), (test, y) = blobs(96, 0), blobs(40, 1)
    data = from_arrays(train=(x, None), test=(test, y), names=3, validation=0.25)
    assert len(data.validation) == 24
    teacher = mlp(3, widths=(16,))
    inputs = dict(teacher=teacher, teacher_variables=variables_of(teacher), data=data)
    results = kd_jax.run(small(compose("response")), tmp_path, student=mlp(3, widths=(4,)), **inputs)
    student = results["models"]["student"]
    assert "best" not in student and student["last"]["validation"]["accuracy"] is None
    assert 0 <= student["last"]["test"]["accuracy"] <= 1


@pytest.mark.parametrize("knowledge", ["rkd", "feature"])
def test_a_teacher_of_other_classes_teaches_relations_and_features(tmp_path, knowledge, capsys):
    options = {} if knowledge == "rkd" else {"feature": {"tap": "embedding"}}
    config = small(compose(knowledge, **options))
    config.teacher.preparation = {"like": "data"}  # the raw values are large, and so would be the features
    teacher = mlp(5, widths=(16,))
    data = from_arrays(train=blobs(96, 0), test=blobs(40, 1))
    inputs = dict(teacher=teacher, teacher_variables=variables_of(teacher), data=data)
    results = kd_jax.run(config, tmp_path, student=mlp(3, widths=(4,)), **inputs)
    scores = results["models"]["student"]["last"]["test"]
    assert "agreement" not in scores and "kl" not in scores and scores["accuracy"] >= 0.2
    assert results["models"]["teacher"]["last"] == {"step": None}
    assert (
        "teacher: not scored: it has 5 classes, arrays has 3; agreement with it is left out" in capsys.readouterr().out
    )
    assert results["verdict"]["answer"] in ("yes", "no", "not measurable")


def test_an_encoder_without_classes_teaches_relations(tmp_path):
    config = small(compose("rkd"))
    encoder = Encoder()
    data = from_arrays(train=blobs(96, 0), test=blobs(40, 1))
    inputs = dict(teacher=encoder, teacher_variables=variables_of(encoder), data=data)
    results = kd_jax.run(config, tmp_path, student=mlp(3, widths=(4,)), **inputs)
    assert "agreement" not in results["models"]["student"]["last"]["test"]
    config.teacher.min_accuracy = 0.5
    with pytest.raises(ValueError, match="min_accuracy asks for 0.5, and the teacher cannot be scored"):
        kd_jax.run(config, tmp_path / "other", student=mlp(3, widths=(4,)), **inputs)


def test_softmax_losses_refuse_one_logit_by_name():
    with pytest.raises(ValueError, match="one logit"):
        response.kd_loss(jnp.zeros((4, 1)), jnp.ones((4, 1)))
