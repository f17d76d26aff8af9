"""Text in the framework: what is counted, what padding cannot do, perplexity in evaluation, table and report."""

import dataclasses
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scheme_checks
import token_toy
import toy

from kd_jax import report
from kd_jax.config import compose, fields, supervised, term
from kd_jax.config.knowledge import make_terms
from kd_jax.core.bind import bind, init_state
from kd_jax.core.step import make_train_step
from kd_jax.core.terms import hyper_of
from kd_jax.data.batches import batch_shapes, eval_batches, train_batches
from kd_jax.data.load import load
from kd_jax.losses import response, task
from kd_jax.models.adapters import LinenModel
from kd_jax.report import page, verdict
from kd_jax.system.parallel import batch_sharding
from kd_jax.tasks import tokens
from kd_jax.train import run as train
from kd_jax.types import Call, Outputs, Phase, Role, Scheme, Stage, Term


def bigram(width=4):
    return LinenModel(token_toy.Bigram(width))


def scheme(kd=1.0, prepare=None):
    terms = {
        "ce": Term(task.cross_entropy_loss, ("student.logits",), ("batch.label",), where="batch.labelled"),
        "kd": Term(
            response.kd_loss, ("student.logits",), ("teacher.logits",), kd, {"temperature": 1.0}, where="batch.labelled"
        ),
    }
    roles = {
        "student": Role(bigram(), ("batch.tokens",), group="student"),
        "teacher": Role(bigram(8), ("batch.tokens",)),
    }
    forward = (Call("student", ("batch.tokens",)), Call("teacher", ("batch.tokens",), train=False))
    phase = Phase("student", forward, terms, toy.sgd())
    return Scheme(roles, (Stage(12, (phase,)),), reference="teacher", task=tokens.task(), prepare=prepare)


def text_config():
    made = fields.base()
    made.eval_every, made.log_every, made.eval_batch_size = 6, 2, 16
    for part, width in ((made.student, 4), (made.teacher, 8)):
        part.model = dict(name="token_toy:Bigram", kwargs=dict(width=width))
        part.inputs = ("batch.tokens",)
    made.train = fields.training(batch_size=16, steps=12)
    made.teacher.train = fields.training(batch_size=16, steps=12)
    kd = term("losses.response.kd_loss", ("student.logits",), ("teacher.logits",), where="batch.labelled")
    made.terms = {**supervised(), "kd": kd}
    return made


def test_batches_carry_tokens_and_their_labels():
    source, sharding = token_toy.source(10), batch_sharding(toy.mesh(4))
    batch = next(train_batches(source, batch_size=8, seed=0, num_steps=1, sharding=sharding))
    assert set(batch) == {"tokens", "segments", "label", "labelled", "index", "view"}
    rows = np.asarray(batch["index"])
    np.testing.assert_array_equal(batch["tokens"], source.images[rows])
    np.testing.assert_array_equal(batch["labelled"], source.labels[rows] >= 0)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), batch) == jax.tree.map(
        lambda x: (x.shape, x.dtype), batch_shapes(source, 8)
    )
    last = list(eval_batches(source, batch_size=8, sharding=sharding))[-1]
    assert last["mask"].shape == (8,) and last["mask"].sum() == 2 and last["label"].shape == (8, token_toy.LENGTH)
    assert source.labelled.shape == (10,) and source.labelled.all() and source.per_token


def test_a_loss_is_the_mean_over_the_counted_tokens_of_the_global_batch():
    batch = token_toy.batch()
    first, last, history = scheme_checks.steps(scheme(), batch, count=4)
    params, frozen = first.params["student"]["student"], first.frozen["teacher"][0]
    student, teacher = (
        np.asarray(bigram(w).apply(p, {}, batch["tokens"], train=False, key=None)[0].logits, np.float64)
        for w, p in ((4, params), (8, frozen))
    )
    log_s, log_t = (z - np.log(np.exp(z).sum(-1, keepdims=True)) for z in (student, teacher))
    total = {"ce": 0.0, "kd": 0.0}
    count = 0
    for i, j in np.argwhere(np.asarray(batch["label"]) >= 0):
        total["ce"] -= log_s[i, j, batch["label"][i, j]]
        total["kd"] += np.sum(np.exp(log_t[i, j]) * (log_t[i, j] - log_s[i, j]))
        count += 1
    assert 0 < count < batch["label"].size
    for name in total:
        np.testing.assert_allclose(history[0][name], total[name] / count, rtol=1e-5)
    assert history[-1]["loss"] < history[0]["loss"] and scheme_checks.moved(first, last) == {"student"}
    scheme_checks.same_on_eight_devices(scheme(), last, batch, count=4)


