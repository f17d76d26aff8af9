"""Published distillation losses in PyTorch, written from their formulas, with the authors' weights.

Each takes what one step offers and returns the loss that is minimised; those on features are in trajectory_features.py.
Formulas and weights are those of the papers and
of the tables that papers compare themselves on (RepDistiller, mdistiller, the authors' own repositories); the cases of
benchmarks/trajectories.py name the repository.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.trajectory_torch import Taps, Weights

STAGES = ("stage1", "stage2", "stage3")


@dataclasses.dataclass
class Step:
    """Student, teacher and their heads; trained parts by term; labels, rows of the data, negatives, number of the step.

    A step stands for an epoch where a weight changes by epoch. `memory` lasts from step to step.
    """

    student: Taps
    teacher: Taps
    student_weights: Weights
    teacher_weights: Weights
    connectors: dict[str, Weights]
    label: Tensor
    index: Tensor
    negatives: Tensor | None
    number: int
    memory: dict[str, Any]

    @property
    def logits(self) -> tuple[Tensor, Tensor]:
        return self.student["logits"], self.teacher["logits"]

    def stages(self, suffix: str = "") -> list[tuple[Tensor, Tensor]]:
        return [(self.student[name + suffix], self.teacher[name + suffix]) for name in STAGES]


def ce(x: Step) -> Tensor:
    return F.cross_entropy(x.student["logits"], x.label)


def soft(s: Tensor, t: Tensor, temperature: float | Tensor) -> Tensor:
    """Returns T^2 KL(teacher, student), mean over the batch."""
    log_s, log_t = F.log_softmax(s / temperature, 1), F.log_softmax(t / temperature, 1)
    return temperature**2 * (log_t.exp() * (log_t - log_s)).sum(1).mean()


def kd(x: Step) -> Tensor:
    return 0.1 * ce(x) + 0.9 * soft(*x.logits, 4.0)


# response


def dkd(x: Step, beta: float = 8.0) -> Tensor:
    label = F.one_hot(x.label, x.student["logits"].shape[1]).bool()

    def split(z: Tensor) -> tuple[Tensor, Tensor]:
        p = F.softmax(z / 4, 1)
        target = torch.stack([(p * label).sum(1), (p * ~label).sum(1)], 1)
        return target, F.log_softmax(z / 4 - 1000.0 * label, 1)

    (b_s, o_s), (b_t, o_t) = map(split, x.logits)
    target = (b_t * (b_t.log() - b_s.log())).sum(1).mean()
    others = (o_t.exp() * (o_t - o_s)).sum(1).mean()
    return ce(x) + min((x.number + 1) / 20, 1.0) * 16 * (target + beta * others)


def nkd(x: Step) -> Tensor:
    s, t = x.logits
    label = F.one_hot(x.label, s.shape[1]).bool()
    p_t = F.softmax(t, 1)[label]
    target = -(p_t * F.log_softmax(s, 1)[label]).mean()
    s, t = (z[~label].reshape(len(z), -1) / 3 for z in (s, t))
    return ce(x) + target - 3.5 * 9 * (F.softmax(t, 1) * F.log_softmax(s, 1)).sum(1).mean()


def wsld(x: Step) -> Tensor:
    s, t = x.logits
    hard_s, hard_t = (F.cross_entropy(z, x.label, reduction="none").detach() for z in (s, t))
    weight = 1 - torch.exp(-hard_s / (hard_t + 1e-7))
    softened = -(F.softmax(t / 4, 1) * F.log_softmax(s / 4, 1)).sum(1)
    return ce(x) + 2.25 * 16 * (weight * softened).mean()


def dist(x: Step) -> Tensor:
    s, t = (F.softmax(z / 4, 1) for z in x.logits)

    def correlation(a: Tensor, b: Tensor) -> Tensor:
        a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
        return ((a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-8)).mean()

    return ce(x) + 2 * 16 * ((1 - correlation(s, t)) + (1 - correlation(s.T, t.T)))


def lskd(x: Step) -> Tensor:
    s, t = ((z - z.mean(1, keepdim=True)) / (z.std(1, keepdim=True) + 1e-7) for z in x.logits)
    return 0.1 * ce(x) + 9 * soft(s, t, 2.0)


def ttm(x: Step) -> Tensor:
    s, t = x.logits
    log_q = 0.1 * F.log_softmax(t, 1)
    log_q = log_q - torch.logsumexp(log_q, 1, keepdim=True)
    return ce(x) + 45 * (log_q.exp() * (log_q - F.log_softmax(s, 1))).sum(1).mean()


def wttm(x: Step) -> Tensor:
    s, t = x.logits
    power = F.softmax(t, 1) ** 0.2
    mass = power.sum(1, keepdim=True)
    q = power / mass
    return ce(x) + 4 * (mass[:, 0] * (q * (q.log() - F.log_softmax(s, 1))).sum(1)).mean()


def ctkd(x: Step) -> Tensor:
    raw = x.connectors["kd"]["raw"]
    strength = (1 - math.cos(math.pi * min(x.number + 1, 10) / 10)) / 2
    reversed_raw = raw.detach() - strength * (raw - raw.detach())
    return 0.1 * ce(x) + 0.9 * soft(*x.logits, 1 + 20 * torch.sigmoid(reversed_raw))


# relation and representation


def sp(x: Step) -> Tensor:
    s, t = (F.normalize(f.flatten(1) @ f.flatten(1).T) for f in (x.student["stage3"], x.teacher["stage3"]))
    return ce(x) + 3000 * (s - t).pow(2).mean()


def distances(f: Tensor) -> Tensor:
    squared = (f[:, None] - f[None]).pow(2).sum(2).clamp(min=1e-12)
    d = squared.sqrt() * (1 - torch.eye(len(f), dtype=f.dtype))
    return d / d[d > 0].mean()


def angles(f: Tensor) -> Tensor:
    e = F.normalize(f[None] - f[:, None], dim=2)
    return e @ e.transpose(1, 2)


def rkd(x: Step) -> Tensor:
    s, t = x.student["embedding"], x.teacher["embedding"]
    distance, angle = (F.smooth_l1_loss(fn(s), fn(t)) for fn in (distances, angles))
    return ce(x) + 25 * distance + 50 * angle


def pkt(x: Step) -> Tensor:
    def probabilities(f: Tensor) -> Tensor:
        f = f / (f.norm(dim=1, keepdim=True) + 1e-7)
        similarity = (f @ f.T + 1) / 2
        return similarity / similarity.sum(1, keepdim=True)

    q, p = probabilities(x.student["embedding"]), probabilities(x.teacher["embedding"])
    return ce(x) + 30000 * (p * torch.log((p + 1e-7) / (q + 1e-7))).mean()


def itrd(x: Step) -> Tensor:
    """Returns the embedding itself enters mutual information where it is as wide as the teacher's."""
    s, t = x.student["embedding"], x.teacher["embedding"]
    mapped = x.connectors["itrd"].dense("dense", s)
    c = ((mapped - mapped.mean(0)) / mapped.std(0) * (t - t.mean(0)) / t.std(0)).sum(0) / len(t)
    correlation = torch.log2(((c - 1).abs() ** 2.02).sum())
    s, t = F.normalize(s if s.shape == t.shape else mapped), F.normalize(t)
    gram, joint = s @ s.T, (s @ s.T) * (t @ t.T)
    mutual = ((gram / gram.trace()) ** 2 - (joint / joint.trace()) ** 2).sum()
    return ce(x) + 2 * correlation + mutual


