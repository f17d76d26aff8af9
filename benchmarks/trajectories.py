"""Training runs of kd_jax step by step beside PyTorch's, in float64, on the same weights, batches and negatives.

python -m benchmarks.trajectories [METHOD ...] [--steps=20]

A ResNet8 learns from a ResNet14, 16 x 16 images made from a seed, batches of 32, as configs/cifar100_pairs.py says for
resnet32x4-resnet8x4: its terms, scheme and optimizer. The reference are the formulas of the papers in PyTorch, with the
weights, rates and first stages of the authors' repositories (benchmarks/trajectory_losses.py), which know nothing of
the presets. Where a weight changes by epoch a step stands for an epoch; where terms are trained alone first, the first
half of the steps are theirs.

Columns: the largest relative difference of the loss over the steps; the distance of the student's last weights over how
far they moved; both of the reference against itself, started from weights moved by 1e-15: what rounding does to this
training; and the weights of the reference against those after as many steps on the labels alone: what the method does.
Fails where a row is above its limit, 1e-6 unless the case says why not.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from ml_collections import ConfigDict

from benchmarks import common
from benchmarks import trajectory_features as features
from benchmarks import trajectory_losses as losses
from benchmarks.trajectory_cases import CASES, NARROW, NEGATIVES, WITHOUT, Case
from benchmarks.trajectory_torch import Weights, resnet
from kd_jax.config import files
from kd_jax.core.bind import bind, init_optimizers, init_state, loaded_variables
from kd_jax.core.step import make_train_step
from kd_jax.core.terms import hyper_of
from kd_jax.data.arrays import from_arrays
from kd_jax.data.source import Source
from kd_jax.losses.composed import negative_rows
from kd_jax.models.adapters import LinenModel
from kd_jax.models.vision import cifar_resnet
from kd_jax.train.scheme import make_scheme
from kd_jax.types import Role, Scheme, TrainState

STEPS, BATCH, BATCHES, CLASSES, SIZE = 20, 32, 10, 10, 16


def data() -> Source:
    """Images of ten classes, each a picture of its own and noise."""
    rng = np.random.default_rng(0)
    pictures = rng.normal(size=(CLASSES, SIZE, SIZE, 3))
    labels = rng.integers(0, CLASSES, BATCH * BATCHES)
    images = (pictures[labels] + 2.0 * rng.normal(size=(len(labels), SIZE, SIZE, 3))).astype(np.float32)
    return from_arrays(train=(images, labels), test=(images[:BATCH], labels[:BATCH])).train


def batch_of(source: Source, number: int) -> dict[str, np.ndarray]:
    """Returns a batch as it is after `Scheme.prepare`, which makes images float32."""
    rows = np.arange(BATCH, dtype=np.int32) + BATCH * (number % BATCHES)
    images, labels = source.in_memory()
    return {
        "image": images[rows].astype(np.float64),
        "label": labels[rows],
        "target": labels[rows],
        "labelled": np.ones(BATCH, bool),
        "index": rows,
        "view": np.zeros(BATCH, np.int32),
    }


def network(depth: str, widths: tuple[int, ...], large_stem: bool = False) -> LinenModel:
    build = getattr(cifar_resnet, depth)
    return LinenModel(build(CLASSES, "float64", widths=widths, stem_width=widths[0], large_stem=large_stem))


def config_of(name: str, case: Case, steps: int) -> ConfigDict:
    """Returns the config of the pair, for a run in which the first stage takes half of the steps."""
    module = files.load(files.locate("cifar100_pairs.py"))
    config = files.config_of(module, f"{case.pair},{case.preset or name}")
    config.train.epochs, config.train.augment = 0.0, ()
    config.train.steps = 240 if case.first is None else 9 * (steps // 2)  # 30 of 270 epochs are the first
    for term, fields in config.terms.items():
        if term.startswith("ofd_"):  # the last BatchNorm of a stage of ResNet14
            fields.options.norm = f"params.teacher.{term[4:]}.block1.conv2.norm"
    if name == "crd":
        config.terms.embed.kwargs.negatives = config.terms.embed.memory.kwargs.negatives = NEGATIVES
    return config


def begun(config: ConfigDict, roles: Mapping[str, Role], source: Source) -> tuple[Scheme, TrainState]:
    """Returns the bound scheme and its first state, in float64."""
    scheme = make_scheme(config, config.train, config.terms, roles, {"train": source})
    scheme = dataclasses.replace(scheme, prepare=None)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch_of(source, 0))
    scheme, inputs = bind(scheme, shapes)
    loaded = loaded_variables(scheme)
    key = jax.random.key(1, impl="rbg")  # compiles in a fifth of the time
    state = jax.jit(lambda key, loaded: init_state(scheme, inputs, key, loaded))(key, loaded)
    return scheme, jax.tree.map(lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x, state)


def ours(scheme: Scheme, state: TrainState, source: Source, steps: int) -> tuple[list[float], TrainState]:
    """Returns (the loss of each step, the last state)."""
    values: list[float] = []
    for i, stage in enumerate(scheme.stages):
        state = init_optimizers(scheme, state, i) if i else state
        state = stage.on_enter(state) if stage.on_enter is not None else state
        step, hyper = jax.jit(make_train_step(scheme, stage)), hyper_of(stage)
        for _ in range(min(stage.steps, steps - len(values))):
            state, metrics = step(state, batch_of(source, len(values)), hyper, jax.random.key(0))
            values.append(float(metrics["loss"][0]))
    return values, state


def weights_of(state: TrainState, moved: float = 0.0) -> tuple[Weights, dict[str, Weights]]:
    """Returns (the student, the trained parts by term)."""
    params = dict(state.params["student"])
    student, connectors = params.pop("student"), {n.removesuffix("/connector"): p for n, p in params.items()}
    if "projector" in student:
        student, connectors = student["student"], {"simkd": student["projector"]}
    return Weights(student, {}, moved=moved), {n: Weights(p, {}) for n, p in connectors.items()}


def theirs(
    case: Case, state: TrainState, source: Source, steps: int, moved: float = 0.0
) -> tuple[list[float], Weights]:
    """Returns (the loss of each step, the student with its last weights) in PyTorch, from the first state of kd_jax."""
    student, connectors = weights_of(state, moved)
    teacher = Weights(*state.frozen["teacher"], train=case.teacher_trains)
    everything = [v for w in (student, *connectors.values()) for v in w.values.values()]
    bank = state.extra.get("embed", {})
    memory = {side: torch.tensor(np.asarray(bank[side])) for side in ("student", "teacher") if side in bank}
    values: list[float] = []
    stages = [(case.loss, steps, case.rate)]
    if case.first is not None:
        stages = [(case.first, steps // 2, case.first_rate), (case.loss, steps - steps // 2, case.rate)]
    for loss_of, count, rate in stages:
        options = {"momentum": 0.9, "weight_decay": 5e-4, "nesterov": case.nesterov}
        optimizer = torch.optim.SGD(everything, rate, **options)
        for _ in range(count):
            number = len(values)
            batch = batch_of(source, number)
            negatives = negative_rows(jnp.int32(number), batch["index"], bank["classes"], NEGATIVES) if bank else None
            image = torch.tensor(batch["image"]).permute(0, 3, 1, 2)
            loss = loss_of(
                losses.Step(
                    student=resnet(student, image),
                    teacher=resnet(teacher, image),
                    student_weights=student,
                    teacher_weights=teacher,
                    connectors=connectors,
                    label=torch.tensor(batch["label"]).long(),
                    index=torch.tensor(batch["index"]).long(),
                    negatives=None if negatives is None else torch.tensor(np.asarray(negatives)).long(),
                    number=number,
                    memory=memory,
                )
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()  # passes over what has no gradient
            values.append(loss.item())
    return values, student


def taught(source: Source, widths: tuple[int, ...]) -> tuple[Any, Any]:
    """Returns a teacher, after 60 steps on the labels."""
    config = config_of("ce", CASES["ce"], 60)
    scheme, state = begun(config, {"student": Role(network("resnet14", widths), group="student")}, source)
    _, state = ours(scheme, state, source, 60)
    return jax.device_get((state.params["student"]["student"], state.stats["student"]))


def difference(a: Sequence[float], b: Sequence[float]) -> float:
    """Returns the largest relative difference of a loss."""
    return float(np.max(np.abs(np.subtract(a, b)) / np.abs(b)))


def compared(name: str, source: Source, teacher: tuple[Any, Any], steps: int) -> dict[str, Any]:
    """Returns one row, with the numbers as they are."""
    case = CASES[name]
    roles = {
        "student": Role(network("resnet8", NARROW, case.small_maps), group="student"),
        "teacher": Role(network("resnet14", case.teacher), initial=teacher, training=case.teacher_trains),
    }
    scheme, first = begun(config_of(name, case, steps), roles, source)
    first = jax.device_get(first)
    here, last = ours(scheme, jax.tree.map(jnp.asarray, first), source, steps)
    there, reference = theirs(case, first, source, steps)
    again, moved = theirs(case, first, source, steps, moved=1e-15)
    _, labels_alone = theirs(dataclasses.replace(case, loss=losses.ce, first=None), first, source, steps)
    # SimKD replaces the student's own head: PyTorch leaves it, here it decays.
    unused = "head" if case.loss is features.simkd else "\n"
    start, end = weights_of(first)[0], weights_of(jax.device_get(last))[0]

    def distance(network: Weights) -> float:
        return float(np.linalg.norm(network.flat(unused) - reference.flat(unused)))

    return {
        "loss": difference(here, there),
        "weights": distance(end) / distance(start),
        "loss of moved": difference(again, there),
        "weights of moved": distance(moved) / distance(start),
        "weights of labels alone": distance(labels_alone) / distance(start),
    }


def run(names: Sequence[str], steps: int) -> Iterator[tuple[dict[str, Any], bool]]:
    """Yields (the row of each case, whether it is within its limit). Needs JAX to have float64."""
    source, teachers = data(), {}
    for name in names:
        case = CASES[name]
        if case.teacher not in teachers:
            teachers[case.teacher] = taught(source, case.teacher)
        numbers = compared(name, source, teachers[case.teacher], steps)
        shown = {k: f"{v:.0e}" for k, v in numbers.items()}
        print(name, shown, flush=True)
        row = {"method": name, "preset": case.preset or name, "reference": case.source, **shown}
        within = bool(np.max([numbers["loss"], numbers["weights"]]) <= case.limit)  # NaN is not
        yield row | {"limit": f"{case.limit:g}", "note": case.note}, within


def recorded() -> dict[str, dict[str, Any]]:
    """Returns the rows of the record by method."""
    path = common.RESULTS / "trajectories.json"
    return {row["method"]: row for row in json.loads(path.read_text())["rows"]} if path.exists() else {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", help=f"all of them by default: {', '.join(CASES)}")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"only a run of {STEPS} is recorded")
    args = parser.parse_args()
    if unknown := {*args.methods} - {*CASES}:
        parser.error(f"no case for {', '.join(sorted(unknown))}; there are {', '.join(CASES)}")
    if not 2 <= args.steps <= 240:
        parser.error(f"--steps is 2 to 240, each an epoch of the 240, not {args.steps}")
    jax.config.update("jax_enable_x64", True)
    torch.set_num_threads(1)  # on a busy machine OpenMP's threads wait for one another
    above = []
    for row, within in run(args.methods or [*CASES], args.steps):
        above += [] if within else [row["method"]]
        if args.steps == STEPS:  # what other methods have in the record stays
            rows = recorded() | {row["method"]: row}
            facts = {"steps": STEPS, "torch": torch.__version__, "without": WITHOUT}
            common.write("trajectories", [rows[name] for name in CASES if name in rows], **facts)
    if above:
        raise SystemExit(f"Further from PyTorch than their limit: {', '.join(above)}.")


if __name__ == "__main__":
    main()
