"""What a planned cache knows of a run: whether pictures vary, and what a scheme or a loss needs of the teacher."""

import dataclasses
import functools

import jax.numpy as jnp
import pytest
import toy
from cached_run import STUDENT, TEACHER, configure, splits

from kd_jax.cache.attach import check_use
from kd_jax.cache.model import Store
from kd_jax.losses.needs import needs_every_logit, reads_every_logit
from kd_jax.losses.response import kd_loss, logit_mse_loss
from kd_jax.schemes import offline
from kd_jax.train import run as train
from kd_jax.types import Role, Scheme, Term


def wrapped(parts):
    """Offline distillation with a preparation of its own."""
    return dataclasses.replace(offline.build(parts), prepare=lambda *args: parts.prepare(*args))


def rotated(batch, train):
    return {"rotated": jnp.rot90(batch["image"], axes=(1, 2))}


@pytest.mark.parametrize("kind", ["configured", "still", "wrapped", "further"])
def test_pictures_vary_by_what_the_preparation_is_and_not_by_where_it_is_written(tmp_path, kind):
    config = configure(str(tmp_path / "cache"))
    config.train.augment = ("flip",) if kind == "configured" else ()
    if kind == "wrapped":
        config.scheme.name = f"{__name__}:wrapped"
    if kind == "further":
        config.prepare.name = f"{__name__}:rotated"
    models = {"student": toy.LinenModel(STUDENT), "teacher": toy.LinenModel(TEACHER)}
    jobs, _ = train.jobs_of(config, tmp_path, models, splits())
    cache = jobs["student"].caches["teacher"]
    assert cache.unproven == (kind in ("wrapped", "further"))
    assert cache.varies == (kind != "still")
    views = cache.splits["train"].content.views
    assert (views.max() > 1) == cache.varies
    of = cache.splits["train"].identity["pictures"]["of"]
    assert of == {"batch.image": ["flip"] if kind == "configured" else []}


@reads_every_logit
def own_loss(student, teacher, *, power=1.0):
    return (jnp.abs(student - teacher) ** power).sum(-1)


def test_losses_that_read_every_logit_say_so():
    assert needs_every_logit(logit_mse_loss) and not needs_every_logit(kd_loss)
    assert needs_every_logit(functools.partial(functools.partial(own_loss), power=2.0))


def test_what_a_cache_cannot_give():
    reads = Role(toy.net(), ("batch.teacher/logits",))
    roles = {"student": Role(toy.net(), group="student"), "teacher": reads}
    with pytest.raises(ValueError, match="copies parameters of the teacher.*needs the teacher itself"):
        check_use("teacher", Scheme(roles, (), copies=("teacher",)), reads, Store())
    loss = functools.partial(own_loss, power=2.0)
    parts = toy.parts(roles, {"mine": Term(loss, ("student.logits",), ("teacher.logits",))})
    check_use("teacher", offline.build(parts), reads, Store())
    with pytest.raises(ValueError, match=r"'mine' \(own_loss\) reads every logit.*the 2 largest"):
        check_use("teacher", offline.build(parts), reads, Store(k=2))
