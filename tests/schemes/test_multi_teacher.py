"""Several teachers: their combination as losses and as a scheme, and what the config makes of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scheme_checks
import toy

from kd_jax.losses import ensemble, feature, specialists
from kd_jax.schemes import multi_teacher
from kd_jax.types import Role, Term

RNG = np.random.default_rng(0)
S, G, LOW, HIGH = RNG.normal(size=(4, 6, 5)).astype(np.float32) * 2
CLASSES = ((0, 1, 3), (2, 3, 4))
T = 2.0
close = functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=1e-6)


def probabilities(z):
    e = np.exp(z.astype(np.float64) / T)
    return e / e.sum()


def with_dustbin(p, classes):
    return np.array([*p[list(classes)], p.sum() - p[list(classes)].sum()])


def kl(p, q):
    return float(p @ (np.log(p) - np.log(q)))


def expected(s, g, others, top, dustbin):
    s, p = probabilities(s), probabilities(g)
    total = kl(p, s)
    for classes, z in zip(CLASSES, others, strict=True):
        if not {*np.argsort(-g)[:top]} & {*classes}:
            continue
        m = probabilities(z)
        if not dustbin:
            within = m[list(classes)] / m[list(classes)].sum()
            m = np.zeros(5)
            m[list(classes)] = p[list(classes)].sum() * within
            m[[c for c in range(5) if c not in classes][0]] = 1 - p[list(classes)].sum()
        total += kl(with_dustbin(m, classes), with_dustbin(s, classes))
    return T**2 * total


@pytest.mark.parametrize(("top", "dustbin"), [(1, False), (1, True), (5, False)])
def test_specialists(top, dustbin):
    fn = functools.partial(specialists.specialists_loss, classes=CLASSES, temperature=T, top=top, dustbin=dustbin)
    values, gradient = jax.jit(lambda *z: (fn(*z), jax.grad(lambda s: fn(s, *z[1:]).sum())(z[0])))(S, G, LOW, HIGH)
    close(values, [expected(S[i], G[i], (LOW[i], HIGH[i]), top, dustbin) for i in range(6)])
    assert np.isfinite(gradient).all() and gradient.any()


def test_specialists_that_agree_are_matched_exactly():
    fn = jax.jit(functools.partial(specialists.specialists_loss, classes=CLASSES))
    close(fn(G, G, G, G), 0)
    # A specialist's opinion of classes that it does not know is not read.
    outside = LOW + np.where(np.isin(np.arange(5), CLASSES[0]), 0, 7).astype(np.float32)
    close(fn(S, G, LOW, HIGH), fn(S, G, outside, HIGH))
    extreme = fn(1e4 * S.astype(jnp.bfloat16), 1e4 * G, 1e4 * LOW, 1e4 * HIGH)
    assert extreme.dtype == jnp.float32 and np.isfinite(extreme).all()


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (((0, 1),), "1 of 2 specialists"),
        (((0, 1), (2, 5)), r"0 .. 4.*\(2, 5\)"),
        (((0, 1), (2, 2)), "each once"),
        (((0, 1), (0, 1, 2, 3, 4)), "not all"),
        (((0, 1), ()), "some of"),
    ],
)
def test_wrong_classes(classes, message):
    with pytest.raises(ValueError, match=message):
        specialists.specialists_loss(S, G, LOW, HIGH, classes=classes)


def test_wrong_shapes():
    with pytest.raises(ValueError, match=r"\(6, 5\).*\(6, 4\)"):
        specialists.specialists_loss(S, G, LOW[:, :4], classes=CLASSES[:1])


def test_confidence_where_some_labels_are_missing():
    labels = np.array([0, -1, 2, -1, 4, 3], np.int32)
    values = specialists.confidence_transfer_loss(S, G, LOW, HIGH, labels, temperature=T)
    labelled = ensemble.confidence_weighted_loss(S, G, LOW, HIGH, labels=np.maximum(labels, 0), temperature=T)
    alike = ensemble.average_kl_loss(S, G, LOW, HIGH, temperature=T) / 3
    close(values, np.where(labels >= 0, labelled, alike))


NAMES = ("teacher", "second", "third")
LOGITS = tuple(f"{name}.logits" for name in NAMES)


def kd(fn, targets=LOGITS, **kwargs):
    return Term(fn, ("student.logits",), targets, 0.5, {"temperature": T, **kwargs})


def terms():
    """All combinations in one phase: one program to compile."""
    return {
        "ce": toy.ce(),
        "probabilities": kd(ensemble.average_probabilities_loss),
        "logits": kd(ensemble.average_logits_loss),
        "entropy": kd(ensemble.entropy_weighted_loss),
        "confidence": kd(specialists.confidence_transfer_loss, (*LOGITS, "batch.label")),
        "specialists": kd(specialists.specialists_loss, classes=((0,), (1, 2))),
        "hint": Term(
            feature.feature_hint_loss,
            ("student.features:hidden",),
            ("third.features:hidden",),
            connector=lambda *_: toy.net(classes=5),
        ),
    }


def roles():
    return toy.roles() | {"second": Role(toy.net(width=5)), "third": Role(toy.net(width=5))}


def test_all_combinations_teach_the_student_only():
    scheme = multi_teacher.build(toy.parts(roles(), terms()))
    assert [call.role for call in scheme.stages[0].phases[0].forward] == ["student", *NAMES]
    assert scheme.evaluate == ("student", "teacher+second+third") and scheme.reference == scheme.evaluate[1]
    data = toy.batch()
    batch = {**data, "label": data["label"].at[:4].set(-1), "labelled": jnp.arange(16) >= 4}
    first, last, history = scheme_checks.steps(scheme, batch, count=4)
    assert scheme_checks.moved(first, last) == {"student"} and set(first.frozen) == {*NAMES}
    for name in ("loss", *terms()):
        assert history[-1][name] < history[0][name], name
    scheme_checks.same_on_eight_devices(scheme, last, batch, count=4)


def test_bad_options():
    with pytest.raises(ValueError, match="'secnd' is not a teacher.*'second'"):
        multi_teacher.build(toy.parts(roles(), terms()), ("teacher", "secnd"))
    with pytest.raises(ValueError, match=r"read \['teacher'\]; the teachers are"):
        multi_teacher.build(toy.parts(roles(), {"kd": toy.kd()}))
    scheme = multi_teacher.build(toy.parts(roles(), terms()), ("teacher", "third"))
    assert scheme.reference == "teacher+third"
