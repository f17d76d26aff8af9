from __future__ import annotations

import json
import math

import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.core import metrics
from kd_jax.system import writers


def _logits(n=37, classes=7, seed=0):
    rng = np.random.default_rng(seed)
    return (3 * rng.normal(size=(n, classes))).astype(np.float32), rng.integers(0, classes, n).astype(np.int32)


def test_accumulator_parts_equal_whole():
    values = np.random.default_rng(0).normal(size=10).astype(np.float32)
    whole, parts = writers.Accumulator(), writers.Accumulator()
    whole.add({"loss": (values.astype(np.float64).sum(), 10)})
    for part in (values[:3], values[3:4], values[4:]):
        parts.add({"loss": (part.astype(np.float64).sum(), np.int32(part.size))})
    assert parts.result()["loss"] == pytest.approx(whole.result()["loss"], rel=1e-12)
    assert parts.totals["loss"][1] == 10.0


def test_accumulator_adds_in_float64():
    total = writers.Accumulator()
    total.add({"x": (np.float32(2**24), 1)})
    for _ in range(8):
        total.add({"x": (np.float32(1), 0)})
    assert total.result()["x"] == 2**24 + 8  # float32 would have stayed at 2**24


def test_accumulator_vectors_and_empty():
    total = writers.Accumulator()
    total.add({"per_class": (np.array([1.0, 0.0, 0.0]), np.array([2, 1, 0]))})
    total.add({"per_class": (np.array([1.0, 1.0, 0.0]), np.array([2, 1, 0]))})
    first, second, third = total.result()["per_class"]
    assert (first, second) == (0.5, 0.5) and math.isnan(third)
    with pytest.raises(ValueError, match="per_class"):
        total.add({"per_class": (np.ones(2), np.ones(2))})
    with pytest.raises(ValueError, match="count"):
        total.add({"other": (np.ones(2), 1.0)})


def test_accumulator_state_is_exact():
    total = writers.Accumulator()
    total.add({"a": (np.float32(0.1), 3), "b": (np.array([0.1, 1 / 3]), np.array([1.0, 7.0]))})
    again = writers.Accumulator.from_state(json.loads(json.dumps(total.state())))
    assert again == total
    again.add({"a": (1.0, 1)})
    assert total.totals["a"][1] == 3.0  # the copy is its own
    again.reset()
    assert again.result() == {}


def test_first_non_finite():
    good = (np.float32(1), np.float32(2))
    assert writers.first_non_finite([(1, {"ce": good}), (2, {"ce": good})]) is None
    one_member = (np.array([1.0, np.inf]), np.ones(2))
    assert writers.first_non_finite([(1, {"ce": one_member})]) is None
    bad = {"ce": one_member, "kd": (np.array([np.nan, np.inf]), np.ones(2)), "loss": (np.float32("nan"), 1)}
    assert writers.first_non_finite([(1, {"ce": good}), (2, bad), (3, {"ce": (np.nan, 1)})]) == (2, "kd")


def test_per_example_metrics():
    logits = jnp.array([[0.0, 1, 2, 3, 4, 5, 6], [6.0, 5, 4, 3, 2, 1, 0], [9.0, 0, 0, 0, 0, 0, 0]], jnp.bfloat16)
    labels = jnp.array([6, 5, -1])
    assert metrics.accuracy(logits, labels).tolist() == [1, 0, 0]
    assert metrics.top5(logits, labels).tolist() == [1, 0, 0]
    assert metrics.top5(logits, jnp.array([2, 4, 0])).tolist() == [1, 1, 1]
    assert metrics.top5(jnp.full((2, 7), jnp.nan), jnp.array([6, 6])).tolist() == [0, 0]
    assert metrics.agreement(logits, logits[::-1]).tolist() == [0, 1, 0]
    for fn in (metrics.accuracy, metrics.top5, metrics.nll):
        assert fn(logits, labels).dtype == jnp.float32