def embedded(x: Step) -> tuple[Tensor, Tensor]:
    w = x.connectors["embed"]
    return w.dense("student", x.student["embedding"]), w.dense("teacher", x.teacher["embedding"])


def cc(x: Step) -> Tensor:
    s, t = embedded(x)
    difference = (s - t).abs()
    return ce(x) + 0.02 * (difference[:-1] * difference[1:]).sum(1).mean()


def crd(x: Step) -> Tensor:
    """Computes CRD: Z is that of the first batch; banks move half way to the embeddings after the loss."""
    s, t = (e / e.norm(dim=1, keepdim=True) for e in embedded(x))
    rows = torch.cat([x.index[:, None], x.negatives], 1)
    share = x.negatives.shape[1] / len(x.memory["student"])
    total = ce(x)
    for side, anchor, bank in (("student", s, "teacher"), ("teacher", t, "student")):
        scores = torch.exp((x.memory[bank][rows] @ anchor[:, :, None])[:, :, 0] / 0.07)
        z = x.memory.setdefault(f"{side}_constant", scores.detach().mean() * len(x.memory["student"]))
        p = scores / z
        positive = torch.log(p[:, 0] / (p[:, 0] + share + 1e-7))
        negative = torch.log(share / (p[:, 1:] + share + 1e-7)).sum(1)
        total = total - 0.8 * (positive + negative).mean()
    for side, anchor in (("student", s), ("teacher", t)):
        bank = x.memory[side] = x.memory[side].clone()
        bank[x.index] = F.normalize(0.5 * bank[x.index] + 0.5 * anchor.detach())
    return total
