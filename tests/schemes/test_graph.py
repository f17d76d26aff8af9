"""Graph networks as teacher and student of offline distillation: the graph is at extra.graph for every role."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scheme_checks
import toy

from kd_jax.core.bind import bind
from kd_jax.data import graphs
from kd_jax.data.source import Splits
from kd_jax.losses.graph import local_structure_loss
from kd_jax.models.adapters import LinenModel
from kd_jax.models.graph import gnn
from kd_jax.schemes import offline
from kd_jax.types import Role, Term

INPUTS = ("extra.graph", "batch.node")
EDGES = {"senders": "extra.graph.senders", "receivers": "extra.graph.receivers"}


def numbered(split, n, start):
    return dataclasses.replace(toy.source(n, split), fields={"node": np.arange(start, start + n, dtype=np.int32)})


SPLITS = Splits(numbered("train", 48, 0), numbered("validation", 16, 48), numbered("test", 16, 64))
GRAPH = graphs.knn(SPLITS, k=3)
BATCH = {**toy.batch(), "node": jnp.arange(16, dtype=jnp.int32) * 3}
BATCH |= {
    "label": jnp.asarray(SPLITS.train.labels)[BATCH["node"]],
    "image": jnp.asarray(SPLITS.train.images)[BATCH["node"]],
}


def network(make, *widths):
    return Role(LinenModel(make(toy.CLASSES, widths=widths, dropout=0.0)), INPUTS)


def scheme(student, terms=(), steps=6):
    roles = {"student": dataclasses.replace(student, group="student"), "teacher": network(gnn.sage, 8)}
    built = offline.build(toy.parts(roles, {"ce": toy.ce(), "kd": toy.kd(), **dict(terms)}, steps))
    return dataclasses.replace(built, extra=GRAPH)


def local(path="student.features:layer1"):
    return {"local": Term(local_structure_loss, (path,), ("teacher.features:layer1",), 1.0, {"scale": 10.0}, EDGES)}


def test_a_graph_network_learns_from_another_and_its_local_structure():
    student = scheme(network(gnn.gcn, 4), local())
    first, last, history = scheme_checks.steps(student, BATCH, 8)
    assert scheme_checks.moved(first, last) == {"student"} and history[0]["local"] > 0
    assert history[-1]["loss"] < history[0]["loss"]
    jax.tree.map(np.testing.assert_array_equal, first.extra, last.extra)
    scheme_checks.same_on_eight_devices(student, last, BATCH, 8)


def test_an_mlp_learns_what_a_graph_knows(tmp_path, monkeypatch):
    """The run is evaluated on nodes of other splits, and resumes exactly."""
    sources = SPLITS._asdict()
    results = scheme_checks.resumes_exactly(scheme(Role(toy.net())), tmp_path, monkeypatch, 3, sources)
    assert {"accuracy", "kl"} <= results["last"]["test"]["student"].keys()


def test_what_does_not_fit():
    without = dataclasses.replace(scheme(network(gnn.gcn, 4)), extra={})
    with pytest.raises(ValueError, match="'extra.graph': no 'graph'"):
        bind(without, toy.shapes(BATCH))
    with pytest.raises(ValueError, match="no tap 'layer2'"):
        bind(scheme(network(gnn.gcn, 4), local("student.features:layer2")), toy.shapes(BATCH))
    with pytest.raises(ValueError, match=r"student \(16, 4\) and teacher \(80, 8\)"):
        bind(scheme(Role(toy.net()), local("student.features:hidden")), toy.shapes(BATCH))


def test_config(tmp_path):
    results = scheme_checks.run_tiny("graph", "gnn", tmp_path)
    assert results["models"]["teacher"]["name"] == "sage" and results["data"]["test"] == 360


def test_every_variant_is_made():
    module = scheme_checks.config_module("graph")
    for variant in (*module.VARIANTS, "mlp,packages", "gnn,packages"):
        config = module.get_config(variant)
        assert config.terms and config.teacher.data.labels == (0 if "mlp" not in variant else config.data.labels)
