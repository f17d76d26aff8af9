"""Published losses on features in PyTorch, as benchmarks/trajectory_losses.py has the others."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import trajectory_torch as parts
from benchmarks.trajectory_losses import STAGES, Step, ce, soft
from benchmarks.trajectory_torch import Taps


def to_smaller(s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Pools the larger of two maps to the size of the smaller, as all published code here does."""
    size = min(s.shape[2], t.shape[2])
    return F.adaptive_avg_pool2d(s, (size, size)), F.adaptive_avg_pool2d(t, (size, size))


def fitnet(x: Step) -> Tensor:
    return ce(x) + 100 * F.mse_loss(parts.regressor(x.connectors["hint"], x.student["stage2"]), x.teacher["stage2"])


def at(x: Step) -> Tensor:
    def attention(f: Tensor) -> Tensor:
        return F.normalize((f**2).mean(1).flatten(1))

    pairs = (to_smaller(s, t) for s, t in x.stages())
    return ce(x) + 1000 * sum((attention(s) - attention(t)).pow(2).mean() for s, t in pairs)


def nst(x: Step) -> Tensor:
    def value(s: Tensor, t: Tensor) -> Tensor:
        s, t = (F.normalize(f.flatten(2), dim=2) for f in to_smaller(s, t))

        def kernel(a: Tensor, b: Tensor) -> Tensor:
            return (a @ b.transpose(1, 2)).pow(2).mean()

        return kernel(t, t) + kernel(s, s) - 2 * kernel(s, t)

    return ce(x) + 50 * sum(value(s, t) for s, t in x.stages())


def vid(x: Step) -> Tensor:
    total = ce(x)
    for name, (s, t) in zip(STAGES, x.stages(), strict=True):
        w, (mean, target) = x.connectors[f"vid_{name}"], to_smaller(s, t)
        for i in range(3):
            mean = w.dense(f"dense{i}", F.relu(mean) if i else mean)
        variance = (F.softplus(w["raw_scale"]) + 1e-5)[None, :, None, None]
        total = total + 0.5 * ((mean - target) ** 2 / variance + variance.log()).mean()
    return total


def ab(x: Step) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for i, (name, (s, t)) in enumerate(zip(STAGES, x.stages("/pre_activation"), strict=True)):
        w = x.connectors[f"ab_{name}"]
        s = parts.regressor(w, s, relu=False) if w.values else s
        below, above = (s > -1) & (t <= 0), (s <= 1) & (t > 0)
        total = total + 0.003 * 2.0 ** (i - 2) * ((s + 1) ** 2 * below + (s - 1) ** 2 * above).sum() / len(s)
    return total


def ofd(x: Step) -> Tensor:
    """Computes OFD: the margin is E[v | v < 0] of a Gaussian with bias and scale of the teacher's last BatchNorm."""
    total = ce(x)
    for i, (name, (s, t)) in enumerate(zip(STAGES, x.stages("/pre_activation"), strict=True)):
        s, t = to_smaller(parts.projection(x.connectors[f"ofd_{name}"], s), t)
        last = f"{name}/block1/conv2/norm"
        mean, scale = x.teacher_weights[f"{last}/bias"], x.teacher_weights[f"{last}/scale"].abs()
        normal = torch.distributions.Normal(0.0, 1.0)
        z = -mean / scale
        below = normal.cdf(z)
        margin = torch.where(below > 1e-3, mean - scale * normal.log_prob(z).exp() / below, -3 * scale)
        target = torch.maximum(t, margin[None, :, None, None])
        counted = (s > target) | (target > 0)
        total = total + 1e-3 * 2.0 ** (i - 2) * ((s - target) ** 2 * counted).sum() / len(s)
    return total


def fsp(x: Step) -> Tensor:
    def flow(taps: Taps, a: str, b: str) -> Tensor:
        first, second = taps[a], taps[b]
        first = F.adaptive_avg_pool2d(first, second.shape[2:])
        return first.flatten(2) @ second.flatten(2).transpose(1, 2) / second[0, 0].numel()

    pairs = zip(("stem", *STAGES), STAGES, strict=False)
    values = ((flow(x.student, *pair) - flow(x.teacher, *pair)).pow(2).mean() for pair in pairs)
    return sum(values, torch.zeros((), dtype=torch.float64))


def reconstruction(x: Step) -> Tensor:
    """Computes the loss of FT's first stage."""
    _, again = parts.paraphraser(x.connectors["ft_paraphraser"], x.teacher["stage3"])
    return F.mse_loss(again, x.teacher["stage3"])


