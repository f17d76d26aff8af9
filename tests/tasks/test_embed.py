"""The task of embeddings: neighbours, probe, rank and pairs by hand; networks that answer something else; no labels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier

from kd_jax.models.encoders import encoder, two_towers
from kd_jax.tasks import embed
from kd_jax.types import Outputs

DIGITS = load_digits()
X, Y = DIGITS.data.astype(np.float64), DIGITS.target
TRAIN, TEST = slice(0, 600), slice(600, 1000)
CNN = dict(name="models.vision.cnn.cnn", kwargs=dict(widths=(4, 6)))


def collected(label=None, **more):
    parts = {"train": TRAIN, "scored": TEST}
    arrays = {"embedding": X, "label": Y if label is None else label, **more}
    return {
        name: {k: v[rows].astype(np.float32) for k, v in arrays.items() if k != "label"}
        | {"label": arrays["label"][rows]}
        for name, rows in parts.items()
    }


def finish(**changes):
    return embed.finish({}, collected(**changes), neighbours=20, temperature=0.07)


def test_neighbours_are_those_of_scikit_learn():
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    reference = KNeighborsClassifier(20, weights=lambda d: np.exp((1 - d**2 / 2) / 0.07)).fit(unit[TRAIN], Y[TRAIN])
    answers = embed.nearest(X[TRAIN], Y[TRAIN], X[TEST], 20, 0.07)
    np.testing.assert_array_equal(answers, reference.predict(unit[TEST]))
    values = finish()
    p = np.mean(answers == Y[TEST])
    assert values["knn_accuracy"] == pytest.approx(p) and 0.9 < p < 1
    assert values["knn_error"] == pytest.approx(np.sqrt(p * (1 - p) / 400))


def test_neighbours_by_hand():
    x, y = np.array([[1.0, 0], [1, 0.1], [0, 1]]), np.array([0, 0, 1])
    queries = np.array([[0.0, 5.0], [2.0, 0.0]])
    assert embed.nearest(x, y, queries, 1, 0.07).tolist() == [1, 0]
    assert embed.nearest(x, y, queries, 3, 0.07).tolist() == [1, 0]
    assert embed.nearest(x, y, queries, 3, 100.0).tolist() == [0, 0]  # all alike: the larger class


def test_the_probe_is_a_ridge_whose_strength_leaves_each_row_out():
    x, y = X[:150], Y[:150]
    mean, std = x.mean(0), np.maximum(x.std(0), 1e-12)
    design, other = (np.concatenate([(rows - mean) / std, np.ones((len(rows), 1))], axis=1) for rows in (x, X[TEST]))
    target, gram, eye = np.eye(10)[y], design.T @ design, np.eye(design.shape[1])
    scale, errors, answers = np.linalg.eigvalsh(gram).mean(), [], []
    for strength in embed.STRENGTHS:
        penalty, error = strength * scale * eye, 0.0
        for row, wanted in zip(design, target, strict=True):  # left out for real
            sums = design.T @ target - np.outer(row, wanted)
            error += np.square(wanted - row @ np.linalg.solve(gram - np.outer(row, row) + penalty, sums)).sum()
        errors.append(error)
        answers.append((other @ np.linalg.solve(gram + penalty, design.T @ target)).argmax(1))
    answer = embed.probe(x, y)(X[TEST])
    np.testing.assert_array_equal(answer, answers[int(np.argmin(errors))])
    assert 0 < int(np.argmin(errors)) < len(errors) - 1
    sklearn = RidgeClassifier(alpha=10.0).fit((x - mean) / std, y).predict((X[TEST] - mean) / std)
    assert abs(np.mean(answer == Y[TEST]) - np.mean(sklearn == Y[TEST])) < 0.03
    expected = np.mean(embed.probe(X[TRAIN], Y[TRAIN])(X[TEST]) == Y[TEST])
    assert finish()["probe_accuracy"] == pytest.approx(expected)


def test_rank():
    rng = np.random.default_rng(0)
    full, line = rng.normal(size=(5000, 6)), np.outer(rng.normal(size=200), np.ones(6)) + 3
    assert embed.effective_rank(full) == pytest.approx(6, rel=0.01)
    assert embed.effective_rank(line) == pytest.approx(1, abs=1e-6)
    assert embed.effective_rank(np.full((50, 6), 0.3)) == 0
    np.testing.assert_allclose(embed.effective_rank(np.diag([1.0, 1, 1]) - 1 / 3), 2)


def test_pairs():
    x = np.eye(4)
    assert embed.recall(x, 3 * x) == 1
    # 0 and 1 are exchanged in one direction and the other
    assert embed.recall(x, x[[1, 0, 2, 3]]) == 0.5
    assert finish(pair=X)["recall"] > 0.99 and "recall" not in finish()


def test_without_labels_nothing_is_said_of_them():
    values = finish(label=np.full_like(Y, -1))
    assert [values[k] for k in ("knn_accuracy", "knn_error", "probe_accuracy")] == [None] * 3
    assert values["rank"] > 1
    some = np.where(np.arange(len(Y)) % 3 == 0, Y, -1)
    expected = embed.nearest(X[TRAIN][::3], Y[TRAIN][::3], X[600:1000], 20, 0.07)
    rows = some[TEST] >= 0
    assert finish(label=some)["knn_accuracy"] == pytest.approx(np.mean(expected[rows] == Y[TEST][rows]))


def shapes(**arrays):
    return {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in arrays.items()}


@pytest.mark.parametrize(
    ("kwargs", "outputs", "message"),
    [
        ({}, shapes(x=(4, 2, 2, 3))["x"], r"its output has shape \(4, 2, 2, 3\); an embedding is \[batch, width\]"),
        ({}, shapes(image=(4, 3)), "its output has shape dict"),
        (dict(entry="image", pair="text"), shapes(x=(4, 3))["x"], "names the entries image, text of it"),
        (dict(entry="image", pair="text"), shapes(image=(4, 3), texts=(4, 3)), "no entry 'text'. Did you mean 'texts'"),
        (
            dict(entry="image", pair="text"),
            shapes(image=(4, 3), text=(3, 3)),
            r"'text' of its output has shape \(3, 3\)",
        ),
    ],
)
def test_outputs_that_are_no_embedding(kwargs, outputs, message):
    with pytest.raises(ValueError, match=message):
        embed.task(**kwargs).check(Outputs(outputs), {"label": np.zeros(4, np.int32)})


def test_options_that_come_together():
    with pytest.raises(ValueError, match="come together"):
        embed.task(entry="image")


def test_encoder():
    network = encoder(10, CNN, tap="embedding")
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 8, 8, 1)), jnp.float32)
    params, stats = network.init(jax.random.key(0), x)

    def run(model, taps):
        return model.apply(params, stats, x, train=False, key=jax.random.key(0), taps=taps)[0]

    plain = run(network.network, ("embedding", "final"))
    outputs = run(network, ("logits", "final"))
    np.testing.assert_array_equal(outputs.logits, plain.features["embedding"])
    np.testing.assert_array_equal(outputs.features["logits"], plain.logits)
    np.testing.assert_array_equal(outputs.features["final"], plain.features["final"])
    assert set(outputs.features) == {"logits", "final"}
    flat = encoder(10, CNN, tap="final")
    assert run(flat, ()).logits.shape == (3, 4 * 4 * 6)
    with pytest.raises(ValueError, match="no tap 'embeding'"):
        run(encoder(10, CNN, tap="embeding"), ())


def test_two_towers():
    model = two_towers(CNN, dict(name="models.mlp.mlp", kwargs={}), width=5)
    x = jnp.ones((2, 4, 8, 1))
    params, stats = model.init(jax.random.key(0), x, 2 * x)
    outputs, new = model.apply(params, stats, x, 2 * x, train=True, key=jax.random.key(0), taps=("image/final",))
    assert {k: v.shape for k, v in outputs.logits.items()} == {"image": (2, 5), "text": (2, 5)}
    assert set(outputs.features) == {"image/final"} and jax.tree.structure(new) == jax.tree.structure(stats)
    alone = model.image.apply(params["image"], stats["image"], x, train=False, key=jax.random.key(0))[0]
    together = model.apply(params, stats, x, x, train=False, key=jax.random.key(0))[0]
    np.testing.assert_array_equal(together.logits["image"], alone.logits)
    with pytest.raises(ValueError, match="read two inputs, such as .*, not 1"):
        model.init(jax.random.key(0), x)
    with pytest.raises(ValueError, match="no tap 'stage1'"):
        model.apply(params, stats, x, x, train=False, key=jax.random.key(0), taps=("stage1",))
