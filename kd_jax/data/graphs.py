"""Graphs whose nodes are the examples of all splits, for transductive learning: `batch.node` is a node's number.

A data function (config.data.name) makes the splits with the field `node`. A graph function (config.extra) makes the
graph of all of them, which networks and losses read at `extra.graph`:

    features  float32 [nodes, d]           senders, receivers  int32 [edges], both directions and a loop at every node,
    weights   float32 [edges]              sorted by receiver

`weights` is D^-1/2 (A + I) D^-1/2, D the degrees of A + I (T. Kipf, M. Welling, "Semi-Supervised Classification with
Graph Convolutional Networks", 2017, arXiv 1609.02907). Test nodes are in the graph; their labels are not.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import subprocess
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from kd_jax.data import arrays
from kd_jax.data.load import DEFAULTS
from kd_jax.data.source import DataNotFound, Source, Splits, subset
from kd_jax.data.splits import hold_out
from kd_jax.files import path_of

Graph = dict[str, np.ndarray]

TOPICS = ("games", "science", "sound", "graphics", "net", "admin", "text")  # sections of the Debian archive
RELATIONS = ("Pre-Depends", "Depends", "Recommends", "Suggests", "Enhances")
WORDS = 256  # features of a package: the words of its one-line description, hashed
TEST_SEED = 0
BLOCK = 512  # rows of the distance matrix that are held at a time


def digits(config: Mapping[str, Any]) -> Splits:
    """Loads scikit-learn's digits with the field `node`; `knn` connects them."""
    fields = {**DEFAULTS, **config}
    splits = arrays.digits(fields["test"])
    train = np.arange(len(splits.train), dtype=np.int32)
    test = len(train) + np.arange(len(splits.test), dtype=np.int32)
    return Splits(_numbered(splits.train, train), None, _numbered(splits.test, test))


def packages(config: Mapping[str, Any]) -> Splits:
    """Loads Debian packages; the class is the section of the archive, one of seven, that a package is in.

    Features are the words of the short description, hashed to 256 values of norm 1. `dependencies` connects packages
    that depend on, recommend, suggest or enhance one another; a package without any edge is left out.
    `directory` is a Packages index of an archive, "" what apt has: results compare within one release only. Debian 12
    has 6,336 packages and 11,118 edges, 80 % of them within a section. DataNotFound where there is no index.
    """
    fields = {**DEFAULTS, **config}
    nodes, _ = packages_and_edges(fields["directory"])
    words = np.zeros((len(nodes), WORDS), np.float32)
    for row, (_, _, description) in zip(words, nodes, strict=True):
        for word in re.findall("[a-z]{3,}", description.lower()):
            row[zlib.crc32(word.encode()) % WORDS] = 1
    words /= np.maximum(np.linalg.norm(words, axis=1, keepdims=True), 1e-6)
    labels = np.array([TOPICS.index(section) for _, section, _ in nodes], np.int32)
    whole = arrays.in_memory(
        "packages", "train", words, labels, class_names=TOPICS, mean=(0.0,) * WORDS, std=(1.0,) * WORDS
    )
    whole = _numbered(whole, np.arange(len(nodes), dtype=np.int32))
    train, test = hold_out(labels, fields["test"], TEST_SEED)
    return Splits(subset(whole, train), None, subset(whole, test, "test"))


def knn(splits: Splits, k: int = 10) -> dict[str, Graph]:
    """Returns {"graph": ...} that joins two nodes if one is among the k nearest of the other.

    Distances are Euclidean, of the stored values. Raises ValueError unless 0 < k < number of nodes.
    """
    nodes = _nodes(splits, stored=True).astype(np.float64)
    if not 0 < k < len(nodes):
        raise ValueError(f"k={k} neighbours of {len(nodes)} nodes")
    length = (nodes**2).sum(1)
    nearest = []
    for start in range(0, len(nodes), BLOCK):
        block = slice(start, start + BLOCK)
        distance = length[block, None] + length - 2 * nodes[block] @ nodes.T
        np.put_along_axis(distance, np.arange(len(nodes))[block, None], np.inf, axis=1)
        nearest.append(np.argsort(distance, axis=1, kind="stable")[:, :k])
    senders = np.concatenate(nearest).ravel()
    return {"graph": _graph(_nodes(splits), np.repeat(np.arange(len(nodes)), k), senders)}


