"""Examples a second of a distillation step: ours, and an equivalent PyTorch loop, eager and compiled.

python -m benchmarks.torch_peer [--pairs resnet56-resnet20 ...] [--rounds=5] [--compile PAIR ...] [--one-core]

The same layers and numbers of parameters (asserted), batch 64, random 32 x 32 images, 100 classes, float32, SGD with
momentum and weight decay, cross-entropy + KD at T = 4, the teacher in eval mode without gradients. Every round times
one step of each program after the other; ratios are of medians. On a machine with other work the threads of a step wait
for one another, and those of OpenMP most: --one-core gives each program one thread and counts CPU seconds instead.
"torchdistill" is a step of that package's DistillationBox with its KDLoss, eager, on the same networks (pip install
torchdistill, which needs the torchvision that fits the torch).
"""

from __future__ import annotations

import argparse
import copy
import os
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
import torch.nn.functional as F

from benchmarks import common, torch_networks
from kd_jax.core.step import make_train_step
from kd_jax.core.terms import hyper_of
from kd_jax.losses import response, task
from kd_jax.models.adapters import LinenModel
from kd_jax.models.vision import cifar_resnet, vit, wide_resnet
from kd_jax.schemes import offline
from kd_jax.tasks import classify
from kd_jax.types import Parts, Role, Term

BATCH, CLASSES, T = 64, 100, 4.0
WIDE = ((64, 128, 256), 32)
NETWORKS: dict[str, tuple[Callable, Callable]] = {
    "resnet20": (cifar_resnet.resnet20, lambda: torch_networks.ResNet(20, CLASSES)),
    "resnet56": (cifar_resnet.resnet56, lambda: torch_networks.ResNet(56, CLASSES)),
    "resnet8x4": (cifar_resnet.resnet8x4, lambda: torch_networks.ResNet(8, CLASSES, *WIDE)),
    "resnet32x4": (cifar_resnet.resnet32x4, lambda: torch_networks.ResNet(32, CLASSES, *WIDE)),
    "wrn16-2": (wide_resnet.wrn_16_2, lambda: torch_networks.WideResNet(16, 2, CLASSES)),
    "wrn40-2": (wide_resnet.wrn_40_2, lambda: torch_networks.WideResNet(40, 2, CLASSES)),
    "vit-s": (lambda c: vit.vit(c, width=64, depth=3, heads=2), lambda: torch_networks.ViT(64, 3, 2, CLASSES)),
    "vit-l": (lambda c: vit.vit(c, width=192, depth=6, heads=3), lambda: torch_networks.ViT(192, 6, 3, CLASSES)),
}
PAIRS = ("resnet56_resnet20", "wrn40-2_wrn16-2", "resnet32x4_resnet8x4", "vit-l_vit-s")


def ours(teacher: str, student: str, images: np.ndarray, labels: np.ndarray) -> tuple[Callable, dict[str, int], float]:
    """Returns (a step, parameters by network, seconds until the first result)."""
    roles = {
        "student": Role(LinenModel(NETWORKS[student][0](CLASSES)), group="student"),
        "teacher": Role(LinenModel(NETWORKS[teacher][0](CLASSES))),
    }
    terms = {
        "ce": Term(task.cross_entropy_loss, ("student.logits",), ("batch.label",)),
        "kd": Term(response.kd_loss, ("student.logits",), ("teacher.logits",), 1.0, {"temperature": T}),
    }
    tx = optax.chain(optax.add_decayed_weights(5e-4), optax.sgd(0.05, momentum=0.9))
    scheme = offline.build(Parts(roles, terms, 1, lambda *_: tx, None, {}, classify.task()))
    batch = {"image": jnp.asarray(images), "label": jnp.asarray(labels), "labelled": jnp.ones(BATCH, bool)}
    batch |= {"index": jnp.arange(BATCH), "view": jnp.zeros(BATCH, jnp.int32)}
    scheme, state = common.first_state(scheme, batch)
    step = jax.jit(make_train_step(scheme, scheme.stages[0]), donate_argnums=0)
    hyper, key, held = hyper_of(scheme.stages[0]), jax.random.key(0), [state]
    counts = {"teacher": state.frozen["teacher"][0], "student": state.params["student"]["student"]}

    def run() -> None:
        held[0], metrics = step(held[0], batch, hyper, key)
        jax.block_until_ready((held[0], metrics))

    counts = {name: sum(x.size for x in jax.tree.leaves(p)) for name, p in counts.items()}
    start = time.perf_counter()
    run()
    return run, counts, time.perf_counter() - start


