"""The segmentation task against scikit-learn and SciPy, its error against a jackknife, and its pictures in a report."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage
from sklearn.metrics import jaccard_score, log_loss

from kd_jax.report.forms import check_sections
from kd_jax.tasks import segment, segment_overlap, segment_show
from kd_jax.types import Outputs, Shown

CLASSES, N = 4, 24
RNG = np.random.default_rng(0)
LABELS = ndimage.zoom(RNG.integers(0, CLASSES, (N, 3, 3)), (1, 4, 3), order=0).astype(np.int32)  # [N, 12, 9]
LABELS[RNG.random(LABELS.shape) < 0.05] = -1
LABELS[3] = -1
LOGITS = (3 * np.eye(CLASSES)[np.roll(LABELS, 1, 2)] + RNG.normal(0, 1.5, (*LABELS.shape, CLASSES))).astype(np.float32)


def totals(rows, reference=None, tolerance=1, padding=0):
    """The sums of a batch of these rows, and of `padding` more that are masked out."""
    mask = np.arange(len(rows) + padding) < len(rows)
    rows = np.concatenate([rows, np.zeros(padding, int)])
    batch = {"label": jnp.asarray(LABELS[rows]), "mask": jnp.asarray(mask)}
    outputs = Outputs(jnp.asarray(LOGITS[rows]))
    made = segment.task(tolerance=tolerance).sums(lambda: outputs, batch, reference, jax.random.key(0))
    return jax.tree.map(lambda x: np.asarray(x, np.float64), made)


def scored(rows=range(N), **options):
    return segment.finish(totals(np.array(rows), **options), {})


def test_overlap_and_pixels_are_those_of_scikit_learn():
    values, there = scored(), LABELS >= 0
    labels, answers = LABELS[there], LOGITS.argmax(-1)[there]
    np.testing.assert_allclose(values["miou"], jaccard_score(labels, answers, average="macro"), rtol=1e-9)
    np.testing.assert_allclose(values["iou_by_class"], jaccard_score(labels, answers, average=None), rtol=1e-9)
    np.testing.assert_allclose(values["accuracy"], np.mean(labels == answers), rtol=1e-6)
    p = np.exp(LOGITS[there].astype(np.float64))
    np.testing.assert_allclose(values["nll"], log_loss(labels, p / p.sum(1, keepdims=True)), rtol=1e-5)


def edge(mask, there, c):
    """Pixels of class c beside another class, by loops."""
    out = np.zeros(mask.shape, bool)
    for i, j in np.argwhere((mask == c) & there):
        for k, m in ((i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1)):
            inside = 0 <= k < mask.shape[0] and 0 <= m < mask.shape[1]
            out[i, j] |= inside and there[k, m] and mask[k, m] != c
    return out


@pytest.mark.parametrize("tolerance", [1, 2])
def test_boundaries_are_those_of_a_plain_reference(tolerance):
    values, wanted, answers = scored(range(6), tolerance=tolerance), [], LOGITS.argmax(-1)
    near = np.ones((2 * tolerance + 1,) * 2)
    for c in range(CLASSES):
        hits, counts = np.zeros(2), np.zeros(2)
        for i in range(6):
            ours, theirs = (edge(m[i], LABELS[i] >= 0, c) for m in (answers, LABELS))
            both = (ours & ndimage.binary_dilation(theirs, near)), (theirs & ndimage.binary_dilation(ours, near))
            hits, counts = hits + [x.sum() for x in both], counts + [ours.sum(), theirs.sum()]
        p, r = hits / counts
        wanted.append(2 * p * r / (p + r))
    np.testing.assert_allclose(values["boundary_f_by_class"], wanted, rtol=1e-6)
    np.testing.assert_allclose(values["boundary_f"], np.mean(wanted), rtol=1e-6)


def test_a_perfect_answer_has_every_score_at_1_and_a_class_that_is_nowhere_none():
    labels = np.where(LABELS == 3, 0, LABELS)
    outputs = Outputs(jnp.asarray(9 * np.eye(CLASSES, dtype=np.float32)[labels]))
    batch = {"label": jnp.asarray(labels), "mask": jnp.ones(N, bool)}
    made = segment.task().sums(lambda: outputs, batch, outputs, jax.random.key(0))
    values = segment.finish(jax.tree.map(np.asarray, made), {})
    assert values["miou"] == values["boundary_f"] == values["accuracy"] == values["agreement"] == 1
    assert values["iou_by_class"][3] is None and values["boundary_f_by_class"][3] is None
    assert values["miou_error"] == 0 and values["kl"] == pytest.approx(0, abs=1e-6)


def test_sums_of_parts_are_those_of_the_whole_and_padding_counts_nowhere():
    whole, rows = totals(np.arange(N)), np.arange(N)
    parts = [totals(rows[:10]), totals(rows[10:], padding=3)]
    added = jax.tree.map(np.add, *parts)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), added, whole)


def test_the_error_is_that_of_a_jackknife_over_images():
    rows = np.delete(np.arange(N), 3)  # the image without a label is none
    left_out = np.array([scored(np.delete(rows, i))["miou"] for i in range(len(rows))])
    wanted = math.sqrt((len(rows) - 1) * left_out.var())
    assert scored()["miou_error"] == pytest.approx(wanted, rel=0.05)


def test_fidelity_counts_pixels_without_a_label_too():
    values = scored(reference=Outputs(jnp.asarray(LOGITS[:, ::-1])))
    np.testing.assert_allclose(values["agreement"], np.mean(LOGITS.argmax(-1) == LOGITS[:, ::-1].argmax(-1)), rtol=1e-6)
    assert values["kl"] > 0 and "agreement" not in scored()


def test_without_labels_nothing_is_measured():
    values = scored([3])
    assert all(values[name] is None for name in ("miou", "miou_error", "boundary_f", "accuracy", "nll", "ece"))


def test_chance_is_the_commonest_class_everywhere():
    labels = np.array([[[0, 0], [0, 1]], [[0, 2], [-1, -1]]])
    assert segment.chance(labels) == pytest.approx(4 / 6 / 3)
    assert math.isnan(segment.chance(np.full((2, 2, 2), -1)))


def test_ignored_pixels_have_no_gradient():
    batch = {"label": LABELS[:4], "labelled": LABELS[:4] >= 0}
    term = segment.terms(None)["ce"]
    assert term.where == "batch.labelled", "the mask of a term is that of pixels"
    confusion = segment_overlap.confusions(LOGITS.argmax(-1)[:4], batch["label"], batch["labelled"], CLASSES)
    assert confusion.sum() == batch["labelled"].sum() and confusion[3].sum() == 0


class Data:
    noun, class_names = "image", tuple("abcd")


def shown(image):
    scores = {"student": {"test": {"iou_by_class": [0.5, None, 1.0, 0.25]}}}
    batch = {"image": image, "label": LABELS[:2]}
    return Shown(batch, {"student": Outputs(LOGITS[:2])}, scores, Data(), {}, 2)


@pytest.mark.parametrize(("dtype", "channels"), [(np.uint8, 1), (np.uint8, 3), (np.float32, 2)])
def test_a_report_has_the_masks_over_the_pictures(dtype, channels):
    image = np.full((2, 12, 9, channels), 40).astype(dtype)
    masks, colours, table = check_sections(segment.show(shown(image)), "the task")
    assert masks["labels"] == ["0: image", "0: truth", "0: student", "1: image", "1: truth", "1: student"]
    plain, truth = (np.array(image) for image in masks["images"][:2])
    assert truth.shape == (12, 9, 3) and (truth[LABELS[0] == 0] == plain[LABELS[0] == 0]).all()
    assert (truth[LABELS[0] > 0] != plain[LABELS[0] > 0]).any(1).all()
    assert colours["labels"] == ["b", "c", "d"]
    assert np.array(segment_show.thinned(np.zeros((130, 70, 3)))).shape == (44, 24, 3)
    assert table["rows"] == [["a", "50.0"], ["b", "-"], ["c", "100.0"], ["d", "25.0"]]
