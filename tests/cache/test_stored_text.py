"""Language models: a cache here -> DistillKit's and MaxText's files -> a student there and here."""

import jax
import numpy as np
import pytest
from topk_rows import rows

import kd_jax
from kd_jax.cache.stored import from_answers, write_answers
from kd_jax.config import supervised, term
from kd_jax.data.load import load
from kd_jax.data.text import topk_files
from kd_jax.models.adapters import as_model
from kd_jax.models.language.decoder_families import llama
from kd_jax.system.checkpoint import load_tree

NETWORK = dict(width=8, depth=1, heads=2)


def config(folder, steps=4):
    made = kd_jax.base()
    made.data.update(dict(name="topk", directory=str(folder), test=0.34, validation=0.0))
    made.teacher.model = dict(name="cache.stored.from_answers", kwargs=dict(path=str(folder)))
    made.student.model = dict(name="models.language.decoder_families.llama", kwargs=NETWORK)
    made.student.inputs = ("batch.tokens", "batch.segments")
    kd = term(
        "losses.response_vocabulary.topk_kd_loss",
        ("student.logits",),
        ("teacher.features:top_log_probs", "teacher.features:top_ids"),
        kwargs={"temperature": 1.0, "tail": "bucket"},
        where="batch.labelled",
    )
    made.terms = {**supervised(0.5), "kd": {**kd, "weight": 0.5}}
    made.train.batch_size, made.train.steps, made.report, made.baseline = 8, steps, False, False
    return made


@pytest.mark.parametrize("kind", ["distillkit", "maxtext"])
def test_a_road_from_files_made_elsewhere(tmp_path, kind):
    """The file -> a run -> the student, loaded and used."""
    folder = tmp_path / kind
    if kind == "distillkit":
        pytest.importorskip("pyarrow")
        topk_files.write_distillkit(folder, rows())
    else:
        folder.mkdir()
        topk_files.write_maxtext(folder / "part.array_record", rows())
    results = kd_jax.run(config(folder), tmp_path / "run")
    scores = results["models"]["student"]["last"]["test"]
    assert np.isfinite(scores["perplexity"]) and 0 <= scores["agreement"] <= 1
    assert results["models"]["teacher"]["answers"] == {"k": 4, "dtype": "float32"}
    data = load(dict(name="topk", directory=str(folder), test=0.34))
    model = as_model(llama(vocabulary=data.train.num_classes, **NETWORK))
    inputs = data.test.images, data.test.fields["segments"]
    template = {"params": jax.eval_shape(model.init, jax.random.key(0), *inputs)[0]}
    tree = load_tree(tmp_path / "run/student/export/last/student", template)
    logits = model.apply(tree["params"], {}, *inputs, train=False, key=jax.random.key(0))[0].logits
    nll = -np.asarray(jax.nn.log_softmax(logits.astype(np.float32)))
    at = np.argwhere(data.test.labels >= 0)
    mean = np.mean([nll[i, j, data.test.labels[i, j]] for i, j in at])
    assert np.exp(mean) == pytest.approx(scores["perplexity"], rel=1e-3)


def test_what_a_teacher_said_here_is_written_for_others(tmp_path):
    """A teacher's logits here -> DistillKit's folder and MaxText's file -> read again: the same likeliest tokens."""
    pytest.importorskip("pyarrow")
    topk_files.write_maxtext(tmp_path / "part.array_record", rows())
    data = load(dict(name="topk", directory=str(tmp_path), test=0.34))
    logits = np.random.default_rng(0).normal(size=(*data.train.images.shape, 50)).astype(np.float32)
    answers = from_answers(logits)
    write_answers(answers, tmp_path / "dk", data, k=6)
    write_answers(answers, tmp_path / "mt.array_record", data, k=6)
    here = topk_files.read(tmp_path / "dk")
    there = topk_files.read(tmp_path / "mt.array_record")
    best = np.argsort(-logits, axis=-1)[..., :6]
    for i in range(len(data.train)):
        count = int((data.train.labels[i] >= 0).sum())
        np.testing.assert_array_equal(here.ids[i, :count], best[i, :count])
        np.testing.assert_array_equal(there.ids[i, :count], best[i, :count])
        want = np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), best, -1)[i, :count]
        np.testing.assert_allclose(here.log_probs[i, :count], want, atol=1e-6)
    write_answers(answers, tmp_path / "all.npz")
    np.testing.assert_array_equal(from_answers(tmp_path / "all.npz").arrays["train"]["logits"], logits)
