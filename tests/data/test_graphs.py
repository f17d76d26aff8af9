"""Graphs of examples: who is a node, who is joined, the normalised adjacency, and Debian packages from an index."""

import dataclasses

import numpy as np
import pytest

from kd_jax.data import graphs
from kd_jax.data.arrays import in_memory
from kd_jax.data.load import load
from kd_jax.data.source import DataNotFound, Splits, subset

POINTS = np.array([[0.0], [1.0], [2.5], [10.0], [11.0]], np.float32)


def splits(order=(3, 0, 4, 1, 2), parts=(3, 4)):
    """Five points on a line, nodes numbered from left to right, in three splits."""
    order = np.array(order)
    whole = in_memory(
        "line", "train", POINTS[order], np.zeros(len(order), int), class_names="ab", mean=(1.0,), std=(2.0,)
    )
    whole = dataclasses.replace(whole, fields={"node": order.astype(np.int32)})
    rows = np.split(np.arange(len(order)), parts)
    return Splits(*(subset(whole, r) for r in rows))


def dense(graph):
    matrix = np.zeros((len(graph["features"]),) * 2)
    matrix[graph["receivers"], graph["senders"]] = graph["weights"]
    return matrix


def test_nearest_neighbours_are_joined_both_ways_and_normalised():
    graph = graphs.knn(splits(), k=1)["graph"]
    joined = np.eye(5)
    for one, other in ((0, 1), (1, 2), (3, 4)):  # 2's nearest is 1
        joined[one, other] = joined[other, one] = 1
    degree = joined.sum(1)
    np.testing.assert_allclose(dense(graph), joined / np.sqrt(degree[:, None] * degree), rtol=1e-6)
    np.testing.assert_allclose(graph["features"], (POINTS - 1) / 2)
    assert (np.diff(graph["receivers"]) >= 0).all() and graph["senders"].dtype == np.int32


def test_blocks_of_the_distance_matrix_change_nothing(monkeypatch):
    whole = graphs.knn(splits(), k=2)["graph"]
    monkeypatch.setattr(graphs, "BLOCK", 2)
    for name, value in graphs.knn(splits(), k=2)["graph"].items():
        np.testing.assert_array_equal(value, whole[name])


def test_a_graph_that_cannot_be_made():
    with pytest.raises(ValueError, match="k=5 neighbours of 5"):
        graphs.knn(splits(), k=5)
    with pytest.raises(ValueError, match="4 of the 5 nodes of line.*data.limit"):
        graphs.knn(splits((3, 0, 4, 1), (2, 3)))
    bare = splits().train
    bare = dataclasses.replace(bare, fields={})
    with pytest.raises(ValueError, match="no field 'node'"):
        graphs.knn(Splits(bare, None, bare))
    with pytest.raises(ValueError, match="kd_jax.data.graphs"):
        graphs.knn(load({"name": "digits"}))


def test_every_digit_is_a_node_whatever_is_held_out():
    splits = load({"name": "kd_jax.data.graphs:digits", "validation": 0.125, "labels": 100})
    node = np.concatenate([source.fields["node"] for source in splits])
    np.testing.assert_array_equal(np.sort(node), np.arange(1797))
    assert splits.train.labelled.sum() == 100
    graph = graphs.knn(splits)["graph"]
    for source in splits:
        pixels = (source.images[:3] / 255 - source.mean[0]) / source.std[0]
        np.testing.assert_allclose(graph["features"][source.fields["node"][:3]], pixels.reshape(3, -1), rtol=1e-5)
    assert 1797 * 11 <= len(graph["senders"]) <= 1797 * 21
    labels = np.empty(1797, int)
    for source in load({"name": "kd_jax.data.graphs:digits"}):
        if source is not None:
            labels[source.fields["node"]] = source.labels
    assert (labels[graph["senders"]] == labels[graph["receivers"]]).mean() > 0.9


INDEX = """Package: chess
Section: games
Description: a Game of chess
Depends: libc6 (>= 2.3), sprites (>= 1.0) | pictures, chess-data (= 1.2-3)
 continued: no field

Package: chess-data
Section: games
Description: data of a game

Package: sprites
Section: graphics
Pre-Depends: libc6
Description: pictures of sprites

Package: lonely
Section: text
Depends: libc6
Description: nobody needs it

Package: libc6
Section: libs
Description: everybody needs it

Package: editor
Section: text
Suggests: sprites:any
Description: composes letters

Package: chess
Section: sound
Description: an older entry of the same name
"""


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "Packages"
    path.write_text(INDEX)
    return str(path)


def test_packages_of_an_index(archive):
    loaded = load({"name": "kd_jax.data.graphs:packages", "directory": archive, "test": 0.5})
    nodes = ["chess", "chess-data", "editor", "sprites"]  # sorted, without the lonely one and other sections
    labels, words = np.empty(4, int), np.empty((4, graphs.WORDS))
    for source in (loaded.train, loaded.test):
        labels[source.fields["node"]], words[source.fields["node"]] = source.labels, source.images
    assert [graphs.TOPICS[label] for label in labels] == ["games", "games", "text", "graphics"]
    np.testing.assert_allclose((words**2).sum(1), 1, rtol=1e-5)
    assert words[0] @ words[1] > 0.4 and words[0] @ words[2] == 0  # "game" is in both descriptions
    graph = graphs.dependencies(loaded, archive)["graph"]
    edges = {frozenset(pair) for pair in zip(graph["senders"].tolist(), graph["receivers"].tolist(), strict=True)}
    wanted = [("chess", "chess-data"), ("chess", "sprites"), ("editor", "sprites")]
    pairs = {frozenset(map(nodes.index, pair)) for pair in wanted}
    assert edges == pairs | {frozenset([i]) for i in range(4)}
    with pytest.raises(ValueError, match="join the 4 packages, not line of 5"):
        graphs.dependencies(splits(), archive)


def test_no_packages(tmp_path, monkeypatch):
    with pytest.raises(DataNotFound, match="apt-get update"):
        graphs.packages({"directory": str(tmp_path / "nowhere")})
    (tmp_path / "empty").write_text("")
    with pytest.raises(DataNotFound, match="knows no packages of the sections games"):
        graphs.packages({"directory": str(tmp_path / "empty")})
    monkeypatch.setenv("PATH", str(tmp_path))
    graphs.packages_and_edges.cache_clear()
    with pytest.raises(DataNotFound, match="apt-cache dumpavail failed"):
        graphs.packages({})
