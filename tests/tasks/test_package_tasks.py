"""Multi-label and regression: metrics against values by hand and scikit-learn, whole runs, labels of any shape."""

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import average_precision_score, r2_score

import kd_jax
from kd_jax.config import term, training
from kd_jax.data.arrays import from_arrays
from kd_jax.data.load import load
from kd_jax.data.source import Splits
from kd_jax.models.mlp import mlp
from kd_jax.tasks import classify, multilabel, regress
from kd_jax.types import Outputs


def scored(task, logits, labels, reference=None, mask=None):
    """The scores of a split in two batches, as the loop makes them."""
    n = len(logits)
    mask = np.ones(n, bool) if mask is None else mask
    totals, arrays = None, {}
    for rows in (slice(0, n // 2), slice(n // 2, n)):
        batch = {"label": jnp.asarray(labels[rows]), "mask": jnp.asarray(mask[rows])}
        compared = None if reference is None else Outputs(jnp.asarray(reference[rows]))

        def run(rows=rows):
            return Outputs(jnp.asarray(logits[rows]))

        sums = task.sums(run, batch, compared, None)
        sums = {k: tuple(np.asarray(x, np.float64) for x in pair) for k, pair in sums.items()}
        totals = sums if totals is None else {k: tuple(map(np.add, totals[k], sums[k])) for k in sums}
        for name, x in (task.collect(run, batch, None) if task.collect else {}).items():
            arrays.setdefault(name, []).append(np.asarray(x)[mask[rows]])
    return task.finish(totals, {"scored": {k: np.concatenate(v) for k, v in arrays.items()}})


def test_multilabel_metrics():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(20, 3)).astype(np.float32), rng.integers(0, 2, (20, 3))
    labels[0, 1], labels[5, 2] = -1, -1  # not known
    mask = np.arange(20) != 7
    scores = scored(multilabel.task(), logits, labels, logits * 2, mask)
    there = (labels >= 0) & mask[:, None]
    right = ((logits > 0) == (labels > 0.5)) & there
    each = right.sum(1)[mask] / there.sum(1)[mask]
    assert scores["accuracy"] == pytest.approx(each.mean())
    assert scores["accuracy_error"] == pytest.approx(each.std() / np.sqrt(19), rel=1e-4)
    precision = [average_precision_score(labels[there[:, c], c], logits[there[:, c], c]) for c in range(3)]
    assert scores["average_precision"] == pytest.approx(np.mean(precision))
    nll = np.where(labels > 0.5, np.logaddexp(0, -logits), np.logaddexp(0, logits))
    assert scores["nll"] == pytest.approx(
        np.mean([(nll * there)[i].sum() / there[i].sum() for i in np.flatnonzero(mask)]), rel=1e-5
    )
    assert scores["agreement"] == 1 and scores["kl"] > 0
    assert scores["per_label_accuracy"] == pytest.approx((right.sum(0) / there.sum(0)).tolist())


def test_regression_metrics():
    rng = np.random.default_rng(1)
    labels = rng.normal(size=(30, 2)).astype(np.float32)
    prediction = (labels + rng.normal(size=(30, 2)) * 0.3).astype(np.float32)
    scores = scored(regress.task(), prediction, labels, prediction + 0.5)
    errors = prediction - labels
    assert scores["rmse"] == pytest.approx(np.sqrt((errors**2).mean()), rel=1e-5)
    assert scores["mae"] == pytest.approx(np.abs(errors).mean(), rel=1e-5)
    assert scores["r2"] == pytest.approx(r2_score(labels, prediction), rel=1e-4)
    assert scores["distance"] == pytest.approx(0.5, rel=1e-5)
    each = (errors**2).mean(1)
    assert scores["rmse_error"] == pytest.approx(each.std() / np.sqrt(30) / 2 / np.sqrt(each.mean()), rel=1e-3)
    labels[3, 1], labels[4] = np.nan, np.nan
    some = scored(regress.task(), prediction, labels)
    assert some["rmse"] == pytest.approx(np.sqrt(np.nanmean((prediction - labels) ** 2)), rel=1e-5)
    nothing = scored(regress.task(), prediction, np.full_like(labels, np.nan))
    assert nothing["rmse"] is None and nothing["r2"] is None


def test_classification_leaves_out_what_has_no_label():
    rng = np.random.default_rng(2)
    logits, labels = rng.normal(size=(12, 4)).astype(np.float32), rng.integers(0, 4, 12)
    labels[:5] = -1
    scores = scored(classify.task(), logits, labels, logits[:, ::-1])
    hits = logits[5:].argmax(1) == labels[5:]
    assert scores["accuracy"] == pytest.approx(hits.mean())
    assert scores["accuracy_error"] == pytest.approx(np.sqrt(hits.mean() * (1 - hits.mean()) / 7))
    assert scores["agreement"] == pytest.approx((logits.argmax(1) == logits[:, ::-1].argmax(1)).mean())
    assert "agreement" not in scored(classify.task(), logits, labels, logits[:, :3])


def features(count, seed):
    return np.random.default_rng(seed).normal(size=(count, 5)).astype(np.float32)


def small(task, label_terms, kd, steps=60, **kwargs):
    config = kd_jax.base()
    config.task = dict(name=task, kwargs=kwargs)
    config.terms = label_terms | {"kd": kd}
    config.train = training(batch_size=16, steps=steps, optimizer=dict(learning_rate=0.05, weight_decay=0.0))
    config.teacher.train = training(batch_size=16, steps=steps, optimizer=dict(learning_rate=0.05, weight_decay=0.0))
    config.teacher.seed, config.eval_every, config.log_every = 1, 30, 30
    return config


def test_a_run_with_several_labels_an_example(tmp_path):
    def pair(count, seed):
        x = features(count, seed)
        return x, (x[:, :3] + 0.3 * x[:, 1:4] > 0).astype(np.int64)

    data = from_arrays(train=pair(160, 0), test=pair(60, 1), validation=0.2, names=["red", "round", "old"])
    assert data.train.num_classes == 3 and data.train.labels.shape == (128, 3)
    logits = ("student.logits",), ("teacher.logits",)
    config = small("tasks.multilabel.task", {"bce": {}}, term("losses.response.logit_mse_loss", *logits, weight=0.1))
    results = kd_jax.run(config, tmp_path, student=mlp(3, widths=(8,)), teacher=mlp(3, widths=(32,)), data=data)
    assert results["models"]["student"]["last"]["test"]["accuracy"] > 0.75
    assert results["models"]["student"]["last"]["test"]["average_precision"] > 0.75
    html = (tmp_path / "report.html").read_text()
    assert "mean average precision" in html and "test examples" in html and "test images" not in html


def test_a_regression_with_a_unit_from_the_command_line_of_the_data(tmp_path):
    def pair(count, seed):
        x = features(count, seed)
        return x, x[:, 0] * 2 - x[:, 1]

    data = from_arrays(train=pair(160, 0), test=pair(60, 1), validation=0.2)
    logits = ("student.logits",), ("teacher.logits",)
    kd = term("losses.task.mean_squared_loss", *logits)
    config = small("tasks.regress.task", {"mse": {}}, kd, unit="years")
    results = kd_jax.run(config, tmp_path, student=mlp(1, widths=(8,)), teacher=mlp(1, widths=(32,)), data=data)
    verdict = results["verdict"]
    gain = results["models"]["baseline"]["last"]["test"]["rmse"] - results["models"]["student"]["last"]["test"]["rmse"]
    assert verdict["metric"] == "rmse" and verdict["unit"] == "years" and verdict["gain"] == pytest.approx(gain)
    assert " years" in verdict["text"]
    curve = [p["validation_rmse"] for p in results["models"]["student"]["curve"] if "validation_rmse" in p]
    assert results["models"]["student"]["best"]["validation"]["rmse"] == pytest.approx(min(curve))


def test_labels_that_do_not_fit_the_task_are_refused_by_name(tmp_path):
    x = features(40, 0)
    floats = from_arrays(train=(x, x[:, 0]), test=(x, x[:, 0]))
    kd = term("losses.task.mean_squared_loss", ("student.logits",), ("teacher.logits",))
    networks = dict(student=mlp(1, widths=(4,)), teacher=mlp(1, widths=(4,)))
    with pytest.raises(ValueError, match="labels of arrays are float32.*one integer an example.*tasks.regress.task"):
        kd_jax.run(small("tasks.classify.task", {}, kd), tmp_path, data=floats, **networks)
    several = from_arrays(train=(x, x[:, :2]), test=(x, x[:, :2]))
    with pytest.raises(ValueError, match=r"\(16, 1\).*\[batch, values\]|failed on"):
        kd_jax.run(small("tasks.regress.task", {"mse": {}}, kd), tmp_path, data=several, **networks)


def test_some_labels_of_any_kind_are_kept(monkeypatch, tmp_path):
    x = features(40, 0)
    y = np.stack([x[:, 0], x[:, 1]], 1)
    np.savez(tmp_path / "a.npz", train_x=x, train_y=y, test_x=x[:8], test_y=y[:8])
    splits = load({"name": "arrays", "directory": str(tmp_path / "a.npz"), "labels": 10, "validation": 0.25})
    assert isinstance(splits, Splits) and splits.train.labelled.sum() == 10 and len(splits.validation) == 10
    assert np.isnan(splits.train.labels[~splits.train.labelled]).all()
    with pytest.raises(ValueError, match="labels=31: there are 30"):
        load({"name": "arrays", "directory": str(tmp_path / "a.npz"), "labels": 31, "validation": 0.25})
    fields = {"train": {"age": np.arange(40)}, "test": {"age": np.arange(8)}}
    with_fields = from_arrays(train=(x, y), test=(x[:8], y[:8]), fields=fields)
    assert with_fields.train.batch(3)["age"].tolist() == [0, 1, 2]
