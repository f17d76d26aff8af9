"""Answers as they are stored, and the logits and features that come back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.cache.model import TOP_IDS, TOP_LOG_PROBS, CachedTeacher, Store, decode, encode, pack, parts_of, unpack
from kd_jax.types import Outputs

RNG = np.random.default_rng(0)
LOGITS = jnp.asarray(RNG.normal(size=(6, 3, 12)) * 4, jnp.float32)  # [batch, length, vocabulary]
FEATURES = {"stage1": jnp.asarray(RNG.normal(size=(6, 4, 5)), jnp.float32)}


def through(store: Store, logits=LOGITS) -> Outputs:
    fields = encode(store, Outputs(logits, FEATURES))
    assert set(fields) == set(store.names)
    return decode(store, logits.shape[-1], fields)


@pytest.mark.parametrize(
    ("dtype", "relative", "absolute"),
    [("float32", 0, 0), ("bfloat16", 4e-3, 0), ("float16", 5e-4, 0), ("uint8", 0, 0.06)],
)
def test_full_answers_come_back(dtype, relative, absolute):
    decoded = through(Store(dtype=dtype, features=("stage1",)))
    np.testing.assert_allclose(decoded.logits, LOGITS, rtol=relative, atol=absolute)
    np.testing.assert_allclose(decoded.features["stage1"], FEATURES["stage1"], rtol=relative, atol=absolute)
    assert decoded.logits.dtype == jnp.float32
    if dtype == "uint8":  # half a step of each row, and no better
        span = LOGITS.max(-1, keepdims=True) - LOGITS.min(-1, keepdims=True)
        assert (np.abs(decoded.logits - LOGITS) <= span / 254 / 2 * 1.001).all()
        assert np.abs(decoded.logits - LOGITS).max() > 1e-4


@pytest.mark.parametrize(("dtype", "relative"), [("float32", 0), ("bfloat16", 4e-3), ("float16", 5e-4)])
def test_answers_of_several_arrays_come_back_in_one_row(dtype, relative):
    said = {
        "boxes": {"sides": LOGITS, "points": LOGITS[:, 0, :2]},
        "classes": LOGITS[:, :, 4:],
        "count": LOGITS[:, 1, 1],
    }
    store, outputs = Store(dtype=dtype, features=("stage1",)), Outputs(said, FEATURES)
    fields = encode(store, outputs)
    assert set(fields) == set(store.names) and fields["logits"].shape == (6, 36 + 2 + 24 + 1)
    decoded = decode(store, 0, fields, parts_of(store, outputs))
    assert jax.tree.structure(decoded.logits) == jax.tree.structure(said)
    for ours, theirs in zip(jax.tree.leaves(decoded.logits), jax.tree.leaves(said), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=relative)
    np.testing.assert_allclose(decoded.features["stage1"], FEATURES["stage1"], rtol=relative)


def test_impossible_classes_stay_impossible():
    logits = LOGITS.at[..., 3].set(-jnp.inf)
    for store in (Store(), Store(dtype="uint8"), Store(k=4), Store(k=12, dtype="uint8")):
        decoded = through(Store(store.k, store.dtype, features=("stage1",)), logits)
        assert not np.isnan(decoded.logits).any()
        if store.k in (0, 12):
            assert (decoded.logits[..., 3] == -np.inf).all() and np.isfinite(np.delete(decoded.logits, 3, -1)).all()
    constant = unpack("x", pack("x", jnp.full((2, 4), 7.0), "uint8"))
    np.testing.assert_allclose(constant, 7.0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "uint8"])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_top_k_is_exact_on_its_classes_and_on_the_sum_of_the_others(dtype, temperature):
    k, tolerance = 4, {"float32": 1e-5, "bfloat16": 2e-2, "uint8": 2e-2}[dtype]
    decoded = through(Store(k, dtype, temperature))
    log_p = np.asarray(jax.nn.log_softmax(LOGITS / temperature))
    log_q = np.asarray(jax.nn.log_softmax(decoded.logits / temperature))
    ids = np.argsort(-log_p, axis=-1)[..., :k]
    np.testing.assert_array_equal(np.sort(decoded.features[TOP_IDS], -1), np.sort(ids, -1))
    np.testing.assert_allclose(np.take_along_axis(log_q, ids, -1), np.take_along_axis(log_p, ids, -1), atol=tolerance)
    np.testing.assert_array_equal(log_q.argmax(-1), log_p.argmax(-1))
    mass = 1 - np.exp(np.take_along_axis(log_p, ids, -1)).sum(-1)
    np.testing.assert_allclose(np.exp(np.delete(np.sort(log_q, -1), np.s_[-k:], -1)).sum(-1), mass, atol=1e-5)
    assert np.ptp(np.sort(log_q, -1)[..., :-k], axis=-1).max() < 1e-5  # the tail is spread evenly
    # what terms on the top classes read, without the other classes, is the same distribution
    np.testing.assert_allclose(
        decoded.features[TOP_LOG_PROBS], np.take_along_axis(log_q, decoded.features[TOP_IDS], -1), atol=1e-5
    )


def test_all_classes_of_a_top_k_are_the_distribution():
    decoded = through(Store(k=50))  # cut off at 12
    np.testing.assert_allclose(jax.nn.softmax(decoded.logits), jax.nn.softmax(LOGITS), atol=1e-6)


def test_the_model_has_no_parameters_and_knows_its_taps():
    store = Store(k=2, features=("stage1",))
    model, fields = CachedTeacher(store, 12), encode(store, Outputs(LOGITS, FEATURES))
    inputs, key = [fields[name] for name in store.names], jax.random.key(0)
    assert model.init(key, *inputs) == ({}, {})
    taps = ("stage1", TOP_IDS)
    outputs, _ = model.apply({}, {}, *inputs, train=False, key=key, taps=taps)
    assert set(outputs.features) == set(taps)
    with pytest.raises(ValueError, match="have no tap 'stage2'. Did you mean 'stage1'.*teacher.cache.features"):
        model.apply({}, {}, *inputs, train=False, key=key, taps=("stage2",))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Store(dtype="float8"), "cache.dtype is 'float8'. Did you mean 'float32'"),
        (lambda: Store(k=-1), "k is 0 or more"),
        (lambda: Store(temperature=0.0), "temperature above 0"),
        (lambda: pack("x", jnp.ones(3), "uint8"), "x: 8 bits need an axis"),
        (lambda: encode(Store(), Outputs(LOGITS[:, 0, 0])), r"this teacher returns float32\[6\]"),
        (lambda: encode(Store(), Outputs((LOGITS, LOGITS[:2]))), r"several float arrays \[batch, ...\]; this teacher"),
        (lambda: encode(Store(), Outputs({"logits": LOGITS, "scale": jnp.float32(1)})), r"'scale': 'float32\[\]'"),
        (
            lambda: encode(Store(), Outputs({"logits": LOGITS, "ids": LOGITS.astype(int)})),
            r"'ids': 'int32\[6, 3, 12\]'",
        ),
        (
            lambda: encode(Store(k=2), Outputs({"a": LOGITS})),
            "teacher.cache.k=2 is of rows of logits, and",
        ),
        (lambda: encode(Store(dtype="uint8"), Outputs({"a": LOGITS})), "dtype='uint8' is of rows of logits"),
    ],
)
def test_what_cannot_be_stored(call, message):
    with pytest.raises(ValueError, match=message):
        call()
