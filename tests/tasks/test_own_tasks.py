"""Tasks that the package knows nothing of go through a whole run: boxes, and transcripts by CTC."""

import jax
import jax.numpy as jnp
import pytest
from own_tasks import Frames, drawn, spoken

import kd_jax
from kd_jax.config import term, training
from kd_jax.core.evaluate import evaluate, gather, make_eval_step
from kd_jax.data.arrays import from_arrays
from kd_jax.models.adapters import FunctionModel
from kd_jax.models.mlp import mlp
from kd_jax.types import Role, Scheme, Task, TrainState


def small(task, steps=120):
    config = kd_jax.base()
    config.task = dict(name=task, kwargs={})
    optimizer = dict(name="sgd", learning_rate=0.02, weight_decay=0.0)
    config.train = training(batch_size=32, steps=steps, optimizer=optimizer)
    config.teacher.train = training(batch_size=32, steps=steps, optimizer=optimizer)
    config.teacher.seed, config.eval_every, config.log_every, config.eval_batch_size = 1, 60, 60, 64
    return config


@pytest.fixture(scope="module")
def box_run(tmp_path_factory):
    config = small("own_tasks:boxes")
    config.terms = {"box": {}, "kd": term("losses.task.mean_squared_loss", ("student.logits",), ("teacher.logits",))}
    data = from_arrays(train=drawn(256, 0), test=drawn(100, 1), validation=drawn(64, 2))
    root = tmp_path_factory.mktemp("boxes")
    student, teacher = (mlp(4, widths=(w,)) for w in (16, 64))
    return kd_jax.run(config, root, student=student, teacher=teacher, data=data), root


def test_boxes_are_learned_compared_and_reported(box_run):
    results, root = box_run
    iou_of = {name: model["last"]["test"]["iou"] for name, model in results["models"].items()}
    assert set(iou_of) == {"teacher", "baseline", "student"} and all(value > 0.3 for value in iou_of.values())
    assert results["models"]["student"]["last"]["test"]["agreement"] > 0.3
    best = results["models"]["student"]["best"]
    curve = [p["validation_iou"] for p in results["models"]["student"]["curve"] if "validation_iou" in p]
    assert best["validation"]["iou"] == pytest.approx(max(curve))
    gain = 100 * (iou_of["student"] - iou_of["baseline"])
    assert results["verdict"]["metric"] == "iou" and results["verdict"]["gain"] == pytest.approx(gain)
    html = (root / "report.html").read_text().partition("Configuration")[0]
    assert "Validation iou (%)" in html and "iou in %, ± error" in html and "accuracy" not in html
    assert results["task"] == "boxes"


def test_boxes_of_another_shape_are_refused_at_the_start(tmp_path):
    config = small("own_tasks:boxes")
    config.terms = {"box": {}}
    data = from_arrays(train=drawn(64, 0), test=drawn(32, 1))
    with pytest.raises(ValueError, match=r"Term 'box' .*\(32, 3\).*\(32, 4\)"):
        kd_jax.run(config, tmp_path, student=mlp(4, widths=(4,)), teacher=mlp(3, widths=(4,)), data=data)
    config.terms = {"bax": {}}
    with pytest.raises(ValueError, match="Term 'bax' has no `fn`, and is none of the task's.*'box'"):
        kd_jax.run(config, tmp_path, student=mlp(4, widths=(4,)), teacher=mlp(4, widths=(4,)), data=data)
    config.task.name = "own_tasks:box_terms"
    with pytest.raises(ValueError, match="config.task.name='own_tasks:box_terms' made a dict, not a kd_jax.Task"):
        kd_jax.run(config, tmp_path, student=mlp(4, widths=(4,)), teacher=mlp(4, widths=(4,)), data=data)
    assert not list(tmp_path.glob("*/checkpoints"))


def test_transcripts_are_learned_and_their_errors_minimised(tmp_path):
    config = small("own_tasks:transcribe")
    config.report = False
    paths = ("student.logits",), ("teacher.logits",)
    config.terms = {"ctc": {"weight": 0.5}, "kd": term("losses.response.kd_loss", *paths, kwargs={"temperature": 1.0})}
    data = from_arrays(train=spoken(256, 0), test=spoken(60, 1), validation=spoken(60, 2), names=4)
    results = kd_jax.run(config, tmp_path, student=Frames(4), teacher=Frames(16), data=data)
    rates = {name: model["last"]["test"]["error_rate"] for name, model in results["models"].items()}
    assert set(rates) == {"teacher", "baseline", "student"} and rates["teacher"] < 0.2
    curve = [p["validation_error_rate"] for p in results["models"]["student"]["curve"] if "validation_error_rate" in p]
    assert results["models"]["student"]["best"]["validation"]["error_rate"] == pytest.approx(min(curve))
    assert results["headline"]["sign"] == -1


def test_a_network_on_other_inputs_and_what_a_split_collects():
    """`run(*inputs)` shows the network something else; `reads` hands the arrays of another split to `finish`."""
    doubled = FunctionModel(lambda key, x: jnp.float32(2.0), lambda params, x: params * x)

    def sums(run, batch, reference, key):
        return {"twice": (run(run().logits).logits.sum(), jnp.float32(1))}

    task = Task(
        terms=lambda source: {},
        check=lambda outputs, batch: None,
        sums=sums,
        finish=lambda s, c: {"twice": float(s["twice"][0]), **{split: len(c[split]["x"]) for split in c}},
        headline=("twice", 1),
        collect=lambda run, batch, key: {"x": run().logits},
        reads=("train",),
    )
    scheme = Scheme({"student": Role(doubled, group="student")}, (), task=task)
    batch = {"image": jnp.arange(6.0).reshape(3, 2), "mask": jnp.array([True, True, False])}
    state = TrainState(jnp.int32(0), {"student": {"student": jnp.float32(2.0)}}, {"student": {}}, {}, {}, {})
    key = jax.random.key(0)
    arrays = gather(make_eval_step(scheme, collect_only=True), state, [batch, batch], key)[1]["student"]
    scores = evaluate(make_eval_step(scheme), task, state, [batch], key, {"student": {"train": arrays}})["student"]
    assert scores == {"twice": 60.0, "train": 4, "scored": 2}