def dependencies(splits: Splits, directory: str = "") -> dict[str, Graph]:
    """Returns {"graph": ...} of the splits of `packages`; `directory` is that of config.data."""
    nodes, edges = packages_and_edges(directory)
    features = _nodes(splits)
    if splits.train.name != "packages" or len(features) != len(nodes):
        raise ValueError(
            f"dependencies join the {len(nodes)} packages, not {splits.train.name} of {len(features)} nodes"
        )
    return {"graph": _graph(features, edges[:, 0], edges[:, 1])}


def _numbered(source: Source, node: np.ndarray) -> Source:
    return dataclasses.replace(source, fields={**source.fields, "node": node})


def _nodes(splits: Splits, stored: bool = False) -> np.ndarray:
    """Returns the features float32 [nodes, d] in the order of `node`: normalised as batches are, or as stored."""
    sources = [source for source in splits if source is not None]
    if any("node" not in source.fields for source in sources):
        raise ValueError(f"{splits.train.name} has no field 'node': take a data function of kd_jax.data.graphs.")
    order = np.concatenate([source.fields["node"] for source in sources])
    if len(np.unique(order)) != len(order) or len(order) != order.max() + 1:
        raise ValueError(
            f"The splits hold {len(order)} of the {order.max() + 1} nodes of {splits.train.name}. A graph has all of "
            "them: data.limit, data.eval_limit, data.train_slice and data.classes leave some out."
        )
    values = np.concatenate([source.in_memory()[0] for source in sources])
    if not stored:
        scale = 255.0 if values.dtype == np.uint8 else 1.0
        values = (values / scale - np.asarray(splits.train.mean)) / np.asarray(splits.train.std)
    nodes = np.empty((len(order), values[0].size), np.float32)
    nodes[order] = values.reshape(len(values), -1)
    return nodes


def _graph(features: np.ndarray, one: np.ndarray, other: np.ndarray) -> Graph:
    n = len(features)
    loops = np.arange(n)
    pairs = np.concatenate([np.stack([one, other], 1), np.stack([other, one], 1), np.stack([loops, loops], 1)])
    receivers, senders = np.unique(pairs, axis=0).T.astype(np.int32)  # sorted, each edge once
    scale = np.bincount(receivers, minlength=n) ** -0.5
    weights = (scale[receivers] * scale[senders]).astype(np.float32)
    return {"features": features, "senders": senders, "receivers": receivers, "weights": weights}


@functools.lru_cache(maxsize=2)
def packages_and_edges(path: str) -> tuple[list[tuple[str, str, str]], np.ndarray]:
    """Returns [(name, section, description)] sorted by name, and int [edges, 2], of packages in TOPICS with an edge."""
    stanzas: dict[str, dict[str, str]] = {}
    for fields in _stanzas(_index(path)):
        if fields.get("Section") in TOPICS:
            stanzas.setdefault(fields["Package"], fields)
    edges = {
        tuple(sorted((name, other)))
        for name, fields in stanzas.items()
        for relation in RELATIONS
        for other in re.findall(r"(?:^|[,|])\s*([a-z0-9][a-z0-9+.-]+)", fields.get(relation, ""))
        if other in stanzas and other != name
    }
    if not edges:
        raise DataNotFound(f"{path or 'apt'} knows no packages of the sections {', '.join(TOPICS)}. {_ADVICE}")
    names = sorted({name for edge in edges for name in edge})
    number = {name: i for i, name in enumerate(names)}
    nodes = [(name, stanzas[name]["Section"], stanzas[name].get("Description", "")) for name in names]
    return nodes, np.array(sorted((number[a], number[b]) for a, b in edges))


_ADVICE = "On Debian: apt-get update. Elsewhere set data.directory to the Packages file of a Debian mirror."


def _index(path: str) -> str:
    if path:
        index = path_of(path, "data.directory")
        if not index.is_file():
            raise DataNotFound(f"packages: there is no Packages index at {path!r}. {_ADVICE}")
        return index.read_text(encoding="utf-8")
    try:
        return subprocess.run(["apt-cache", "dumpavail"], capture_output=True, check=True, encoding="utf-8").stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise DataNotFound(f"packages: apt-cache dumpavail failed: {error}. {_ADVICE}") from error


def _stanzas(text: str) -> Iterator[dict[str, str]]:
    for stanza in text.split("\n\n"):
        lines = (line.partition(": ") for line in stanza.split("\n") if not line.startswith(" "))
        yield {key: value for key, _, value in lines}