def test_nll_and_kl_equal_numpy():
    student, labels = _logits(seed=1)
    teacher, _ = _logits(seed=2)
    p, q = (np.exp(z.astype(np.float64)) for z in (student, teacher))
    p, q = p / p.sum(-1, keepdims=True), q / q.sum(-1, keepdims=True)
    np.testing.assert_allclose(metrics.nll(student, labels), -np.log(p[np.arange(37), labels]), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(metrics.kl(student, teacher), (q * np.log(q / p)).sum(-1), rtol=1e-4, atol=1e-6)
    assert metrics.nll(jnp.zeros((1, 3)), jnp.array([-1])).tolist() == [0.0]
    masked = jnp.array([[0.0, 1.0, -jnp.inf]])
    np.testing.assert_allclose(metrics.kl(jnp.zeros((1, 3)), masked), [math.log(3) - 0.5822], atol=1e-4)


def _numpy_ece(logits, labels, bins):
    z = logits.astype(np.float64)
    p = np.exp(z - z.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    confidence, correct = p.max(-1), p.argmax(-1) == labels
    edges, ece = np.linspace(0, 1, bins + 1), 0.0
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            ece += inside.mean() * abs(confidence[inside].mean() - correct[inside].mean())
    return ece


@pytest.mark.parametrize("bins", [1, 15])
def test_ece_equals_numpy(bins):
    logits, labels = _logits(200)
    got = metrics.calibration_bins(jnp.asarray(logits), jnp.asarray(labels), jnp.ones(200, bool), bins=bins)
    assert [part.shape for part in got] == [(bins,)] * 3
    assert metrics.expected_calibration_error(*got) == pytest.approx(_numpy_ece(logits, labels, bins), rel=1e-4)


def test_calibration_parts_equal_whole():
    logits, labels = _logits(64)
    labels[5] = -1
    mask = np.ones(64, bool)
    mask[40:50] = False
    whole = metrics.calibration_bins(logits, labels, mask)
    counted = mask & (labels >= 0)
    subset = metrics.calibration_bins(logits[counted], labels[counted])
    halves = [metrics.calibration_bins(logits[i : i + 32], labels[i : i + 32], mask[i : i + 32]) for i in (0, 32)]
    for total, alone, parts in zip(whole, subset, zip(*halves, strict=True), strict=True):
        np.testing.assert_allclose(total, alone, rtol=1e-6)
        np.testing.assert_allclose(total, sum(parts), rtol=1e-6)
    assert float(whole[2].sum()) == counted.sum()


def test_ece_of_a_certain_and_right_network_and_of_nothing():
    bins = metrics.calibration_bins(jnp.eye(4) * 1e4, jnp.arange(4), None)
    assert metrics.expected_calibration_error(*bins) == 0.0
    assert float(bins[2][-1]) == 4.0
    assert math.isnan(metrics.expected_calibration_error(np.zeros(3), np.zeros(3), np.zeros(3)))


def _train(path, first, last, resume_step):
    writer = writers.JsonlWriter(path, resume_step)
    for step in range(first, last + 1):
        writer.write(step, {"loss": np.float32(1 / step), "lr": 0.1 * step, "n": np.int64(step), "list": (1, 2.5)})
        if step % 2 == 0:
            writer.write(step, {"validation_accuracy": 0.5})
    writer.close()


def test_jsonl_resume_is_byte_for_byte(tmp_path):
    _train(tmp_path / "unbroken", 1, 8, None)
    _train(tmp_path / "resumed", 1, 7, None)
    with open(tmp_path / "resumed", "ab") as file:
        file.write(b'{"loss": 0.1, "st')  # the machine went away here
    _train(tmp_path / "resumed", 5, 8, 4)
    assert (tmp_path / "resumed").read_bytes() == (tmp_path / "unbroken").read_bytes()
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["resumed", "unbroken"]


def test_jsonl_records(tmp_path):
    path = tmp_path / "deep" / "log.jsonl"
    writer = writers.JsonlWriter(path, 0)
    writer.write(3, {"z": float("nan"), "a": 0.1, "nested": {"x": [np.float64(1), np.inf]}, "ok": True})
    assert path.read_text() == '{"a": 0.1, "nested": {"x": [1.0, null]}, "ok": true, "step": 3, "z": null}\n'
    with pytest.raises(ValueError, match="step"):
        writer.write(4, {"step": 4})
    writer.close()


def test_jsonl_bad_lines(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"step": 1}\nnonsense\n')
    writers.JsonlWriter(path, 5).close()  # a whole but broken last line is a torn one too
    assert path.read_bytes() == b'{"step": 1}\n'
    path.write_bytes(b'nonsense\n{"step": 1}\n')
    with pytest.raises(ValueError, match="line 1"):
        writers.JsonlWriter(path, 5)
    assert path.read_bytes() == b'nonsense\n{"step": 1}\n'


def test_writers_disabled(tmp_path):
    for writer in (
        writers.JsonlWriter(tmp_path / "a", None, enabled=False),
        writers.TensorBoardWriter(tmp_path / "b", None, enabled=False),
    ):
        writer.write(1, {"loss": 1.0})
        writer.close()
    assert not list(tmp_path.iterdir())


def _events(path):
    """(step, tag, value) and ("purge", step) of an event file: length, checksum, message, checksum, repeated."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    data, records = path.read_bytes(), []
    while data:
        size = int.from_bytes(data[:8], "little")
        event = Event.FromString(data[12 : 12 + size])
        data = data[16 + size :]
        if event.session_log.status == SessionLog.START:
            records.append(("purge", event.step))
        records += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
    return records


def test_tensorboard(tmp_path):
    for resume_step, steps in ((None, (1, 2, 3)), (2, (3,))):
        writer = writers.TensorBoardWriter(tmp_path, resume_step)
        for step in steps:
            writer.write(step, {"loss": np.float32(0.5), "none": None, "vector": [1.0, 2.0]})
        writer.close()
    first, second = sorted(tmp_path.iterdir())
    assert _events(first) == [("purge", 0), (1, "loss", 0.5), (2, "loss", 0.5), (3, "loss", 0.5)]
    assert _events(second) == [("purge", 3), (3, "loss", 0.5)]
