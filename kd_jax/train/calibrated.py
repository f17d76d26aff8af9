"""config.teacher.calibrate: a temperature for a teacher, chosen on validation before anybody learns from it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from kd_jax.cache.stored import StoredAnswers
from kd_jax.config.fields import teachers_of
from kd_jax.core.evaluate import gather, make_eval_step, scored_by
from kd_jax.core.network import Network
from kd_jax.core.paths import variables_of
from kd_jax.core.temperature import fit_temperature
from kd_jax.core.terms import paths_of
from kd_jax.data.batches import eval_batches
from kd_jax.models.divided import Divided
from kd_jax.models.host import HostModel
from kd_jax.system import parallel
from kd_jax.train.jobs import Job
from kd_jax.train.used import phases_of
from kd_jax.types import Array, Role, Run, Scheme, TrainState


def check_calibrated(config: ConfigDict, jobs: Mapping[str, Job]) -> None:
    """Raises ValueError where a teacher's temperature could not be chosen, or would not reach what is learned."""
    job = jobs["student"]
    for name in (name for name, fields in teachers_of(config).items() if fields.calibrate):
        where, held = f"config.{'' if name == 'teacher' else 'teachers.'}{name}.calibrate", job.sources["validation"]
        if scored_by(job.scheme).name != "classify":
            raise ValueError(f"{where} is of classification, and the task is {scored_by(job.scheme).name!r}.")
        if held is None or (held.labels is not None and not held.labelled.any()):
            raise ValueError(f"{where} chooses a temperature on validation, and nothing with a label is held out.")
        if isinstance(job.scheme.roles[name].model, (StoredAnswers, HostModel)):
            raise ValueError(f"{where} is of a network of JAX, and the {name} is a function or stored answers.")
        for term, fields in ((n, t) for phase in phases_of(job.scheme) for n, t in phase.terms.items()):
            if read := variables_of(name, paths_of(fields)):
                raise ValueError(f"{where} divides logits, and the term {term!r} makes its own, of {read[0]!r}.")


def calibrated(job: Job, name: str, role: Role, network: Network | None, mesh: Mesh) -> tuple[Role, Network | None]:
    """Returns a frozen role, and its network, with logits divided by the temperature of least NLL on validation."""
    variables = role.initial
    assert isinstance(variables, tuple)  # it has been read
    task = dataclasses.replace(scored_by(job.scheme), collect=_answers, reads=())
    scheme = Scheme({name: role}, (), evaluate=(name,), prepare=job.scheme.prepare, task=task)
    abstract = TrainState(jax.numpy.int32(0), {}, {}, {}, {name: variables}, dict(job.scheme.extra))
    rules = {name: job.settings.rules.get(name, ())}
    state = parallel.place(abstract, parallel.state_shardings(abstract, rules, mesh))
    key = parallel.create_everywhere(lambda: jax.random.key(0), mesh)
    sharding, size = parallel.batch_sharding(mesh), job.settings.eval_batch_size
    held = job.sources["validation"]
    assert held is not None  # check_calibrated
    with jax.set_mesh(mesh):
        step = jax.jit(make_eval_step(scheme, collect_only=True))
        answers = gather(step, state, eval_batches(held, batch_size=size, sharding=sharding), key)[1][name]
    temperature = fit_temperature(answers["logits"], answers["label"])
    if parallel.is_lead():
        print(f"{name}: its logits are divided by {temperature:.3g}, the temperature of least NLL on validation")
    role = dataclasses.replace(role, model=Divided(role.model, temperature))
    return role, network and dataclasses.replace(network, model=role.model, role=role)


def _answers(run: Run, batch: Mapping[str, Array], key: Array) -> dict[str, Array]:
    return {"logits": run().logits, "label": batch["label"]}
