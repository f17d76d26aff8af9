"""What a training depends on beside its config, as digests: data, variables, networks, files, and the user's code.

They lie in config.json beside the config, so that another run in the folder is refused by what it was given, too.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from kd_jax.cache.plan import of_network
from kd_jax.cache.stored import StoredAnswers
from kd_jax.config.fields import teachers_of
from kd_jax.models.host import HostModel
from kd_jax.models.hub import find_model
from kd_jax.system import identity
from kd_jax.system.code import Code
from kd_jax.system.compiled import is_installed
from kd_jax.system.workdir import Digests
from kd_jax.train.jobs import Job
from kd_jax.types import Model, PyTree, Variables

NAME = re.compile(r"([A-Za-z_][\w.]*):([A-Za-z_][\w.]*)")  # how a config names the user's functions


def digests_of(
    config: ConfigDict,
    jobs: Mapping[str, Job],
    shapes: Mapping[str, Mapping[str, PyTree]],
    networks: Mapping[str, Model],
    handed: Mapping[str, Variables] | None = None,
) -> dict[str, Digests]:
    """Returns the digests of what each job depends on.

    `shapes` {job: {role: (params, stats)}} are those that init makes, of the jobs that will be run; `networks` the
    models that the caller brought, by role. All processes must call it.
    """
    splits: dict[int, dict[str, str]] = {}  # of sources that several jobs share
    files: dict[str, str] = {}
    variables = {
        "teacher_variables" if name == "teacher" else f"teachers.{name}": identity.of_tree(value)
        for name, value in (handed or {}).items()
    }
    made: dict[str, Digests] = {}
    for name, job in jobs.items():
        alone = name in teachers_of(config)  # a teacher's training knows of no student
        networks = {**_on_host(job), **networks}
        brought = {role: model for role, model in networks.items() if role == name or not alone}
        digests = _of_code(job, brought)
        digests["data"] = {**identity.of_splits(job.sources, splits), **_of_further_data(job)}
        digests["shapes"] = {role: identity.of_shapes(tree) for role, tree in shapes.get(name, {}).items()}
        digests["files"] = {field: _of_file(path, files) for field, path in _paths(config, name if alone else "")}
        digests["variables"] = {} if alone else variables
        made[name] = {kind: digest for kind, digest in digests.items() if digest}
    return made


def _on_host(job: Job) -> dict[str, Model]:
    """The models of the teachers that a job asks no more and that run on the host, by name."""
    return {n: cache.role.model for n, cache in job.caches.items() if isinstance(cache.role.model, HostModel)}


def _of_further_data(job: Job) -> dict[str, str]:
    """Digests of the arrays of config.extra, and of the answers of teachers of which there is nothing else."""
    extra = {f"extra.{k}": identity.of_tree(tree) for k, tree in job.scheme.extra.items()}
    return extra | {f"{name}.answers": model.stamp for name, model in _answering(job).items()}


def with_digests(jobs: Mapping[str, Job], digests: Mapping[str, Digests]) -> dict[str, Job]:
    """Returns the jobs with their digests, and with those of the training of each teacher whose answers are stored.

    A cache is all that is left of a teacher on a machine that never had it.
    """
    jobs = {name: dataclasses.replace(job, digests=digests[name]) for name, job in jobs.items()}
    caches = dict(jobs["student"].caches)
    for name in caches.keys() & digests.keys():
        trained = {kind: digest for kind, digest in digests[name].items() if kind != "shapes"}
        caches[name] = dataclasses.replace(caches[name], trained={**caches[name].trained, "digests": trained})
    for name, cache in caches.items():
        if isinstance(cache.role.model, HostModel):  # its parameters, by which other teachers are told apart, are none
            caches[name] = of_network(cache, digests["student"]["networks"].get(name, ""))
    return {**jobs, "student": dataclasses.replace(jobs["student"], caches=caches)}


def digests_in(jobs: Mapping[str, Job]) -> dict[str, Digests]:
    """Returns the digests that `with_digests` put into the jobs, by the name of the training."""
    of_cached = {name: cache.trained.get("digests", {}) for name, cache in jobs["student"].caches.items()}
    return {**of_cached, **{name: job.digests for name, job in jobs.items()}}


def _answering(job: Job) -> dict[str, StoredAnswers]:
    """The networks of which there are only answers, by role."""
    return {name: m for name, role in job.scheme.roles.items() if isinstance(m := role.model, StoredAnswers)}


def _of_code(job: Job, networks: Mapping[str, Model]) -> dict[str, dict[str, str]]:
    """The user's code that a job leads to: from its scheme, from the names in its config, and from networks."""
    code = Code()
    brought = {role: code.value(f"the network of {role}", model) for role, model in networks.items()}
    code.follow(job.scheme)
    for source in job.sources.values():
        code.follow(source)
    versions = {}
    for name in _texts(job.config):
        if (match := NAME.fullmatch(name)) and match[1] in sys.modules:  # it was imported to make the job
            value: Any = sys.modules[match[1]]
            file, package = getattr(value, "__file__", None) or "", match[1].partition(".")[0]
            for attribute in match[2].split("."):
                value = getattr(value, attribute, None)
            code.follow(value)
            if is_installed(file) and package != "kd_jax":
                versions[package] = str(getattr(sys.modules[package], "__version__", ""))
    parts, unseen = code.parts(), {line: "" for line in sorted(code.unseen)}
    python = {"Python": f"{sys.version_info.major}.{sys.version_info.minor}"} if parts else {}
    return {"networks": brought, "code": parts, "types": unseen, "packages": versions | python}


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for item in value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ():
        yield from _texts(item)


def _paths(config: ConfigDict, teacher: str) -> Iterator[tuple[str, Path]]:
    """(field, path) of the files that networks start from, or are described by; of one teacher, or all of the run."""
    teachers = teachers_of(config)
    wanted = {teacher: teachers[teacher]} if teacher else {**teachers, "student": config.student}
    for role, fields in wanted.items():
        named = {f"{role}.checkpoint": fields.get("checkpoint", ""), f"{role}.initial": fields.initial.name}
        for part in ("model", "initial"):
            named |= {f"{role}.{part}.kwargs.{k}": v for k, v in fields[part].kwargs.items()}
        yield from _files(named)
    for name, term in {} if teacher else config.terms.items():
        initial = term.get("connector", {}).get("initial") or {"name": "", "kwargs": {}}
        field = f"terms.{name}.connector.initial"
        yield from _files({field: initial["name"], **{f"{field}.{k}": v for k, v in initial["kwargs"].items()}})


def _files(named: Mapping[str, Any]) -> Iterator[tuple[str, Path]]:
    """Those of the values, by field, that name a file or a folder."""
    for field, value in named.items():
        if isinstance(value, str) and value and (path := _path(value)) is not None:
            yield field, path


def _path(name: str) -> Path | None:
    """The file or folder that a name means; None where it is none that is on this machine."""
    place = Path(name).expanduser()
    try:
        return place if place.is_file() else find_model(str(place))
    except (ValueError, OSError):  # no model's name, or no name of a file at all
        return None


def _of_file(path: Path, files: dict[str, str]) -> str:
    key = str(path)
    if key not in files:
        files[key] = identity.of_files(path)
    return files[key]