def ft(x: Step) -> Tensor:
    factor = parts.paraphraser(x.connectors["ft_paraphraser"], x.teacher["stage3"])[0].detach()
    translated = parts.translator(x.connectors["ft"], x.student["stage3"])
    s, t = (F.normalize((f**2).mean(1).flatten(1)) for f in (translated, factor))
    return ce(x) + 200 * (s - t).abs().mean()


def review_kd(x: Step) -> Tensor:
    targets = [x.teacher[f"{n}/pre_activation"] for n in STAGES] + [x.teacher["embedding"][:, :, None, None]]
    sizes = [t.shape[2] for t in targets]
    fused = parts.fusion(x.connectors["review"], [*(x.student[n] for n in STAGES), x.student["embedding"]], sizes)
    total = torch.zeros((), dtype=torch.float64)
    for s, t in zip(fused, targets, strict=True):
        value, weight, whole = F.mse_loss(s, t), 1.0, 1.0
        for level in (4, 2, 1):
            if level < s.shape[2]:
                weight /= 2
                pooled = (F.adaptive_avg_pool2d(f, (level, level)) for f in (s, t))
                value, whole = value + weight * F.mse_loss(*pooled), whole + weight
        total = total + value / whole
    return ce(x) + 5 * min(x.number / 20, 1.0) * total


def class_attention(x: Step, weight: float, normalize: bool, resolution: int) -> Tensor:
    """Computes CAT-KD: maps of every class, the head as a 1 x 1 convolution without bias."""
    sides = []
    for taps, weights in ((x.student, x.student_weights), (x.teacher, x.teacher_weights)):
        maps = F.conv2d(taps["final"], weights["head/kernel"][:, :, None, None])
        maps = F.adaptive_avg_pool2d(maps, (resolution, resolution)).flatten(2)
        sides.append(F.normalize(maps, dim=2) if normalize else maps)
    return ce(x) + weight * F.mse_loss(*sides)


def cat_kd(x: Step) -> Tensor:
    return class_attention(x, 15, False, 2)


def cat_kd_normalized(x: Step) -> Tensor:
    return class_attention(x, 600, True, 4)


def ickd(x: Step) -> Tensor:
    def correlation(f: Tensor) -> Tensor:
        f = f.flatten(2)
        return F.normalize(f @ f.transpose(1, 2), dim=2)

    s, t = parts.projection(x.connectors["ickd"], x.student["stage3"]), x.teacher["stage3"]
    return ce(x) + 2.5 * (correlation(s) - correlation(t)).pow(2).sum() / (s.shape[1] * len(s))


def srrl(x: Step) -> Tensor:
    pooled = F.relu(parts.projection(x.connectors["srrl"], x.student["final"])).mean((2, 3))
    read = x.teacher_weights.dense("head", pooled)
    return ce(x) + F.mse_loss(pooled, x.teacher["embedding"]) + F.mse_loss(read, x.teacher["logits"])


def simkd(x: Step) -> Tensor:
    """Computes SimKD, without labels: the student's map, projected, is to be the teacher's."""
    s, t = to_smaller(x.student["final"], x.teacher["final"])
    return F.mse_loss(parts.projector(x.connectors["simkd"], s), t)


def semckd(x: Step) -> Tensor:
    """Returns every stage of the student projected to every stage of the teacher, by weights that attention learns."""
    w, pairs = x.connectors["semckd"], x.stages()

    def described(maps: list[Tensor], name: str) -> Tensor:
        rows = [f.flatten(1) @ f.flatten(1).T for f in maps]
        hidden = [F.relu(w.dense(f"{name}{i}_dense0", r)) for i, r in enumerate(rows)]
        return F.normalize(torch.stack([w.dense(f"{name}{i}_dense1", h) for i, h in enumerate(hidden)], 1), dim=2)

    students, teachers = zip(*pairs, strict=True)
    energy = described(list(students), "query") @ described(list(teachers), "key").transpose(1, 2)
    attention = F.softmax(energy, dim=2)
    total = torch.zeros((), dtype=torch.float64)
    for i, student in enumerate(students):
        for j, teacher in enumerate(teachers):
            s, t = to_smaller(student, teacher)
            for k in range(3):
                s = w.conv(f"projection{i}_{j}_conv{k}", s)
                s = F.relu(w.norm(f"projection{i}_{j}_norm{k}", s)) if k < 2 else s
            total = total + (attention[:, i, j] * (s - t).pow(2).flatten(1).mean(1)).sum()
    return ce(x) + soft(*x.logits, 4.0) + 400 * total / (len(attention) * len(students))
