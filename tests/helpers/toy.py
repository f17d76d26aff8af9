"""A data set and networks small enough to compile in a second, for tests of the framework."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from kd_jax.data.source import Source
from kd_jax.losses import response, task
from kd_jax.models.adapters import LinenModel
from kd_jax.system.parallel import make_mesh
from kd_jax.tasks import classify
from kd_jax.types import Parts, Role, Term

CLASSES, FEATURES = 3, 4
TASK = classify.task()


class Net(nn.Module):
    """Dense -> BatchNorm -> relu -> (dropout) -> Dense; taps "hidden", "norm", "head"."""

    width: int = 4
    classes: int = CLASSES
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x, train: bool):
        x = nn.Dense(self.width, name="hidden")(x.reshape(x.shape[0], -1))
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")(x))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.classes, name="head")(x)


def net(**kwargs) -> LinenModel:
    return LinenModel(Net(**kwargs))


def source(n: int = 48, split: str = "train", seed: int = 0, labelled: int | None = None) -> Source:
    """Three Gaussian blobs: a task that a few steps get somewhere on."""
    rng = np.random.default_rng((seed, len(split)))
    labels = np.arange(n, dtype=np.int32) % CLASSES
    centres = np.random.default_rng(7).normal(size=(CLASSES, FEATURES)) * 2
    images = (centres[labels] + rng.normal(size=(n, FEATURES))).astype(np.float32)
    if labelled is not None:
        labels = np.where(np.arange(n) < labelled, labels, -1).astype(np.int32)
    return Source(
        "blobs", split, CLASSES, ("a", "b", "c"), (0.0,) * FEATURES, (1.0,) * FEATURES, (FEATURES,), labels, images
    )


def batch(n: int = 16, seed: int = 0) -> dict[str, jax.Array]:
    data = source(n, seed=seed)
    return {
        "image": jnp.asarray(data.images),
        "label": jnp.asarray(data.labels),
        "labelled": jnp.ones(n, bool),
        "index": jnp.arange(n, dtype=jnp.int32),
        "view": jnp.zeros(n, jnp.int32),
    }


def shapes(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def mesh(*sizes: int):
    """mesh() is one device; mesh(4, 2) has data=4, fsdp=2; mesh(2, 2, 2) a model axis too."""
    names = ("data", "fsdp", "model")
    sizes = sizes or (1,)
    return make_mesh({n: sizes[i] if i < len(sizes) else 1 for i, n in enumerate(names)})


def ce(where: str | None = "batch.labelled") -> Term:
    return Term(task.cross_entropy_loss, ("student.logits",), ("batch.label",), where=where)


def kd(weight: float = 1.0) -> Term:
    return Term(response.kd_loss, ("student.logits",), ("teacher.logits",), weight, {"temperature": 2.0})


def roles(**changes) -> dict[str, Role]:
    return {"student": Role(net(**changes), group="student"), "teacher": Role(net(width=8))}


def parts(roles: dict[str, Role], terms: dict[str, Term], steps: int = 10, **sources) -> Parts:
    """What a config would hand to a scheme."""

    def prepare(batch, key, train):
        return {**batch, "target": batch["label"]}

    return Parts(roles, terms, steps, sgd, prepare, sources, TASK)


def sgd(steps: int = 0, group: str = "student") -> optax.GradientTransformation:
    return optax.sgd(0.1, momentum=0.9)
