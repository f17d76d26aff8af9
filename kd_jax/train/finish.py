"""The end of a training: the last step and the best by validation are scored on every split and exported."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from kd_jax.core.bind import evaluated_roles
from kd_jax.core.evaluate import extra_inputs, params_inputs, role_variables
from kd_jax.core.many import Single
from kd_jax.core.paths import roles_read
from kd_jax.report.forms import check_sections
from kd_jax.system.checkpoint import save_tree
from kd_jax.system.log import NonFiniteLoss
from kd_jax.train.about import info_of, texts_of
from kd_jax.train.fit import Fit
from kd_jax.train.nonfinite import nan_scores
from kd_jax.types import PyTree, TrainState


def conclude(run: Fit, directory: Path) -> dict[str, Any]:
    """Scores and exports the last and the best step; returns done.json: "last" and "best", or "members" with both."""
    steps, seconds, best = run.bounds[-1], run.record["seconds"], run.record["best"]
    results: dict[str, Any] = {
        "stages": run.record["stages"],
        "steps": steps,
        "seconds": seconds,
        "examples_per_second": steps * run.settings.batch_size / seconds,
    }
    step = run.eval_step(run.scheme)
    scored: dict[str, dict[str, Any]] = {prefix: {} for prefix in run.prefixes}
    results |= run.members.sections(run.scheme, run.state, run.record)
    check_sections(results.get("sections", []), "The scheme's summary")
    wanted = {"last": dict.fromkeys(run.prefixes, int(run.state.step))}
    if best:
        wanted["best"] = {prefix: best[prefix]["step"] for prefix in run.prefixes}
    for which, at in wanted.items():
        for number in sorted(set(at.values())):  # the best steps of members differ
            if which == "best":
                run.state = run.checkpoints.restore_whole(number, run.template(number))[0]
            scores = {
                split: run.score(step, split) for split in ("validation", "test") if run.sources[split] is not None
            }
            if isinstance(run.members, Single):  # of several, one that diverged leaves the others alone
                _require_scores(scores, number)
            for i, prefix in enumerate(run.prefixes):
                if at[prefix] == number:
                    scored[prefix][which] = {"step": number, **_scores_of(prefix, scores)}
                    told = {"which": which, "scores": scored[prefix][which], "seed": run.members.seed_of(i)}
                    export(run, run.members.one(run.state, i), directory / "export" / prefix / which, told)
    return results | run.members.joined([*scored.values()])


def _require_scores(scores: Mapping[str, Mapping[str, Mapping[str, Any]]], step: int) -> None:
    """Raises NonFiniteLoss where the last update left a network whose scores are nan: no later step would tell."""
    for split, entries in scores.items():
        for entry, values in entries.items():
            if wrong := nan_scores(values):
                raise NonFiniteLoss(f"{wrong[0]!r} of {entry} on the {split} split", step)


def _scores_of(prefix: str, scores: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """{split: {entry: scores}} of the run whose entries begin with `prefix`."""
    return {
        split: {entry.removeprefix(prefix): values for entry, values in entries.items() if entry.startswith(prefix)}
        for split, entries in scores.items()
    }


def export(run: Fit, state: TrainState, directory: Path, told: Mapping[str, Any]) -> None:
    """Writes the networks that were trained and are evaluated, each alone; `told` goes to about.info_of.

    A network that reads the parameters of another (adapters, of their base) has a copy of them in its folder.
    """
    source = run.sources[run.scheme.stages[0].data]
    for name in evaluated_roles(run.scheme):
        role = run.scheme.roles[name]
        if role.group is not None:
            others = {other: role_variables(state, run.scheme, other)[0] for other in roles_read(role.inputs)}
            arrays = exported(*role_variables(state, run.scheme, name), extra_inputs(role, state.extra))
            info = info_of(name, run.scheme, source, run.facts, **told)
            save_tree(directory / name, arrays, info, params_inputs(role, others), texts_of(source))


def exported(params: PyTree, stats: PyTree, fixed: Mapping[str, PyTree] | None = None) -> dict[str, PyTree]:
    """Returns the tree that an exported model is stored as, without connectors, optimizers and other roles.

    `fixed` are the inputs that the model read from TrainState.extra.
    """
    kinds = {"params": params, "stats": stats, "given": fixed}
    return {kind: tree for kind, tree in kinds.items() if kind == "params" or jax.tree.leaves(tree)}
