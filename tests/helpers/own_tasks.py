"""Two tasks that the package knows nothing of, of about thirty lines each: boxes, and transcripts by CTC."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from kd_jax.losses.task import ctc_loss, mean_squared_loss
from kd_jax.types import Task, Term

# A task of boxes (x, y, width, height): mean squared error, scored by the intersection over the union.


def iou(a, b):
    low, high = jnp.maximum(a[:, :2], b[:, :2]), jnp.minimum(a[:, :2] + a[:, 2:], b[:, :2] + b[:, 2:])
    both = jnp.prod(jnp.maximum(high - low, 0), axis=1)
    return both / (jnp.prod(a[:, 2:], axis=1) + jnp.prod(b[:, 2:], axis=1) - both)


def box_terms(source):
    return {"box": Term(mean_squared_loss, ("student.logits",), ("batch.label",), where="batch.labelled")}


def box_check(outputs, batch):
    if outputs.logits.shape != batch["label"].shape:
        raise ValueError(f"boxes are {batch['label'].shape}, the output is {outputs.logits.shape}")


def box_sums(run, batch, reference, key):
    boxes, mask = run().logits, batch["mask"]
    overlap = jnp.where(mask, iou(boxes, batch["label"]), 0.0)
    sums = {"iou": (overlap.sum(), mask.sum()), "iou_squares": ((overlap**2).sum(), mask.sum())}
    if reference is not None:
        sums["agreement"] = (jnp.where(mask, iou(boxes, reference.logits), 0.0).sum(), mask.sum())
    return sums


def box_finish(sums, collected):
    means = {name: float(total) / float(count) for name, (total, count) in sums.items()}
    variance = means.pop("iou_squares") - means["iou"] ** 2
    return means | {"iou_error": float(np.sqrt(max(variance, 0.0) / float(sums["iou"][1])))}


boxes = Task(box_terms, box_check, box_sums, box_finish, ("iou", +1, "%", "iou_error"), name="boxes")


def drawn(count, seed):
    rng = np.random.default_rng(seed)
    corner, size = rng.integers(0, 4, (count, 2)), rng.integers(2, 5, (count, 2))
    y, x = np.mgrid[:8, :8]
    inside = [
        (x >= c[0]) & (x < c[0] + s[0]) & (y >= c[1]) & (y < c[1] + s[1]) for c, s in zip(corner, size, strict=True)
    ]
    images = np.stack(inside)[..., None].astype(np.float32) + rng.normal(0, 0.1, (count, 8, 8, 1)).astype(np.float32)
    return images, np.concatenate([corner, size], axis=1).astype(np.float32)


# A task of transcripts: CTC over frames, scored by the share of characters to be changed (collected, not summed).


class Frames(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(self.width, (3,), name="hidden")(x.reshape(x.shape[0], x.shape[1], -1)))
        return nn.Dense(4, name="head")(x)


def ctc(logits, labels):
    return ctc_loss(logits, jnp.zeros(logits.shape[:2]), jnp.maximum(labels, 0), (labels < 0).astype(jnp.float32))


def transcript_terms(source):
    return {"ctc": Term(ctc, ("student.logits",), ("batch.label",), where="batch.labelled")}


def transcript_check(outputs, batch):
    if outputs.logits.ndim != 3:
        raise ValueError(f"frames are [batch, frames, characters], the output is {outputs.logits.shape}")


def transcript_collect(run, batch, key):
    return {"best": jnp.argmax(run().logits, -1), "label": batch["label"]}


def distance(a, b):
    row = np.arange(len(b) + 1)
    for i, x in enumerate(a, start=1):
        above, row = row, np.full(len(b) + 1, i)
        for j, y in enumerate(b, start=1):
            row[j] = min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (x != y))
    return int(row[-1])


def transcript_finish(sums, collected):
    rates = []
    for best, label in zip(collected["scored"]["best"], collected["scored"]["label"], strict=True):
        said = [c for i, c in enumerate(best) if c and (i == 0 or c != best[i - 1])]
        wanted = [c for c in label if c >= 0]
        rates.append(distance(said, wanted) / len(wanted))
    return {"error_rate": float(np.mean(rates)), "error_rate_error": float(np.std(rates) / len(rates) ** 0.5)}


def transcribe():
    headline = ("error_rate", -1, "%", "error_rate_error")
    nothing = lambda run, batch, reference, key: {}  # noqa: E731
    return Task(transcript_terms, transcript_check, nothing, transcript_finish, headline, collect=transcript_collect)


def spoken(count, seed):
    """Twelve frames of four bands: three characters of four frames each, the first of which is silent."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(1, 4, (count, 3))
    frames = np.zeros((count, 12, 4, 1), np.float32)
    for i, characters in enumerate(labels):
        for j, c in enumerate(characters):
            frames[i, 4 * j + 1 : 4 * j + 4, c] = 1
    return frames + rng.normal(0, 0.2, frames.shape).astype(np.float32), labels