def test_accumulation_divides_by_the_tokens_of_the_whole_batch():
    batch = token_toy.batch()  # rows of every microbatch are padded differently
    keep = jnp.arange(16)[:, None] < 9
    batch["label"] = jnp.where(keep | (jnp.arange(12)[None] < 4), batch["label"], -1)
    batch["labelled"] = batch["label"] >= 0
    results = {}
    for accumulate in (1, 4):
        bound, inputs = bind(scheme(), toy.shapes(batch), accumulate)
        state = init_state(bound, inputs, jax.random.key(0), {})
        step = jax.jit(make_train_step(bound, bound.stages[0], accumulate))
        results[accumulate] = step(state, batch, hyper_of(bound.stages[0]), jax.random.key(0))
    (one, metrics), (many, others) = results[1], results[4]
    assert len({int(n) for n in batch["labelled"].reshape(4, -1).sum(1)}) > 1
    chex.assert_trees_all_close(one.params, many.params, rtol=1e-5, atol=1e-7)
    chex.assert_trees_all_close(metrics["ce"], others["ce"], rtol=1e-5)


def token_sums(logits, labels, mask, reference):
    return tokens.sums(lambda: Outputs(logits), {"label": labels, "mask": mask}, Outputs(reference), None)


def test_padding_never_enters():
    batch = token_toy.batch()
    _, last, history = scheme_checks.steps(scheme(), batch)
    real = batch["labelled"]
    other = batch | {"tokens": jnp.where(real, batch["tokens"], (batch["tokens"] + 3) % token_toy.VOCABULARY)}
    _, changed, again = scheme_checks.steps(scheme(), other, count=3)
    assert history == again
    chex.assert_trees_all_equal(last.params, changed.params)
    where = np.asarray(real)
    logits = jnp.where(real[..., None], jnp.ones((*where.shape, 7)), jnp.nan)
    scores = tokens.finish(token_sums(logits, batch["label"], jnp.ones(16, bool), logits), {})
    np.testing.assert_allclose([scores["nll"], scores["kl"], scores["ece"]], [np.log(7), 0, scores["ece"]], atol=1e-5)


def test_evaluation_counts_tokens():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(6, 5, 7)), rng.integers(-1, 7, size=(6, 5))
    mask = np.array([1, 1, 1, 1, 0, 1], bool)
    half = [
        token_sums(*map(jnp.asarray, (z, y, m)), jnp.asarray(z[..., ::-1]))
        for z, y, m in ((logits[:3], labels[:3], mask[:3]), (logits[3:], labels[3:], mask[3:]))
    ]
    scores = tokens.finish(jax.tree.map(lambda a, b: np.asarray(a, np.float64) + np.asarray(b), *half), {})
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    counted = [(i, j) for i in range(6) for j in range(5) if mask[i] and labels[i, j] >= 0]
    nll = [-log_p[i, j, labels[i, j]] for i, j in counted]
    assert scores["tokens"] == len(counted)
    np.testing.assert_allclose(scores["nll"], np.mean(nll), rtol=1e-5)
    np.testing.assert_allclose(scores["perplexity"], np.exp(np.mean(nll)), rtol=1e-5)
    np.testing.assert_allclose(scores["accuracy"], np.mean([logits[i, j].argmax() == labels[i, j] for i, j in counted]))
    agreement = [logits[i, j].argmax() == logits[i, j, ::-1].argmax() for i, j in counted]
    np.testing.assert_allclose(scores["agreement"], np.mean(agreement), rtol=1e-6)
    residuals = [sum(v - np.mean(nll) for v, (i, _) in zip(nll, counted, strict=True) if i == row) for row in range(6)]
    np.testing.assert_allclose(scores["nll_error"], math.sqrt(np.square(residuals).sum()) / len(nll), rtol=1e-4)


