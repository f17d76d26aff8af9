"""A connector starts where its term says: at the weights of a function or of an export, as a network does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from first_weights import constant
from small_config import get_config

import kd_jax
from kd_jax.core.bind import bind, init_state, loaded_variables
from kd_jax.data.batches import batch_shapes
from kd_jax.models.adapters import LinenModel
from kd_jax.models.connectors import linear
from kd_jax.models.started import Started
from kd_jax.system.checkpoint import save_tree
from kd_jax.train.run import jobs_of


def config_with(**initial):
    config = get_config()
    config.teacher.model.kwargs.widths = (8,)
    hint = {
        "fn": "losses.feature.feature_hint_loss",
        "inputs": ("student.features:embedding",),
        "targets": ("teacher.features:embedding",),
        "connector": {"name": "models.connectors.linear", "kwargs": {}, "initial": {"kwargs": {}, **initial}},
    }
    config.terms = {**config.terms.to_dict(), "hint": hint}
    return config


def first_weights(config, tmp_path):
    jobs, splits = jobs_of(config, tmp_path)
    job, batch = jobs["student"], batch_shapes(splits.train, 8)
    scheme, inputs = bind(job.scheme, batch)
    state = init_state(scheme, inputs, jax.random.key(0), loaded_variables(scheme))
    return state.params["student"]["hint/connector"]


def test_a_function_makes_the_first_weights(tmp_path):
    config = config_with(name="first_weights:constant", kwargs={"value": 0.5})
    first = first_weights(config, tmp_path)
    jax.tree.map(lambda x: np.testing.assert_array_equal(x, 0.5), first)
    assert jax.tree.map(jnp.shape, first) == {"dense": {"kernel": (4, 8), "bias": (8,)}}


def test_a_run_learns_from_there(tmp_path):
    """Two runs that differ in where the connector starts; each is repeated to the bit."""
    config = config_with(name="first_weights:constant")
    losses = [_hint(kd_jax.run(config, tmp_path / name)) for name in ("a", "again")]
    other = _hint(kd_jax.run(config_with(name="first_weights:constant", kwargs={"value": 2.0}), tmp_path / "b"))
    assert losses[0] == losses[1] != other


def _hint(results):
    return [point["hint"] for point in results["models"]["student"]["curve"]]


def test_an_export_holds_the_first_weights(tmp_path):
    weights = {"dense": {"kernel": np.full((4, 8), 3.0, np.float32), "bias": np.zeros(8, np.float32)}}
    save_tree(tmp_path / "connector", {"params": weights})
    first = first_weights(config_with(name=str(tmp_path / "connector")), tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, first, weights)


@pytest.mark.parametrize(
    ("initial", "says"),
    [
        (
            {"name": "first_weights:constant", "kwargs": {"valu": 1.0}},
            "takes no argument 'valu'. Did you mean",
        ),
        ({"name": "first_weights:of_another"}, "dense/kernel: .3, 3., not .4, 8."),
        ({"name": "no/such/export"}, "no/such/export"),
    ],
)
def test_what_does_not_fit_is_told_at_the_start(initial, says, tmp_path):
    with pytest.raises(ValueError, match=says):
        kd_jax.run(config_with(**initial), tmp_path)
    assert not list(tmp_path.rglob("metrics.jsonl"))


def test_initial_without_a_connector(tmp_path):
    config = config_with(name="first_weights:constant")
    config.terms.hint.connector.name = ""
    with pytest.raises(ValueError, match="hint.connector.initial=.*and the term has no connector"):
        kd_jax.run(config, tmp_path)


def test_started_in_python():
    shape = jax.ShapeDtypeStruct((2, 4), jnp.float32)
    model = Started(linear(shape, shape), lambda model, key, shapes: constant(model, key, shapes, 1.0))
    params, stats = model.init(jax.random.key(0), jnp.ones((2, 4)))
    out, _ = model.apply(params, stats, jnp.ones((2, 4)), train=True, key=jax.random.key(0))
    np.testing.assert_array_equal(out.logits, 5.0)
    assert isinstance(model.model, LinenModel)
