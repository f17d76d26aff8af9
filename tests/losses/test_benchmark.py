"""Every loss is measured in benchmarks/losses.py; its inputs fit, and a small run ends with a table."""

import json
import sys

import jax
import jax.numpy as jnp
import pytest

from benchmarks import common, losses


def test_every_loss_is_measured():
    assert set(losses.table()) == set(losses.losses())


@pytest.mark.parametrize("name", losses.table())
def test_inputs_fit(name):
    for small in (True, False):
        case = losses.table(small)[name]
        loss = case.call or losses.losses()[name]
        for half in (False, True) if case.axis is not None else (False,):
            student, other = [
                [jax.ShapeDtypeStruct(x.shape, jnp.int32 if x.high else jnp.float32) for x in side]
                for side in case.inputs(half)
            ]
            gradient = jax.eval_shape(jax.grad(lambda s, o, loss=loss: jnp.sum(loss(*s, *o))), student, other)
            assert [g.shape for g in gradient] == [s.shape for s in student]


def test_a_small_run(tmp_path, monkeypatch, capsys):
    names = ["kd_loss", "fsp_loss"]
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["losses", "--small", "--only", *names])
    losses.main()
    rows = json.loads((tmp_path / "losses.json").read_text())["rows"]
    assert [row["loss"] for row in rows] == names and all(row["ms"] > 0 for row in rows)
    assert rows[1]["expected"] == 2 and "time ^" in rows[1] and "time ^" not in rows[0]
    assert "512x1000" not in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["losses", "--only", "kd_los"])
    with pytest.raises(SystemExit, match="no loss 'kd_los'. Did you mean 'kd_loss'"):
        losses.main()