def test_a_run_on_text_reports_perplexity(tmp_path):
    results = train.run(text_config(), tmp_path, data=token_toy.splits())
    student = results["models"]["student"]
    assert student["last"]["test"]["perplexity"] < token_toy.VOCABULARY
    assert student["last"]["test"]["tokens"] == (token_toy.source(24, "test").labels >= 0).sum()
    held_out = [point["validation_nll"] for point in student["curve"] if point.get("validation_nll")]
    assert student["best"]["validation"]["nll"] == pytest.approx(min(held_out), rel=1e-5)
    text, html = report.results_table(results), page.page(results)
    assert "perplexity" in text and "latency, 1 sequence" in text and "image" not in text
    assert "Validation perplexity" in html and "Size, speed, perplexity" in html
    assert [section["title"] for section in results["sections"]] == ["What else was measured"]
    assert "per_class_accuracy" not in student["last"]["test"]


@pytest.mark.parametrize(
    ("gap", "kind", "says"),
    [
        (0.3, "gain", "Yes: perplexity −25.9%"),
        (0.001, "noise", "within noise"),
        (-0.3, "loss", "No: perplexity +35.0%"),
    ],
)
def test_the_verdict_on_perplexity(gap, kind, says):
    def model(nll):
        scores = {"accuracy": 0.5, "nll": nll, "perplexity": math.exp(nll), "nll_error": 0.01}
        return {"name": "decoder", "last": {"step": 1, "test": scores}}

    models = {"teacher": model(1.0), "baseline": model(2.0), "student": model(2.0 - gap)}
    headline = tokens.task().headline._asdict()
    judgement = verdict.judge({"models": models, "headline": headline, "data": {"noun": "sequence", "test": 100}})
    assert (judgement.kind, says in judgement.headline) == (kind, True), judgement.headline
    share = f"closes {100 * gap:.0f}% of the gap" if gap > 0 else "widens the gap"
    assert "image" not in judgement.headline + str(judgement.paragraphs) and share in str(judgement)


def test_images_are_asked_for_where_images_are_needed(tmp_path):
    made = text_config()
    made.train.augment = ("flip",)
    with pytest.raises(ValueError, match="letters has tokens, and augmentations and views are of images"):
        train.run(made, tmp_path, data=token_toy.splits())
    with pytest.raises(ValueError, match="tokens are int32, not float64"):
        dataclasses.replace(token_toy.source(), images=np.zeros((48, 3)))


def test_logits_must_fit_the_labels(tmp_path):
    made = text_config()
    splits = token_toy.splits()
    short = [dataclasses.replace(s, labels=s.labels[:, :-1]) for s in splits]
    with pytest.raises(ValueError, match=r"\(16, 12, 7\)|failed on"):
        train.run(made, tmp_path, data=type(splits)(*short))
    plain = [dataclasses.replace(s, labels=s.labels[:, -1]) for s in splits]
    made.terms = compose("supervised")
    with pytest.raises(ValueError, match=r"labels must be integers of shape \(16, 12\)"):
        train.run(made, tmp_path, data=type(splits)(*plain))


def test_labels_of_tokens_are_not_dealt_out():
    splits = token_toy.splits()
    for field, value in (("labels", 4), ("label_noise", 0.1), ("classes", (0,))):
        with pytest.raises(ValueError, match="whose labels are all known, one an example"):
            load({"name": "token_toy:splits_of", field: value})
    assert load({"name": "token_toy:splits_of", "limit": 5}).train.entry == splits.train.entry == "tokens"
    assert make_terms(text_config().terms)["kd"].where == "batch.labelled"
