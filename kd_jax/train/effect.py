"""What a training was asked for and would not do, seen from shapes before its first step.

Each check raises ValueError that names the setting and why it cannot act.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from kd_jax.core.bind import prepared_shapes, variable_shapes
from kd_jax.core.heads import check_heads
from kd_jax.core.paths import Path, calls_in, connector_of, roles_read
from kd_jax.core.shapes import heard_shapes, shapes_of
from kd_jax.core.terms import paths_of
from kd_jax.data.batches import answers_fit
from kd_jax.models.training_flags import FLAGS
from kd_jax.system import trackers
from kd_jax.train.fit import Settings
from kd_jax.train.jobs import Job
from kd_jax.train.used import phases_of
from kd_jax.types import Call, Phase, PyTree, Scheme

SHARE = 0.5  # the default of labelled_share; 1.0 is what happens anyway where every example has a label


def check_effect(job: Job, scheme: Scheme, inputs: Mapping[str, tuple[PyTree, ...]], batch: Mapping[str, Any]) -> None:
    """Raises ValueError for what the job would not do; `scheme` and `inputs` are those of core.bind."""
    _check_settings(job)
    _check_learned(job)
    _check_preparations(job, scheme)
    prepared, variables = prepared_shapes(scheme, batch), variable_shapes(scheme, inputs)
    context = {"batch": prepared, "extra": shapes_of(dict(scheme.extra)), "variables": variables}
    context |= {kind: {n: v[i] for n, v in variables.items()} for i, kind in enumerate(("params", "stats"))}
    for phase in phases_of(scheme):
        if "mix_label" in prepared:
            _check_labels(phase)
        _check_connectors(phase, scheme)
        check_heads(phase, scheme.roles, context)
    for role in _trained(scheme):
        if role in variables:
            _check_flags(role, scheme, variables[role], inputs[role])


def _check_preparations(job: Job, scheme: Scheme) -> None:
    """A network that sees pictures in a form of its own is shown no others: what a scheme makes is normalised."""
    for stage in scheme.stages:
        for phase in stage.phases:
            for call in phase.forward:
                _check_shown(job, scheme, call, stage.pre_update is not None)


def _check_shown(job: Job, scheme: Scheme, call: Call, changed: bool) -> None:
    preparation = scheme.roles[call.role].preparation
    entries = [preparation.entry(entry) for entry in preparation.entries] if preparation is not None else []
    if not any(entry in path for entry in entries for path in scheme.roles[call.role].inputs):
        return  # it sees what everybody does, or its answers are stored
    if changed or not any(entry in path for entry in entries for path in call.inputs):
        what = "pictures that it changes" if changed else f"{call.inputs}"
        raise ValueError(
            f"{job.name}: the scheme shows the {call.role} {what}, normalised as the data are, and its preparation is "
            f"{preparation.text()}: preparation.like='data' shows it what the student sees."
        )


def check_run(config: ConfigDict, jobs: Mapping[str, Job]) -> None:
    """Raises ValueError for what would act in none of the trainings of one run."""
    if config.members != "auto":
        raise ValueError(f"config.members={config.members!r} has no effect: it is of sweeps, and this is one run.")
    sources = [source for job in jobs.values() for source in job.sources.values() if source is not None]
    if config.workers and all(map(answers_fit, sources)):
        raise ValueError(
            f"config.workers={config.workers} processes would decode streamed data, and {sources[0].name} is in "
            "memory: set config.workers=0."
        )
    trackers.check(config.tracker)
    steps = max(sum(stage.steps for stage in job.scheme.stages) for job in jobs.values())
    if config.profile[1] and config.profile[0] >= steps:
        raise ValueError(f"config.profile={tuple(config.profile)}: no training is longer than {steps} steps.")


def _trained(scheme: Scheme) -> list[str]:
    """The roles that run as in training and are changed by it."""
    called = {call.role for phase in phases_of(scheme) for call in phase.forward if call.train}
    return [name for name, role in scheme.roles.items() if role.group and name in called]


def _check_settings(job: Job) -> None:
    settings: Settings = job.settings
    sources = [s for name in {stage.data for stage in job.scheme.stages} if (s := job.sources.get(name)) is not None]
    share = settings.labelled_share
    if share not in (None, SHARE, 1.0) and all(source.labelled.all() for source in sources):
        raise ValueError(
            f"config.train.labelled_share={share} has no effect: every training example of {sources[0].name} has a "
            "label."
        )


def _check_learned(job: Job) -> None:
    """A stage on data without labels whose every term counts labelled examples alone learns nothing."""
    for stage in job.scheme.stages:
        source = job.sources.get(stage.data)
        terms = [term for phase in stage.phases for term in phase.terms.values()]
        if source is None or stage.pre_update is not None or source.labelled.any() or not terms:
            continue
        if all(term.where == "batch.labelled" for term in terms):
            what = "Prompts alone are for methods that write the answers, such as on_policy" if source.per_token else ""
            raise ValueError(
                f"{job.name}: every term counts labelled examples alone, and none of {source.name}/{source.split} has "
                f"one. {what or 'Terms without where= learn from every example'}."
            )


def _check_labels(phase: Phase) -> None:
    """Mixed images have two labels: a loss that asks for one would learn from the first alone."""
    for name, term in phase.terms.items():
        for path in (*term.inputs, *term.targets, *term.options.values()):
            where = Path.parse(path)
            if where.kind == "batch" and where.owner == "label":
                raise ValueError(
                    f"Term {name!r} reads {path!r}, the label of one image, and config.train.augment mixes two (mixup, "
                    "cutmix): leave one of the two out. 'batch.target' has the mixture, for losses of probabilities."
                )


def _check_connectors(phase: Phase, scheme: Scheme) -> None:
    """A connector whose inputs nobody trains learns for the terms that read it; where there are none, for nothing."""
    calls = {call.name or call.role: call for call in phase.forward}
    for name in phase.terms:
        connector = calls.get(connector_of(name))
        if connector is None:
            continue
        read = [calls[call].role for call in calls_in(connector.inputs) if call in calls]
        read += roles_read(connector.inputs)
        others = [t for p in phases_of(scheme) for n, t in p.terms.items() if n != name]  # also of a later stage
        readers = [term for term in others if connector_of(name) in calls_in(paths_of(term))]
        if not readers and not any(scheme.roles[role].group for role in read):
            raise ValueError(
                f"Term {name!r} trains its connector and nothing else: it reads {', '.join(connector.inputs)}, of "
                f"networks that stay as they are, and no other term reads {connector_of(name)!r}."
            )


def _check_flags(name: str, scheme: Scheme, variables: tuple[PyTree, PyTree], inputs: tuple[PyTree, ...]) -> None:
    """Dropout that stays off in training is refused, averages that stay as they are (fine-tuning) are said."""
    heard = heard_shapes(scheme.roles[name].model, variables, inputs)
    if heard.idle and not heard.dropping:
        raise ValueError(
            f"The {name} has dropout ({', '.join(sorted(heard.idle)[:3])}) that stays off in training: a network is "
            f"told that it trains by an argument of its call, {', '.join(FLAGS)}; or by module.train() (NNX)."
        )
    if heard.frozen and not heard.normalising:
        print(f"{name}: every BatchNorm ({sorted(heard.frozen)[0]}, ...) uses its stored averages in training too")