def kd(student: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    soft = F.kl_div(F.log_softmax(student / T, 1), F.softmax(teacher / T, 1), reduction="batchmean")
    return F.cross_entropy(student, labels) + T * T * soft


def theirs(
    teacher: torch.nn.Module,
    student: torch.nn.Module,
    images: np.ndarray,
    labels: np.ndarray,
    channels_last: bool = False,
    compiled: bool = False,
) -> tuple[Callable, float]:
    """Returns (a step, seconds until the first result)."""
    student, teacher = copy.deepcopy(student).train(), copy.deepcopy(teacher).eval()
    x, y = torch.tensor(images).permute(0, 3, 1, 2).contiguous(), torch.tensor(labels, dtype=torch.int64)
    if channels_last:
        x = x.to(memory_format=torch.channels_last)
        student, teacher = (m.to(memory_format=torch.channels_last) for m in (student, teacher))
    optimizer = torch.optim.SGD(student.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
    forward = torch.compile(student) if compiled else student
    answer = torch.compile(teacher) if compiled else teacher

    def run() -> None:
        with torch.no_grad():
            answers = answer(x)
        optimizer.zero_grad()
        kd(forward(x), answers, y).backward()
        optimizer.step()

    start = time.perf_counter()
    run()
    return run, time.perf_counter() - start


def torchdistill(
    teacher: torch.nn.Module, student: torch.nn.Module, images: np.ndarray, labels: np.ndarray
) -> Callable | None:
    """Returns a step of that package's DistillationBox on the same networks; None where it is not installed."""
    try:
        from torchdistill.core.distillation import DistillationBox
    except ImportError:
        return None
    both = {f"{role}_module_path": "." for role in ("student", "teacher")}
    both |= {f"{role}_module_io": "output" for role in ("student", "teacher")}
    # 2 * (1/2 CE + 1/2 T^2 KL) is the loss above.
    term = {"criterion": {"key": "KDLoss", "kwargs": {**both, "temperature": T, "alpha": 0.5}}, "weight": 2.0}
    config = {
        "num_epochs": 1,
        "teacher": {"forward_proc": "forward_batch_only", "requires_grad": False},
        "student": {"forward_proc": "forward_batch_only"},
        "criterion": {"key": "WeightedSumLoss", "kwargs": {"sub_terms": {"kd": term}}},
        "optimizer": {"key": "SGD", "kwargs": {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4}},
    }
    networks = (copy.deepcopy(teacher).eval(), copy.deepcopy(student).train())
    box = DistillationBox(*networks, {}, config, torch.device("cpu"), None, False, 1.0)
    x, y = torch.tensor(images).permute(0, 3, 1, 2).contiguous(), torch.tensor(labels, dtype=torch.int64)

    def run() -> None:
        box.post_forward_process(box.forward_process(x, y))

    run()
    return run


def measure(pair: str, rounds: int, compile_too: bool, clock: Callable[[], float]) -> dict[str, Any]:
    teacher, student = pair.split("_")
    rng = np.random.default_rng(0)
    images = rng.normal(size=(BATCH, 32, 32, 3)).astype(np.float32)
    labels = rng.integers(0, CLASSES, BATCH).astype(np.int32)
    networks = {"teacher": NETWORKS[teacher][1](), "student": NETWORKS[student][1]()}
    programs, first = {}, {}
    programs["kd_jax"], counts, first["kd_jax"] = ours(teacher, student, images, labels)
    for name, network in networks.items():
        count = sum(p.numel() for p in network.parameters())
        if count != counts[name]:
            raise AssertionError(f"{pair}: the {name} has {counts[name]} parameters here, {count} in PyTorch.")
    inputs = (networks["teacher"], networks["student"], images, labels)
    programs["eager"], first["eager"] = theirs(*inputs)
    programs["channels_last"], first["channels_last"] = theirs(*inputs, channels_last=True)
    if (step := torchdistill(*inputs)) is not None:
        programs["torchdistill"] = step
    if compile_too:
        programs["compiled"], first["compiled"] = theirs(*inputs, compiled=True)
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(rounds):
        for name, program in programs.items():
            start = clock()
            program()
            seconds[name].append(clock() - start)
    medians = {name: common.median(s) for name, s in seconds.items()}
    row: dict[str, Any] = {"pair": pair}
    row |= {f"{name} examples/s": f"{BATCH / s:.1f}" for name, s in medians.items()}
    row |= {f"kd_jax / {name}": f"{medians[name] / medians['kd_jax']:.2f}" for name in programs if name != "kd_jax"}
    return row | {f"{name} first s": f"{s:.1f}" for name, s in first.items() if name in ("kd_jax", "compiled")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", nargs="*", default=PAIRS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compile", nargs="*", default=PAIRS, help="the pairs that torch.compile runs too")
    parser.add_argument("--one-core", action="store_true", help="one thread of each, examples per CPU second")
    args = parser.parse_args()
    rows = []
    if args.one_core:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # before XLA counts the cores
        torch.set_num_threads(1)
    clock = time.process_time if args.one_core else time.perf_counter
    facts = {"batch": BATCH, "threads": torch.get_num_threads(), "torch": torch.__version__, "rounds": args.rounds}
    for pair in args.pairs:
        rows.append(measure(pair, args.rounds, pair in args.compile, clock))
        name = "torch_peer_one_core" if args.one_core else "torch_peer"
        common.write(name, rows, **facts)


if __name__ == "__main__":
    main()
